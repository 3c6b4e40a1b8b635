// Package mistakes holds what a person is told who makes one of the common mistakes of a first run: the program itself is
// run, and each message must name what is wrong and what to do.
//
// Start at table in mistakes_test.go: a row is a mistake. apiTable in api_test.go has those of clients of the API.
package mistakes
