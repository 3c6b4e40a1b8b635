package dispatch

import "time"

// Bounds of the host link. Both ends check them; what is beyond is refused by name.
const (
	MaxNameBytes     = 256       // document, section and target names
	MaxKeyBytes      = 512       // item keys
	MaxPayloadBytes  = 240 << 10 // an item's payload: with its row's frame it stays under the store's value limit
	MaxTopics        = 32        // topics of one item
	MaxSections      = 4096      // sections that one target holds, topics included
	MaxSectionItems  = 1 << 20   // items in one section
	MaxSectionBytes  = 64 << 20  // payload bytes in one section
	PartBytes        = 128 << 10 // a delta larger than this travels in parts
	MaxMessageBytes  = 1 << 20   // one session message on the wire
	MaxFailures      = 1024      // failures named in one acknowledgement
	MaxFailureBytes  = 1024      // text of one failure or refusal
	MaxInfoBytes     = 64 << 10  // what a target says about itself
	MaxStreamName    = 64        // name of a stream
	MaxStreamHeader  = 16 << 10  // header of such a stream
	MaxTombstones    = 1024      // tombstones kept per section before the oldest are collected unacknowledged
	HeartbeatPeriod  = 10 * time.Second
	SuspectAfter     = 30 * time.Second // silence that makes a target suspect: no new placements
	DeadAfter        = 90 * time.Second // silence that makes a target a candidate for being declared dead
	ResendPeriod     = time.Hour        // every section is sent in full this often, whatever the checksums say
	ReconnectCeiling = 30 * time.Second // longest back-off of a target without a Retry-After
)

// Protocol versions that this build speaks. Two ends use the highest that both know.
const (
	ProtocolMin = 1
	ProtocolMax = 1
)
