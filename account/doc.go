// Package account is the contract of the accounts part: who may call, with which keys, and how much they may use.
//
// It owns accounts (12-digit numbers), access keys, SSH key pairs, quotas and the tags of every taggable resource.
//
// Invariants:
//   - A secret access key is stored only sealed under the root key (package rootkey) and is shown once, in the answer of
//     the call that made it. A private SSH key is never stored at all.
//   - An account has at most MaxAccessKeys access keys, active or not.
//   - A quota is a counter of what is left, never below zero through use. A limit changes by adding the difference, so a
//     charge in flight never meets a stale bound.
//   - A tag belongs to a resource that exists: the creator's transaction writes it and the deleter's removes it.
//
// Deliberately absent: users, roles and policies inside an account (every access key may do everything in its account),
// and any EC2 name or error code (the EC2 door maps the errors below).
//
// Start reading at Service and Tagger; account/server implements them, account/accountrows and account/tagrows own the
// rows and what other parts call inside their transactions.
package account
