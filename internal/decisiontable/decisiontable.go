// Package decisiontable reads the table of decisions, intention/testdata/decisions.yaml, to which
// everything that decides is held. It is for tests.
package decisiontable

import (
	"bytes"
	"fmt"
	"net/url"
	"os"
	"strings"

	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/intention"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"go.yaml.in/yaml/v3"
)

// Datacenter is the one that the destinations of all cases are in.
const Datacenter = "dc1"

// Case is a mesh, a destination in it, and what becomes of those who dial it.
type Case struct {
	Name        string
	Destination identity.Name
	// Intentions are all of the mesh, in the order of the file; some are about other destinations.
	Intentions []intention.Intention
	Scope      intention.Scope
	Peers      []Peer
}

// Policy is what the case's intentions come to.
func (c Case) Policy() *intention.Policy {
	return intention.Share(c.Destination, c.Intentions, c.Scope).Policy(c.Destination, c.Intentions)
}

// Peer is a client certificate, and what becomes of it.
type Peer struct {
	// By is the trust domain whose CA signed it; zero: the mesh's own.
	By      spiffeid.TrustDomain
	URIs    []string // URI SANs in this order; url.Parse and String leave them as they are
	DNS     []string // DNS SANs
	Subject string   // the subject's common name
	// Request is what the peer asks for where the destination speaks http; nil: anything.
	Request *Request
	// Want is Allow if the peer reaches the destination: a tcp connection passes bytes, a request
	// is answered by it.
	Want intention.Action
	// WantTCP is Want where the destination speaks tcp.
	WantTCP intention.Action
}

// Wants is Want of a destination that speaks http or tcp.
func (p Peer) Wants(l7 bool) intention.Action {
	if l7 {
		return p.Want
	}
	return p.WantTCP
}

// String names the peer in a test's output.
func (p Peer) String() string {
	var parts []string
	parts = append(parts, p.URIs...)
	for _, d := range p.DNS {
		parts = append(parts, "DNS:"+d)
	}
	if p.Subject != "" {
		parts = append(parts, "CN="+p.Subject)
	}
	if len(parts) == 0 {
		parts = append(parts, "(no name)")
	}
	if !p.By.IsZero() {
		parts = append(parts, "by", p.By.Name())
	}
	if p.Request != nil {
		parts = append(parts, p.Request.String())
	}
	return strings.Join(parts, " ")
}

// ID is whom the peer's certificate is about: the one workload that it names in a URI. ok is
// false if there is none, or several.
func (p Peer) ID() (id identity.ID, ok bool) {
	if len(p.URIs) != 1 {
		return "", false
	}
	id, err := identity.ParseID(p.URIs[0])
	return id, err == nil
}

// Proved reports whether the handshake leaves the peer to what decides: where By is given, whether it signed for a first URI of its
// own. It alone keeps out who has another trust domain's name first; what comes after it does not see who signed.
func (p Peer) Proved() bool {
	return p.By.IsZero() || len(p.URIs) > 0 && strings.HasPrefix(p.URIs[0], p.By.IDString()+"/")
}

// Principal is what Envoy calls the peer in a CheckRequest: the first URI SAN, else the first DNS
// SAN, else the subject (Envoy, AttributeContext.Peer.principal).
func (p Peer) Principal() string {
	switch {
	case len(p.URIs) > 0:
		return p.URIs[0]
	case len(p.DNS) > 0:
		return p.DNS[0]
	case p.Subject != "":
		return "CN=" + p.Subject
	}
	return ""
}

// file is the form of the table.
type file struct {
	TrustDomain string `yaml:"trust_domain"`
	Cases       []struct {
		Name        string   `yaml:"name"`
		Default     string   `yaml:"default"`
		Datacenters []string `yaml:"datacenters"`
		Federated   []string `yaml:"federated"`
		Destination string   `yaml:"destination"`
		Intentions  []struct {
			Source      string       `yaml:"source"`
			SpiffeID    string       `yaml:"spiffe_id"`
			Peer        string       `yaml:"peer"`
			Destination string       `yaml:"destination"`
			Action      string       `yaml:"action"`
			Permissions []permission `yaml:"permissions"`
			Unsupported string       `yaml:"unsupported"`
		} `yaml:"intentions"`
		Peers []struct {
			Service    string   `yaml:"service"`
			Datacenter string   `yaml:"dc"`
			URIs       []string `yaml:"uris"`
			DNS        []string `yaml:"dns"`
			Subject    string   `yaml:"subject"`
			By         string   `yaml:"by"`
			Request    string   `yaml:"request"`
			Want       string   `yaml:"want"`
			TCP        string   `yaml:"tcp"`
		} `yaml:"peers"`
	} `yaml:"cases"`
}

// Load reads the table. What it does not understand is an error.
func Load(path string) ([]Case, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var f file
	d := yaml.NewDecoder(bytes.NewReader(text))
	d.KnownFields(true)
	if err := d.Decode(&f); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	td, err := spiffeid.TrustDomainFromString(f.TrustDomain)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	expand := func(s string) string { return strings.ReplaceAll(s, "$TD", f.TrustDomain) }
	seen := map[string]bool{}
	var cases []Case
	for _, in := range f.Cases {
		c := Case{Name: in.Name, Destination: name(in.Destination)}
		fail := func(err error) ([]Case, error) { return nil, fmt.Errorf("%s: %q: %w", path, in.Name, err) }
		if in.Name == "" || seen[in.Name] || len(in.Peers) == 0 || len(in.Datacenters) == 0 || in.Datacenters[0] != Datacenter {
			return fail(fmt.Errorf("a case has a name of its own, peers, and datacenters beginning with %s", Datacenter))
		}
		seen[in.Name] = true
		c.Scope = intention.Scope{TrustDomain: td, Datacenters: in.Datacenters}
		if c.Scope.Default, err = action(in.Default); err != nil {
			return fail(err)
		}
		for _, text := range in.Federated {
			other, err := spiffeid.TrustDomainFromString(text)
			if err != nil {
				return fail(err)
			}
			c.Scope.Federated = append(c.Scope.Federated, other)
		}
		for n, i := range in.Intentions {
			permissions, err := permissionsOf(i.Permissions)
			if err != nil {
				return fail(err)
			}
			act := intention.Deny
			if permissions == nil || i.Action != "" {
				if act, err = action(i.Action); err != nil {
					return fail(err)
				}
			}
			source := intention.Source{Peer: i.Peer, Name: name(i.Source)}
			if i.SpiffeID != "" {
				id, err := identity.ParseID(expand(i.SpiffeID))
				if err != nil {
					return fail(err)
				}
				source = intention.Source{ID: id}
			}
			c.Intentions = append(c.Intentions, intention.Intention{
				Source:      source,
				Destination: name(i.Destination),
				Action:      act,
				Permissions: permissions,
				Unsupported: i.Unsupported,
				Origin:      fmt.Sprintf("intention %d", n+1),
			})
		}
		for _, i := range in.Peers {
			p := Peer{Subject: expand(i.Subject)}
			if p.Want, err = action(i.Want); err != nil {
				return fail(err)
			}
			p.WantTCP = p.Want
			if i.Request != "" {
				if p.Request, err = parseRequest(i.Request); err != nil {
					return fail(err)
				}
				p.WantTCP = intention.Deny // most are of sources with permissions
			}
			if i.TCP != "" {
				if p.WantTCP, err = action(i.TCP); err != nil {
					return fail(err)
				}
			}
			if i.By != "" {
				if p.By, err = spiffeid.TrustDomainFromString(expand(i.By)); err != nil {
					return fail(err)
				}
			}
			if i.Service != "" {
				dc := Datacenter
				if i.Datacenter != "" {
					dc = i.Datacenter
				}
				i.URIs = append(i.URIs, "spiffe://$TD/ns/default/dc/"+dc+"/svc/"+i.Service)
			}
			for _, u := range i.URIs {
				u = expand(u)
				if parsed, err := url.Parse(u); err != nil || parsed.String() != u {
					return fail(fmt.Errorf("a certificate made by Go cannot say %q", u))
				}
				p.URIs = append(p.URIs, u)
			}
			for _, d := range i.DNS {
				p.DNS = append(p.DNS, expand(d))
			}
			c.Peers = append(c.Peers, p)
		}
		cases = append(cases, c)
	}
	return cases, nil
}

// name is the opposite of identity.Name.String.
func name(s string) identity.Name {
	if parts := strings.Split(s, "/"); len(parts) == 3 {
		return identity.Name{Partition: parts[0], Namespace: parts[1], Service: parts[2]}
	}
	return identity.NewName(s)
}

func action(s string) (intention.Action, error) {
	switch s {
	case "allow":
		return intention.Allow, nil
	case "deny":
		return intention.Deny, nil
	}
	return intention.Deny, fmt.Errorf("%q is neither allow nor deny", s)
}
