// Package identity names the workloads of a mesh: a service in Consul's terms, and the SPIFFE ID,
// secret names and SNI that follow from it. It holds value types without I/O and knows neither
// Envoy nor Consul's API.
package identity

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// Default is how Consul spells the partition and the namespace that a mesh without Enterprise
// features has.
const Default = "default"

// Wildcard stands for every service where a Name is a pattern (in intentions). It is never part of
// an identity.
const Wildcard = "*"

// maxID is how long a SPIFFE ID may be, in bytes (SPIFFE-ID, 2.3).
const maxID = 2048

var (
	// errNotService marks a well-formed SPIFFE ID that is not a service's: an agent, a gateway,
	// somebody else's layout.
	errNotService = errors.New("not the identity of a service")
	// errLongID marks what would be a SPIFFE ID of more than maxID bytes.
	errLongID = fmt.Errorf("a SPIFFE ID has %d bytes at most", maxID)
	// errSegment marks a name that cannot be a segment of a SPIFFE ID's path.
	errSegment = errors.New("not a SPIFFE path segment")
)

// Name is the name of a service within a mesh. It is comparable. The zero Name names nothing;
// partition and namespace are always spelled out (NewName fills in "default").
type Name struct{ Partition, Namespace, Service string }

// NewName returns the name of a service in the default partition and namespace. It does not check
// service; see Check.
func NewName(service string) Name {
	return Name{Partition: Default, Namespace: Default, Service: service}
}

// IsWildcard reports whether n stands for every service.
func (n Name) IsWildcard() bool { return n.Service == Wildcard }

// Fold is n as Consul looks services, destinations and config entries up: letter case does not
// count. Certificates, and so who somebody is, are compared as they are spelled.
func (n Name) Fold() Name {
	n.Service = strings.ToLower(n.Service)
	return n
}

// String is the service's name alone in the default partition and namespace, else
// partition/namespace/service.
func (n Name) String() string {
	if n.Partition == Default && n.Namespace == Default {
		return n.Service
	}
	return n.Partition + "/" + n.Namespace + "/" + n.Service
}

// Check returns an error if n cannot be part of a SPIFFE ID.
func (n Name) Check() error {
	for _, s := range []string{n.Partition, n.Namespace, n.Service} {
		if err := checkSegment(s); err != nil {
			return err
		}
	}
	return nil
}

// LeafSecret is the name of the secret that holds the leaf certificate and key of the service n.
func (n Name) LeafSecret() string { return "leaf/" + n.String() }

// PeersSecret is the name of the secret with the peers that the handshake of the tcp service n
// allows.
func (n Name) PeersSecret() string { return "peers/" + n.String() }

// Names of the secrets that all proxies of a mesh share.
const (
	// RootsSecret holds the trust bundle. Its users add which peer is allowed (an upstream's URI
	// SAN).
	RootsSecret = "roots"
	// IdentitiesSecret holds the trust bundle and allows every service of the trust domain.
	IdentitiesSecret = "identities"
)

// RootsSecretOf is the name of the secret with the trust bundle of another trust domain, alone. As of
// RootsSecret, its users add which peer is allowed.
func RootsSecretOf(td spiffeid.TrustDomain) string { return RootsSecret + "/" + td.Name() }

// Service is the identity of a service, as in its leaf certificate. It is comparable. The zero
// Service is not valid; see Check.
type Service struct {
	TrustDomain spiffeid.TrustDomain
	Datacenter  string
	Name
}

// parse is ParseURI for a SPIFFE ID. The error of one in another form wraps errNotService.
func parse(id spiffeid.ID) (Service, error) {
	path, ok := strings.CutPrefix(id.Path(), "/")
	if !ok {
		return Service{}, fmt.Errorf("%s: %w", id, errNotService)
	}
	s := Service{TrustDomain: id.TrustDomain(), Name: Name{Partition: Default}}
	// Cut by hand: this runs for every connection that ext_authz decides, and must not allocate.
	key, rest := cut(path)
	if key == "ap" {
		s.Partition, rest = cut(rest)
		// Consul leaves the default partition out: a second spelling would be a second identity.
		if s.Partition == Default {
			return Service{}, fmt.Errorf("%s: %w", id, errNotService)
		}
		key, rest = cut(rest)
	}
	if key != "ns" {
		return Service{}, fmt.Errorf("%s: %w", id, errNotService)
	}
	s.Namespace, rest = cut(rest)
	if key, rest = cut(rest); key != "dc" {
		return Service{}, fmt.Errorf("%s: %w", id, errNotService)
	}
	s.Datacenter, rest = cut(rest)
	if key, rest = cut(rest); key != "svc" {
		return Service{}, fmt.Errorf("%s: %w", id, errNotService)
	}
	s.Service = rest
	// spiffeid has checked the characters and that no segment is empty, so an extra segment is all
	// that can be wrong.
	if s.Service == "" || strings.Contains(s.Service, "/") {
		return Service{}, fmt.Errorf("%s: %w", id, errNotService)
	}
	return s, nil
}

// ParseURI reads the identity of a service from a URI SAN, a SPIFFE ID of Consul's form
// spiffe://<trust domain>[/ap/<partition>]/ns/<namespace>/dc/<datacenter>/svc/<service>.
// Segments are compared as bytes: nothing is unescaped.
func ParseURI(uri string) (Service, error) {
	if len(uri) > maxID {
		return Service{}, fmt.Errorf("%.100q: %w", uri, errLongID)
	}
	id, err := spiffeid.FromString(uri)
	if err != nil {
		return Service{}, fmt.Errorf("%q: %w", uri, err)
	}
	return parse(id)
}

// Check returns an error if no certificate can name s.
func (s Service) Check() error {
	if s.TrustDomain.IsZero() {
		return errors.New("no trust domain")
	}
	if err := CheckDatacenter(s.Datacenter); err != nil {
		return fmt.Errorf("datacenter %w", err)
	}
	if err := s.Name.Check(); err != nil {
		return err
	}
	if len(s.TrustDomain.IDString())+len(s.path()) > maxID {
		return fmt.Errorf("%.100q: %w", s.Service, errLongID)
	}
	return nil
}

// ID is the SPIFFE ID of s; zero if Check returns an error, which callers have to test for.
func (s Service) ID() spiffeid.ID {
	if s.Check() != nil {
		return spiffeid.ID{}
	}
	id, err := spiffeid.FromPath(s.TrustDomain, s.path())
	if err != nil {
		return spiffeid.ID{}
	}
	return id
}

// String is the SPIFFE ID of s as text; empty if Check returns an error.
func (s Service) String() string { return s.ID().String() }

func (s Service) path() string {
	p := "/ns/" + s.Namespace + "/dc/" + s.Datacenter + "/svc/" + s.Service
	if s.Partition != Default {
		p = "/ap/" + s.Partition + p
	}
	return p
}

// SNI is the server name under which the sidecar of s is dialled. It is also the name of the
// cluster, as in Consul, whose dashboards cut service, namespace and datacenter out of it.
func (s Service) SNI() string {
	if s.Partition != Default {
		return s.Service + "." + s.Namespace + "." + s.Partition + "." + s.Datacenter + ".internal-v1." + s.TrustDomain.Name()
	}
	return s.Service + "." + s.Namespace + "." + s.Datacenter + ".internal." + s.TrustDomain.Name()
}

// CheckDatacenter returns an error if dc cannot be part of a SPIFFE ID.
func CheckDatacenter(dc string) error { return checkSegment(dc) }

func cut(path string) (segment, rest string) {
	segment, rest, _ = strings.Cut(path, "/")
	return segment, rest
}

func checkSegment(s string) error {
	if s == "" || s == "." || s == ".." {
		return fmt.Errorf("%q: %w", s, errSegment)
	}
	for i := range len(s) {
		c := s[i]
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '-', c == '.', c == '_':
		default:
			return fmt.Errorf("%q: %w: character %q (letters, digits, '.', '-' and '_' are allowed)", s, errSegment, c)
		}
	}
	return nil
}
