package identity

import (
	"errors"
	"fmt"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// maxTrustDomain is how long a trust domain may be, in bytes (SPIFFE-ID, 2.1).
const maxTrustDomain = 255

var (
	// errLongTrustDomain marks a SPIFFE ID whose trust domain has more than maxTrustDomain bytes.
	errLongTrustDomain = fmt.Errorf("a trust domain has %d bytes at most", maxTrustDomain)
	// errNoWorkload marks the SPIFFE ID of a trust domain itself.
	errNoWorkload = errors.New("it names a trust domain and no workload of it: it has no path")
)

// ID is the SPIFFE ID of a workload of any trust domain, in any form: a service's, an agent's, or what
// another system issues, as "spiffe://td-b.example/ns/prod/sa/web". ParseID makes one. The zero ID is nobody's.
type ID string

// ParseID reads the URI SAN of a workload. Its path is free, and compared as bytes: nothing is unescaped.
func ParseID(uri string) (ID, error) {
	if len(uri) > maxID {
		return "", fmt.Errorf("%.100q: %w", uri, errLongID)
	}
	id, err := spiffeid.FromString(uri)
	switch {
	case err != nil:
		return "", fmt.Errorf("%q: %w", uri, err)
	case id.Path() == "":
		return "", fmt.Errorf("%q: %w", uri, errNoWorkload)
	case len(id.TrustDomain().Name()) > maxTrustDomain:
		return "", fmt.Errorf("%.100q: %w", uri, errLongTrustDomain)
	}
	return ID(uri), nil
}

// TrustDomain is the one that id is of; zero if id is not what ParseID gives.
func (id ID) TrustDomain() spiffeid.TrustDomain {
	s, err := spiffeid.FromString(string(id))
	if err != nil {
		return spiffeid.TrustDomain{}
	}
	return s.TrustDomain()
}

// Path is what follows the trust domain, with its slash; empty if id is not what ParseID gives.
func (id ID) Path() string {
	s, err := spiffeid.FromString(string(id))
	if err != nil {
		return ""
	}
	return s.Path()
}

// Service is the service whose identity id is; ok is false if it is no service's.
func (id ID) Service() (s Service, ok bool) {
	s, err := ParseURI(string(id))
	return s, err == nil
}
