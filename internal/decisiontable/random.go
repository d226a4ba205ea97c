package decisiontable

import (
	"fmt"
	"math/rand/v2"
	"strings"

	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/intention"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// What random permissions and requests are made of: few and alike, so that they meet each other often, or nearly.
var (
	randomPaths   = []string{"/", "/a", "/a/b", "/a/b/", "/ab", "/b", "/a%20b", "/v1/a", "/a.b", "/a=b", "/a%3db", "/a%3Db"}
	randomRegexes = []string{"/.*", "/[ab]", "/a(/.*)?", "/a/./b", "/v[0-9]+/[^/]*", "^/a$|/b", ".*b", "/(?i:A)b?", "/a{1,2}/?b?", "/\\w+", "/a[:=]b", "/a%3[Dd]b", "/a.b"}
	tricks        = []string{"", "", "", "?", "?x=/a", "?//", "//", "/.", "/../a", "/./b", "%61", "%2f", "%2e%2e", "%5c", ";x", "%00", "%c0%ae", "/..;/", "%252e", "%20"}
	randomValues  = []string{"a", "b", "ab", "A", "a,b", "b, a", "", "a b", "v1", "\xe9", "é"}
)

// Random is a case with permissions and n requests. What is wanted of each is what Decide says, to hold others to.
func Random(seed uint64, destination identity.Name, td spiffeid.TrustDomain, n int) Case {
	r := rand.New(rand.NewPCG(seed, 13))
	c := Case{
		Name: fmt.Sprintf("random %d", seed), Destination: destination,
		Scope: intention.Scope{TrustDomain: td, Datacenters: []string{Datacenter}, Default: intention.Action(r.IntN(2))},
	}
	for _, source := range []string{"web", "db", identity.Wildcard} {
		i := intention.Intention{Source: intention.Source{Name: identity.NewName(source)}, Destination: destination, Action: intention.Action(r.IntN(2))}
		switch {
		case source != "web" && r.IntN(3) == 0:
			continue
		case source == "web" || r.IntN(2) == 0:
			list := make([]intention.Permission, 1+r.IntN(6))
			for n := range list {
				list[n] = randomPermission(r)
			}
			i.Action = intention.Deny
			var err error
			if i.Permissions, err = intention.NewPermissions(list); err != nil {
				panic(err) // a mistake in the lists above
			}
		}
		c.Intentions = append(c.Intentions, i)
	}
	policy := c.Policy()
	for range n {
		p := Peer{URIs: []string{fmt.Sprintf("spiffe://%s/ns/default/dc/%s/svc/%s", td.Name(), Datacenter, pick(r, "web", "web", "web", "db", "x"))}, Request: randomRequest(r)}
		id, _ := p.ID()
		p.Want, p.WantTCP = policy.DecideRequestID(id, p.Request.Asked()).Action, policy.DecideID(id).Action
		c.Peers = append(c.Peers, p)
	}
	return c
}

func pick[T any](r *rand.Rand, of ...T) T { return of[r.IntN(len(of))] }

func randomPermission(r *rand.Rand) intention.Permission {
	p := intention.Permission{Action: intention.Action(r.IntN(2))}
	switch r.IntN(5) {
	case 0:
		p.PathExact = pick(r, randomPaths...)
	case 1:
		p.PathPrefix = pick(r, randomPaths...)
	case 2:
		p.PathRegex = pick(r, randomRegexes...)
	}
	for _, m := range []string{"GET", "POST", "DELETE"} {
		if r.IntN(6) == 0 {
			p.Methods = append(p.Methods, m)
		}
	}
	for range r.IntN(5) - 2 {
		h := intention.HeaderMatch{Name: pick(r, "x-a", "x-b", "host"), Invert: r.IntN(3) == 0, IgnoreCase: r.IntN(3) == 0}
		value := pick(r, "a", "b", "ab", "a,b", "v")
		switch r.IntN(6) {
		case 0:
			h.Present, h.IgnoreCase = true, false
		case 1:
			h.Exact = value
		case 2:
			h.Prefix = value
		case 3:
			h.Suffix = value
		case 4:
			h.Contains = value
		case 5:
			h.Regex, h.IgnoreCase = pick(r, "a.*", "[ab]", "v[0-9]", "(a|b),?.*", "[^a]*"), false
		}
		p.Headers = append(p.Headers, h)
	}
	return p
}

func randomRequest(r *rand.Rand) *Request {
	path := pick(r, randomPaths...)
	if r.IntN(3) == 0 {
		path += pick(r, tricks...)
	}
	if r.IntN(8) == 0 {
		path = pick(r, tricks[4:]...) + path
	}
	if !strings.HasPrefix(path, "/") { // Envoy's parser refuses it itself
		path = "/" + path
	}
	request := &Request{Method: pick(r, "GET", "GET", "POST", "DELETE", "PUT"), Path: path}
	for range r.IntN(4) {
		request.Headers = append(request.Headers, [2]string{pick(r, "x-a", "x-b"), pick(r, randomValues...)})
	}
	return request
}
