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
	"github.com/sallyport/sallyport/intention"
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
	seed    *saved        // of the last-known-good file; nil: none
	// verdicts are what tokens may.
	verdicts *verdicts
	// oldLeafs is how many are known to be signed by another root than the active one.
	oldLeafs atomic.Int64

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
	self          found[self]
	datacenters   found[[]string]
	roots         found[*api.CARootList]
	mesh          found[meshEntry]
	proxyDefaults found[proxyDefaults]
	node          string // whose services are read
	services      found[nodeServices]
	checks        found[map[string]*agentCheck] // read only if a proxy exposes them
	chains        map[string]*watched[*chain]
	endpoints     map[string]*watched[[]*instance]
	intentions    map[string]*watched[[]intention.Intention]
	together      together
}

// found is what one query has found out.
type found[T any] struct {
	value    T
	ok       bool      // there is a value
	at       time.Time // of the answer that it is of
	heard    time.Time // when it was last heard, with that value or another
	err      error     // why it cannot be read now; nil: it can
	since    time.Time // when it first could not; zero: it can
	filtered bool
	stale    time.Duration // since the agent was in touch with the leader, if that is long
	back     time.Time     // when it could be read again after it could not
}

// watched is what is known of one thing among several of its kind.
type watched[T any] struct {
	found[T]
	manner manner
	stop   context.CancelFunc // ends its own query; nil: it has none
	digest digest             // of what a query was told that asks when it is told to
}

// longContact is how long an agent, or a server, may have been out of touch with the leader before what it says is called stale.
const longContact = 10 * time.Second

// take takes an answer in. Of one that does not say all there is, keep makes the value out of the old one; if there is no old one and demand is set, there
// is still none.
func (f *found[T]) take(value T, m meta, authoritative, demand bool, keep func(old, now T) T) {
	f.confirm(m)
	f.at, f.filtered = f.heard, m.filtered
	switch {
	case authoritative || keep == nil:
	case f.ok:
		value = keep(f.value, value)
	case demand:
		return
	}
	f.value, f.ok = value, true
}

// confirm takes account of an answer that is what the last one was, and reports whether that is news.
func (f *found[T]) confirm(m meta) bool {
	was := f.stale > 0
	news := f.err != nil
	if !f.since.IsZero() {
		f.back = time.Now()
	}
	f.err, f.since, f.heard, f.stale = nil, time.Time{}, time.Now(), 0
	if m.noLeader || m.age > longContact {
		f.stale = max(m.age, time.Second)
	}
	return news || was != (f.stale > 0)
}

// fail takes account of an answer that did not come, and reports whether that is new.
func (f *found[T]) fail(err error) bool {
	fresh := f.err == nil || f.err.Error() != err.Error()
	f.err = err
	if f.since.IsZero() {
		f.since = time.Now()
	}
	return fresh
}

// New returns the agent that cfg describes. It reads the last-known-good file and the token file, and asks nothing yet. The errors are those of the
// configuration; a last-known-good file that makes no sense is moved aside and logged.
func New(cfg Config) (*Agent, error) {
	c, err := cfg.connect()
	if err != nil {
		return nil, err
	}
	a := &Agent{config: cfg, log: cfg.Logger, client: c, wake: make(chan struct{}, 1)}
	if a.log == nil {
		a.log = slog.New(slog.DiscardHandler)
	}
	a.verdicts = newVerdicts(a)
	a.status.Agent = c.name
	a.known.chains = map[string]*watched[*chain]{}
	a.known.endpoints = map[string]*watched[[]*instance]{}
	a.known.intentions = map[string]*watched[[]intention.Intention]{}
	if a.metrics, err = newMetrics(cfg.Registerer, a.staleness, a.queries); err != nil {
		return nil, fmt.Errorf("consul metrics: %w", err)
	}
	a.seed = loadSaved(cfg.LKGFile, a.log)
	if a.seed != nil {
		a.proxies.Set(registered(a.seed.Contents.Proxies))
	}
	return a, nil
}

func registered(list []*catalog.Proxy) map[identity.ProxyID]*catalog.Proxy {
	m := make(map[identity.ProxyID]*catalog.Proxy, len(list))
	for _, p := range list {
		m[p.ID] = p
	}
	return m
}

// TrustDomain is the mesh's; ok is false as long as the agent, or the last-known-good file, has not said it.
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
		return a.seed.Contents.Mesh.TrustDomain, true
	}
	return td, false
}

// Status tells how a is doing. Its slices must not be changed.
func (a *Agent) Status() Status {
	last, lost, _, _ := a.client.contact.state()
	a.mu.Lock()
	defer a.mu.Unlock()
	s := a.status
	s.LastContact, s.Connected = last, !last.IsZero() && lost.IsZero()
	s.StaleSince = a.staleSince(lost)
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

// wakeUp makes the assembly look at what is known. It does not block.
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
	// selfRetry is how often an agent that does not answer is tried: its return ends the waiting of all other queries.
	selfRetry = 2 * time.Second
)

// Run reads the agent and publishes what it knows, first when all is known of at least the mesh, and then whenever something changes,
// until ctx ends; then it waits for all that it started and returns nil. While the agent is away it publishes what the last-known-good file holds, if
// there is one. The one error is that Run was called before.
func (a *Agent) Run(ctx context.Context, publish func(catalog.Contents)) error {
	a.mu.Lock()
	again := a.ran
	a.ran = true
	a.mu.Unlock()
	if again {
		return errors.New("consul: Run was called before")
	}
	var all sync.WaitGroup
	defer a.client.http.CloseIdleConnections()
	defer all.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()

	k := &a.known
	poll(ctx, &all, a, &k.self, request{path: "/v1/agent/self"}, selfEvery, func(body []byte) (self, error) {
		s, err := decodeJSON[self](body)
		if err == nil && s.Config.Datacenter == "" {
			err = errors.New("it names no datacenter")
		}
		return s, err
	})
	poll(ctx, &all, a, &k.datacenters, request{path: "/v1/catalog/datacenters"}, datacentersEvery, decodeList[string])
	follow(ctx, &all, a, &k.roots, query[*api.CARootList]{first: true, path: "/v1/agent/connect/ca/roots", decode: decodeRoots}, mergeRoots, false)
	follow(ctx, &all, a, &k.mesh, query[meshEntry]{first: true, path: "/v1/config/mesh/mesh", params: consistent(nil), absent: true}, old, true)
	follow(ctx, &all, a, &k.proxyDefaults, query[proxyDefaults]{first: true, path: "/v1/config/proxy-defaults/global", params: consistent(nil), absent: true}, old, true)
	w := &watcher{agent: a, all: &all}
	newAssembly(a, publish).run(ctx, w)
	return nil
}

// poll asks again and again what does not block. What it answers is all there is.
func poll[T any](ctx context.Context, all *sync.WaitGroup, a *Agent, f *found[T], r request, every time.Duration, decode func([]byte) (T, error)) {
	q := query[T]{client: a.client, metrics: a.metrics, path: r.path, every: every, retry: selfRetry, decode: decode}
	q.got = func(v T, m meta) { learn(ctx, a, func() bool { f.take(v, m, true, false, nil); return true }) }
	q.same = func(m meta) { learn(ctx, a, func() bool { return f.confirm(m) }) }
	q.failed = func(err error) bool { return a.failed(ctx, q.path, err, f.fail) }
	all.Go(func() { _ = q.run(ctx) })
}

// follow keeps a blocking query going.
func follow[T any](ctx context.Context, all *sync.WaitGroup, a *Agent, f *found[T], q query[T], keep func(old, now T) T, demand bool) {
	q.client, q.metrics = a.client, a.metrics
	q.got = func(v T, m meta) {
		learn(ctx, a, func() bool { f.take(v, m, m.authoritative(), demand, keep); return true })
	}
	q.same = func(m meta) { learn(ctx, a, func() bool { return f.confirm(m) }) }
	q.failed = func(err error) bool { return a.failed(ctx, q.path, err, f.fail) }
	all.Go(func() { _ = q.run(ctx) })
}

// old is what stays known after an answer that does not say all there is, of what is one thing and not a list.
func old[T any](was, _ T) T { return was }

// learn changes what is known, and has it looked at if change says that there is something new. What a query has to say that was ended, which is done
// under the lock, is not taken in any more: another may have said something newer.
func learn(ctx context.Context, a *Agent, change func() (news bool)) {
	a.mu.Lock()
	news := ctx.Err() == nil && change()
	a.mu.Unlock()
	if news {
		a.wakeUp()
	}
}

// failed takes account of a query that failed. It never ends one.
func (a *Agent) failed(ctx context.Context, path string, err error, fail func(error) bool) bool {
	a.mu.Lock()
	fresh := ctx.Err() == nil && fail(err)
	a.mu.Unlock()
	if fresh { // what lasts is a problem, and logged as one
		a.log.Debug("consul query", "origin", path, "err", err)
	}
	a.wakeUp()
	return false
}
