package authz

import (
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"net/url"
	"slices"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/sallyport/sallyport/identity"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

const (
	// maxCertificate bounds the certificates that are parsed, in bytes of escaped PEM. A leaf with
	// an RSA key of 4096 bits has 3 KB.
	maxCertificate = 16 << 10
	// maxCertificates bounds how many of them are kept. One that was dropped is parsed again (about
	// 15 µs).
	maxCertificates = 4 << 10
)

// destinationAgrees reports whether the other attributes of a check that name its destination name
// the service that the call is about. It ignores those that a client controls: the server name of
// its handshake (destination.service) and the Host header.
func destinationAgrees(a *authv3.AttributeContext, service identity.Name) bool {
	if name, ok := a.GetContextExtensions()[identity.DestinationExtension]; ok && name != service.String() {
		return false
	}
	// This is the local certificate's URI SAN. It is empty for a listener that never had a
	// certificate, but that one has no clients.
	if principal := a.GetDestination().GetPrincipal(); principal != "" {
		local, err := identity.ParseURI(principal)
		if err != nil || local.Name != service {
			return false
		}
	}
	return true
}

// source is who the client is and its certificate, or the reason why that is not known. The principal is what Envoy
// read from the client's certificate: the first URI SAN, or without one a DNS name or the subject,
// which can be made to look like a URI. So the certificate itself is required, and must have this
// URI SAN and no other. (Our filters set include_peer_certificate.) That the certificate is one of the
// trust domain that it names is for Envoy's handshake to prove, which keeps the domains' roots apart.
// Of the mesh's own, agents and gateways are nobody.
func (s *Server) source(peer *authv3.AttributeContext_Peer, own spiffeid.TrustDomain) (identity.ID, certificate, reason) {
	principal := peer.GetPrincipal()
	id, err := identity.ParseID(principal)
	if err != nil {
		return "", certificate{}, noIdentity
	}
	if _, ok := id.Service(); !ok && id.TrustDomain() == own {
		return "", certificate{}, noIdentity
	}
	c := s.certificate(peer.GetCertificate())
	if c.uri != principal {
		return "", certificate{}, badCertificate
	}
	return id, c, 0
}

// certificate is what a decision looks at of a client's.
type certificate struct {
	// uri is its URI SAN; empty if it has none or several, if it is not one that a CA may give to a workload, or cannot be
	// read. Then the rest is empty, too.
	uri string
	// serial and sha256 are as in intention.Revocation.
	serial, sha256 string
}

// certificate reads a certificate in URL-escaped PEM.
func (s *Server) certificate(text string) certificate {
	if text == "" || len(text) > maxCertificate {
		return certificate{}
	}
	// An HTTP filter sends the same certificate with each request of a connection, and parsing
	// it takes longer than the decision.
	c, ok := s.certificates.Load(text)
	if !ok {
		c = parseCertificate(text)
		s.certificates.Store(text, c, nil)
	}
	return c
}

func parseCertificate(escaped string) certificate {
	text, err := url.PathUnescape(escaped) // QueryUnescape would turn base64's "+" into a space
	if err != nil {
		return certificate{}
	}
	block, _ := pem.Decode([]byte(text))
	if block == nil || block.Type != "CERTIFICATE" {
		return certificate{}
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil || len(cert.URIs) != 1 || !workload(cert) {
		return certificate{}
	}
	sum := sha256.Sum256(block.Bytes)
	return certificate{uri: cert.URIs[0].String(), serial: cert.SerialNumber.Text(16), sha256: hex.EncodeToString(sum[:])}
}

// workload reports whether a CA may sign cert for a workload (SPIFFE X.509-SVID, 4 and 5.2): it
// signs no others, and its key and signature are not ones that can be forged. Envoy looks at none
// of this.
func workload(cert *x509.Certificate) bool {
	if cert.IsCA || cert.KeyUsage&(x509.KeyUsageCertSign|x509.KeyUsageCRLSign) != 0 {
		return false
	}
	if key, ok := cert.PublicKey.(*rsa.PublicKey); ok && key.N.BitLen() < 2048 {
		return false
	}
	return !slices.Contains(forged, cert.SignatureAlgorithm)
}

// forged are the signatures of hashes that are broken.
var forged = []x509.SignatureAlgorithm{x509.MD2WithRSA, x509.MD5WithRSA, x509.SHA1WithRSA, x509.DSAWithSHA1, x509.ECDSAWithSHA1}
