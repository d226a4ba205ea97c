package main

import (
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/sallyport/sallyport/api"
	"github.com/sallyport/sallyport/consul"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/internal/recent"
)

// TestInventedTokens: where Consul has no ACLs, whoever invents tokens is one caller, with the bounds of one.
func TestInventedTokens(t *testing.T) {
	off := true
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if off {
			w.WriteHeader(http.StatusUnauthorized)
			_, _ = io.WriteString(w, "ACL support disabled")
			return
		}
		w.WriteHeader(http.StatusForbidden)
		_, _ = io.WriteString(w, "ACL not found")
	}))
	defer s.Close()
	agent, err := consul.New(consul.Config{Address: s.URL})
	if err != nil {
		t.Fatal(err)
	}
	who := aclCallers{agent: agent, names: recent.New[string](10)}
	ids := func() map[string]bool {
		all := map[string]bool{}
		for _, token := range []string{"a", "b", "c"} {
			c, err := who.Identify(t.Context(), token, api.Peer{Name: "uid 1000"})
			if err != nil || c.Token != token {
				t.Fatal(c, err)
			}
			all[c.ID] = true
		}
		return all
	}
	if n := len(ids()); n != 3 {
		t.Errorf("%d callers as long as nothing is known of ACLs", n)
	}
	if err := agent.MayWrite(t.Context(), "a", identity.NewName("web"), false); err != nil {
		t.Fatal(err)
	}
	if all := ids(); len(all) != 1 || !all["uid 1000"] {
		t.Errorf("without ACLs: %v", all)
	}
}
