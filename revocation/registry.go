package revocation

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/files"
	"github.com/sallyport/sallyport/intention"
	"github.com/sallyport/sallyport/internal/atomicfile"
)

// errNotAllowed is that somebody else than sallyport refuses to have the revocations read.
var errNotAllowed = errors.New("the list of revocations may not be read")

// Config says where a Registry is kept.
type Config struct {
	// File has what was read last. Required.
	File string
	// Logger gets what is revoked and what is no more, and what cannot be read. Nil: nothing is logged.
	Logger *slog.Logger
	// Registerer takes the metrics. Nil: they are not exported.
	Registerer prometheus.Registerer
}

// Registry is what is revoked. Make it with Open; Run ends what has an end. All methods may be called by several
// goroutines.
type Registry struct {
	file string
	log  *slog.Logger
	wake chan struct{}

	mu       sync.Mutex
	known    bool                   // all was read, or is that of the file
	all      []intention.Revocation // that were read last, those that have ended too
	revoked  *intention.Revoked     // of all, without those that had ended when it was made
	enforced time.Time              // when it was made
	since    time.Time              // when all was read; zero: it is the file's
	problem  string                 // why nothing newer is known; empty: all is
	denied   bool                   // it is errNotAllowed
	unsaved  error                  // why the file is not what was read
	publish  func(catalog.Contents)
	contents *catalog.Contents // the last, without what is revoked; nil: there were none
}

// Open makes a Registry of which nothing is known before it is read. The error is that the metrics cannot be registered.
func Open(c Config) (*Registry, error) {
	r := &Registry{file: c.File, log: c.Logger, wake: make(chan struct{}, 1)}
	if r.log == nil {
		r.log = slog.New(slog.DiscardHandler)
	}
	if c.Registerer == nil {
		return r, nil
	}
	count := func(certificates bool) func() float64 {
		return func() (n float64) {
			for _, e := range r.Revoked().All() {
				if e.OfCertificate() == certificates {
					n++
				}
			}
			return n
		}
	}
	gauge := func(name, help string, labels prometheus.Labels, f func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help, ConstLabels: labels}, f)
	}
	const revoked = "Certificates and identities that are revoked, by type: certificate or identity."
	var failed error
	for _, m := range []prometheus.Collector{
		gauge("sallyport_revoked", revoked, prometheus.Labels{"type": "certificate"}, count(true)),
		gauge("sallyport_revoked", revoked, prometheus.Labels{"type": "identity"}, count(false)),
		gauge("sallyport_revoked_unread", "1 while what is revoked cannot be read, so that what was read last holds; else 0.", nil, func() float64 {
			if r.Status().Problem != "" {
				return 1
			}
			return 0
		}),
	} {
		failed = errors.Join(failed, c.Registerer.Register(m))
	}
	if failed != nil {
		return nil, fmt.Errorf("metrics of revocations: %w", failed)
	}
	return r, nil
}

// Status is how a Registry is doing.
type Status struct {
	// Known: nothing is published before.
	Known bool
	// Since is when what is in force was read; zero: by an earlier process, or nothing is known.
	Since time.Time
	// Problem is why nothing newer is known; empty: what is in force is what is written. NotAllowed is that somebody else does not let
	// it be read.
	Problem    string
	NotAllowed bool
	// Unsaved is why a restart would not know it while it cannot be read; empty: it would.
	Unsaved string
}

// Status tells how r is doing.
func (r *Registry) Status() Status {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := Status{Known: r.known, Since: r.since, Problem: r.problem, NotAllowed: r.denied}
	if r.unsaved != nil {
		s.Unsaved = r.unsaved.Error()
	}
	return s
}

// Revoked is what is in force; nil: nothing is revoked.
func (r *Registry) Revoked() *intention.Revoked {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.revoked
}

// written are the revocations that were read last, those that have ended too.
func (r *Registry) written() []intention.Revocation {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.all
}

// Publisher returns a function that publishes contents with what is revoked: as soon as that is known, and again when it
// is something else.
func (r *Registry) Publisher(publish func(catalog.Contents)) func(catalog.Contents) {
	r.mu.Lock()
	r.publish = publish
	r.mu.Unlock()
	return func(c catalog.Contents) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.contents = &c
		r.republish(time.Time{})
	}
}

// republish publishes the last contents, with the time at which what is revoked changed; zero: it did not. r.mu is held, so
// that none are published in another order than they came.
func (r *Registry) republish(seen time.Time) {
	if !r.known || r.contents == nil || r.publish == nil {
		return
	}
	c := *r.contents
	c.Revoked = r.revoked
	if !seen.IsZero() {
		c.Seen = seen
	}
	r.publish(c)
}

// Take has all be what is revoked, which is all that is written now. It returns when what is published says so, and
// the file. all must not be changed any more.
func (r *Registry) Take(all []intention.Revocation) {
	now := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	same := r.known && !r.since.IsZero() && slices.Equal(r.all, all)
	if r.problem != "" {
		r.log.Info("what is revoked can be read again", "count", len(all))
	}
	r.all, r.problem, r.denied, r.since = all, "", false, now
	if same && r.unsaved == nil {
		return
	}
	r.enforce(now)
	r.save()
}

// fail says that what is revoked cannot be read. What was read last stays, also if an earlier process read it. Where nothing
// ever was, nothing is published; but if that is not allowed (errNotAllowed), nothing is revoked as far as this node was ever
// told, and the problem is said.
func (r *Registry) fail(err error) {
	now := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	if text := err.Error(); r.problem != text {
		r.log.Error("what is revoked cannot be read, what was read last holds", "err", err)
		r.problem, r.denied = text, errors.Is(err, errNotAllowed)
	}
	if r.known {
		return
	}
	all, lost := r.load()
	switch {
	case lost == nil:
	case errors.Is(lost, fs.ErrNotExist) && errors.Is(err, errNotAllowed):
	default:
		if !errors.Is(lost, fs.ErrNotExist) {
			r.problem = fmt.Sprintf("%s; and %s: %s", r.problem, r.file, lost)
		}
		return
	}
	r.all = all
	r.enforce(now)
}

// enforce puts r.all into force, and says what is other. r.mu is held.
func (r *Registry) enforce(now time.Time) {
	was := r.revoked
	r.revoked = intention.Revoke(slices.DeleteFunc(slices.Clone(r.all), func(e intention.Revocation) bool { return ended(e, now) }))
	first := !r.known
	r.known, r.enforced = true, now
	if first || !r.revoked.Equal(was) {
		r.republish(now)
	}
	if !first {
		r.audit(was)
	}
	r.signal()
}

// signal has Run look at when the next one ends. It does not block.
func (r *Registry) signal() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

func ended(e intention.Revocation, now time.Time) bool {
	return !e.Until.IsZero() && !now.Before(e.Until)
}

// audit logs what is revoked that was not, and what is no more.
func (r *Registry) audit(was *intention.Revoked) {
	before := map[intention.Revocation]bool{}
	for _, e := range was.All() {
		before[wherever(*e)] = true
	}
	now := map[intention.Revocation]bool{}
	for _, e := range r.revoked.All() {
		now[wherever(*e)] = true
	}
	for _, e := range r.revoked.Since(was).All() {
		if before[wherever(*e)] && now[wherever(*e)] {
			continue // it stands in another line
		}
		fields := []any{"audit", "revocation", "source", e.ID, "serial", e.Serial, "reason", e.Reason, "origin", e.Origin}
		if slices.ContainsFunc(r.revoked.All(), func(o *intention.Revocation) bool { return o == e }) {
			r.log.Info("revoked", fields...)
		} else {
			r.log.Info("revoked no more", fields...)
		}
	}
}

// wherever is e, wherever it is written.
func wherever(e intention.Revocation) intention.Revocation {
	e.Origin = ""
	return e
}

// saveAgain is how long after it failed the file is written again.
const saveAgain = 5 * time.Second

// Run has each revocation end at its time, until ctx ends; then it returns nil.
func (r *Registry) Run(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-r.wake:
		case <-timer.C:
		}
		if next := r.end(time.Now()); !next.IsZero() {
			timer.Reset(max(time.Until(next), 0))
		}
	}
}

// longestSleep bounds how long Run trusts its timer, which does not see that the clock is set.
const longestSleep = time.Minute

// end ends what is over, has what is not over any more be in force again, and returns when to look again; zero: when it is signalled.
func (r *Registry) end(now time.Time) (next time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.unsaved != nil {
		if r.save(); r.unsaved != nil {
			next = now.Add(saveAgain)
		}
	}
	other := false // than when it was put into force
	for _, e := range r.all {
		if e.Until.IsZero() {
			continue
		}
		over, at := ended(e, now), e.Until
		other = other || over != ended(e, r.enforced)
		if over {
			at = now.Add(longestSleep) // the clock may be set back
		}
		if next.IsZero() || at.Before(next) {
			next = at
		}
	}
	if other {
		r.enforce(now)
	}
	if !next.IsZero() && next.Sub(now) > longestSleep {
		next = now.Add(longestSleep)
	}
	return next
}

// load reads the file.
func (r *Registry) load() ([]intention.Revocation, error) {
	b, err := os.ReadFile(r.file)
	if err != nil {
		return nil, err
	}
	text, sealed, err := atomicfile.Unseal(b)
	if err == nil && !sealed {
		err = atomicfile.ErrSeal
	}
	if err != nil {
		return nil, err
	}
	return files.ParseRevoked(files.RevokedFile, text)
}

// save writes the file. r.mu is held: until it is written, nothing else is revoked or undone.
func (r *Registry) save() {
	text, err := files.FormatRevoked(lasting(r.all))
	if err == nil {
		err = atomicfile.Replace(r.file, atomicfile.Seal(text))
	}
	if err != nil && r.unsaved == nil {
		r.log.Error("what is revoked is not saved, and a restart would not know it while it cannot be read", "file", r.file, "err", err)
	}
	r.unsaved = err
}

// lasting are those of all of which there is no other about the same that lasts longer. Different files may have them, one must not.
func lasting(all []intention.Revocation) []intention.Revocation {
	type about struct{ id, serial, digest string }
	at := map[about]int{}
	out := make([]intention.Revocation, 0, len(all))
	for _, e := range all {
		key := about{e.ID, e.Serial, e.SHA256}
		if e.OfCertificate() {
			key.id = ""
		}
		i, twice := at[key]
		switch {
		case !twice:
			at[key] = len(out)
			out = append(out, e)
		case !out[i].Until.IsZero() && (e.Until.IsZero() || e.Until.After(out[i].Until)):
			out[i] = e
		}
	}
	return out
}
