package xds

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/sds"
	"github.com/sallyport/sallyport/snapshot"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// How changes of the catalog and of the roots are taken together. The first after a quiet time is published at once: a mesh in
// which little happens sees each change within milliseconds. In a storm it is published when the storm pauses, and at
// least every stormBound.
const (
	stormQuiet = 20 * time.Millisecond
	stormBound = 500 * time.Millisecond
	// saveAgain is how long after a failure the generations are written again.
	saveAgain = 5 * time.Second
)

// publisher works out what each session is to have. All of it belongs to the goroutine of Server.Run, and to those that it starts and
// waits for, of which each has builds and sessions of its own.
type publisher struct {
	server   *Server
	interned interned
	cache    snapshot.Cache
	builds   map[buildKey]*build
	drains   map[identity.Name]time.Duration // the longest drain time of a service's Envoys
	renameAt time.Time                       // when a rename that was put off may be; zero: none was
	saveAt   time.Time                       // when to write the generations again; zero: they are written
}

// buildKey is what resources are built for: two streams of one proxy share them, unless their Envoys differ.
type buildKey struct {
	proxy catalog.ProxyID
	envoy snapshot.Features
}

// build is the last try to build, and the last that worked.
type build struct {
	input snapshot.Input
	err   error
	good  *built // nil: none has worked yet
}

// built is what does not depend on certificates.
type built struct {
	generation uint64
	resources  [kinds]map[string]*discoveryv3.Resource // none of kind secrets
	made       *snapshot.Resources                     // what they were before they were interned
}

// published is what the publisher remembers of a session.
type published struct {
	known    bool // the catalog has had the proxy since the stream was opened
	complete bool // target is what input and bundles lead to
	input    snapshot.Input
	bundles  *sds.Bundles
	target   *target
}

// Run publishes until ctx ends; then it ends all streams, with some jitter, waits for them and returns nil. It
// runs once; the second call is an error.
func (s *Server) Run(ctx context.Context) error {
	s.mu.Lock()
	if s.ran {
		s.mu.Unlock()
		return errors.New("xds: a Server runs once")
	}
	s.ran = true
	s.mu.Unlock()
	defer s.shut()
	p := &publisher{server: s, builds: map[buildKey]*build{}, drains: map[identity.Name]time.Duration{}}
	views, bundles := s.views.Changed(), s.credentials.BundlesChanged()
	var storm storm
	storm.change(time.Now())
	due := time.NewTimer(0)
	defer due.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-views:
			views = s.views.Changed() // before the view is loaded, so that none is missed
			storm.change(time.Now())
		case <-bundles:
			bundles = s.credentials.BundlesChanged()
			storm.change(time.Now())
		case <-s.wake:
			p.publish(s.takeFresh(), time.Now(), true)
		case <-due.C:
		}
		now := time.Now()
		if !p.saveAt.IsZero() && !now.Before(p.saveAt) {
			p.save(now)
		}
		if !p.renameAt.IsZero() && !now.Before(p.renameAt) {
			p.renameAt = time.Time{}
			storm.change(now)
		}
		if storm.due(now) {
			p.publish(s.sessions(), storm.since, false)
			p.sweep()
			storm.published(time.Now())
		}
		if at := first(storm.at, p.renameAt, p.saveAt); !at.IsZero() {
			due.Reset(time.Until(at))
		}
	}
}

// first is the earliest of some times, of which zero ones do not count.
func first(times ...time.Time) (t time.Time) {
	for _, o := range times {
		if t.IsZero() || !o.IsZero() && o.Before(t) {
			t = o
		}
	}
	return t
}

// storm says when changes are published. Its zero value has none to publish.
type storm struct {
	since time.Time // of the first change that is not published
	at    time.Time // when to publish; zero: there is nothing to
	last  time.Time // the last publication
}

func (s *storm) change(now time.Time) {
	switch {
	case s.at.IsZero():
		s.since = now
		s.at = now
		if now.Sub(s.last) < stormQuiet {
			s.at = now.Add(stormQuiet)
		}
	case s.at.After(now):
		s.at = first(now.Add(stormQuiet), s.since.Add(stormBound))
	}
}

func (s *storm) due(now time.Time) bool { return !s.at.IsZero() && !now.Before(s.at) }

func (s *storm) published(now time.Time) { s.at, s.last = time.Time{}, now }

// takeFresh returns the sessions that wait to be looked at.
func (s *Server) takeFresh() []*session {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := slices.Collect(maps.Keys(s.fresh))
	clear(s.fresh)
	return all
}

// publish gives sessions what the catalog and the certificates of this moment lead to. since is when the change was seen that this is about. fresh
// says that their leafs may have changed, or that they are new.
func (p *publisher) publish(sessions []*session, since time.Time, fresh bool) {
	view, ok := p.server.views.Load()
	if !ok || view.Mesh() == nil {
		for _, n := range sessions {
			n.wait("the catalog is not known yet")
		}
		return
	}
	bundles, haveBundles := p.server.credentials.Bundles()
	if !fresh {
		for proxy := range view.Proxies() {
			if proxy.Inbound.Revocation == catalog.Drain {
				p.server.generations.expect(proxy.Service, view.Policy(proxy.Service), time.Now())
			}
		}
	}
	inputs := p.project(view, sessions)
	due := p.observe(inputs, !fresh)
	var all []*build
	sharing := map[*build][]*session{}
	for _, n := range sessions {
		in, ok := inputs[n]
		if !ok {
			continue
		}
		if !fresh && n.published.complete && n.published.bundles == bundles && n.published.input.Same(in) {
			continue
		}
		n.describe(due[in.Proxy.Service])
		b := p.buildOf(in)
		if sharing[b] == nil {
			all = append(all, b)
		}
		sharing[b] = append(sharing[b], n)
	}
	together(all, func(b *build) {
		for _, n := range sharing[b] {
			in := inputs[n]
			p.build(b, in)
			if b.good == nil || !haveBundles {
				n.outcome(b, "the trust bundle is not known yet")
				continue
			}
			p.hand(n, in, b, bundles, since)
		}
	})
}

// together calls f with each of all, on as many processors as there are, and returns when that is done.
func together[T any](all []T, f func(T)) {
	workers := min(runtime.GOMAXPROCS(0), len(all))
	if workers <= 1 {
		for _, x := range all {
			f(x)
		}
		return
	}
	var next atomic.Int64
	var working sync.WaitGroup
	for range workers {
		working.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= len(all) {
					return
				}
				f(all[i])
			}
		})
	}
	working.Wait()
}

// project finds out what the sessions' resources depend on, and ends those whose proxy is gone.
func (p *publisher) project(view *catalog.View, sessions []*session) map[*session]snapshot.Input {
	inputs := make(map[*session]snapshot.Input, len(sessions))
	for _, n := range sessions {
		in, ok := snapshot.Project(view, n.caller.Proxy)
		if ok {
			n.published.known = true
			in.Envoy = n.features
			inputs[n] = in
			continue
		}
		if n.published.known {
			p.server.metrics.streamsRejected.WithLabelValues(rejectedGone).Inc()
			n.end(status.Errorf(codes.PermissionDenied, "proxy %q left the catalog", n.caller.Proxy))
			continue
		}
		// A catalog that lags is no reason to send Envoy away, and no reason to send it an empty configuration either.
		n.wait("the catalog does not know the proxy")
	}
	return inputs
}

// observe fills in the generations, and returns the services that access was taken away from but whose rename is put off. all
// says that inputs are those of all sessions.
func (p *publisher) observe(inputs map[*session]snapshot.Input, all bool) (due map[identity.Name]bool) {
	if all {
		clear(p.drains)
		p.renameAt = time.Time{}
	}
	policies := map[identity.Name]snapshot.Input{}
	for _, in := range inputs {
		if in.Proxy.Inbound.Revocation == catalog.Drain {
			policies[in.Proxy.Service] = in
			p.drains[in.Proxy.Service] = max(p.drains[in.Proxy.Service], in.Envoy.DrainTime)
		}
	}
	now := time.Now()
	numbers := make(map[identity.Name]uint64, len(policies))
	due = map[identity.Name]bool{}
	for dst, in := range policies {
		number, raised, again := p.server.generations.observe(dst, in.Policy, p.drains[dst], now)
		numbers[dst] = number
		due[dst] = !again.IsZero()
		p.renameAt = first(p.renameAt, again)
		if raised {
			p.server.metrics.renames.Inc()
			p.server.log.Info("access was taken away, live connections end", "service", dst, "generation", number)
		}
	}
	p.save(now)
	for n, in := range inputs {
		if in.Proxy.Inbound.Revocation == catalog.Drain {
			in.Generation = numbers[in.Proxy.Service]
			inputs[n] = in
		}
	}
	return due
}

// save writes the generations. If that fails they are handed out all the same, and written later: that a revocation ends live
// connections now is worth more than the drain that a restart with an old file costs.
func (p *publisher) save(now time.Time) {
	if now.Before(p.saveAt) {
		return
	}
	p.saveAt = time.Time{}
	if err := p.server.generations.save(); err != nil {
		p.saveAt = now.Add(saveAgain)
		p.server.log.Error("generations are not saved: a restart before they are ends live connections once more", "err", err)
	}
}

// buildOf is what was tried for the proxy and the Envoy of in.
func (p *publisher) buildOf(in snapshot.Input) *build {
	key := buildKey{in.Proxy.ID, in.Envoy}
	b := p.builds[key]
	if b == nil {
		b = &build{}
		p.builds[key] = b
	}
	return b
}

// build tries to make the resources of in, unless that was the last thing tried. Builds of different proxies may go on at the same time.
func (p *publisher) build(b *build, in snapshot.Input) {
	if b.input.Proxy != nil && b.input.Same(in) {
		return
	}
	b.input = in
	var last, r *snapshot.Resources
	if b.good != nil {
		last = b.good.made
	}
	if r, b.err = p.cache.Build(in, last); b.err != nil {
		p.server.metrics.buildErrors.Inc()
		p.server.log.Error("no configuration for a proxy, it keeps its last one", "proxy", in.Proxy.ID, "origin", in.Proxy.Origin, "err", b.err)
		return
	}
	good := &built{generation: in.Generation, made: r}
	for k := range kinds {
		if k != secrets { // those are made of certificates, and of nothing else
			var made, kept map[string]*discoveryv3.Resource
			if last != nil {
				made, kept = last.ByType[k.url()], b.good.resources[k]
			}
			good.resources[k] = p.interned.all(k, r.ByType[k.url()], made, kept)
		}
	}
	b.good = good
}

// hand gives a session what was built, with its secrets, if all of them are in hand: with one missing, Envoy would not start at
// all, or, once running, keep a listener warming.
func (p *publisher) hand(n *session, in snapshot.Input, b *build, bundles *sds.Bundles, since time.Time) {
	t := &target{
		resources: b.good.resources, generation: b.good.generation,
		routeClusters: b.good.made.RouteClusters, judges: b.good.made.Judges,
	}
	t.resources[secrets] = make(map[string]*discoveryv3.Resource, len(b.good.made.Secrets))
	use := map[identity.Service]bool{}
	var missing []string
	for _, secret := range b.good.made.Secrets {
		r, err := p.secret(n, secret, bundles)
		if err != nil {
			n.published.complete = false
			n.outcome(b, fmt.Sprintf("secret %s: %v", secret.Name, err))
			p.server.log.Error("no secret for a proxy, it keeps its last configuration", "proxy", n.caller.Proxy, "err", err)
			return
		}
		if r == nil {
			missing = append(missing, secret.Name)
			continue
		}
		use[secret.Leaf] = true
		t.resources[secrets][secret.Name] = r
	}
	if len(missing) > 0 {
		n.published.complete = false // leafs wake us, and roots are a change
		n.outcome(b, "not there yet: "+strings.Join(missing, ", "))
		return
	}
	n.published.input, n.published.bundles, n.published.complete = in, bundles, true
	n.outcome(b, "")
	if t.equal(n.published.target) {
		return
	}
	n.published.target = t
	n.set(t, since)
	n.leafs.keep(use)
}

// secret makes one secret; nil: its leaf is not there yet.
func (p *publisher) secret(n *session, secret snapshot.Secret, bundles *sds.Bundles) (*discoveryv3.Resource, error) {
	if secret.Leaf == (identity.Service{}) {
		return bundles.Validation(secret.Name, secret.SANs, secret.Version)
	}
	leaf := n.leafs.watch(p.server.credentials, n.caller, secret.Leaf, func() { p.server.refresh(n) })
	if leaf == nil { // the stream has ended
		return nil, nil
	}
	return leaf.Secret(), nil
}

// sweep forgets what was kept for proxies that are gone.
func (p *publisher) sweep() {
	view, ok := p.server.views.Load()
	if !ok {
		return
	}
	p.server.mu.Lock()
	defer p.server.mu.Unlock()
	envoys := map[buildKey]bool{}
	for id, proxy := range p.server.proxies {
		if len(proxy.sessions) == 0 && view.Proxy(id) == nil {
			delete(p.server.proxies, id)
		}
		for n := range proxy.sessions {
			envoys[buildKey{id, n.features}] = true
		}
	}
	for key := range p.builds {
		if !envoys[key] {
			delete(p.builds, key)
		}
	}
}
