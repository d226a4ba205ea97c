package catalog

import (
	"slices"
	"strings"
	"time"

	"github.com/sallyport/sallyport/intention"
)

// TokenProvider is who issues tokens (JWTs, RFC 7519) that intentions can ask for: a jwt-provider entry.
type TokenProvider struct {
	Name string
	// Issuer is what a token's iss has to be. Empty: no token is the provider's.
	Issuer string
	// Audiences are those of which a token's aud has to have one; empty: any token of the issuer counts.
	Audiences []string
	// Keys are the public keys as jwks.Set has their text. Empty: none is known, and no token of the provider counts.
	Keys string
	// From is where Keys come from, if they are not in the entry; then sources leave Keys empty, see Store.Keys. Zero: they are in it.
	From KeySource
	// Places are where a token is looked for. There is at least one.
	Places []TokenPlace
	// Forward leaves the token in the request that the application gets.
	Forward bool
	// PayloadHeader is a header in which the application gets what the token says, in base64url; empty: it does not. PadPayload pads that.
	PayloadHeader string
	PadPayload    bool
	// ClockSkew is by how much the clocks of issuer and proxy may differ, in whole seconds.
	ClockSkew time.Duration
	// CacheSize is how many verified tokens each of Envoy's workers remembers; 0: none.
	CacheSize uint32
	// Unusable says why no token of the provider counts, whatever else it says; empty: nothing is wrong.
	Unusable string
	// Origin is where the entry was read: "okta.hcl:1".
	Origin string
}

// KeySource is where public keys are asked for, or read. It is comparable.
type KeySource struct {
	// URI is https://HOST[:PORT]/PATH; empty: File, a full path on the control plane's machine, has them.
	URI, File string
	// CAFile and CA are the roots that verify the server, a file and in PEM; empty: the system's.
	CAFile, CA string
	// Period is how long keys are used until they are asked for again; 0: 5 minutes.
	Period time.Duration
	// Timeout bounds a question; 0: a second.
	Timeout time.Duration
	// Retries is how often a question that failed is asked once more within Timeout.
	Retries uint32
}

// TokenPlace is where a token is looked for.
type TokenPlace struct {
	In TokenCarrier
	// Name is of the header, the query parameter or the cookie; that of a header is in lower case.
	Name string
	// Prefix is what precedes the token in a header: "Bearer ".
	Prefix string
}

// TokenCarrier is what of a request carries a token.
type TokenCarrier uint8

// The carriers of tokens.
const (
	InHeader TokenCarrier = iota
	InQuery
	InCookie
)

// Known reports whether there are keys by which tokens of the provider are verified. A nil provider has none.
func (p *TokenProvider) Known() bool {
	return p != nil && p.Unusable == "" && p.Issuer != "" && p.Keys != ""
}

func (p *TokenProvider) equal(o *TokenProvider) bool {
	return p.Name == o.Name && p.Issuer == o.Issuer && slices.Equal(p.Audiences, o.Audiences) && p.Keys == o.Keys && p.From == o.From &&
		slices.Equal(p.Places, o.Places) && p.Forward == o.Forward && p.PayloadHeader == o.PayloadHeader && p.PadPayload == o.PadPayload &&
		p.ClockSkew == o.ClockSkew && p.CacheSize == o.CacheSize && p.Unusable == o.Unusable && p.Origin == o.Origin
}

func compareTokenProviders(a, b *TokenProvider) int { return strings.Compare(a.Name, b.Name) }

// asked are the providers whose tokens a policy asks for.
func (v *View) asked(p *intention.Policy) (list []*TokenProvider) {
	for _, name := range p.Providers() {
		if t := v.TokenProvider(name); t != nil {
			list = append(list, t)
		}
	}
	return list
}

// verifiers are the proxies whose policies ask for tokens.
func (v *View) verifiers() (list []int) {
	for i, p := range v.contents.Proxies {
		if len(v.policies[p.Service].Providers()) > 0 {
			list = append(list, i)
		}
	}
	return list
}

// TokenProvider is the one of that name; nil: there is none.
func (v *View) TokenProvider(name string) *TokenProvider {
	if i, ok := slices.BinarySearchFunc(v.contents.TokenProviders, &TokenProvider{Name: name}, compareTokenProviders); ok {
		return v.contents.TokenProviders[i]
	}
	return nil
}

// KeySources are where the keys of providers are asked for, each once.
func KeySources(providers []*TokenProvider) (all []KeySource) {
	for _, p := range providers {
		if p.From != (KeySource{}) && !slices.Contains(all, p.From) {
			all = append(all, p.From)
		}
	}
	return all
}
