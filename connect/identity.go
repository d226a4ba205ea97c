package connect

import (
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

// namespace is the one namespace that there is.
const namespace = "default"

// identity is the SPIFFE ID of a service without its trust domain.
type identity struct{ namespace, datacenter, service string }

// id is i in a trust domain; an empty namespace is the default one.
func (i identity) id(domain spiffeid.TrustDomain) (spiffeid.ID, error) {
	return spiffeid.FromSegments(domain, "ns", or(i.namespace, namespace), "dc", i.datacenter, "svc", i.service)
}

// parseID reads the ID of a service: spiffe://domain/ns/default/dc/dc1/svc/web.
func parseID(id spiffeid.ID) (identity, error) {
	p := strings.Split(id.Path(), "/")
	if len(p) != 7 || p[1] != "ns" || p[3] != "dc" || p[5] != "svc" {
		return identity{}, fmt.Errorf("%s is not the ID of a service", id)
	}
	return identity{namespace: p[2], datacenter: p[4], service: p[6]}, nil
}

// same reports whether an ID that was proved is the one that is wanted. Letter case of the service's
// name does not count, as the catalog looks names up like that; all else is compared as it is.
func same(proved, want spiffeid.ID) bool {
	if proved == want {
		return true
	}
	a, errA := parseID(proved)
	b, errB := parseID(want)
	return errA == nil && errB == nil && proved.TrustDomain() == want.TrustDomain() &&
		a.namespace == b.namespace && a.datacenter == b.datacenter && strings.EqualFold(a.service, b.service)
}

// Bounds of what a peer shows. SPIFFE's own of an ID; a chain of the mesh has some thousand bytes.
const (
	maxID      = 2048
	maxChain   = 64 << 10
	minRSABits = 2048
)

// fit is why a leaf that was verified is not taken nevertheless: what neither go-spiffe nor crypto/x509 minds.
func fit(id spiffeid.ID, certs []*x509.Certificate) error {
	size := 0
	for _, c := range certs {
		size += len(c.Raw)
	}
	leaf := certs[0]
	switch key, _ := leaf.PublicKey.(*rsa.PublicKey); {
	case size > maxChain:
		return fmt.Errorf("the certificates of %.200s have %d bytes: %d are read at most", id, size, maxChain)
	case len(id.String()) > maxID:
		return fmt.Errorf("the SPIFFE ID %.200s… is longer than %d bytes", id, maxID)
	case key != nil && key.N.BitLen() < minRSABits:
		return fmt.Errorf("the key of %s has %d bits: RSA needs %d", id, key.N.BitLen(), minRSABits)
	case leaf.KeyUsage&x509.KeyUsageDigitalSignature == 0:
		return fmt.Errorf("certificate of %s is not for digitalSignature", id)
	}
	// An URL that was parsed does not say how its scheme was spelled.
	for _, e := range leaf.Extensions {
		var names []asn1.RawValue
		if !e.Id.Equal(subjectAltName) {
			continue
		}
		if _, err := asn1.Unmarshal(e.Value, &names); err != nil {
			return err
		}
		for _, n := range names {
			if n.Class == asn1.ClassContextSpecific && n.Tag == uriName && string(n.Bytes) != id.String() {
				return fmt.Errorf("certificate of %s spells its SPIFFE ID %.200q", id, n.Bytes)
			}
		}
	}
	return nil
}

// The extension of a certificate with its names, and the tag of those that are URIs (RFC 5280, 4.2.1.6).
var subjectAltName = asn1.ObjectIdentifier{2, 5, 29, 17}

const uriName = 6

// verify returns whose certificates these are, if they hang under a root and are meant for usage.
func verify(certs []*x509.Certificate, roots *x509bundle.Bundle, usage x509.ExtKeyUsage, options ...x509svid.VerifyOption) (spiffeid.ID, error) {
	id, _, err := x509svid.Verify(certs, roots, options...)
	if err != nil {
		return spiffeid.ID{}, err
	}
	if !slices.Contains(certs[0].ExtKeyUsage, usage) && !slices.Contains(certs[0].ExtKeyUsage, x509.ExtKeyUsageAny) {
		return spiffeid.ID{}, fmt.Errorf("certificate of %s is not meant for this side of a connection", id)
	}
	if _, err := parseID(id); err != nil {
		return spiffeid.ID{}, err
	}
	return id, fit(id, certs)
}

// Peer is the service at the other end of a connection that this package made or let in, as its
// certificate says: for handlers, by http.Request.TLS or tls.Conn.ConnectionState. It checks nothing
// itself.
func Peer(state tls.ConnectionState) (spiffeid.ID, error) {
	if len(state.PeerCertificates) == 0 {
		return spiffeid.ID{}, errors.New("the peer has no certificate: is the handshake over?")
	}
	return x509svid.IDFromCert(state.PeerCertificates[0])
}

// ServiceName is the name of the service whose ID it is, and its datacenter.
func ServiceName(id spiffeid.ID) (service, datacenter string, err error) {
	i, err := parseID(id)
	return i.service, i.datacenter, err
}

// serialNumber is a certificate's, as Consul writes it: "0a:1b".
func serialNumber(c *x509.Certificate) string {
	b := c.SerialNumber.Bytes()
	if len(b) == 0 {
		b = []byte{0}
	}
	var s strings.Builder
	for i, x := range b {
		if i > 0 {
			s.WriteByte(':')
		}
		fmt.Fprintf(&s, "%02x", x)
	}
	return s.String()
}

// parseName reads what can be dialled: the name of a service, or api.service.consul, or
// api.service.dc1.consul. An empty datacenter is the API's own.
func parseName(name string) (service, datacenter string, err error) {
	const domain = ".consul"
	host := strings.TrimSuffix(name, ".")
	service = name
	if l := len(host) - len(domain); l >= 0 && strings.EqualFold(host[l:], domain) {
		labels := strings.Split(host[:l], ".")
		switch {
		case len(labels) == 2 && strings.EqualFold(labels[1], "service"):
			service = labels[0]
		case len(labels) == 3 && strings.EqualFold(labels[1], "service") && labels[2] != "":
			service, datacenter = labels[0], strings.ToLower(labels[2])
		default:
			return "", "", fmt.Errorf("%q cannot be dialled: write NAME.service.consul or NAME.service.DATACENTER.consul", name)
		}
	}
	for _, s := range []string{service, or(datacenter, "x")} {
		if err := spiffeid.ValidatePathSegment(s); err != nil {
			return "", "", fmt.Errorf("%q is not the name of a service: letters, digits, dots, dashes and underscores are all that a SPIFFE ID can have", name)
		}
	}
	return service, datacenter, nil
}
