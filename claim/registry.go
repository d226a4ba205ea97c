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
	// Paths are those that sockets may have.
	Paths Paths
	// Lenient takes sockets outside of the allowed directories with a warning, unless they are the
	// control plane's own.
	Lenient bool
	// Logger is told of each refusal, once; nil: nobody is.
	Logger *slog.Logger
}

// Registry judges the contents of a source. Make one with New. Admit is for one goroutine;
// Refusals may be called by others meanwhile.
type Registry struct {
	log   *slog.Logger
	table *Table
	paths Paths
	// lenient is that of Config.
	lenient bool

	// Of the last contents:
	given, taken []*catalog.Proxy
	proxies      map[identity.ProxyID]*record
	waiting      map[*part]*record // parts that are somebody else's
	noted        map[*part]bool    // parts with a note

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
	// Taken says that the part is served all the same, until the next release.
	Taken bool
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
	r := &Registry{log: c.Logger, table: NewTable(), paths: c.Paths.resolved(), lenient: c.Lenient, proxies: map[identity.ProxyID]*record{}, waiting: map[*part]*record{}, noted: map[*part]bool{}}
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
		if r.hold(rec, part); part.held {
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
	if rec.given = p; p.Refused != "" { // its Envoy keeps what it has
		return nil
	}
	rec.parts = partsOf(p)
	for _, part := range rec.parts {
		if before := held[part.key()]; before != nil && before.held {
			r.table.Remove(&before.Address)
			before.held = false
			r.hold(rec, part)
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
		delete(r.noted, part)
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

// hold has a part of rec hold its address, unless something is wrong with that. The address of the
// proxy's own application is nobody's listener.
func (r *Registry) hold(rec *record, p *part) {
	p.fault, p.note = "", ""
	if p.Socket != "" {
		p.real = realPath(&p.Address)
		if m := r.paths.judge(&p.Address); m != nil {
			text := p.String() + ": " + p.Socket + " " + m.why
			if !m.strange || !r.lenient {
				p.fault = text
				return
			}
			p.note = text + ", and will be refused in the next release: name its directory there"
		}
	}
	for _, own := range rec.parts {
		if own.kind == application && !p.Dialled {
			if c := Clash(&p.Address, &own.Address); c != nil {
				p.fault = c.Error()
				return
			}
		}
	}
	if c := r.table.Add(&p.Address); c != nil {
		p.fault = c.Error()
		return
	}
	if p.held = true; p.note != "" {
		r.noted[p] = true
	}
}

// admitted is the proxy without what is refused.
func (rec *record) admitted() *catalog.Proxy {
	if rec.given.Refused != "" {
		return rec.given
	}
	var without [kinds]map[int]bool
	refused := false
	for _, p := range rec.parts {
		if p.fault == "" {
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
		if (part.kind == public || part.kind == application) && part.fault != "" {
			p.Inbound.Closed = part.fault
		}
	}
	if without[metrics] != nil {
		p.Bootstrap.PrometheusBindAddr = ""
	}
	p.Exposed = keep(p.Exposed, func(i int) bool {
		return !without[exposed][i] && !without[exposedPort][i] && (without[application] == nil || p.Inbound.LocalSocket != "" || p.Exposed[i].LocalPort != p.Inbound.LocalPort)
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
	for p := range r.noted {
		add(p, p.note, true)
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
		if x.Taken {
			r.log.Warn("part of a registration will not be served", "proxy", x.Proxy, "origin", x.Origin, "err", x.Text)
		} else {
			r.log.Warn("part of a registration is not served", "proxy", x.Proxy, "origin", x.Origin, "err", x.Text)
		}
	}
}
