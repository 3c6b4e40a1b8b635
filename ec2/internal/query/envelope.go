package query

import (
	"github.com/nimbrel/nimbrel/ec2/errs"
	"github.com/nimbrel/nimbrel/ec2/internal/wire"
)

const header = `<?xml version="1.0" encoding="UTF-8"?>` + "\n"

// ec2Error is EC2's own envelope.
func ec2Error(into []byte, e *errs.Error, requestID string) []byte {
	b := append(into, header+"<Response><Errors><Error>"...)
	b = element(b, "Code", e.Code)
	b = element(b, "Message", e.Message)
	b = append(b, "</Error></Errors>"...)
	b = element(b, "RequestID", requestID)
	return append(b, "</Response>"...)
}

// stsError is the envelope of the plain query protocol. Type says whose fault it was.
func stsError(into []byte, e *errs.Error, requestID string) []byte {
	fault := "Sender"
	if e.Status >= 500 {
		fault = "Receiver"
	}
	b := append(into, header+`<ErrorResponse xmlns="`+stsNamespace+`"><Error>`...)
	b = element(b, "Type", fault)
	b = element(b, "Code", e.Code)
	b = element(b, "Message", e.Message)
	b = append(b, "</Error>"...)
	b = element(b, "RequestId", requestID)
	return append(b, "</ErrorResponse>"...)
}

func element(b []byte, name, text string) []byte {
	b = append(b, '<')
	b = append(b, name...)
	b = append(b, '>')
	b = wire.AppendText(b, text)
	b = append(b, '<', '/')
	b = append(b, name...)
	return append(b, '>')
}
