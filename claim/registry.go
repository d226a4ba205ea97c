package claim

import (
	"cmp"
	"log/slog"
	"maps"
	"slices"
	"sync"

	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/identity"
)

// Config is what a Registry holds from the start.
type Config struct {
	// Own are the control plane's own addresses.
	Own []Address
	// Logger is told of each refusal, once; nil: nobody is.
	Logger *slog.Logger
}

// Registry judges the contents of a source. Make one with New. Admit is for one goroutine;
// Refusals may be called by others meanwhile.
type Registry struct {
	log   *slog.Logger
	table *Table

	// Of the last contents:
	given, taken []*catalog.Proxy
	proxies      map[identity.ProxyID]*record
	waiting      map[*part]*record // parts that are somebody else's

	mu       sync.Mutex
	refusals []Refusal
}

// record is a proxy, as it was given and as it was taken.
type record struct {
	given, taken *catalog.Proxy
	parts        []*part
}

// Refusal is a part of a proxy that was taken out, as it is another's.
type Refusal struct {
	Proxy identity.ProxyID
	// Upstream is the destination of the upstream; empty: it is another part.
	Upstream string
	// Origin is where the part was read.
	Origin string
	// Text says what is wrong, what comes of it and what to do.
	Text string
}

// String is r in one line.
func (r Refusal) String() string {
	s := "proxy " + string(r.Proxy)
	if r.Upstream != "" {
		s += ", upstream " + r.Upstream
	}
	return s + ": " + r.Origin + ": " + r.Text
}

// New returns a Registry in which nobody but the control plane holds anything.
func New(c Config) *Registry {
	r := &Registry{log: c.Logger, table: NewTable(), proxies: map[identity.ProxyID]*record{}, waiting: map[*part]*record{}}
	if r.log == nil {
		r.log = slog.New(slog.DiscardHandler)
	}
	for i := range c.Own {
		_ = r.table.Add(&c.Own[i]) // of two at one address either stands for both
	}
	return r
}

// Refusals are those of the contents that were admitted last, sorted. They must not be changed.
func (r *Registry) Refusals() []Refusal {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.refusals
}

// Admit returns c without what its proxies name that is somebody else's. Who held it before keeps
// it, also if its proxy changed in other things; of those that come at one time public listeners go
// first, and then the ID decides. What is free again goes to who waits for it. c is not
// changed, and what did not change comes out as the same pointer.
func (r *Registry) Admit(c catalog.Contents) catalog.Contents {
	if !slices.Equal(c.Proxies, r.given) {
		r.update(c.Proxies)
	}
	c.Proxies = r.taken
	return c
}

func (r *Registry) update(proxies []*catalog.Proxy) {
	touched := map[*record]bool{}
	var wanted []*part
	of := map[*part]*record{}
	present := make(map[identity.ProxyID]bool, len(proxies))
	for _, p := range proxies {
		present[p.ID] = true
		rec := r.proxies[p.ID]
		if rec == nil {
			rec = &record{}
			r.proxies[p.ID] = rec
		}
		if rec.given == p {
			continue
		}
		touched[rec] = true
		for _, part := range r.replace(rec, p) {
			of[part] = rec
			wanted = append(wanted, part)
		}
	}
	for id, rec := range r.proxies {
		if !present[id] {
			r.drop(rec.parts)
			delete(r.proxies, id)
		}
	}
	slices.SortStableFunc(wanted, inTurn)
	waited := slices.SortedFunc(maps.Keys(r.waiting), inTurn)
	for _, part := range append(waited, wanted...) {
		rec := cmp.Or(r.waiting[part], of[part])
		part.conflict = r.hold(rec, part)
		if part.held = part.conflict == nil; part.held {
			delete(r.waiting, part)
		} else {
			r.waiting[part] = rec
		}
		touched[rec] = true
	}
	for rec := range touched {
		rec.taken = rec.admitted()
	}
	r.given, r.taken = proxies, make([]*catalog.Proxy, len(proxies))
	for i, p := range proxies {
		r.taken[i] = r.proxies[p.ID].taken
	}
	r.report()
}

// replace makes p what rec is given, has it keep the addresses that it holds and still names, and
// returns the parts that do not hold theirs.
func (r *Registry) replace(rec *record, p *catalog.Proxy) (wanted []*part) {
	held := make(map[key]*part, len(rec.parts))
	for _, part := range rec.parts {
		if part.held {
			held[part.key()] = part
		}
	}
	old := rec.parts
	rec.given, rec.parts = p, partsOf(p)
	for _, part := range rec.parts {
		if before := held[part.key()]; before != nil && before.held {
			r.table.Remove(&before.Address)
			before.held = false
			part.held = r.hold(rec, part) == nil
		}
		if !part.held {
			wanted = append(wanted, part)
		}
	}
	r.drop(old)
	return wanted
}

// drop has parts want and hold nothing any more.
func (r *Registry) drop(parts []*part) {
	for _, part := range parts {
		delete(r.waiting, part)
		if part.held {
			r.table.Remove(&part.Address)
		}
	}
}

// inTurn is the order in which addresses are given.
func inTurn(a, b *part) int {
	return cmp.Or(cmp.Compare(a.kind.turn(), b.kind.turn()), cmp.Compare(a.Proxy, b.Proxy),
		cmp.Compare(a.kind, b.kind), cmp.Compare(a.index, b.index))
}

// hold has a part of rec hold its address, or says whose it is. That of the proxy's own application
// is nobody's listener.
func (r *Registry) hold(rec *record, p *part) *Conflict {
	for _, own := range rec.parts {
		if own.kind == application && !p.Dialled {
			if c := Clash(&p.Address, &own.Address); c != nil {
				return c
			}
		}
	}
	return r.table.Add(&p.Address)
}

// admitted is the proxy without what is refused.
func (rec *record) admitted() *catalog.Proxy {
	var without [kinds]map[int]bool
	refused := false
	for _, p := range rec.parts {
		if p.conflict == nil {
			continue
		}
		refused = true
		if without[p.kind] == nil {
			without[p.kind] = map[int]bool{}
		}
		without[p.kind][p.index] = true
	}
	if !refused {
		return rec.given
	}
	p := *rec.given
	for _, part := range rec.parts {
		if (part.kind == public || part.kind == application) && part.conflict != nil {
			p.Inbound.Closed = part.conflict.Error()
		}
	}
	if without[metrics] != nil {
		p.Bootstrap.PrometheusBindAddr = ""
	}
	p.Exposed = keep(p.Exposed, func(i int) bool {
		return !without[exposed][i] && !without[exposedPort][i] && (without[application] == nil || p.Exposed[i].LocalPort != p.Inbound.LocalPort)
	})
	p.Upstreams = keep(p.Upstreams, func(i int) bool { return !without[upstream][i] })
	return &p
}

// keep are those of list whose index fits.
func keep[T any](list []T, fits func(i int) bool) (kept []T) {
	for i, x := range list {
		if fits(i) {
			kept = append(kept, x)
		}
	}
	return kept
}

// report makes the refusals, and logs those that are new.
func (r *Registry) report() {
	refusals := make([]Refusal, 0, len(r.waiting))
	for part := range r.waiting {
		x := Refusal{Proxy: part.Proxy, Origin: part.Origin, Text: part.conflict.Error() + ": " + part.refused()}
		if part.kind == upstream {
			x.Upstream = part.Name
		}
		refusals = append(refusals, x)
	}
	slices.SortFunc(refusals, func(a, b Refusal) int {
		return cmp.Or(cmp.Compare(a.Proxy, b.Proxy), cmp.Compare(a.Upstream, b.Upstream), cmp.Compare(a.Text, b.Text), cmp.Compare(a.Origin, b.Origin))
	})
	r.mu.Lock()
	before := r.refusals
	r.refusals = refusals
	r.mu.Unlock()
	for _, x := range refusals {
		if slices.Contains(before, x) {
			continue
		}
		r.log.Warn("part of a registration is not served", "proxy", x.Proxy, "origin", x.Origin, "err", x.Text)
	}
}
