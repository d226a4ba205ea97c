package claim

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/identity"
)

// maxRefusals is how many are told of.
const maxRefusals = 100

// Refusal is a part of a proxy that was taken out, as it is another's.
type Refusal struct {
	Proxy identity.ProxyID // empty: it is about a native application
	// Upstream is the destination of the upstream; empty: it is another part.
	Upstream string
	// Origin is where the part was read.
	Origin string
	// Text says what is wrong, what comes of it and what to do.
	Text string
	// Taken says that the part is served all the same, until the next release.
	Taken bool
}

// String is r in one line.
func (r Refusal) String() string {
	if r.Proxy == "" {
		return r.Origin + ": " + r.Text
	}
	s := "proxy " + string(r.Proxy)
	if r.Upstream != "" {
		s += ", upstream " + r.Upstream
	}
	return s + ": " + r.Origin + ": " + r.Text
}

// Judge says what of contents a Registry would take out, or will in the next release, sorted. Nobody held
// anything before.
func Judge(c Config, contents catalog.Contents) []Refusal {
	r := New(c)
	r.admit(contents)
	return r.Refusals()
}

// Refusals are those of the contents that were judged last, sorted; of very many the first, and how
// many more there are. They must not be changed.
func (r *Registry) Refusals() []Refusal {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.refusals
}

// report makes the refusals, and logs those that are new.
func (r *Registry) report() {
	var refusals []Refusal
	add := func(p *part, text string, taken bool) {
		x := Refusal{Proxy: p.Proxy, Origin: p.Origin, Text: text, Taken: taken}
		if p.kind == upstream {
			x.Upstream = p.Name
		}
		refusals = append(refusals, x)
	}
	for p := range r.waiting {
		add(p, p.fault+": "+p.refused(), false)
	}
	for _, p := range r.unfit {
		refusals = append(refusals, Refusal{
			Proxy: identity.ProxyID(fmt.Sprintf("%.60q", string(p.ID))), Origin: fmt.Sprintf("%.60q", p.Origin),
			Text: fmt.Sprintf("the ID of a proxy has 1 to %d bytes of UTF-8 without control characters: it is not served: register it under another ID", maxID),
		})
	}
	for p := range r.noted {
		add(p, p.note, true)
	}
	slices.SortFunc(refusals, func(a, b Refusal) int {
		return cmp.Or(cmp.Compare(a.Proxy, b.Proxy), cmp.Compare(a.Upstream, b.Upstream), cmp.Compare(a.Text, b.Text), cmp.Compare(a.Origin, b.Origin))
	})
	if more := len(refusals) - maxRefusals; more > 0 {
		refusals = append(refusals[:maxRefusals:maxRefusals], Refusal{Proxy: refusals[maxRefusals].Proxy, Origin: refusals[maxRefusals].Origin, Text: fmt.Sprintf("and %d more parts of registrations are refused", more)})
	}
	r.mu.Lock()
	before := make(map[Refusal]bool, len(r.refusals))
	for _, x := range r.refusals {
		before[x] = true
	}
	r.refusals = refusals
	r.mu.Unlock()
	for _, x := range refusals {
		if before[x] {
			continue
		}
		switch {
		case x.Proxy == "":
			r.log.Warn("a native application is not where it says", "origin", x.Origin, "err", x.Text)
		case x.Taken:
			r.log.Warn("part of a registration will not be served", "proxy", x.Proxy, "origin", x.Origin, "err", x.Text)
		default:
			r.log.Warn("part of a registration is not served", "proxy", x.Proxy, "origin", x.Origin, "err", x.Text)
		}
	}
}
