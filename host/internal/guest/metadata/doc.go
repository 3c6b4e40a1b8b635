// Package metadata serves the instance metadata of EC2, versions 1 and 2, over HTTP on 169.254.169.254.
//
// Version 2 asks for a session token by PUT first; an instance may require that. Tokens are not stored: a token is its
// expiry under a MAC whose key the caller keeps across restarts, bound to one instance, so a token outlives the agent and
// is of no use to another guest. Every dated path that EC2 knows serves the same tree as "latest".
//
// Source: the EC2 user guide's pages on instance metadata, and what cloud-init's Ec2 data source asks for.
//
// Deliberately absent: IAM credentials, spot and event notices, the signature of the identity document.
package metadata
