package certpath

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"slices"
	"strings"
	"time"
)

// verifyNames verifies that the name constraints of a signer (RFC 5280, 4.2.1.10) let it sign for the URIs of c, as BoringSSL reads them:
// a host name alone is that host's, for Go those below it, too.
func verifyNames(signer, c *x509.Certificate) error {
	for _, uri := range c.URIs {
		of := func(domain string) bool { return inDomain(uri.Hostname(), domain) }
		switch {
		case slices.ContainsFunc(signer.ExcludedURIDomains, of):
		case len(signer.PermittedURIDomains) > 0 && !slices.ContainsFunc(signer.PermittedURIDomains, of):
		default:
			continue
		}
		return fmt.Errorf("its name constraints do not let it sign for %s: permit URIs of %q, or leave the constraints out", quote(uri), uri.Hostname())
	}
	return nil
}

// inDomain reports whether host is domain, or is below one that begins with a dot.
func inDomain(host, domain string) bool {
	if strings.HasPrefix(domain, ".") {
		return len(host) > len(domain) && strings.EqualFold(host[len(host)-len(domain):], domain)
	}
	return strings.EqualFold(host, domain)
}

// verifyConstrained has Go verify a path in which there are name constraints: there are those of other kinds of names, and what is
// excluded is more there than it is for BoringSSL.
func verifyConstrained(path []*x509.Certificate, now time.Time) error {
	last := len(path) - 1
	options := x509.VerifyOptions{Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool(), CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}
	options.Roots.AddCert(path[last])
	for _, c := range path[1:last] {
		options.Intermediates.AddCert(c)
	}
	if _, err := path[0].Verify(options); err != nil {
		return fmt.Errorf("%w: %s: a CA above it has name constraints that it does not keep, or one below it: %w", ErrInvalid, place(path[0], path[:last]), err)
	}
	return nil
}

// constrained reports whether a certificate has name constraints.
func constrained(c *x509.Certificate) bool { return len(extension(c, nameConstraints)) > 0 }

// sameName compares two names in DER about as BoringSSL does (X509_NAME_cmp): without regard to case, spaces and types of strings.
func sameName(a, b []byte) bool {
	return string(a) == string(b) || folded(a) == folded(b)
}

func folded(name []byte) string {
	var parsed pkix.RDNSequence
	if _, err := asn1.Unmarshal(name, &parsed); err != nil {
		return string(name)
	}
	return strings.Join(strings.Fields(strings.ToLower(parsed.String())), " ")
}
