// Package server serves a store's engine to store/client over connections of package rpc.
//
// It holds what outlives a request: snapshots, by random ids, so that a client reads on after a reconnection. Everything is
// bounded: connections, requests, feeds and snapshots; what a client left behind goes after Options.Grace.
//
// Invariants: an answer leaves only as the engine gave it, so what leaves is durable; what is not definite travels as
// unknown; a request whose caller is gone is withdrawn, or ends unheard.
//
// Deliberately absent: authentication (the listener's: mutual TLS, or the rights of a unix socket), rights per tenant (whoever
// may connect may read and write every row), backup and statistics (store/admin). Start with Server.Serve.
package server
