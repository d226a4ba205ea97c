// Package keys gets the public keys of those who issue tokens from where jwt-provider entries say that they are, and keeps what came last:
// neither a server that is away nor a restart takes them from who has to verify tokens.
package keys

import (
	"cmp"
	"context"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/internal/latest"
	"github.com/sallyport/sallyport/jwks"
)

// Config says how keys are asked for.
type Config struct {
	// Data is where the last good keys are kept. It is made if it is missing. Required.
	Data string
	// Reach judges each address that is dialled; see remote.Config.Reach. Nil: all may be.
	Reach func(netip.Addr) error
	// Logger gets changes and failures. Nil: nothing is logged.
	Logger *slog.Logger
	// Registerer takes the metrics. Nil: they are not exported.
	Registerer prometheus.Registerer
}

// Store has the keys. Open makes it, Want says which, Run asks for them.
type Store struct {
	cfg  Config
	log  *slog.Logger
	keys latest.Value[map[catalog.KeySource]string]

	mu      sync.Mutex
	sources map[catalog.KeySource]*source
	// running is the context of Run, and asking are its goroutines. Nil: it does not run.
	running context.Context //nolint:containedctx // a source that is wanted later is asked as long as Run runs
	asking  *sync.WaitGroup
}

// source is what is known of one source. All of it is guarded by the Store's mu.
type source struct {
	stop func() // ends its asking; nil: it is not asked
	set  jwks.Set
	// since is when the keys were confirmed last, or else since when they are waited for.
	since time.Time
	// confirmed: they were, since Open or before.
	confirmed bool
	saved     time.Time
	failures  int // in a row
	err       error
	told      string // what was logged of keys that are left out
}

const (
	// defaultPeriod and defaultTimeout hold where an entry says nothing, as of Envoy.
	defaultPeriod, defaultTimeout = 5 * time.Minute, time.Second
	// filePeriod is how often files are looked at.
	filePeriod = 5 * time.Second
	// stalePeriods is how many periods keys may grow old before the status says so.
	stalePeriods = 3
)

// Open returns a Store of which nothing is wanted yet. The error is that the metrics cannot be registered.
func Open(cfg Config) (*Store, error) {
	s := &Store{cfg: cfg, log: cfg.Logger, sources: map[catalog.KeySource]*source{}}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if cfg.Registerer != nil {
		if err := cfg.Registerer.Register(collector{s}); err != nil {
			return nil, err
		}
	}
	s.keys.Set(map[catalog.KeySource]string{})
	return s, nil
}

// Keys is what is known now, as jwks.Set has its text. It is never empty, and none of its maps is changed.
func (s *Store) Keys() *latest.Value[map[catalog.KeySource]string] { return &s.keys }

// Want says which sources are asked from now on; what is kept of those that are new is there at once. It reads a small file for each of
// them and asks nobody itself.
func (s *Store) Want(all []catalog.KeySource) {
	s.mu.Lock()
	defer s.mu.Unlock()
	changed := false
	for at, of := range s.sources {
		if !slices.Contains(all, at) {
			if of.stop != nil {
				of.stop()
			}
			delete(s.sources, at)
			if !slices.ContainsFunc(all, func(o catalog.KeySource) bool { return origin(o) == origin(at) }) {
				s.forget(at)
			}
			changed = true
		}
	}
	for _, at := range all {
		if s.sources[at] != nil {
			continue
		}
		of := &source{since: time.Now()}
		k, err := s.load(at)
		switch {
		case err != nil:
			s.log.Error("the last good keys of tokens cannot be used: they are asked for anew", "source", place(at), "err", err)
		case k != nil:
			of.set, of.since, of.confirmed = k.set, k.Confirmed, true
		}
		s.sources[at] = of
		s.start(at, of)
		changed = true
	}
	if changed {
		s.publish()
	}
}

// Run asks for the keys that are wanted, again and again, until ctx ends; then it returns nil.
func (s *Store) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var asking sync.WaitGroup
	s.mu.Lock()
	s.running, s.asking = ctx, &asking
	for at, of := range s.sources {
		s.start(at, of) //nolint:contextcheck // it has it in running
	}
	s.mu.Unlock()
	<-ctx.Done()
	s.mu.Lock()
	s.running = nil
	s.mu.Unlock()
	cancel()
	asking.Wait()
	return nil
}

// start begins to ask a source, if Run runs. s.mu is held.
func (s *Store) start(at catalog.KeySource, of *source) {
	if s.running == nil {
		return
	}
	ctx, cancel := context.WithCancel(s.running)
	of.stop = cancel
	s.asking.Go(func() { s.follow(ctx, at, of) })
}

// publish sets the keys of now. s.mu is held.
func (s *Store) publish() {
	next := map[catalog.KeySource]string{}
	for at, of := range s.sources {
		if of.set.Text != "" {
			next[at] = of.set.Text
		}
	}
	if now, _ := s.keys.Load(); !maps.Equal(now, next) {
		s.keys.Set(next)
	}
}

// Status is what is known of one source.
type Status struct {
	// Source is the address, without its query, or the file.
	Source string
	// Keys are the kids of the keys that are in use.
	Keys []string
	// Confirmed is when the source said them last. Zero: never.
	Confirmed time.Time
	// Problem is what is wrong; empty: nothing.
	Problem string
}

// Status describes the sources that are wanted, sorted.
func (s *Store) Status() (all []Status) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for at, of := range s.sources {
		out := Status{Source: place(at), Keys: of.set.IDs}
		if of.confirmed {
			out.Confirmed = of.since
		}
		var problems []string
		switch age := time.Since(of.since).Round(time.Second); {
		case of.set.Text == "" && of.err == nil:
			problems = append(problems, "they have not been asked for yet")
		case of.set.Text == "":
			problems = append(problems, "there are no keys yet, so no token that they would verify counts")
		case of.stale(at):
			problems = append(problems, "the keys were confirmed last "+age.String()+" ago, and should be every "+period(at).String())
		}
		if of.err != nil {
			problems = append(problems, of.err.Error())
		}
		if of.told != "" {
			problems = append(problems, of.told)
		}
		out.Problem = strings.Join(problems, ": ")
		all = append(all, out)
	}
	slices.SortFunc(all, func(a, b Status) int { return cmp.Compare(a.Source, b.Source) })
	return all
}

// stale reports whether nobody has confirmed the keys for a while.
func (o *source) stale(at catalog.KeySource) bool {
	return time.Since(o.since) > stalePeriods*period(at)
}

func period(at catalog.KeySource) time.Duration {
	if at.URI == "" {
		return filePeriod
	}
	return cmp.Or(at.Period, defaultPeriod)
}

// place is a source for those who read of it: what follows the question mark may be secret.
func place(at catalog.KeySource) string {
	uri, _, _ := strings.Cut(at.URI, "?")
	return cmp.Or(uri, at.File)
}

// collector is the metrics of s.
type collector struct{ *Store }

var (
	keysDesc = prometheus.NewDesc("sallyport_jwks_keys", "Keys of a source that verify tokens now.", []string{"source"}, nil)
	ageDesc  = prometheus.NewDesc("sallyport_jwks_age_seconds", "Time since a source of keys confirmed them, or since they are waited for.", []string{"source"}, nil)
	failDesc = prometheus.NewDesc("sallyport_jwks_failures", "Times in a row that a source of keys could not be asked or said what is of no use.", []string{"source"}, nil)
)

func (c collector) Describe(out chan<- *prometheus.Desc) {
	out <- keysDesc
	out <- ageDesc
	out <- failDesc
}

func (c collector) Collect(out chan<- prometheus.Metric) {
	c.mu.Lock()
	defer c.mu.Unlock()
	told := map[string]bool{} // two entries may ask one address in two ways
	for at, of := range c.sources {
		label := place(at)
		if told[label] {
			continue
		}
		told[label] = true
		out <- prometheus.MustNewConstMetric(keysDesc, prometheus.GaugeValue, float64(len(of.set.IDs)), label)
		out <- prometheus.MustNewConstMetric(ageDesc, prometheus.GaugeValue, time.Since(of.since).Seconds(), label)
		out <- prometheus.MustNewConstMetric(failDesc, prometheus.GaugeValue, float64(of.failures), label)
	}
}
