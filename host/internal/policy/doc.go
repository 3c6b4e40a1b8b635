// Package policy compiles security groups into the tables that the data path looks a new flow up in.
//
// A rule set is what one set of security groups allows in one direction, within one VPC. It is compiled once per host and
// shared by all ports with equal rules. Its tables are keyed by the peer's identity (an interned set of groups, never a
// list of addresses) or by a class of address block, and by a class of ports, so that neither the members of a group nor
// the ports of a range are ever expanded.
//
// Allowed states what the rules mean, read directly; RuleSet.Allows is the data path's look-up, step by step. They agree
// on every packet (TestCompiledAgreesWithRules); bpf/policy.h is the look-up's third form.
//
// Invariants: nothing is allowed that no rule allows; identity 0 is nobody and is matched by address blocks only.
//
// Deliberately absent: state of flows (replies need no rule; the data path's flow table passes them), and any IO.
// Start reading at Compile.
package policy
