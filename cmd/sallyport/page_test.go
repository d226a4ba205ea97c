package main

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/identity"
)

// TestPage: the page lists all that there is, and says what state it is in.
func TestPage(t *testing.T) {
	dir := t.TempDir()
	writeText(t, dir+"/a.hcl", "service {")
	p, err := open(serveConfig{Catalog: dir, Data: t.TempDir(), Datacenter: "dc1", DefaultIntentionPolicy: "deny", IntentionEnforcement: "rbac", LeafTTL: time.Hour}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := p.close(); err != nil {
			t.Error(err)
		}
	}()
	handler := p.monitoring()
	get := func(path string) (int, string, http.Header) {
		t.Helper()
		r := httptest.NewRecorder()
		handler.ServeHTTP(r, httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, nil))
		return r.Code, r.Body.String(), r.Header()
	}
	code, text, header := get("/")
	if code != http.StatusOK || !strings.Contains(text, "Not ready:") || !strings.Contains(text, "no valid catalog was read yet") {
		t.Errorf("/ at the start: %d\n%s", code, text)
	}
	if !strings.HasPrefix(header.Get("Content-Security-Policy"), "default-src 'none'") || header.Get("Content-Type") != "text/html; charset=utf-8" {
		t.Errorf("header %v", header)
	}
	links := regexp.MustCompile(`href="([^"]*)"`).FindAllStringSubmatch(text, -1)
	if len(links) != 3 {
		t.Errorf("%d links, want three: %v", len(links), links)
	}
	for _, l := range links {
		if code, _, _ := get(l[1]); code == http.StatusNotFound {
			t.Errorf("%s leads nowhere", l[1])
		}
	}
	if code, _, _ := get("/nothing"); code != http.StatusNotFound {
		t.Errorf("/nothing: %d", code)
	}
	td, _ := p.authority.trustDomain()
	p.store.Publish(catalog.Contents{Mesh: catalog.Mesh{TrustDomain: td, Datacenter: "dc1", Datacenters: []string{"dc1"}}, Proxies: []*catalog.Proxy{{ID: "p", Service: identity.NewName("s")}}})
	if _, text, _ := get("/"); !strings.Contains(text, "1 proxy, 0 connected") || !strings.Contains(text, td.Name()) {
		t.Errorf("/ with a mesh:\n%s", text)
	}
	// What others wrote is text.
	p.checks = append(p.checks, func() error { return errText("<script>alert(1)</script>") })
	if _, text, _ := get("/"); strings.Contains(text, "<script>") || !strings.Contains(text, "&lt;script&gt;") {
		t.Errorf("/ with markup in a reason:\n%s", text)
	}
}

type errText string

func (e errText) Error() string { return string(e) }
