// Package computerows owns the rows of compute (key prefix "compute") and the transactions that change them. Other parts
// call it and never touch the rows.
//
//	compute, instance, ID        Instance
//	compute, volume, ID          Volume, the root disk of an instance or what is left of one
//	compute, host, ID            Host, as the host described itself
//	compute, left, HOST, KIND    integer: what is left of a host (fit.LeftKey)
//	compute, owned, ACCOUNT, ID  says whose an instance or volume is
//	compute, place, HOST, ID     Placement: what an instance holds of a host, until the host confirms its end
//
// A transaction here writes the host's document through dispatchrows, the interface through vpcrows, quotas through
// accountrows, the token through idem and the operation through op, all in one commit. Hot rows (counters, sequences,
// pools) are only met by guards, so that no launch aborts because of another. What is read and validated is one
// instance's own row.
//
// Start at Launch, then Terminate and Release.
package computerows
