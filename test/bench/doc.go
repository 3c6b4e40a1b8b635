// Package bench is what every benchmark of this tree needs besides what it measures: a place on a disk that is worth
// measuring on, the lines that figures and checks are printed as, the file they are kept in, and the arithmetic between.
//
// Invariants: a run is refused in memory and on a disk that stalls; every figure carries what a sync of that disk took
// meanwhile; a check that does not hold prints FAIL and makes the command's status 1; the place is gone afterwards.
//
// The lines, by which figures are found and compared:
//
//	figure PART.NAME VALUE UNIT [num=N den=N] fsync_us=N [more]
//	check PART.NAME ok|FAIL [why]
//
// Deliberately absent: rounds, warm-up and load generation. What is fair differs from figure to figure, and belongs beside
// what is measured. What figures mean and must be is in docs/SPEC.md.
//
// Start reading at Start. A benchmark's main calls Flags and Main; its measurement calls Start, Print, AtMost, Check and
// Finish.
package bench
