package ca

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"regexp"
	"slices"
	"time"

	"github.com/sallyport/sallyport/certpath"
)

// profile is a kind of certificate: what it may be used for. Everything else is the same for all.
type profile struct {
	name     string
	usage    x509.KeyUsage
	extended []x509.ExtKeyUsage
	ca       bool
	pathLen  int // of a CA; -1: no limit
	// key refuses public keys; nil: they are on P-256.
	key func(crypto.PublicKey) error
	// dns and ips are SANs beside the URI.
	dns []string
	ips []net.IP
}

// The profiles. A root may sign intermediates and other roots, an intermediate only certificates
// that sign nothing.
func rootProfile() profile {
	return profile{name: "root", usage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, ca: true, pathLen: -1}
}

func intermediateProfile() profile {
	return profile{name: "intermediate", usage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, ca: true}
}

// A sidecar is client and server with the same leaf.
func leafProfile() profile {
	return profile{
		name: "leaf", usage: x509.KeyUsageDigitalSignature, pathLen: -1, key: certpath.LeafKey,
		extended: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
}

// A server has, beside its URI, the names and addresses by which it is reached: clients other than
// Envoys compare them. Names that are neither are an error.
func serverProfile(names []string) (profile, error) {
	p := profile{
		name: "server", usage: x509.KeyUsageDigitalSignature, pathLen: -1,
		extended: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, name := range slices.Compact(slices.Sorted(slices.Values(names))) {
		if ip := net.ParseIP(name); ip != nil {
			p.ips = append(p.ips, ip)
		} else if hostName.MatchString(name) && len(name) <= maxHostName {
			p.dns = append(p.dns, name)
		} else {
			return p, fmt.Errorf("%q is neither a host name nor an address", name)
		}
	}
	return p, nil
}

// hostName is what a DNS SAN may be (RFC 1123, 2.1, and the underscores that are seen in practice);
// maxHostName bounds it in bytes (RFC 1035, 2.3.4).
var hostName = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9_-]{0,61}[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9_-]{0,61}[A-Za-z0-9])?)*$`)

const maxHostName = 253

// backdate is how long before it was signed a certificate is valid, for peers whose clocks are
// behind.
const backdate = time.Minute

// backdated is how long before it was signed a certificate that lives for ttl is valid. Those that sign may be valid for a day before: one
// that was made while the clock was ahead, as before its first synchronisation, is good when the clock is right again.
func (p profile) backdated(ttl time.Duration) time.Duration {
	if !p.ca {
		return backdate
	}
	return max(backdate, min(24*time.Hour, ttl/10))
}

// Made is when a root or intermediate that was made here was made, of which only the life is known: it is valid since before.
func Made(notBefore, notAfter time.Time) time.Time {
	life := notAfter.Sub(notBefore)
	return notBefore.Add(max(backdate, min(24*time.Hour, life/11))) // of ttl and a tenth of it a tenth of ttl
}

// pair is a certificate and its private key.
type pair struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// newPair makes a key and a certificate for it, as sign does. A nil signer: it signs itself.
func newPair(p profile, uri *url.URL, ttl time.Duration, now time.Time, signer *pair) (*pair, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	if signer == nil {
		signer = &pair{key: key}
	}
	cert, err := sign(p, uri, key.Public(), ttl, now, signer)
	return &pair{cert, key}, err
}

// sign makes a certificate for uri and public, valid for ttl from now on but no longer than its
// signer, which without a certificate makes its own. What comes out would pass check.
func sign(p profile, uri *url.URL, public crypto.PublicKey, ttl time.Duration, now time.Time, signer *pair) (*x509.Certificate, error) {
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber:          serial,
		NotBefore:             now.Add(-p.backdated(ttl)),
		NotAfter:              now.Add(ttl),
		URIs:                  []*url.URL{uri},
		DNSNames:              p.dns,
		IPAddresses:           p.ips,
		KeyUsage:              p.usage,
		ExtKeyUsage:           p.extended,
		BasicConstraintsValid: true,
		IsCA:                  p.ca,
		MaxPathLen:            p.pathLen,
		MaxPathLenZero:        p.ca && p.pathLen == 0,
		SignatureAlgorithm:    x509.ECDSAWithSHA256,
	}
	if p.ca {
		// A signer is found by its name, so no two have the same one. Leafs have none: the SPIFFE
		// ID is the name.
		template.Subject = pkix.Name{Organization: []string{"sallyport"}, CommonName: fmt.Sprintf("sallyport %s %.8x", p.name, serial.Bytes())}
	}
	parent := signer.cert
	if parent == nil {
		parent = template
	}
	if template.NotAfter.After(parent.NotAfter) {
		template.NotAfter = parent.NotAfter
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, signer.key)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	if signer.cert == nil {
		parent = cert
	}
	// CreateCertificate has verified the signature with the signer's public key, and has compared
	// that with its certificate's.
	if err := conforms(p, cert, uri.String(), public, parent); err != nil {
		return nil, err
	}
	return cert, valid(cert, now)
}

// newSerial draws 159 bits: the most that 20 octets hold without a sign bit. Never zero.
func newSerial() (*big.Int, error) {
	limit := new(big.Int).Lsh(big.NewInt(1), 159)
	for {
		n, err := rand.Int(rand.Reader, limit)
		if err != nil || n.Sign() > 0 {
			return n, err
		}
	}
}

// check returns an error unless cert is a certificate of profile p for uri and public, signed by
// parent (itself, if it is a root). A nil public matches any key. Everything that the CA reads back
// goes through it. Of the validity it checks only that cert does not outlive parent; see valid.
func check(p profile, cert *x509.Certificate, uri string, public crypto.PublicKey, parent *x509.Certificate) error {
	if err := conforms(p, cert, uri, public, parent); err != nil {
		return err
	}
	if cert.CheckSignatureFrom(parent) != nil {
		return fmt.Errorf("%s certificate: not signed by %q", p.name, parent.Subject)
	}
	return nil
}

// conforms is check without the signature.
func conforms(p profile, cert *x509.Certificate, uri string, public crypto.PublicKey, parent *x509.Certificate) error {
	takes := p.key
	if takes == nil {
		takes = onP256
	}
	key, ok := cert.PublicKey.(interface{ Equal(crypto.PublicKey) bool })
	problem := takes(cert.PublicKey)
	switch {
	case problem != nil:
	case cert.Version != 3:
		problem = fmt.Errorf("X.509 version %d, want 3", cert.Version)
	case public != nil && (!ok || !key.Equal(public)):
		problem = errors.New("the private key belongs to another certificate")
	case cert.SignatureAlgorithm != x509.ECDSAWithSHA256:
		problem = fmt.Errorf("signed with %s, want %s", cert.SignatureAlgorithm, x509.ECDSAWithSHA256)
	case cert.SerialNumber.Sign() <= 0 || cert.SerialNumber.BitLen() > 159:
		problem = errors.New("its serial number is not one of 159 bits")
	case len(cert.URIs) != 1:
		problem = fmt.Errorf("%d URI SANs, want one", len(cert.URIs))
	case cert.URIs[0].String() != uri:
		problem = fmt.Errorf("it is for %q, want %q", cert.URIs[0], uri)
	case !slices.Equal(cert.DNSNames, p.dns) || !slices.EqualFunc(cert.IPAddresses, p.ips, net.IP.Equal) || len(cert.EmailAddresses) > 0:
		problem = errors.New("it has SANs beside the URI, or lacks some that it is to have")
	case !cert.BasicConstraintsValid || cert.IsCA != p.ca:
		problem = fmt.Errorf("basic constraints say CA:%t, want CA:%t", cert.IsCA, p.ca)
	case p.ca && (cert.MaxPathLen != p.pathLen || cert.MaxPathLenZero != (p.pathLen == 0)):
		problem = fmt.Errorf("path length %d, want %d", cert.MaxPathLen, p.pathLen)
	case cert.KeyUsage != p.usage:
		problem = fmt.Errorf("key usage %b, want %b", cert.KeyUsage, p.usage)
	case !slices.Equal(cert.ExtKeyUsage, p.extended) || len(cert.UnknownExtKeyUsage) > 0:
		problem = fmt.Errorf("extended key usages %v, want %v", cert.ExtKeyUsage, p.extended)
	case len(cert.UnhandledCriticalExtensions) > 0:
		problem = errors.New("it has a critical extension that is not known")
	case p.ca == (len(cert.Subject.Names) == 0):
		problem = fmt.Errorf("its subject is %q: a CA has one, others have none", cert.Subject)
	case cert.NotAfter.After(parent.NotAfter):
		problem = errors.New("it outlives its signer")
	}
	if problem != nil {
		return fmt.Errorf("%s certificate: %w", p.name, problem)
	}
	return nil
}

// onP256 refuses all keys but those on P-256.
func onP256(public crypto.PublicKey) error {
	if key, ok := public.(*ecdsa.PublicKey); !ok || key.Curve != elliptic.P256() {
		return errors.New("its key is not an ECDSA key on P-256")
	}
	return nil
}

// valid returns an error if cert cannot be used at now.
func valid(cert *x509.Certificate, now time.Time) error { return certpath.Valid(cert, now) }
