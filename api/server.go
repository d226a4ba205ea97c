// Package api answers Consul's HTTP API from memory, for applications without a sidecar: roots, leafs, authorization, intentions,
// health and catalog, with Consul's shapes, codes, texts and blocking queries (Consul, "HTTP API Structure").
//
// A question that waits holds a goroutine and a connection, and nothing else: what is answered is rendered once per change and shared
// by all who ask the same (topic). Concurrency: all of Server may be called by several goroutines.
package api

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/sallyport/sallyport/acceptance"
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/internal/latest"
	"github.com/sallyport/sallyport/sds"
)

// Config is what a Server needs.
type Config struct {
	// Views holds the catalog. As long as it is empty, what depends on it is answered 503. Required.
	Views *latest.Value[*catalog.View]
	// Knowing returns a View in which it is known what is said of a destination, or why there is none: then nobody is let in. caller
	// tells those apart who ask. It blocks for some seconds at most. Nil: it is known in all Views.
	Knowing func(ctx context.Context, caller string, destination identity.Name) (*catalog.View, error)
	// Credentials are where roots and leafs come from. Required.
	Credentials *sds.Credentials
	// Acceptance records which roots and leafs callers were answered with. Nil: nothing does.
	Acceptance *acceptance.Record
	// Number returns the next index: greater than all before, over restarts too. Required.
	Number func() uint64
	// Authority says who asks. Required.
	Authority Authority
	// Sign signs the certificate requests of applications that keep their key. Nil: nobody does, as beside Consul.
	Sign Sign
	// Relay is where questions go that are not answered from the catalog. Nil: all are answered from it.
	Relay *Relay
	// Edit says what to edit instead of writing by the API, where the catalog comes from files; nil: nothing is said.
	Edit func() string
	// Hosts are the host names, in lower case, by which the API may be asked over TCP beside those of the loopback.
	Hosts []string
	// LogRequests says that each question that is answered is logged.
	LogRequests bool
	// NodeName is what the machine is called in answers; empty: "sallyport".
	NodeName string
	// Version is the program's, for /v1/agent/self.
	Version string
	// NotReady says what keeps the catalog from being there, for those who are answered 503. Nil: nothing is said.
	NotReady func() []string
	// Logger gets failures. Nil: nothing is logged.
	Logger *slog.Logger
	// Registerer takes the metrics. Nil: they are not exported.
	Registerer prometheus.Registerer
}

// Server answers the API. Make it with New; Run keeps it up to date.
type Server struct {
	config  Config
	log     *slog.Logger
	metrics metrics
	routes  routes

	// state is what is answered from; nil until Run runs.
	state  atomic.Pointer[state]
	topics topics
	woken  chan struct{} // full when there is a state that topics were not brought to
	leafs  leafs
	// signings bound Sign.
	signings signings
	denials  denials
	open     conns
	waits    waits
	relay    relay

	unfinished [2]shares // requests whose header has come in part, on the Unix socket and over TCP
	large      shares    // bodies and answers that are large and one asker's own
}

// state is all that rendered answers depend on, at one time. It is immutable.
type state struct {
	number uint64 // the index of this state
	view   *catalog.View
	roots  *sds.Roots // nil: not there yet
	// rootsNumber is the number of the first state that had these roots.
	rootsNumber uint64
	node        *node // the same in all states
}

// New returns a server, which answers 503 until Run runs. The error is that the metrics cannot be registered.
func New(c Config) (*Server, error) {
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.NodeName == "" {
		c.NodeName = "sallyport"
	}
	s := &Server{config: c, log: c.Logger, woken: make(chan struct{}, 1)}
	s.relay.init(c.Relay)
	s.routes = s.table()
	s.topics.init()
	s.signings.init()
	s.leafs.init(c.Credentials, c.Number)
	if err := s.metrics.register(c.Registerer, s); err != nil {
		return nil, fmt.Errorf("metrics of the HTTP API: %w", err)
	}
	return s, nil
}

// forgetInterval is how often what nobody asks for any more is looked for.
const forgetInterval = time.Minute

// Run follows catalog and roots until ctx ends, and wakes those whose answers changed. Then it returns nil.
func (s *Server) Run(ctx context.Context) error {
	forget := time.NewTicker(forgetInterval)
	defer forget.Stop()
	defer s.leafs.close()
	ctx, stop := context.WithCancel(ctx)
	var beside sync.WaitGroup
	defer beside.Wait()
	defer stop()
	beside.Go(func() { s.relay.run(ctx) })
	// Apart, so that what some question costs keeps no change from the others.
	beside.Go(func() { s.wake(ctx) })
	for {
		views, roots := s.config.Views.Changed(), s.config.Credentials.RootsChanged()
		s.follow()
		select {
		case <-views:
		case <-roots:
		case now := <-forget.C:
			s.leafs.forget(now)
			s.signings.forget(now)
		case <-ctx.Done():
			return nil
		}
	}
}

// follow makes a new state of what is there now, if anything is another than before.
func (s *Server) follow() {
	old := s.state.Load()
	if old == nil {
		old = &state{node: &node{name: s.config.NodeName, version: s.config.Version}}
	}
	next := *old
	next.view, _ = s.config.Views.Load()
	next.roots, _ = s.config.Credentials.Roots()
	if next == *old {
		return
	}
	next.number = s.config.Number()
	if next.roots != old.roots {
		next.rootsNumber = next.number
	}
	s.state.Store(&next)
	select {
	case s.woken <- struct{}{}:
	default: // there is a newer state for whoever is woken
	}
}

// wake brings what is waited for up to date with each new state, until ctx ends.
func (s *Server) wake(ctx context.Context) {
	for {
		select {
		case <-s.woken:
			s.topics.wake(s.state.Load())
		case <-ctx.Done():
			return
		}
	}
}

// current is the state, or why there is none yet.
func (s *Server) current() (*state, error) {
	st := s.state.Load()
	if st != nil && st.view != nil && st.roots != nil {
		return st, nil
	}
	text := "sallyport has no catalog yet"
	if st != nil && st.view != nil {
		text = "sallyport has no roots yet"
	}
	if s.config.NotReady != nil {
		text = strings.Join(append([]string{text}, s.config.NotReady()...), ": ")
	}
	return nil, failed(http.StatusServiceUnavailable, text)
}

// failure is an error with its status code. Its text is the answer's body.
type failure struct {
	code int
	text string
}

func failed(code int, format string, args ...any) error {
	if len(args) > 0 {
		format = fmt.Sprintf(format, args...)
	}
	return failure{code, format}
}

// Error is the text of the answer.
func (f failure) Error() string { return f.text }

// codeOf is the status code for err: Consul answers 500 unless it says otherwise.
func codeOf(err error) int {
	if f := (failure{}); errors.As(err, &f) {
		return f.code
	}
	return http.StatusInternalServerError
}
