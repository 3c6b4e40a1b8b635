// Package compute is the contract of the part that owns instances: their types, placement, capacity, lifecycle and
// recovery.
//
// It owns the instance, its root volume (until volumes are a part of their own), the host as a place with capacity, and
// the zone as a set of hosts. Interfaces, subnets and groups belong to vpc; images to image; accounts, quotas, key
// pairs and every resource's tags to account (a full quota is an *account.QuotaError).
//
// Invariants, recounted by computerows.Invariants:
//   - What is left of a host plus what its placements hold is the host's capacity. A placement ends only when the host
//     has acknowledged that the instance is gone, so nothing is handed out twice, however unreachable the host.
//   - What is left of an account's quota plus what its instances use is its limit. Quota returns at once (stop, terminate).
//   - An instance that is not gone has one item in its host's document, and every item has an instance.
//   - A launch commits whole: token record, quota, capacity, address, interface, volume, instance, operation, host item.
//
// Deliberately absent: live migration and automatic recovery on another host (the root disk is local), spot and
// dedicated capacity, bulk launch beyond MaxPerRequest, attaching volumes.
//
// A stopped instance keeps its host, its disk and the host capacity it was placed with; only the account's vCPU quota
// returns at stop and is charged again at start. So a start never fails for want of capacity.
//
// Start reading at Service, then compute/fit (does it fit), compute/computerows (rows and transactions) and
// compute/server (reconcilers and view).
package compute
