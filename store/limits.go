package store

import "time"

// Limits of the format, from its first version. An engine refuses what exceeds them with ReasonTooLarge.
const (
	MaxKeyBytes   = 4 << 10
	MaxValueBytes = 256 << 10
	// MaxTransactionBytes bounds keys and values of all operations and reads of a commit, by default; an engine's
	// option may raise it to MaxTransactionBytesLimit.
	MaxTransactionBytes      = 1 << 20
	MaxTransactionBytesLimit = 8 << 20
	MaxOperations            = 4096
	MaxGuards                = 512
	MaxReadRanges            = 4096
	// MaxAlternatives and MaxAlternativeGuards bound one FirstOf.
	MaxAlternatives      = 16
	MaxAlternativeGuards = 8
	// MaxNesting is how deep Group, FirstOf and AtLeast nest.
	MaxNesting = 2
	// MaxDeletedRows bounds the rows that the DeleteRange operations of one commit remove.
	MaxDeletedRows = 16384
	// MaxRangeRows bounds the rows of one Range call.
	MaxRangeRows = 10000
	// MaxSessionRecords bounds the answers that an engine keeps for one session.
	MaxSessionRecords = 1024
	// MaxCommitLifetime bounds how far NotAfter may be ahead; the record of an answer is kept that long at most.
	MaxCommitLifetime = 10 * time.Minute
)
