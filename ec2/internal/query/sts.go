package query

import (
	"github.com/nimbrel/nimbrel/ec2/errs"
)

// stsVersion is the newest version of STS.
const (
	stsVersion     = "2011-06-15"
	callerIdentity = "GetCallerIdentity"
	stsNamespace   = "https://sts.amazonaws.com/doc/2011-06-15/"
)

// sts serves the one action with which clients ask who they are.
func (h *Handler) sts(record *Record, request request) ([]byte, error) {
	if request.action != callerIdentity {
		return nil, errs.New(errs.InvalidAction, "Could not find operation %s for version %s", clip(request.action), clip(request.version))
	}
	if err := checkVersion(request.version, stsVersion); err != nil {
		return nil, err
	}
	for name := range request.params {
		return nil, errs.New(errs.UnknownParameter, "The parameter %s is not recognized", clip(name))
	}
	account := string(record.Call.Account)
	b := []byte(header + `<GetCallerIdentityResponse xmlns="` + stsNamespace + `"><GetCallerIdentityResult>`)
	b = element(b, "Arn", "arn:aws:iam::"+account+":root")
	b = element(b, "UserId", account)
	b = element(b, "Account", account)
	b = append(b, "</GetCallerIdentityResult><ResponseMetadata>"...)
	b = element(b, "RequestId", record.Call.RequestID)
	return append(b, "</ResponseMetadata></GetCallerIdentityResponse>"...), nil
}
