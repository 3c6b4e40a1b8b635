// Package query is the EC2 query protocol over HTTP: the form in, the XML envelope out, and between them authentication,
// admission, the version and the action. STS GetCallerIdentity is served on the same port, told apart by the service in the
// credential's scope.
//
// Invariants: every answer has a request id and is XML, errors and panics included; what a client sees of an error is its
// row in ec2/errs, and anything else is InternalError with the cause in the log under the request id; a handler runs only
// for an authenticated and admitted request whose body was bounded.
//
// DryRun: a handler that has checked everything and is about to change something asks Call.DryRun and returns errs.DryRun.
// For read-only actions this package answers so by itself.
//
// Deliberately absent: what actions do. Start reading at Handler.ServeHTTP.
package query
