package intention_test

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/intention"
)

// claims are what a token says, in JSON.
func claims(t *testing.T, text string) (m map[string]any) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), &m); err != nil {
		t.Fatal(err)
	}
	return m
}

// asks is the policy of api with one intention about web that says what it does, and asks for tokens.
func asks(t *testing.T, def, action intention.Action, jwt []intention.TokenRequirement, list ...intention.Permission) *intention.Policy {
	t.Helper()
	i := intention.Intention{Source: intention.Source{Name: identity.NewName("web")}, Action: action}
	if err := i.Ask(list, intention.NewTokens(jwt)); err != nil {
		t.Fatal(err)
	}
	return compile("api", def, i)
}

// TestTokens: of an intention's providers one has to have issued a token with all claims that it is asked for, and one of a permission's, too.
// Who is denied does not get in by leaving a token away, nor by bringing one, whatever the default is.
func TestTokens(t *testing.T) {
	need := func(provider string, claims ...string) intention.TokenRequirement {
		r := intention.TokenRequirement{Provider: provider}
		for i := 0; i < len(claims); i += 2 {
			r.Claims = append(r.Claims, intention.Claim{Path: []string{"r", claims[i]}, Value: claims[i+1]})
		}
		return r
	}
	type needs = []intention.TokenRequirement
	allow := func(path string, jwt ...intention.TokenRequirement) intention.Permission {
		return intention.Permission{Action: intention.Allow, PathExact: path, JWT: jwt}
	}
	deny := func(path string, jwt ...intention.TokenRequirement) intention.Permission {
		return intention.Permission{PathExact: path, JWT: jwt}
	}
	const admin, user, byQ = `p {"r":{"role":"admin"}}`, `p {"r":{"role":"user"}}`, `q {"r":{"role":"admin"}}`
	for name, c := range map[string]struct {
		action intention.Action
		jwt    needs
		list   []intention.Permission
		// allowed with default deny and with default allow, by path and token
		want map[string][2]bool
	}{
		"an allowing intention": {intention.Allow, needs{need("p")}, nil, map[string][2]bool{
			"/": {false, false}, "/ " + admin: {true, true}, "/ " + byQ: {false, false}, "//x " + admin: {true, true},
		}},
		"one of two providers": {intention.Allow, needs{need("p", "role", "admin"), need("q")}, nil, map[string][2]bool{
			"/ " + admin: {true, true}, "/ " + user: {false, false}, "/ " + byQ: {true, true}, "/": {false, false},
		}},
		"all claims": {intention.Allow, needs{need("p", "role", "admin", "team", "a")}, nil, map[string][2]bool{
			"/ " + admin: {false, false}, `/ p {"r":{"role":"admin","team":"a"}}`: {true, true}, `/ p {"r":{"role":["x","admin"],"team":["a"]}}`: {true, true},
			`/ p {"r":{"role":[["admin"]],"team":"a"}}`: {false, false}, `/ p {"r":["role","admin"]}`: {false, false}, `/ p {"r":{"role":{"admin":1},"team":"a"}}`: {false, false},
		}},
		"numbers and booleans": {intention.Allow, needs{need("p", "n", "7", "b", "true")}, nil, map[string][2]bool{
			`/ p {"r":{"n":7,"b":true}}`: {true, true}, `/ p {"r":{"n":"7","b":"true"}}`: {true, true}, `/ p {"r":{"n":[1,7.0],"b":[true]}}`: {true, true},
			`/ p {"r":{"n":8,"b":true}}`: {false, false}, `/ p {"r":{"n":7,"b":false}}`: {false, false}, `/ p {"r":{"n":null,"b":true}}`: {false, false},
		}},
		"a denying intention": {intention.Deny, needs{need("p")}, nil, map[string][2]bool{"/ " + admin: {false, false}, "/": {false, false}}},
		"a permission's": {intention.Deny, nil, []intention.Permission{allow("/a", need("p"))}, map[string][2]bool{
			"/a": {false, false}, "/a " + admin: {true, true}, "/b": {false, true}, "/b " + admin: {false, true}, "//a": {false, false},
		}},
		"another permission for the same": {intention.Deny, nil, []intention.Permission{allow("/a", need("p", "role", "admin")), allow("/a", need("p", "role", "ops"))}, map[string][2]bool{
			`/a p {"r":{"role":"ops"}}`: {true, true}, "/a " + admin: {true, true}, "/a " + user: {false, false}, "/b": {false, true},
		}},
		"both levels": {intention.Deny, needs{need("p")}, []intention.Permission{allow("/a", need("p", "role", "admin")), allow("/b")}, map[string][2]bool{
			"/a " + user: {false, false}, "/a " + admin: {true, true}, "/b": {false, false}, "/b " + user: {true, true}, "/c " + user: {false, true}, "/c": {false, false},
		}},
		"a denying permission": {intention.Deny, nil, []intention.Permission{deny("/a", need("p")), allow("/b")}, map[string][2]bool{
			"/a": {false, false}, "/a " + admin: {false, false}, "/b": {true, true},
		}},
	} {
		for n, def := range []intention.Action{intention.Deny, intention.Allow} {
			p := asks(t, def, c.action, c.jwt, c.list...)
			for question, want := range c.want {
				var path, provider, text string
				_, _ = fmt.Sscanf(question, "%s %s", &path, &provider)
				r := &intention.Request{Method: "GET", Path: path}
				if provider != "" {
					text = question[len(path)+len(provider)+2:]
					r.Tokens = map[string]map[string]any{provider: claims(t, text)}
				}
				if d := p.DecideRequest(workload("web"), r); d.Allowed() != want[n] {
					t.Errorf("%s, default %s, %s: %s (%v), want allowed %v", name, def, question, d, d.Reason, want[n])
				}
				if d := p.Decide(workload("web")); d.Allowed() {
					t.Errorf("%s: a connection is allowed: %s", name, d)
				}
			}
		}
	}
}

// TestTokensTakeAway: what asks for a token, or for more of it, takes access away; what does not ask any more gives it.
func TestTokensTakeAway(t *testing.T) {
	p, q := intention.TokenRequirement{Provider: "p"}, intention.TokenRequirement{Provider: "q"}
	type needs = []intention.TokenRequirement
	get := intention.Permission{Action: intention.Allow, Methods: []string{"GET"}}
	getP := get
	getP.JWT = needs{p}
	for name, c := range map[string]struct {
		def           intention.Action
		action        intention.Action
		before, after needs
		was, is       []intention.Permission
		takes         bool
	}{
		"a token of who was allowed":        {action: intention.Allow, after: needs{p}, takes: true},
		"none any more":                     {action: intention.Allow, before: needs{p}},
		"another one":                       {action: intention.Allow, before: needs{p}, after: needs{q}, takes: true},
		"beside permissions":                {after: needs{p}, was: []intention.Permission{get}, is: []intention.Permission{get}, takes: true},
		"none beside permissions":           {before: needs{p}, was: []intention.Permission{get}, is: []intention.Permission{get}},
		"of a permission":                   {was: []intention.Permission{get}, is: []intention.Permission{getP}, takes: true},
		"of a new permission":               {was: []intention.Permission{get}, is: []intention.Permission{get, getP}},
		"of a new one, with default allow":  {def: intention.Allow, was: []intention.Permission{get}, is: []intention.Permission{get, getP}, takes: true},
		"of a permission, as it was before": {def: intention.Allow, was: []intention.Permission{getP}, is: []intention.Permission{getP}},
	} {
		was, is := asks(t, c.def, c.action, c.before, c.was...).Allowed(), asks(t, c.def, c.action, c.after, c.is...).Allowed()
		if got := !was.Within(is); got != c.takes {
			t.Errorf("%s: takes access away: %v", name, got)
		}
	}
}

func TestProviders(t *testing.T) {
	p, q := intention.TokenRequirement{Provider: "p"}, intention.TokenRequirement{Provider: "q"}
	policy := asks(t, intention.Deny, intention.Deny, []intention.TokenRequirement{q}, intention.Permission{Action: intention.Allow, PathExact: "/", JWT: []intention.TokenRequirement{p, q}},
		intention.Permission{PathExact: "/x", JWT: []intention.TokenRequirement{{Provider: "of nobody"}}})
	if got := fmt.Sprint(policy.Providers()); got != "[p q]" {
		t.Errorf("providers %s", got)
	}
	if got := policy.ConnectionsOnly().Providers(); got != nil {
		t.Errorf("of a service that speaks tcp: %q", got)
	}
}

// TestHeldPermissions: while it is not known that more may be let in, what was let in goes on, and what takes away counts at once.
func TestHeldPermissions(t *testing.T) {
	get, post := intention.Permission{Action: intention.Allow, Methods: []string{"GET"}}, intention.Permission{Action: intention.Allow, Methods: []string{"POST"}}
	type list = []intention.Permission
	p := []intention.TokenRequirement{{Provider: "p"}}
	for name, c := range map[string]struct {
		before, now *intention.Policy
		get, post   bool
		held        bool
	}{
		"one more":              {asks(t, intention.Deny, intention.Deny, nil, get), asks(t, intention.Deny, intention.Deny, nil, list{get, post}...), true, false, true},
		"one less":              {asks(t, intention.Deny, intention.Deny, nil, list{get, post}...), asks(t, intention.Deny, intention.Deny, nil, get), true, false, false},
		"another one":           {asks(t, intention.Deny, intention.Deny, nil, get), asks(t, intention.Deny, intention.Deny, nil, post), false, false, true},
		"everything":            {asks(t, intention.Deny, intention.Deny, nil, get), asks(t, intention.Deny, intention.Allow, nil), true, false, true},
		"no longer everything":  {asks(t, intention.Deny, intention.Allow, nil), asks(t, intention.Deny, intention.Deny, nil, get), true, false, false},
		"a token":               {asks(t, intention.Deny, intention.Deny, nil, get), asks(t, intention.Deny, intention.Deny, p, get), false, false, false},
		"no token any more":     {asks(t, intention.Deny, intention.Deny, p, get), asks(t, intention.Deny, intention.Deny, nil, get), false, false, true},
		"nothing, with default": {asks(t, intention.Allow, intention.Deny, nil, get), asks(t, intention.Allow, intention.Deny, nil), false, false, false},
	} {
		below, _ := c.now.Shared()
		all, held := below.Hold(c.now, c.before, nil, "x")
		def := c.now.Scope().Default
		policy := compile("api", def, all...)
		for method, want := range map[string]bool{"GET": c.get, "POST": c.post} {
			if got := policy.DecideRequest(workload("web"), &intention.Request{Method: method, Path: "/"}).Allowed(); got != want {
				t.Errorf("%s: %s is allowed %v: %v", name, method, got, all)
			}
		}
		if held != c.held {
			t.Errorf("%s: held %v", name, held)
		}
	}
}
