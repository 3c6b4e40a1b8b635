// Package admin lets operators ask a running store for a backup, for its counts, and for what it commits, over the
// operators' socket.
//
// Handler is the server's end, to be mounted at Path behind whatever decides who is an operator; Client the other. Both
// are of one version of the program: the forms are internal.
//
// Invariants: one backup at a time; a client that reads nothing for StallLimit loses its connection, and with it the
// checkpoint that the backup holds; values of rows leave only when they are asked for, and that is audited.
//
// Deliberately absent: writes, authentication, and anything about rows' meaning. Start with Handler.
package admin
