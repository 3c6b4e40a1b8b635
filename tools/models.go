//go:build tools

// Package tools pins what is needed to build and judge Nimbrel and never to run it.
package tools

// The EC2 service model that apigen reads is a data file of this module.
import _ "github.com/aws/aws-sdk-go/aws"
