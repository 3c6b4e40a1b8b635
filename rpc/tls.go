package rpc

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
)

// ALPN is the protocol name that both ends must offer.
const ALPN = "nimbrel-rpc/0"

// ServerTLS makes the configuration of an end that accepts: TLS 1.3, a client certificate signed by clients is required,
// and authorise decides on it at every handshake, resumed ones included (which is why it hangs on VerifyConnection).
// certificate is asked at each handshake, so that a renewed one is taken up.
func ServerTLS(certificate func() (*tls.Certificate, error), clients *x509.CertPool, authorise func(*x509.Certificate) error) *tls.Config {
	return &tls.Config{
		MinVersion:     tls.VersionTLS13,
		NextProtos:     []string{ALPN},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return certificate() },
		ClientAuth:     tls.RequireAndVerifyClientCert,
		ClientCAs:      clients,
		VerifyConnection: func(s tls.ConnectionState) error {
			if s.NegotiatedProtocol != ALPN {
				return fmt.Errorf("peer does not offer protocol %s", ALPN)
			}
			if len(s.PeerCertificates) == 0 || len(s.VerifiedChains) == 0 {
				return errors.New("no verified client certificate")
			}
			return authorise(s.PeerCertificates[0])
		},
	}
}

// ClientTLS makes the configuration of an end that dials: TLS 1.3, and only servers whose certificate for serverName was
// signed by authority are trusted; the machine's own roots are not.
func ClientTLS(certificate func() (*tls.Certificate, error), authority *x509.CertPool, serverName string) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		NextProtos: []string{ALPN},
		RootCAs:    authority,
		ServerName: serverName,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return certificate()
		},
	}
}
