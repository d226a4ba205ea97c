package files

import (
	"maps"
	"slices"
	"strings"

	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/definition"
)

// providerKind is the kind of the entries that say who issues tokens.
const providerKind = "jwt-provider"

// tokenProvider is a jwt-provider entry.
type tokenProvider struct {
	at definition.Position
	*catalog.TokenProvider
	entry *catalog.Entry
}

// readTokenProvider reads a jwt-provider entry.
func (d *definitions) readTokenProvider(o *definition.Decoder) {
	fields := o.Written(providerShape)
	pairs := entryCommon(o)
	at := o.At
	p, ok := o.TokenProvider(d.config.Dir)
	if !ok {
		return
	}
	if _, set := fields["ClockSkewSeconds"]; !set {
		fields["ClockSkewSeconds"] = int64(p.ClockSkew.Seconds())
	}
	d.provider = &tokenProvider{at, p, write(providerKind, p.Name, at.String(), pairs, fields).entry}
}

// addProvider takes e, and reports if there is another one already.
func (a *assembly) addProvider(e *tokenProvider) {
	if other := a.providers[e.Name]; other != nil {
		a.twice(title{ofProvider, e.Name}, e.at, other.at)
		return
	}
	a.providers[e.Name] = e
}

// tokenProviders are all of them, sorted by name.
func (a *assembly) tokenProviders() []*tokenProvider {
	return slices.SortedFunc(maps.Values(a.providers), func(a, b *tokenProvider) int { return strings.Compare(a.Name, b.Name) })
}

// checkProviders reports the intentions that ask for tokens of a provider that is not there.
func (a *assembly) checkProviders() {
	for _, n := range a.sorted {
		if n.entry.Destination == nil {
			continue
		}
		told := map[string]bool{}
		for i := range n.entry.Intentions {
			in := &n.entry.Intentions[i]
			named := in.JWT.List()
			for _, p := range in.Permissions.List() {
				named = append(slices.Clip(named), p.JWT...)
			}
			for _, t := range named {
				if t.Provider != "" && a.providers[t.Provider] == nil && !told[t.Provider] {
					told[t.Provider] = true
					a.doubtful(definition.ParsePosition(in.Origin), "Referenced JWT Provider does not exist. Provider Name: %s", t.Provider)
				}
			}
		}
	}
}
