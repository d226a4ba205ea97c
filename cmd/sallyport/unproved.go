package main

import (
	"crypto/x509"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/sallyport/sallyport/admin"
	"github.com/sallyport/sallyport/bundle"
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/definition"
	"github.com/sallyport/sallyport/files"
	"github.com/sallyport/sallyport/intention"
	"github.com/sallyport/sallyport/sds"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// mostNamed is how many of those that name a trust domain a warning names.
const mostNamed = 3

// unproved are warnings of what v says of other trust domains that nothing proves who is of, or nothing of late.
func unproved(v *catalog.View, domains []admin.TrustDomain) (out []string) {
	named := map[spiffeid.TrustDomain][]string{}
	for d := range v.Intentions() {
		for _, i := range d.Intentions {
			if i.Source.ID != "" && i.Effect() == intention.Allow {
				td := i.Source.ID.TrustDomain()
				named[td] = append(named[td], fmt.Sprintf("%s (%s)", d.Name, i.Origin))
			}
		}
	}
	for _, td := range slices.SortedFunc(maps.Keys(named), spiffeid.TrustDomain.Compare) {
		what := "the intentions of " + first(named[td])
		at := slices.IndexFunc(domains, func(d admin.TrustDomain) bool { return d.Name == td.Name() })
		known := slices.Contains(v.Mesh().Federated, td)
		switch {
		case known && at >= 0 && domains[at].Stale:
			out = append(out, fmt.Sprintf("%s name workloads of %s, whose bundle is stale: who has a leaf of a new root there is refused", what, td))
		case known:
		case at < 0:
			out = append(out, fmt.Sprintf("%s name workloads of %s, of which no bundle is known, so none of them is let in: write a file for it into --trust-domains", what, td))
		default:
			out = append(out, fmt.Sprintf("%s name workloads of %s, of which there is no bundle yet, so none of them is let in: see %s", what, td, domains[at].File))
		}
	}
	return out
}

// first are the first of a list in one text.
func first(list []string) string {
	if n := len(list) - mostNamed; n > 0 {
		return strings.Join(list[:mostNamed], ", ") + fmt.Sprintf(" and %d more", n)
	}
	return strings.Join(list, ", ")
}

// sharedKeys are warnings of trust domains, the mesh's own among them, that the same key can speak for.
func sharedKeys(own *sds.Roots, others *bundle.Set) (out []string) {
	roots := map[spiffeid.TrustDomain][]*x509.Certificate{}
	add := func(r *sds.Roots) {
		for _, root := range r.List() {
			roots[r.TrustDomain()] = append(roots[r.TrustDomain()], root.Certificate)
		}
	}
	if own != nil {
		add(own)
	}
	for _, b := range others.All() {
		add(b.Roots)
	}
	for _, s := range bundle.SharedKeys(roots) {
		out = append(out, s.String())
	}
	return out
}

// undefined are, for `validate`, the intentions and upstreams that name a trust domain which dir, a --trust-domains, does not define, and
// what is wrong in it; without a dir that they are not looked up.
func undefined(dir string, contents catalog.Contents) (mistakes, warnings []files.Problem) {
	defined := map[spiffeid.TrustDomain]bool{}
	if dir != "" {
		all, wrong := bundle.Read(dir)
		roots := map[spiffeid.TrustDomain][]*x509.Certificate{}
		for _, d := range all {
			defined[d.TrustDomain], roots[d.TrustDomain] = true, d.Roots
		}
		for _, err := range wrong {
			mistakes = append(mistakes, located(err.Error()))
		}
		for _, s := range bundle.SharedKeys(roots) {
			warnings = append(warnings, files.Problem{File: dir, Text: s.String()})
		}
	}
	seen := map[spiffeid.TrustDomain]bool{}
	name := func(origin, what string, td spiffeid.TrustDomain) {
		at := definition.ParsePosition(origin)
		p := files.Problem{File: at.File, Line: at.Line}
		switch {
		case defined[td]:
			return
		case dir != "":
			p.Text = fmt.Sprintf("%s: no file of %s that can be used defines %s, so nothing proves who is of it", what, dir, td)
		case seen[td]:
			return
		default:
			seen[td] = true
			p.Text = fmt.Sprintf("%s: whether the bundle of %s is known is not looked at: give --trust-domains", what, td)
		}
		warnings = append(warnings, p)
	}
	for _, d := range contents.Intentions {
		for _, i := range d.Intentions {
			if i.Source.ID != "" {
				name(i.Origin, i.String(), i.Source.ID.TrustDomain())
			}
		}
	}
	for _, p := range contents.Proxies {
		for _, u := range p.Upstreams {
			if u.Foreign != "" {
				name(u.Origin, "upstream "+u.Name(), u.Foreign.TrustDomain())
			}
		}
	}
	return mistakes, warnings
}

// located is a text that begins with where it is.
func located(text string) files.Problem {
	if origin, rest, ok := strings.Cut(text, ": "); ok {
		if at := definition.ParsePosition(origin); at.File != "" {
			return files.Problem{File: at.File, Line: at.Line, Text: rest}
		}
	}
	return files.Problem{Text: text}
}
