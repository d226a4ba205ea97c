package connect

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

// decodeRoots reads the answer of /v1/agent/connect/ca/roots. Unless it fails there is a root.
func decodeRoots(body []byte) (*x509bundle.Bundle, error) {
	var a struct {
		TrustDomain string
		Roots       []struct{ RootCert string }
	}
	if err := json.Unmarshal(body, &a); err != nil {
		return nil, fmt.Errorf("roots: %w", err)
	}
	domain, err := spiffeid.TrustDomainFromString(a.TrustDomain)
	if err != nil {
		return nil, fmt.Errorf("roots: trust domain %q: %w", a.TrustDomain, err)
	}
	bundle := x509bundle.New(domain)
	for _, r := range a.Roots {
		certs, err := parseCertificates([]byte(r.RootCert))
		if err != nil {
			return nil, fmt.Errorf("roots: %w", err)
		}
		for _, c := range certs {
			bundle.AddX509Authority(c)
		}
	}
	if bundle.Empty() {
		return nil, errors.New("roots: there is none: is Connect enabled?")
	}
	return bundle, nil
}

func parseCertificates(text []byte) ([]*x509.Certificate, error) {
	var certs []*x509.Certificate
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("%q where a certificate should be", block.Type)
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		certs = append(certs, c)
	}
	if len(bytes.TrimSpace(text)) > 0 || len(certs) == 0 {
		return nil, errors.New("a certificate is no PEM")
	}
	return certs, nil
}

// decodeLeaf reads the answer of /v1/agent/connect/ca/leaf/:service, which has to be for the service.
func decodeLeaf(body []byte, service string) (*x509svid.SVID, error) {
	var a struct{ CertPEM, PrivateKeyPEM string }
	if err := json.Unmarshal(body, &a); err != nil {
		return nil, fmt.Errorf("leaf: %w", err)
	}
	// The key comes in SEC 1, PKCS #1 or #8, of which x509svid reads the last.
	pair, err := tls.X509KeyPair([]byte(a.CertPEM), []byte(a.PrivateKeyPEM))
	if err != nil {
		return nil, fmt.Errorf("leaf: %w", err)
	}
	key, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
	if err != nil {
		return nil, fmt.Errorf("leaf: %w", err)
	}
	svid, err := x509svid.ParseRaw(bytes.Join(pair.Certificate, nil), key)
	if err != nil {
		return nil, fmt.Errorf("leaf: %w", err)
	}
	id, err := parseID(svid.ID)
	switch {
	case err != nil:
		return nil, fmt.Errorf("leaf: %w", err)
	case !strings.EqualFold(id.service, service):
		return nil, fmt.Errorf("leaf: it is for %s, not for %s", svid.ID, service)
	}
	return svid, nil
}

// verdict is what the API says of a connection.
type verdict struct {
	allowed bool
	reason  string
}

// decodeVerdict reads the answer of /v1/agent/connect/authorize. What does not say yes is no.
func decodeVerdict(body []byte) (verdict, error) {
	var a *struct {
		Authorized *bool
		Reason     string
	}
	if err := json.Unmarshal(body, &a); err != nil {
		return verdict{}, fmt.Errorf("authorize: %w", err)
	}
	if a == nil || a.Authorized == nil {
		return verdict{}, errors.New("authorize: the answer does not say whether")
	}
	return verdict{allowed: *a.Authorized, reason: a.Reason}, nil
}

// decodeInstances reads the answer of /v1/health/connect/:name: those instances of the service whose
// identity is known. Others (gateways, peers' services) prove nothing that could be checked.
func decodeInstances(body []byte, service string, domain spiffeid.TrustDomain) ([]Instance, error) {
	var entries []struct {
		Node    struct{ Address, Datacenter string }
		Service struct {
			Kind, ID, Service, Address, Namespace, Partition, PeerName string
			Port                                                       int
			Proxy                                                      struct{ DestinationServiceName string }
			Connect                                                    struct{ Native bool }
		}
	}
	if err := json.Unmarshal(body, &entries); err != nil {
		return nil, fmt.Errorf("instances: %w", err)
	}
	var out []Instance
	for _, e := range entries {
		s := e.Service
		name := s.Service
		if s.Kind == "connect-proxy" {
			name = s.Proxy.DestinationServiceName
		}
		host := or(s.Address, e.Node.Address)
		switch {
		case s.Kind != "" && s.Kind != "connect-proxy", !strings.EqualFold(name, service),
			s.Namespace != "" && s.Namespace != "default", s.Partition != "" && s.Partition != "default", s.PeerName != "",
			host == "", s.Port < 1, s.Port > 65535:
			continue
		}
		id, err := identity{service: name, datacenter: e.Node.Datacenter}.id(domain)
		if err != nil {
			continue
		}
		out = append(out, Instance{Address: net.JoinHostPort(host, strconv.Itoa(s.Port)), ID: id, ServiceID: s.ID})
	}
	return out, nil
}
