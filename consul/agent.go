package consul

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/consul/api"
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/internal/latest"
	"github.com/sallyport/sallyport/sds"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// Agent is the local Consul agent. Make one with New; Run reads it.
type Agent struct {
	config  Config
	log     *slog.Logger
	client  *client
	metrics *metrics
	// roots are the CA roots, for those who watch them.
	roots latest.Value[*sds.Roots]
	// proxies are who may open streams: all that are registered, whether they can be served or not.
	proxies latest.Value[map[identity.ProxyID]*catalog.Proxy]
	wake    chan struct{} // something was learnt
	seed    *seed         // of the last-known-good file; nil: none, or not needed any more
	// acl is what the agent says of tokens.
	acl *aclCache
	// elsewhere are the destinations that somebody asks about.
	elsewhere elsewhere
	// oldLeafs is how many are known to be signed by another root than the active one.
	oldLeafs atomic.Int64

	running sync.WaitGroup // all that Run has started

	mu     sync.Mutex
	ran    bool
	known  known
	status Status
}

var (
	_ catalog.Source = (*Agent)(nil)
	_ sds.Source     = (*Agent)(nil)
)

// known is what queries have found out. Agent.mu guards it; the values themselves are not changed.
type known struct {
	// epoch counts the news, but for new endpoints of targets whose endpoints were known: those are
	// named in newEndpoints. unpublished is when the first came that was not published yet; zero:
	// none.
	epoch        uint64
	newEndpoints []string
	unpublished  time.Time

	self          queryState[self]
	datacenters   queryState[[]string]
	roots         queryState[*api.CARootList]
	mesh          queryState[meshEntry]
	tokens        queryState[tokenProviders] // only while some intention asks for tokens
	proxyDefaults queryState[proxyDefaults]
	node          string // whose services are read
	services      queryState[*nodeServices]
	checks        queryState[map[string]*agentCheck] // read only if a proxy exposes them
	chains        map[string]*watch[*discovery]
	endpoints     map[string]*watch[instances]
	intentions    map[string]*watch[matched]
	wildcard      *catalog.Destination // what is said of all destinations; nil: nothing
	wildcardAt    position             // of the answer that said it
	matched       bool                 // wildcard is known
	bulk          bulk
}

// position is where in the history of Consul's state an answer belongs.
type position struct{ epoch, index uint64 }

func (p position) before(o position) bool {
	return p.epoch < o.epoch || p.epoch == o.epoch && p.index < o.index
}

// watch is what is known of one thing among several of its kind.
type watch[T any] struct {
	queryState[T]
	mode   mode
	stop   context.CancelFunc // ends its own query; nil: it has none
	digest digest             // in mode onSignal: what the last query was asked for
}

// New returns the agent that cfg describes. It reads the last-known-good file and the token file,
// and asks nothing yet. The errors are those of the configuration; a last-known-good file that
// makes no sense is moved aside and logged.
func New(cfg Config) (*Agent, error) {
	c, err := cfg.connect()
	if err != nil {
		return nil, err
	}
	a := &Agent{config: cfg, log: cfg.Logger, client: c, wake: make(chan struct{}, 1)}
	if a.log == nil {
		a.log = slog.New(slog.DiscardHandler)
	}
	a.acl = newACLCache(c, a.log)
	a.status.Agent = c.name
	a.known.epoch = 1 // of nothing; no contents were put together from it yet
	a.known.chains = map[string]*watch[*discovery]{}
	a.known.endpoints = map[string]*watch[instances]{}
	a.known.intentions = map[string]*watch[matched]{}
	if a.metrics, err = newMetrics(cfg.Registerer, a.staleness, a.queries); err != nil {
		return nil, fmt.Errorf("consul metrics: %w", err)
	}
	if s := loadLKG(cfg.LKGFile, a.log); s != nil {
		a.seed = newSeed(s)
		a.proxies.Set(a.seed.proxies)
	}
	return a, nil
}

// TrustDomain is the mesh's; ok is false as long as the agent, or the last-known-good file, has not
// said it.
func (a *Agent) TrustDomain() (td spiffeid.TrustDomain, ok bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.trustDomain()
}

// trustDomain is TrustDomain under the lock.
func (a *Agent) trustDomain() (td spiffeid.TrustDomain, ok bool) {
	if r := a.known.roots; r.ok && r.value != nil {
		td, err := spiffeid.TrustDomainFromString(r.value.TrustDomain)
		return td, err == nil
	}
	if a.seed != nil {
		return a.seed.contents.Mesh.TrustDomain, true
	}
	return td, false
}

// Status tells how a is doing. Its slices must not be changed.
func (a *Agent) Status() Status {
	c := a.client.contact.state()
	a.mu.Lock()
	defer a.mu.Unlock()
	s := a.status
	s.Ahead = c.ahead
	s.LastContact, s.Connected = c.last, !c.last.IsZero() && c.lost.IsZero()
	s.StaleSince = a.staleSince(c.lost)
	s.Queries = a.count()
	return s
}

func (a *Agent) staleness() float64 {
	s := a.Status()
	if s.StaleSince.IsZero() {
		return 0
	}
	return time.Since(s.StaleSince).Seconds()
}

func (a *Agent) queries() float64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return float64(a.count())
}

// wakeUp makes the assembly take in what was learnt. It does not block.
func (a *Agent) wakeUp() {
	select {
	case a.wake <- struct{}{}:
	default:
	}
}

// How often is asked what does not block.
const (
	selfEvery        = 30 * time.Second
	datacentersEvery = 60 * time.Second
	// selfRetry is how often an agent that does not answer is tried: its return ends the waiting of
	// all other queries.
	selfRetry = 2 * time.Second
)

// Run reads the agent and publishes what it knows, first when all is known of at least the mesh,
// and then whenever something changes, until ctx ends; then it waits for all that it started and
// returns nil. While the agent is away it publishes what the last-known-good file holds, if there
// is one. The one error is that Run was called before.
func (a *Agent) Run(ctx context.Context, publish func(catalog.Contents)) error {
	a.mu.Lock()
	again := a.ran
	a.ran = true
	a.mu.Unlock()
	if again {
		return errors.New("consul: Run was called before")
	}
	defer a.client.http.CloseIdleConnections()
	defer a.running.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()

	a.start(ctx, publish).run(ctx)
	return nil
}

// start asks for what is always needed, until ctx ends.
func (a *Agent) start(ctx context.Context, publish func(catalog.Contents)) *assembly {
	k := &a.known
	poll(ctx, a, &k.self, "/v1/agent/self", selfEvery, func(body []byte) (self, error) {
		s, err := decodeJSON[self](body)
		if err == nil && s.Config.Datacenter == "" {
			err = errors.New("it names no datacenter")
		}
		return s, err
	})
	poll(ctx, a, &k.datacenters, "/v1/catalog/datacenters", datacentersEvery, decodeList[string])
	follow(ctx, a, &k.roots, query[*api.CARootList]{
		first: true, path: "/v1/agent/connect/ca/roots", decode: decodeRoots, merge: mergeRoots,
	})
	followEntry(ctx, a, &k.mesh, meshEntryName)
	followEntry(ctx, a, &k.proxyDefaults, proxyDefaultsEntryName)
	a.running.Go(func() { a.watchAnonymous(ctx) })
	return newAssembly(a, publish)
}

// followEntry follows a config entry. Where it cannot be read for sure it stays what it was.
func followEntry[T any](ctx context.Context, a *Agent, f *queryState[T], name string) {
	follow(ctx, a, f, query[T]{
		first: true, path: "/v1/config/" + name, params: consistent(nil), absent: true, wary: true,
		merge: func(old, _ T) T { return old },
	})
}

// poll asks again and again what does not block. What it answers is all there is.
func poll[T any](ctx context.Context, a *Agent, f *queryState[T], path string, every time.Duration,
	decode func([]byte) (T, error),
) {
	follow(ctx, a, f, query[T]{path: path, every: every, retry: selfRetry, decode: decode})
}

// follow keeps a query going, and takes its answers in, until ctx ends.
func follow[T any](ctx context.Context, a *Agent, f *queryState[T], q query[T]) {
	attach(ctx, a, f, &q)
	a.running.Go(func() { _ = q.run(ctx) })
}

// attach has the answers to q taken in, until ctx ends.
func attach[T any](ctx context.Context, a *Agent, f *queryState[T], q *query[T]) {
	q.client, q.metrics = a.client, a.metrics
	q.got = func(v T, m meta) { a.learn(ctx, q.target, func() news { return f.take(v, m, q) }) }
	q.same = func(m meta) { a.learn(ctx, q.target, func() news { return f.confirm(m) }) }
	q.failed = func(err error) bool { return a.failed(ctx, q.path, err, f.fail) }
}

// learn takes in what a query has to say, and has it looked at if that is news. Results of a
// cancelled query are dropped, as another may have said something newer; cancelling happens under
// a.mu.
func (a *Agent) learn(ctx context.Context, target string, take func() news) news {
	a.mu.Lock()
	defer a.mu.Unlock()
	if ctx.Err() != nil {
		return noNews
	}
	n := take()
	switch {
	case n == noNews:
		return n
	case n == newValue && target != "":
		a.known.newEndpoints = append(a.known.newEndpoints, target)
	default:
		a.known.epoch++
	}
	if a.known.unpublished.IsZero() {
		a.known.unpublished = time.Now()
	}
	a.wakeUp()
	return n
}

// failed takes in that a query failed. It never ends one.
func (a *Agent) failed(ctx context.Context, path string, err error, fail func(error) news) bool {
	// what lasts is a problem, and logged as one
	if a.learn(ctx, "", func() news { return fail(err) }) != noNews {
		a.log.Debug("consul query", "origin", path, "err", err)
	}
	a.wakeUp() // the agent may be lost
	return false
}
