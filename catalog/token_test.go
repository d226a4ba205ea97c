package catalog_test

import (
	"slices"
	"testing"

	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/intention"
	"github.com/sallyport/sallyport/internal/catalogtest"
)

// withTokens is a mesh in which api asks for tokens of p, and db for none; there is a provider q, too.
func withTokens(t *testing.T) catalogtest.Mesh {
	t.Helper()
	i := intention.Intention{Source: intention.Source{Name: name("web")}, Destination: name("api"), Action: intention.Allow}
	if err := i.Ask(nil, intention.NewTokens([]intention.TokenRequirement{{Provider: "p"}, {Provider: "gone"}})); err != nil {
		t.Fatal(err)
	}
	proxy := func(service string) catalog.Proxy {
		return catalog.Proxy{ID: identity.ProxyID(service), Service: name(service), Inbound: catalog.Inbound{Protocol: catalog.HTTP}}
	}
	return catalogtest.Mesh{
		Mesh: contents().Mesh, Intentions: []intention.Intention{i}, Proxies: []catalog.Proxy{proxy("api"), proxy("db")},
		TokenProviders: []catalog.TokenProvider{
			{Name: "p", Issuer: "i", From: catalog.KeySource{URI: "https://p"}, Audiences: []string{"a"}, Places: []catalog.TokenPlace{{Name: "x"}}},
			{Name: "q", Issuer: "i", From: catalog.KeySource{URI: "https://p"}},
		},
	}
}

// TestTokenProviders: a proxy has the providers that its service's intentions ask for, and is visited when those change, also when their keys
// come; no other proxy is.
func TestTokenProviders(t *testing.T) {
	m := withTokens(t)
	var s catalog.Store
	s.Publish(m.Contents())
	view := func() *catalog.View { v, _ := s.Views.Load(); return v }
	if tokens := view().Proxy("api").Tokens; len(tokens) != 1 || tokens[0].Name != "p" || tokens[0].Known() || view().Proxy("db").Tokens != nil {
		t.Fatalf("%+v", tokens)
	}
	if got := catalog.KeySources(m.Contents().TokenProviders); len(got) != 1 || got[0].URI != "https://p" {
		t.Errorf("%v", got)
	}
	step := func(what string, change func(), want ...string) {
		t.Helper()
		old := view()
		change()
		var got []string
		for id := range view().Since(old) {
			got = append(got, string(id))
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: %v are concerned, want %v", what, got, want)
		}
	}
	publish := func(change func(p *catalog.TokenProvider)) func() {
		return func() {
			change(&m.TokenProviders[0])
			s.Publish(m.Contents())
		}
	}
	step("keys", func() { s.Keys(map[catalog.KeySource]string{{URI: "https://p"}: "keys"}) }, "api")
	if !view().Proxy("api").Tokens[0].Known() {
		t.Error("keys are not known")
	}
	step("the same again", publish(func(*catalog.TokenProvider) {}))
	step("the same keys", func() {
		s.Keys(map[catalog.KeySource]string{{URI: "https://p"}: "keys", {URI: "https://other"}: "others"})
	})
	for _, change := range []func(*catalog.TokenProvider){
		func(p *catalog.TokenProvider) { p.Issuer = "j" }, func(p *catalog.TokenProvider) { p.Audiences = nil }, func(p *catalog.TokenProvider) { p.Places[0].Prefix = "x" },
		func(p *catalog.TokenProvider) { p.Forward = true }, func(p *catalog.TokenProvider) { p.PayloadHeader = "x" }, func(p *catalog.TokenProvider) { p.PadPayload = true },
		func(p *catalog.TokenProvider) { p.ClockSkew++ }, func(p *catalog.TokenProvider) { p.CacheSize++ }, func(p *catalog.TokenProvider) { p.Unusable = "x" },
		func(p *catalog.TokenProvider) { p.Origin = "x" }, func(p *catalog.TokenProvider) { p.From.Period++ }, func(p *catalog.TokenProvider) { p.From, p.Keys = catalog.KeySource{}, "own" },
	} {
		step("a field", publish(change), "api")
	}
	step("another provider", func() {
		m.TokenProviders[1].Issuer = "k"
		s.Publish(m.Contents())
	})
	step("no provider", func() {
		m.TokenProviders = m.TokenProviders[1:]
		s.Publish(m.Contents())
	}, "api")
	if tokens := view().Proxy("api").Tokens; tokens != nil {
		t.Errorf("%+v", tokens)
	}
}
