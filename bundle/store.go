package bundle

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/sallyport/sallyport/internal/latest"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// Config says which trust domains a Store knows.
type Config struct {
	// Dir has a file (.yaml) for each of them. Empty: there are none.
	Dir string
	// Data is where the last good bundles are kept. It is made if it is missing. Required where Dir is.
	Data string
	// Own is the mesh's own trust domain, which is none of the others; ok is false as long as it is not known. Required.
	Own func() (td spiffeid.TrustDomain, ok bool)
	// Logger gets changes and alarms. Nil: nothing is logged.
	Logger *slog.Logger
	// Registerer takes the metrics. Nil: they are not exported.
	Registerer prometheus.Registerer
}

// Store has the bundles of the other trust domains. Open makes it, Run keeps it up to date.
type Store struct {
	cfg    Config
	memory memory
	log    *slog.Logger
	sets   latest.Value[*Set]
	reload chan struct{}
	// ask makes what asks the endpoint of a definition; tests have another.
	ask func(definition) (func(context.Context) (*Document, error), error)

	mu      sync.Mutex
	domains map[spiffeid.TrustDomain]*domain
	bad     map[string]error // files that cannot be used
	unread  error            // why Dir cannot be read
	// running is the context of Run, and fetching are its goroutines. Nil: it does not run.
	running  context.Context //nolint:containedctx // a domain that comes later is asked for as long as Run runs
	fetching *sync.WaitGroup
}

// domain is what is known of one trust domain. All of it is guarded by the Store's mu.
type domain struct {
	definition
	stop func() // ends its fetching; nil: nothing is fetched
	// doc is what is believed; nil: nothing yet.
	doc    *Document
	bundle *Bundle // what of doc is used now; nil: nothing
	// made is of which document and when bundle was made, and until when it stays as it is.
	made struct {
		doc         *Document
		from, until time.Time
	}
	// fromFile is a sum of the file that was read last, or tried to.
	fromFile string
	kept     kept
	saved    time.Time
	// since is when its bundle was confirmed last, or else since when it is waited for.
	since time.Time
	// failures in a row, of fetching or reading, and the last one's error.
	failures int
	err      error
	alarmed  bool
	outcomes map[string]uint64
	unused   string // why certificates of doc are not used, as it was logged
}

// Open reads what there is at once, but asks nobody. The error is that the metrics cannot be registered: what is wrong with a file is one
// of Status, and Dir may come later.
func Open(cfg Config) (*Store, error) {
	s := &Store{cfg: cfg, memory: memory{cfg.Data}, log: cfg.Logger, reload: make(chan struct{}, 1), domains: map[spiffeid.TrustDomain]*domain{}}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	s.ask = func(d definition) (func(context.Context) (*Document, error), error) {
		e, err := newEndpoint(d, s.rootsOf)
		if err != nil {
			return nil, err
		}
		return e.fetch, nil
	}
	s.sets.Set(&Set{})
	if cfg.Registerer != nil {
		if err := cfg.Registerer.Register(collector{s}); err != nil {
			return nil, fmt.Errorf("metrics of trust domains: %w", err)
		}
	}
	s.read()
	s.publish()
	return s, nil
}

// Sets is the bundles of now. It is never empty.
func (s *Store) Sets() *latest.Value[*Set] { return &s.sets }

// Reload has Run read the files at once. It does not block.
func (s *Store) Reload() {
	select {
	case s.reload <- struct{}{}:
	default:
	}
}

// tick is how often files are read again, and what is valid is looked at.
const tick = 5 * time.Second

// Run reads files again when they change, and asks endpoints, until ctx ends; then it returns nil.
func (s *Store) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var fetching sync.WaitGroup
	defer fetching.Wait()
	s.mu.Lock()
	s.running, s.fetching = ctx, &fetching
	for _, d := range s.domains {
		s.start(d) //nolint:contextcheck // it has it in running
	}
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.running = nil
	}()
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		case <-s.reload:
		}
		s.read() //nolint:contextcheck // what it starts is stopped with running
		s.publish()
	}
}

// start begins to fetch a domain's bundle, if it has an endpoint and Run runs. s.mu is held.
func (s *Store) start(d *domain) {
	if s.running == nil || d.url == "" {
		return
	}
	fetch, err := s.ask(d.definition)
	if err != nil { // it was checked
		d.err = err
		return
	}
	ctx, cancel := context.WithCancel(s.running)
	d.stop = cancel
	s.fetching.Go(func() { s.follow(ctx, d, fetch) })
}

// rootsOf are the roots of a trust domain that are used now.
func (s *Store) rootsOf(td spiffeid.TrustDomain) (roots []*x509.Certificate) {
	set, _ := s.sets.Load()
	if b := set.Of(td); b != nil {
		for _, r := range b.Roots.List() {
			roots = append(roots, r.Certificate)
		}
	}
	return roots
}

// read reads the directory, and the files with bundles that it names.
func (s *Store) read() {
	if s.cfg.Dir == "" {
		return
	}
	good, bad, err := definitions(s.cfg.Dir)
	s.mu.Lock()
	defer s.mu.Unlock()
	if (err == nil) != (s.unread == nil) && err != nil {
		s.log.Error("definitions of trust domains not read: what was said last holds", "file", s.cfg.Dir, "err", err)
	}
	if s.unread = err; err == nil {
		s.define(good, bad)
	}
	for _, td := range s.sorted() {
		if d := s.domains[td]; d.definition.bundle != "" {
			s.readBundle(d)
		}
	}
}

// define takes in what the files say. s.mu is held.
func (s *Store) define(good []definition, bad map[string]error) {
	own, ok := s.cfg.Own()
	if ok {
		good = slices.DeleteFunc(good, func(d definition) bool {
			if d.trustDomain == own {
				bad[d.file] = fmt.Errorf("%s: %s is the mesh's own trust domain, which needs no bundle from elsewhere: remove the file", d.file, own)
			}
			return d.trustDomain == own
		})
	}
	for _, file := range slices.Sorted(maps.Keys(bad)) {
		if old := s.bad[file]; old == nil || old.Error() != bad[file].Error() {
			s.log.Error("definition of a trust domain not taken", "file", file, "err", bad[file])
		}
	}
	s.bad = bad
	said := map[spiffeid.TrustDomain]bool{}
	for _, def := range good {
		said[def.trustDomain] = true
		old := s.domains[def.trustDomain]
		if old != nil && old.definition == def {
			continue
		}
		d := &domain{definition: def, since: time.Now(), outcomes: map[string]uint64{}}
		for _, o := range outcomes {
			d.outcomes[o] = 0
		}
		if old != nil {
			if old.stop != nil {
				old.stop()
			}
			d.doc, d.bundle, d.made, d.kept, d.fromFile, d.unused = old.doc, old.bundle, old.made, old.kept, old.fromFile, old.unused
			d.since, d.alarmed = old.since, old.alarmed // what there is is no newer
			if def.url == "" || def.bundle != old.definition.bundle {
				d.fromFile = "" // what is believed need not be what the file says
			}
		} else {
			s.recall(d)
		}
		s.domains[def.trustDomain] = d
		s.log.Info("trust domain defined", "audit", "trust_domain", "trust_domain", def.trustDomain.Name(), "file", def.file)
		s.start(d)
	}
	for td, d := range s.domains {
		// A file that cannot be used now goes on saying what it said last.
		if said[td] || bad[d.file] != nil && td != own {
			continue
		}
		if d.stop != nil {
			d.stop()
		}
		delete(s.domains, td)
		if err := s.memory.forget(td); err != nil {
			s.log.Warn("the bundle of a trust domain that is gone is still kept", "err", err)
		}
		s.log.Info("trust domain removed", "audit", "trust_domain", "trust_domain", td.Name(), "file", d.file)
	}
}

// recall takes what was kept of a domain with an endpoint. s.mu is held.
func (s *Store) recall(d *domain) {
	if d.url == "" {
		return
	}
	k, doc, err := s.memory.load(d.trustDomain)
	switch {
	case err != nil:
		s.log.Error("the last good bundle of a trust domain cannot be used: its endpoint or its first bundle gives another", "err", err)
	case k != nil:
		d.doc, d.kept = doc, *k
		d.fromFile = k.First
		if !k.Confirmed.IsZero() {
			d.since = k.Confirmed
		}
	}
}

// readBundle reads the file with the bundle of a domain, or with its first one, and believes it if it is another than the last. s.mu is held.
func (s *Store) readBundle(d *domain) {
	text, err := readFile(d.definition.bundle, maxDocument)
	digest := sha256.Sum256(text)
	sum := hex.EncodeToString(digest[:])
	var doc *Document
	if err == nil && sum == d.fromFile && d.doc != nil {
		s.fileRead(d)
		return
	}
	if err == nil {
		if doc, err = parse(d.trustDomain, text); err == nil {
			err = usableNow(doc)
		}
	}
	if err != nil {
		if d.url != "" && d.doc != nil {
			return // a first bundle is not needed any more
		}
		if !strings.HasPrefix(err.Error(), "open ") {
			err = fmt.Errorf("%s: %w", d.definition.bundle, err)
		}
		s.failed(d, outcomeUnreadable, err)
		return
	}
	d.fromFile = sum
	s.believe(d, doc, filepath.Base(d.definition.bundle))
	d.kept.First = sum
	if d.url != "" {
		// Nobody has confirmed it; that it is waited for begins now.
		d.kept.Confirmed, d.since = time.Time{}, time.Now()
		s.keep(d)
		return
	}
	s.fileRead(d)
}

// fileRead notes that a file says what is believed. s.mu is held.
func (s *Store) fileRead(d *domain) {
	if d.url == "" {
		s.succeeded(d)
	}
}

// usableNow returns an error unless something of a document can be used now.
func usableNow(doc *Document) error {
	if roots, left := usable(doc, time.Now()); len(roots) == 0 {
		return fmt.Errorf("bundle of %s: none of its %d certificates can be used now: %s: %s", doc.trustDomain, len(doc.authorities), name(left[0].Certificate), left[0].Reason)
	}
	return nil
}

// believe has doc be the bundle of d. s.mu is held.
func (s *Store) believe(d *domain, doc *Document, from string) {
	if d.doc == nil || !d.doc.same(doc) {
		s.log.Info("bundle of a trust domain changed", "audit", "trust_domain", "trust_domain", d.trustDomain.Name(), "file", from,
			"roots", len(doc.authorities), "sequence", doc.sequence)
	}
	d.doc = doc
}

// keep has what is believed of d survive a restart. s.mu is held.
func (s *Store) keep(d *domain) {
	d.kept.Endpoint = d.profile + " " + d.url
	d.saved = time.Now()
	if err := s.memory.save(d.kept, d.doc); err != nil {
		s.log.Error("the bundle of a trust domain is not kept: after a restart an older one holds", "trust_domain", d.trustDomain.Name(), "err", err)
	}
}

// sorted are the trust domains. s.mu is held.
func (s *Store) sorted() []spiffeid.TrustDomain {
	return slices.SortedFunc(maps.Keys(s.domains), spiffeid.TrustDomain.Compare)
}

// publish makes the Set of what is believed and valid now, and looks whether there is an alarm.
func (s *Store) publish() {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	next := &Set{}
	for _, td := range s.sorted() {
		d := s.domains[td]
		if d.doc != nil && (d.doc != d.made.doc || now.Before(d.made.from) || !now.Before(d.made.until)) {
			s.remake(d, now)
		}
		if d.bundle != nil {
			next.list = append(next.list, d.bundle)
		}
		s.watch(d, now)
	}
	if current, _ := s.sets.Load(); !current.same(next) {
		s.sets.Set(next)
	}
}

// remake makes the bundle of d of what is believed. s.mu is held.
func (s *Store) remake(d *domain, now time.Time) {
	b, left := newBundle(d.doc, d.bundle, now)
	d.bundle = b
	d.made.doc, d.made.from, d.made.until = d.doc, now, validUntil(d.doc, now)
	was := d.unused
	d.unused = ""
	for _, l := range left {
		d.unused += fmt.Sprintf("; %s is left out: %s", name(l.Certificate), l.Reason)
	}
	if d.unused = strings.TrimPrefix(d.unused, "; "); d.unused != was && d.unused != "" {
		s.log.Warn("certificates of a trust domain's bundle are not used", "trust_domain", d.trustDomain.Name(), "err", errors.New(d.unused))
	}
}

// sameText reports whether two documents are written alike.
func sameText(a, b *Document) bool {
	x, errX := a.JSON()
	y, errY := b.JSON()
	return errX == nil && errY == nil && bytes.Equal(x, y)
}
