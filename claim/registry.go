package claim

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/internal/netns"
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
	// File is where it is kept who holds what, so that nobody takes over at a start; empty: nowhere.
	File string
	// Reserve is how long after the start addresses are kept for proxies that held them before and
	// are not there yet, as the source may come to know of proxies one by one; 0: it never does.
	Reserve time.Duration
	// Logger is told of each refusal, once; nil: nobody is.
	Logger *slog.Logger
}

// Registry judges the contents of a source. Make one with New. Its methods may be called by several
// goroutines.
type Registry struct {
	log   *slog.Logger
	table *Table
	paths Paths
	// lenient and file are those of Config.
	lenient  bool
	file     string
	reserved time.Time // until when addresses are
	network  string    // the namespace of the control plane itself

	publishing sync.Mutex // held while contents are judged and published
	publish    func(catalog.Contents)

	judging sync.Mutex // guards what follows
	// Of the last contents:
	contents catalog.Contents // as they were given
	known    bool             // there were some
	taken    []*catalog.Proxy
	records  []*record // of taken
	turn     uint64    // counts what was judged
	// proxies are those that are given, and soon after the start those that held something before.
	proxies map[identity.ProxyID]*record
	// native are where the native applications listen, by the IDs of their registrations.
	native map[string][]*part
	// places are where Envoys run, as far as they have said it.
	places  map[identity.ProxyID]place
	waiting map[*part]*record // parts that are somebody else's
	noted   map[*part]bool    // parts with a note
	unfit   []*catalog.Proxy  // which are left out
	// sockets are who listened on a path last, here and in other directories of this machine.
	sockets map[string]identity.ProxyID
	// remembers says that there was a file: what is on the disk and in no memory is somebody else's.
	remembers bool
	listening map[string]bool // of this turn; nil: nobody has asked
	unsaved   bool            // who holds what is another than in the file

	mu       sync.Mutex
	refusals []Refusal
}

// record is a proxy, as it was given and as it was taken.
type record struct {
	id           identity.ProxyID
	turn         uint64 // the last one in which it was there
	moved        bool   // its Envoy runs elsewhere now
	given, taken *catalog.Proxy
	parts        []*part
	application  *part // of parts; nil: there is none
}

// New returns a Registry in which nobody but the control plane holds anything, and those who did
// when it ran last, if its file says so. A file that makes no sense is moved aside and logged.
func New(c Config) *Registry {
	r := &Registry{
		log: c.Logger, table: NewTable(), paths: c.Paths.resolved(), lenient: c.Lenient, file: c.File, reserved: time.Now().Add(c.Reserve),
		proxies: map[identity.ProxyID]*record{}, waiting: map[*part]*record{}, noted: map[*part]bool{}, sockets: map[string]identity.ProxyID{}, places: map[identity.ProxyID]place{}, network: netns.ID(),
	}
	if r.log == nil {
		r.log = slog.New(slog.DiscardHandler)
	}
	for i := range c.Own {
		_ = r.table.Add(&c.Own[i]) // of two at one address either stands for both
	}
	if err := r.load(); err != nil {
		r.log.Error("who holds which address is not known any more, whoever comes first gets it", "file", r.file, "err", errors.Join(err, os.Rename(r.file, r.file+".bad")))
	}
	return r
}

// admit returns c without what its proxies name that is somebody else's. Who held it before keeps
// it, also if its proxy changed in other things; of those that come at one time public listeners go
// first, and then the ID decides. What is free again goes to who waits for it. c is not
// changed, and what did not change comes out as the same pointer.
func (r *Registry) admit(c catalog.Contents) catalog.Contents {
	r.judging.Lock()
	defer r.judging.Unlock()
	anew := c.Mesh.TrustDomain != r.contents.Mesh.TrustDomain || c.Mesh.Datacenter != r.contents.Mesh.Datacenter
	same := r.known && !anew && slices.Equal(c.Proxies, r.contents.Proxies) && slices.Equal(c.Registrations, r.contents.Registrations)
	r.contents, r.known = c, true
	if !same {
		r.update(anew)
	}
	c.Proxies = r.taken
	return c
}

// update judges what of the contents was not judged yet, or all of it.
func (r *Registry) update(anew bool) {
	touched := map[*record]bool{}
	var wanted []*part
	of := map[*part]*record{}
	records := make([]*record, 0, len(r.contents.Proxies))
	r.unfit, r.listening = nil, nil
	r.turn++
	for i, p := range r.contents.Proxies {
		var rec *record
		if i < len(r.records) && r.records[i].id == p.ID {
			rec = r.records[i]
		} else if rec = r.proxies[p.ID]; rec == nil {
			if !fitID(p.ID) {
				r.unfit = append(r.unfit, p)
				continue
			}
			rec = &record{id: p.ID}
			r.proxies[p.ID] = rec
		}
		rec.turn = r.turn
		records = append(records, rec)
		if rec.given == p && !anew && !rec.moved {
			continue
		}
		rec.moved = false
		touched[rec] = true
		for _, part := range r.replace(rec, p) {
			of[part] = rec
			wanted = append(wanted, part)
		}
	}
	if early := time.Now().Before(r.reserved); len(r.proxies) > len(records) {
		for id, rec := range r.proxies {
			if rec.turn != r.turn && (rec.given != nil || !early) {
				r.drop(rec.parts)
				delete(r.proxies, id)
				delete(r.places, id)
			}
		}
	}
	r.records = records
	wanted = append(wanted, r.natives()...)
	slices.SortStableFunc(wanted, func(a, b *part) int { return cmp.Compare(a.kind.turn(), b.kind.turn()) }) // proxies are sorted, and so are their parts
	waited := slices.SortedFunc(maps.Keys(r.waiting), inTurn)
	queue := slices.Concat(waited, wanted)
	for i := 0; i < len(queue); i++ {
		part := queue[i]
		rec, before := cmp.Or(r.waiting[part], of[part], r.proxies[part.Proxy]), part.fault
		if part.kind == admin {
			queue = append(queue, r.evict(part)...)
		}
		if r.hold(rec, part, false); part.held || part.kind == admin {
			delete(r.waiting, part)
		} else {
			r.waiting[part] = rec
		}
		if part.fault != before && part.kind != native {
			touched[rec] = true
		}
	}
	for rec := range touched {
		if rec.given != nil {
			rec.taken = rec.admitted()
		}
	}
	r.taken = make([]*catalog.Proxy, len(records))
	for i, rec := range records {
		r.taken[i] = rec.taken
	}
	r.report()
}

// replace makes p what rec is given, has it keep the addresses that it holds and still names, and
// returns the parts that do not hold theirs.
func (r *Registry) replace(rec *record, p *catalog.Proxy) (wanted []*part) {
	held := make(map[subject]*part, len(rec.parts))
	for _, part := range rec.parts {
		if part.held {
			held[part.subject()] = part
		}
	}
	old := rec.parts
	if rec.given = p; p.Refused != "" { // its Envoy keeps what it has
		rec.parts = slices.DeleteFunc(old, func(part *part) bool {
			delete(r.waiting, part)
			return !part.held
		})
		return nil
	}
	at := r.places[p.ID]
	rec.parts = partsOf(p, r.networkOf(p, at), at.Admin)
	rec.application = nil
	for _, part := range rec.parts {
		if part.kind == application {
			rec.application = part
		}
	}
	for _, part := range rec.parts {
		if before := held[part.subject()]; before != nil && before.held {
			r.table.Remove(&before.Address)
			before.held = false
			r.hold(rec, part, true)
		}
		if !part.held {
			wanted = append(wanted, part)
		}
	}
	r.drop(old)
	return wanted
}

// evict has those who hold p's address hold it no more, as an Envoy listens there already, and
// returns their parts.
func (r *Registry) evict(p *part) (evicted []*part) {
	for {
		c := r.table.conflict(&p.Address)
		if c == nil || c.Holder.part == nil || c.Holder.part.kind == admin {
			return evicted
		}
		r.table.Remove(c.Holder)
		c.Holder.part.held = false
		evicted = append(evicted, c.Holder.part)
	}
}

// drop has parts want and hold nothing any more.
func (r *Registry) drop(parts []*part) {
	for _, part := range parts {
		delete(r.waiting, part)
		delete(r.noted, part)
		if part.held {
			r.table.Remove(&part.Address)
			r.unsaved = true
		}
	}
}

// inTurn is the order in which addresses are given.
func inTurn(a, b *part) int {
	return cmp.Or(cmp.Compare(a.kind.turn(), b.kind.turn()), cmp.Compare(a.Proxy, b.Proxy),
		cmp.Compare(a.kind, b.kind), cmp.Compare(a.Name, b.Name), cmp.Compare(a.index, b.index))
}

// hold has a part of rec hold its address, unless something is wrong with that; held says that it did
// so far. The address of the proxy's own application is nobody's listener.
func (r *Registry) hold(rec *record, p *part, held bool) {
	p.fault, p.note = "", ""
	if p.kind == admin { // nobody asks where that may be
		if p.Socket != "" {
			p.real = realPath(&p.Address)
		}
		p.held = r.table.Add(&p.Address) == nil
		return
	}
	if p.kind == native {
		r.holdNative(p)
		return
	}
	if p.kind == upstream {
		if n := len(r.serverName(&rec.given.Upstreams[p.index])); n > maxServerName {
			p.fault = fmt.Sprintf("%s: its server name would have %d bytes, and TLS takes %d", p, n, maxServerName)
			return
		}
	}
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
	if rec.application != nil && !p.Dialled {
		if c := Clash(&p.Address, &rec.application.Address); c != nil {
			p.fault = c.Error()
			return
		}
	}
	if c := r.table.Add(&p.Address); c != nil {
		p.fault = c.Error()
		return
	}
	if p.Socket != "" && !p.Dialled && p.Host == "" {
		if !held && r.remembers && r.sockets[p.real] != p.Proxy && r.listened(p) {
			r.table.Remove(&p.Address)
			p.fault = fmt.Sprintf("%s: somebody else listens on %s", p, p.Socket)
			return
		}
		r.sockets[p.real] = p.Proxy
	}
	r.unsaved = r.unsaved || !held
	if p.held = true; p.note != "" {
		r.noted[p] = true
	}
}

// listened reports whether somebody listens on p's socket.
func (r *Registry) listened(p *part) bool {
	if r.listening == nil {
		r.listening = listening()
	}
	return r.listening[p.real] || r.listening[p.Socket]
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

// The longest that names may be. An ID becomes node.id, a file's name and a header.
const (
	maxID         = 512
	maxServerName = 255
)

// fitID reports whether a proxy can have that ID.
func fitID(id identity.ProxyID) bool {
	s := string(id)
	return s != "" && len(s) <= maxID && utf8.ValidString(s) && !strings.ContainsFunc(s, unicode.IsControl)
}

// serverName is the one by which u is dialled.
func (r *Registry) serverName(u *catalog.Upstream) string {
	m := &r.contents.Mesh
	return identity.Service{TrustDomain: m.TrustDomain, Datacenter: cmp.Or(u.Datacenter, m.Datacenter), Name: u.Destination}.SNI()
}
