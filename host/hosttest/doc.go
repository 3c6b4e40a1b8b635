// Package hosttest is what tests of hosts share: the conformance suite that every VM driver passes, and the small real
// guest that it boots.
//
// Start at RunDriverConformance. Guest builds the guest; it needs Debian's cloud kernel, which it takes from the user's
// cache or from apt-get, and says what is missing when it cannot.
package hosttest
