package main

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/admin"
	"github.com/sallyport/sallyport/api"
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/consul"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/internal/latest"
	"github.com/sallyport/sallyport/internal/recent"
)

// TestHowToAct: a denial beside files says what this caller can do for this service, and to nobody unknown what is registered.
func TestHowToAct(t *testing.T) {
	var views latest.Value[*catalog.View]
	views.Set(exampleView())
	const token = "bring a token of the service: `sallyport token create api` makes one"
	for name, tc := range map[string]struct {
		caller        api.Caller
		service, want string
	}{
		"a user":                 {api.Caller{Process: processOf(1000, "")}, "api", token + "; or name uid 1000 by selectors (docs/native.md)"},
		"root":                   {api.Caller{Process: processOf(0, "its process is nobody's (it runs as root)")}, "api", "its process is nobody's (it runs as root): " + token},
		"TCP":                    {api.Caller{Process: processOf(0, overTCP)}, "api", overTCP + ": " + token},
		"unknown, of nothing":    {api.Caller{Process: processOf(0, overTCP)}, "apy", overTCP + ": " + strings.ReplaceAll(token, "api", "apy")},
		"no name for a shell":    {api.Caller{Process: processOf(0, overTCP)}, "a;b", overTCP + ": " + strings.ReplaceAll(token, "api", "SERVICE")},
		"no name but a flag":     {api.Caller{Process: processOf(0, overTCP)}, "--reader", overTCP + ": " + strings.ReplaceAll(token, "api", "SERVICE")},
		"another service's":      {api.Caller{Known: true}, "api", "it is another service's: `sallyport token create api` makes a token for this one's applications"},
		"a reader":               {api.Caller{Known: true, Reader: true}, "api", "a reader's token is no service's: `sallyport token create api` makes one that is"},
		"a known one, of a typo": {api.Caller{Known: true}, "API", "no service of that name is registered: did you mean \"api\"?"},
	} {
		if got := howToAct(&views, &tc.caller, identity.NewName(tc.service)); got != tc.want {
			t.Errorf("%s: %q, want %q", name, got, tc.want)
		}
	}
}

// TestDeniedWithoutACLs: beside a Consul without ACLs no token helps, so whoever may not have a leaf is told of selectors.
func TestDeniedWithoutACLs(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusUnauthorized)
		_, _ = io.WriteString(w, "ACL support disabled")
	}))
	defer s.Close()
	agent, err := consul.New(consul.Config{Address: s.URL})
	if err != nil {
		t.Fatal(err)
	}
	var views latest.Value[*catalog.View]
	views.Set(exampleView())
	who := aclCallers{agent: agent, names: recent.New[string](10), views: &views}
	const off = "Permission denied: Consul's ACLs are off, so no token says who asks: "
	for name, tc := range map[string]struct {
		caller        api.Caller
		service, want string
	}{
		"a user":     {api.Caller{Process: processOf(1000, "")}, "api", off + `run it as a user of its own, and write sallyport_selectors = "unix:uid:1000" into the Meta of the registration of "api"`},
		"its token":  {api.Caller{Process: processOf(1000, ""), Token: "x", Known: true}, "api", off + `run it as a user of its own, and write sallyport_selectors = "unix:uid:1000" into`},
		"root":       {api.Caller{Process: processOf(0, "its process is nobody's (it runs as root)")}, "api", off + `its process is nobody's (it runs as root): then write sallyport_selectors = "unix:uid:N" into`},
		"TCP":        {api.Caller{Process: processOf(0, overTCP)}, "api", off + overTCP + `: ask by http.sock as a user of its own, and write sallyport_selectors = "unix:uid:N" into the Meta of the registration of "api"; --api-without-acls gives`},
		"no service": {api.Caller{Process: processOf(1000, "")}, "nosuch", `the service "nosuch" is not registered here`},
	} {
		if err := who.Act(t.Context(), &tc.caller, identity.NewName(tc.service), true); err == nil || !strings.HasPrefix(err.Error(), tc.want) {
			t.Errorf("%s: %v, want %q", name, err, tc.want)
		}
	}
	p := &controlPlane{agent: agent}
	if _, err := p.applicationToken(admin.Peer{}, admin.ApplicationTokenRequest{Service: "api"}); err == nil || !strings.Contains(err.Error(), "ACLs are off") || strings.Contains(err.Error(), "consul acl") {
		t.Errorf("a token: %v", err)
	}
}

func processOf(uid int, why string) func() (int, string) {
	return func() (int, string) { return uid, why }
}
