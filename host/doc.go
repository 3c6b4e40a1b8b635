// Package host is the contract between the cloud and a machine that runs its guests: what a host can be told, and what
// it reports back.
//
// It owns the payloads of three desired documents and one actual document, in CBOR with integer keys, and the names of
// documents, sections and streams. The host link (dispatch) carries them without looking inside.
//
//   - DocHost(id): what one host is to run. Sections "instances" (Instance), "interfaces" (Interface), "settings".
//   - DocVPC(id): what every host with a port in the VPC must know. Sections "mappings" (Mapping), "identities"
//     (Identity), "groups" (Group).
//   - DocFleet: the machines themselves. Section "hosts" (FleetHost).
//   - Reports of a host, under its own document's name: sections "instances" (InstanceStatus).
//
// Invariants:
//   - A desired item is state, not a verb. Applying it twice, or skipping an older version of it, is always right.
//   - An instance that is absent from a complete desired document is terminated; nothing else ends a guest for ever.
//     A guest that no document ever named is quarantined and left to a person.
//   - A field's integer key is never reused. A reader ignores keys that it does not know.
//   - Every field is left out when it is zero, so that a writer may append a value that is known only at commit
//     (AddressOffset, Mapping.Host) to an encoded item.
//   - Policy is compiled for the receiver: an interface and a mapping name an interned identity, and an identity names
//     its groups. What a packet carries is never believed.
//
// Deliberately absent: any IO, how a guest is run (host/internal/vm), how packets are filtered (host/internal/datapath),
// and the EC2 API's own names for states.
//
// Start at Instance, then InstanceStatus.
package host
