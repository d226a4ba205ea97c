package acceptance

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"
	"unique"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/internal/journal"
	"github.com/sallyport/sallyport/issuance"
	"github.com/sallyport/sallyport/sds"
)

const (
	// maxHolders is how many holders are kept. Those without leafs make room first. One that finds none is waited for as long as a leaf
	// lives.
	maxHolders = 100_000
	// maxLeafs is how many identities of one holder are told apart; of more, all count as one.
	maxLeafs = 64
	// sweep is how often holders whose leafs have ended are dropped, and idle how long one without leafs is kept.
	sweep, idle = 5 * time.Minute, time.Hour
	// recent is how long after a call of the HTTP API its caller counts as connected: a question waits ten minutes at most.
	recent = 11 * time.Minute
	// tick is how often is looked for what time alone changes.
	tick = time.Second
	// calm is how often Changed tells of changes at most.
	calm = 100 * time.Millisecond
)

// Config says where a Record is kept, and what it asks.
type Config struct {
	// File is where it is written; it is made if it is missing. Required.
	File string
	// Roots are the roots of the mesh, by which the root of a leaf is found. Required. ok is false as long as they are not known.
	Roots func() (r *sds.Roots, ok bool)
	// Issued are the leafs that were given away before the start and have not ended, of which the record may not know.
	Issued []issuance.Leaf
	// Proxies are those of the catalog. After a crash each counts as a holder that has accepted nothing for as long as a leaf lives, unless
	// it is in the record: its line may have been lost. Nil: none are.
	Proxies func() []identity.ProxyID
	// Life is how long a leaf lives at most. Zero: 72 h.
	Life time.Duration
	// Settle is how long a stream without ACKs has to live after something was sent on it. Zero: 45 s, as pings of the Workload API find
	// an end that does not answer within 40 s.
	Settle time.Duration
	// Logger gets what could not be read or written. Nil: nothing is logged.
	Logger *slog.Logger
	// Registerer takes the metrics. Nil: they are not exported.
	Registerer prometheus.Registerer
}

type digest = [sha256.Size]byte

// bundle is roots that somebody has accepted. Equal ones are the same pointer.
type bundle struct{ roots []digest } // sorted

// holder is somebody who was given roots or leafs.
type holder struct {
	name  string
	told  *bundle // what it has accepted last; nil: nothing
	leafs []leaf
	// streams are those on which it can accept. heard is when it asked the last time, or had a stream.
	streams []*Stream
	heard   time.Time
	due     bool // it is to be written
}

// leaf is what a holder may use of one identity.
type leaf struct {
	id   unique.Handle[string]
	uses []use
}

// use is the last end of the leafs that one root has signed, by the SHA-256 of the root's key: a root that was renewed with its key
// vouches for the same leafs. Zero: the root is not known, so it is none that anybody asks for.
type use struct {
	root digest
	ends int64 // Unix seconds
}

// Record is who has accepted what. Make it with Open; Run writes it and has to run for what time changes.
type Record struct {
	cfg     Config
	log     *slog.Logger
	journal *journal.Journal
	now     func() time.Time // time.Now, but in tests
	lost    time.Time        // until when somebody may have a leaf of which nothing is recorded, as a process did not end as it should

	mu      sync.Mutex
	crowded time.Time // until when somebody may have a leaf for whom there was no room
	holders map[string]*holder
	bundles map[string]*bundle // by their roots
	signers map[digest]digest  // by the certificate above the leaf, or the names of a root: its key
	signing *sds.Roots         // those by which signers were found
	roots   *sds.Roots         // the last ones that somebody has accepted, and what they are called
	bundle  *bundle
	due     []*holder
	sent    map[*Stream]bool // streams without ACKs on which something was sent
	ahead   ahead
	changed chan struct{} // nil: nobody waits
	telling bool          // a timer is about to close it
}

// Open reads the file. The error is that it cannot be read, or that the metrics cannot be registered.
func Open(c Config) (*Record, error) {
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Life <= 0 {
		c.Life = 72 * time.Hour
	}
	if c.Settle <= 0 {
		c.Settle = 45 * time.Second
	}
	r := &Record{
		cfg: c, log: c.Logger, now: time.Now, holders: map[string]*holder{}, bundles: map[string]*bundle{},
		signers: map[digest]digest{}, sent: map[*Stream]bool{},
	}
	if c.Registerer != nil {
		held := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "sallyport_leaf_holders",
			Help: "Proxies and applications with a leaf that has not ended: those for whom a rotation of the root would wait.",
		}, r.count)
		if err := c.Registerer.Register(held); err != nil {
			return nil, fmt.Errorf("metrics of the record of what was accepted: %w", err)
		}
	}
	if err := r.load(); err != nil {
		return nil, fmt.Errorf("record of what was accepted: %w: make it readable, or move %s away, and a rotation waits for everybody who has a leaf", err, c.File)
	}
	return r, nil
}

func (r *Record) count() (n float64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.sure(r.now())
	for _, h := range r.holders {
		if h.ends(now, nil) > 0 {
			n++
		}
	}
	return n
}

// Holders are the names of all that have a leaf which has not ended, sorted.
func (r *Record) Holders() (names []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.sure(r.now())
	for name, h := range r.holders {
		if h.ends(now, nil) > 0 {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// Health is why the last write failed; nil: it did not.
func (r *Record) Health() error { return r.journal.Health() }

// Run writes the record until ctx ends, and notes what time changes. It returns nil.
func (r *Record) Run(ctx context.Context) error {
	var all sync.WaitGroup
	defer all.Wait()
	all.Go(func() { _ = r.journal.Run(ctx) }) // which returns nil
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	last := r.now()
	swept := last
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		now := r.now()
		r.settle(now)
		r.expire(last, now)
		last = now
		if now.Sub(swept) >= sweep {
			swept = now
			r.forget(now)
		}
	}
}

// expire tells who waits that a leaf has ended since last.
func (r *Record) expire(last, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	before := r.sure(last)
	r.look(now)
	after := r.sure(now)
	if r.changed == nil {
		return
	}
	for _, h := range r.holders {
		for _, l := range h.leafs {
			for _, u := range l.uses {
				if u.ends >= before && u.ends < after {
					r.tell()
					return
				}
			}
		}
	}
}

// forget drops what has ended.
func (r *Record) forget(now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	hold := 0
	for name, h := range r.holders {
		if h.ends(r.sure(now), nil) == 0 {
			h.leafs = nil
			if len(h.streams) == 0 && now.Sub(h.heard) > idle {
				delete(r.holders, name)
			}
			continue
		}
		hold++
	}
	r.journal.Compact(hold)
}

// of is the holder of that name, a new one if there is none; nil: there is no room. r.mu is held.
func (r *Record) of(name string) *holder {
	h := r.holders[name]
	if h != nil {
		return h
	}
	if len(r.holders) >= maxHolders {
		now := r.sure(r.now())
		for other, o := range r.holders {
			if len(o.streams) == 0 && o.ends(now, nil) == 0 {
				delete(r.holders, other)
			}
		}
		if len(r.holders) >= maxHolders {
			return nil
		}
	}
	h = &holder{name: name}
	r.holders[name] = h
	return h
}

// crowd notes that somebody is given a leaf for whom there is no room. r.mu is held.
func (r *Record) crowd() {
	r.crowded = r.now().Add(r.cfg.Life)
	r.tell()
}

// ends is when the last leaf of h ends that match takes, in Unix seconds; 0: it has none. Nil takes all.
func (h *holder) ends(now int64, match func(use) bool) (last int64) {
	for _, l := range h.leafs {
		for _, u := range l.uses {
			if u.ends >= now && (match == nil || match(u)) {
				last = max(last, u.ends)
			}
		}
	}
	return last
}

// add notes that h may use a leaf of id, beside what it may already. It reports whether that is new.
func (h *holder) add(id unique.Handle[string], u use) bool {
	i := h.find(id)
	if i < 0 {
		if len(h.leafs) == maxLeafs {
			i = maxLeafs - 1
		} else {
			h.leafs = append(h.leafs, leaf{id: id})
			i = len(h.leafs) - 1
		}
	}
	l := &h.leafs[i]
	for j := range l.uses {
		if l.uses[j].root == u.root {
			if l.uses[j].ends >= u.ends {
				return false
			}
			l.uses[j].ends = u.ends
			return true
		}
	}
	l.uses = append(l.uses, u)
	return true
}

// replace notes that h uses of id what all says and nothing else. It reports whether that is new.
func (h *holder) replace(id unique.Handle[string], all []use) bool {
	i := h.find(id)
	if i < 0 {
		for _, u := range all {
			h.add(id, u)
		}
		return true
	}
	if h.leafs[i].id != id || slices.Equal(h.leafs[i].uses, all) {
		return false // of more identities than are told apart nothing is ever taken back
	}
	h.leafs[i].uses = all
	return true
}

func (h *holder) find(id unique.Handle[string]) int {
	return slices.IndexFunc(h.leafs, func(l leaf) bool { return l.id == id })
}

// note has h be written, if it has leafs, and tells who waits. r.mu is held.
func (r *Record) note(h *holder) {
	if !h.due && len(h.leafs) > 0 {
		h.due = true
		r.due = append(r.due, h)
		r.journal.Signal()
	}
	r.tell()
}

// accepted is what r calls roots that somebody has accepted. r.mu is held.
func (r *Record) accepted(roots *sds.Roots) *bundle {
	if roots != r.roots {
		r.roots, r.bundle = roots, r.bundleOf(digestsOf(roots))
	}
	return r.bundle
}

// bundleOf is what r calls a set of roots. r.mu is held.
func (r *Record) bundleOf(roots []digest) *bundle {
	slices.SortFunc(roots, func(a, b digest) int { return slices.Compare(a[:], b[:]) })
	roots = slices.Compact(roots)
	var key strings.Builder
	for _, d := range roots {
		key.Write(d[:])
	}
	b := r.bundles[key.String()]
	if b == nil {
		b = &bundle{roots}
		r.bundles[key.String()] = b
	}
	return b
}

func digestsOf(roots *sds.Roots) []digest {
	var all []digest
	for _, root := range roots.List() {
		all = append(all, sha256.Sum256(root.Certificate.Raw))
	}
	return all
}

// useOf is how a leaf with its chain is used. r.mu is held.
func (r *Record) useOf(chain []*x509.Certificate) use {
	u := use{ends: chain[0].NotAfter.Unix()}
	roots, ok := r.cfg.Roots()
	if !ok {
		return u
	}
	if roots != r.signing || len(r.signers) > 1000 {
		clear(r.signers)
		r.signing = roots
	}
	above := sha256.Sum256(slices.Concat(chain[0].RawIssuer, chain[0].AuthorityKeyId)) // some roots have no key ID
	if len(chain) > 1 {
		above = sha256.Sum256(chain[1].Raw)
	}
	known, ok := r.signers[above]
	if !ok {
		known = signerOf(chain, roots)
		r.signers[above] = known
	}
	u.root = known
	return u
}

// signerOf is the key of the root under which a chain was signed: the first one by which a certificate of it was signed, from the leaf
// on. What comes behind is the signature of another root for that one.
func signerOf(chain []*x509.Certificate, roots *sds.Roots) digest {
	for _, c := range chain {
		for _, root := range roots.List() {
			if slices.Equal(c.RawIssuer, root.Certificate.RawSubject) && c.CheckSignatureFrom(root.Certificate) == nil {
				return keyOf(root.Certificate)
			}
		}
	}
	return digest{}
}

func keyOf(root *x509.Certificate) digest { return sha256.Sum256(root.RawSubjectPublicKeyInfo) }

// idOf is whose a leaf is.
func idOf(c *x509.Certificate) unique.Handle[string] {
	if len(c.URIs) == 0 {
		return unique.Make("")
	}
	return unique.Make(c.URIs[0].String())
}

// Fetched notes that a caller was answered with roots, which it has then accepted, unless it has streams on which it is to accept them.
func (r *Record) Fetched(c identity.Caller, roots *sds.Roots) {
	if r == nil || roots == nil {
		return
	}
	name := issuance.Name(c)
	r.mu.Lock()
	defer r.mu.Unlock()
	h := r.of(name)
	if h == nil {
		return
	}
	h.heard = r.now()
	if told := r.accepted(roots); told != h.told && len(h.streams) == 0 {
		h.told = told
		r.note(h)
	}
}

// FetchedLeaf notes that a caller was answered with a leaf and its chain, and uses no earlier one of that identity any more.
func (r *Record) FetchedLeaf(c identity.Caller, chain []*x509.Certificate) {
	if r == nil || len(chain) == 0 {
		return
	}
	name := issuance.Name(c)
	r.mu.Lock()
	defer r.mu.Unlock()
	h := r.of(name)
	if h == nil {
		r.crowd()
		return
	}
	h.heard = r.now()
	id, u := idOf(chain[0]), r.useOf(chain)
	others := slices.ContainsFunc(h.streams, func(s *Stream) bool { return s.find(id) >= 0 })
	if others && h.add(id, u) || !others && h.replace(id, []use{u}) {
		r.note(h)
	}
}
