// Package convert turns what the parts know into what EC2's clients read: domain values into ec2gen's structures, and
// domain errors into EC2's codes.
//
// Invariants: it is the only place that maps errors, each typed error of a part has exactly one mapping (a test
// enumerates them from the parts' sources), and what has none stays as it is, to be logged and answered as InternalError.
//
// Deliberately absent: reading anything. Start at Error, Instance and VPC.
package convert
