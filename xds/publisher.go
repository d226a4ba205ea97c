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

// saveAgain is how long after a failed write the generations are written again.
const saveAgain = 5 * time.Second

// publisher builds the targets of sessions. It belongs to the goroutine of Server.Run, and to those
// that it starts and waits for, each of which has builds and sessions of its own.
type publisher struct {
	server   *Server
	cache    snapshot.Cache
	recorder recorder
	view     *catalog.View // the one that was published last
	bundles  *sds.Roots    // the ones that were published last
	// builds are those of open sessions: two streams of one proxy share one, unless their Envoys
	// differ.
	builds  map[identity.ProxyID]map[snapshot.Features]*build
	waiting map[identity.Name]bool      // services of which something waits for the disk
	renames map[identity.Name]time.Time // delayed renames, and when they are due
}

// build is the last build of a proxy's resources, and the last that succeeded.
type build struct {
	input      snapshot.Input
	err        error
	good       *snapshot.Resources // nil: none has succeeded yet
	generation uint64              // of good
	// bounded replaces boundedOf, the catalog's view of the proxy, as long as part of its policy
	// waits for the disk.
	bounded, boundedOf *catalog.ProxyView
}

// published is what the publisher has published to a session.
type published struct {
	known    bool // the catalog has had the proxy since the stream was opened
	complete bool // target was made of input and bundles
	input    snapshot.Input
	bundles  *sds.Roots
	target   *target
	change   uint64 // the newest change that target has
}

// Run publishes until ctx ends; then it ends all streams, with some jitter, waits for them and
// returns nil. It runs once; the second call is an error.
func (s *Server) Run(ctx context.Context) error {
	s.mu.Lock()
	if s.ran {
		s.mu.Unlock()
		return errors.New("xds: a Server runs once")
	}
	s.ran = true
	s.mu.Unlock()
	p := newPublisher(s)
	defer p.close()
	defer s.endStreams()
	views, bundles := s.views.Changed(), s.credentials.RootsChanged()
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
			bundles = s.credentials.RootsChanged()
			storm.change(time.Now())
		case <-s.wake:
			p.publish(s.takePending(), time.Now(), true)
		case r := <-p.recorder.done:
			p.recorded(r)
		case <-due.C:
		}
		p.dropBuilds()
		now := time.Now()
		renames := p.renamesDue(now)
		if storm.due(now) {
			p.publish(append(p.concerned(), renames...), storm.since, false)
			storm.published(time.Now())
		} else if len(renames) > 0 {
			p.publish(renames, now, false)
		}
		p.recorder.start(s.generations, now, s.streams.Go)
		at := first(storm.at, p.recorder.retryAt)
		for _, t := range p.renames {
			at = first(at, t)
		}
		if !at.IsZero() {
			due.Reset(time.Until(at))
		}
	}
}

func newPublisher(s *Server) *publisher {
	return &publisher{
		server: s, view: &catalog.View{}, recorder: s.recorder,
		builds:  map[identity.ProxyID]map[snapshot.Features]*build{},
		waiting: map[identity.Name]bool{}, renames: map[identity.Name]time.Time{},
	}
}

// concerned updates p to the newest view and roots, and returns the sessions that the change
// concerns.
func (p *publisher) concerned() []*session {
	view, ok := p.server.views.Load()
	if !ok || view.Mesh() == nil {
		return p.server.sessions()
	}
	bundles, _ := p.server.credentials.Roots()
	all := bundles != p.bundles
	p.bundles = bundles
	now := time.Now()
	p.server.generations.change = view.Change().Number
	var out []*session
	for id, w := range view.Since(p.view) {
		if w != nil && w.Proxy.Inbound.Revocation == catalog.Drain {
			p.server.generations.ensure(w.Proxy.Service, w.Policy, now)
		}
		if w == nil {
			p.server.forget(id)
		}
		if !all {
			out = append(out, p.server.sessionsOf(id)...)
		}
	}
	p.view = view
	p.server.metrics.change.Set(float64(view.Change().Number))
	if all {
		return p.server.sessions()
	}
	return out
}

// renamesDue returns the sessions of services whose delayed rename is due.
func (p *publisher) renamesDue(now time.Time) (out []*session) {
	for service, at := range p.renames {
		if !now.Before(at) {
			delete(p.renames, service)
			out = append(out, p.sessionsOfService(service)...)
		}
	}
	return out
}

func (p *publisher) sessionsOfService(service identity.Name) (out []*session) {
	for w := range p.view.Of(service) {
		out = append(out, p.server.sessionsOf(w.Proxy.ID)...)
	}
	return out
}

// recorded notes the result of a recording, and publishes what waited for it.
func (p *publisher) recorded(r recording) {
	p.recorder.finish(p.server.generations, r, time.Now())
	p.server.unrecorded.Store(nil)
	if err := p.recorder.err; err != nil {
		text := fmt.Sprintf("filter chain generations are not saved, so a restart ends live connections once more: %v", err)
		p.server.unrecorded.Store(&text)
		p.server.log.Error("filter chain generations are not saved, what is granted is granted all the same", "err", err)
	}
	var waited []*session
	for service := range p.waiting {
		waited = append(waited, p.sessionsOfService(service)...)
	}
	clear(p.waiting)
	p.publish(waited, time.Now(), false)
}

// takePending returns, once, the sessions to publish to without a change of the catalog.
func (s *Server) takePending() []*session {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := slices.Collect(maps.Keys(s.pending))
	clear(s.pending)
	return all
}

// publish updates the targets of sessions to the present catalog and certificates. since is when
// the change behind it was seen. fresh: their leafs may have changed, or they are new.
func (p *publisher) publish(sessions []*session, since time.Time, fresh bool) {
	view, ok := p.server.views.Load()
	if !ok || view.Mesh() == nil {
		for _, n := range sessions {
			n.wait("the catalog is not known yet")
		}
		return
	}
	bundles, haveBundles := p.server.credentials.Roots()
	var all []*build
	sharing := map[*build][]*session{}
	inputs := make(map[*build]snapshot.Input, len(sessions))
	for _, n := range sessions {
		w := view.Proxy(n.caller.Proxy)
		if w == nil {
			p.absent(n)
			continue
		}
		n.published.known = true
		b := p.buildOf(n)
		in, known := inputs[b]
		if !known {
			in = p.input(b, w, n)
			inputs[b] = in
		}
		_, due := p.renames[w.Proxy.Service]
		n.describe(due)
		if in.ProxyView == nil {
			n.wait("the name of its filter chain is not recorded yet")
			continue
		}
		if !fresh && n.published.complete && n.published.bundles == bundles && n.published.input == in {
			continue
		}
		if sharing[b] == nil {
			all = append(all, b)
		}
		sharing[b] = append(sharing[b], n)
	}
	parallel(all, func(b *build) {
		in := inputs[b]
		p.build(b, in)
		for _, n := range sharing[b] {
			if b.good == nil || !haveBundles {
				n.outcome(b, "the trust bundle is not known yet")
				continue
			}
			p.hand(view, n, in, b, bundles, since)
		}
	})
}

// waitsForRecord says why in has less than the catalog allows; empty if it does not.
func (b *build) waitsForRecord(in snapshot.Input) string {
	if in.ProxyView == b.bounded && b.bounded != nil {
		return "who was let in last has to wait until that is recorded on disk"
	}
	return ""
}

// dropBuilds drops the builds of proxies without streams.
func (p *publisher) dropBuilds() {
	for _, id := range p.server.takeDisconnected() {
		delete(p.builds, id)
		if p.view.Proxy(id) == nil {
			p.server.forget(id)
		}
	}
}

// close records generations that are not recorded, so that the next start does not end their
// connections.
func (p *publisher) close() {
	if p.recorder.busy {
		p.recorder.finish(p.server.generations, <-p.recorder.done, time.Now())
	}
	p.recorder.start(p.server.generations, time.Now(), func(f func()) { f() })
}

// absent handles a session whose proxy is not in the catalog. If it has never been, the catalog may
// lag, so the stream stays open and gets nothing; if it has left the catalog, the stream ends.
func (p *publisher) absent(n *session) {
	if !n.published.known {
		n.wait("the catalog does not know the proxy")
		return
	}
	p.server.metrics.streamsRejected.WithLabelValues(rejectedGone).Inc()
	n.end(status.Errorf(codes.PermissionDenied, "proxy %q left the catalog", n.caller.Proxy))
}

// input is the Input of w's resources for n's Envoy. Its ProxyView is nil as long as nothing may be
// published.
func (p *publisher) input(b *build, w *catalog.ProxyView, n *session) snapshot.Input {
	in := snapshot.Input{ProxyView: w, Envoy: n.features}
	if w.Proxy.Inbound.Revocation != catalog.Drain {
		return in
	}
	service := w.Proxy.Service
	drain := func() (longest time.Duration) {
		for _, n := range p.sessionsOfService(service) {
			longest = max(longest, n.features.DrainTime)
		}
		return longest
	}
	g, raised, retryAt := p.server.generations.observe(service, w.Policy, drain, time.Now())
	if raised {
		p.server.metrics.renames.Inc()
		p.server.log.Info("access revoked, closing live connections", "service", service, "generation", g.number)
	}
	if retryAt.IsZero() {
		delete(p.renames, service)
	} else {
		p.renames[service] = retryAt
	}
	in.Generation = g.number
	policy, extent := p.server.generations.publishable(g)
	if extent != publishAll {
		p.waiting[service] = true
	}
	switch extent {
	case publishAll:
	case publishNothing:
		in.ProxyView = nil
	case publishBounded:
		if b.boundedOf != w || b.bounded.Policy != policy {
			bounded := *w
			bounded.Policy = policy
			b.bounded, b.boundedOf = &bounded, w
		}
		in.ProxyView = b.bounded
	}
	return in
}

// parallel calls f with each of all, on all processors, and returns when all calls have returned.
func parallel[T any](all []T, f func(T)) {
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

// buildOf is the build for the proxy and the Envoy of n.
func (p *publisher) buildOf(n *session) *build {
	of := p.builds[n.caller.Proxy]
	if of == nil {
		of = map[snapshot.Features]*build{}
		p.builds[n.caller.Proxy] = of
	}
	b := of[n.features]
	if b == nil {
		b = &build{}
		of[n.features] = b
	}
	return b
}

// build builds the resources of in, unless in is the Input of the last build. Builds of different
// proxies may run at the same time.
func (p *publisher) build(b *build, in snapshot.Input) {
	if b.input == in {
		return
	}
	b.input = in
	r, err := p.cache.Build(in, b.good)
	if b.err = err; err != nil {
		p.server.metrics.buildErrors.Inc()
		p.server.log.Error("no configuration for a proxy, it keeps its last one", "proxy", in.Proxy.ID, "origin", in.Proxy.Origin, "err", err)
		return
	}
	b.good, b.generation = r, in.Generation
}

// hand gives a session a target of the build and its secrets, if none is missing: without one,
// Envoy would not start or, once running, keep a listener warming.
func (p *publisher) hand(view *catalog.View, n *session, in snapshot.Input, b *build, bundles *sds.Roots, since time.Time) {
	t := &target{generation: b.generation, leadsTo: b.good.Clusters, inbound: b.good.Inbound, judges: b.good.Judges}
	for k := range kinds {
		t.resources[k] = b.good.ByType[k.url()]
	}
	t.resources[secrets] = make(snapshot.Set, 0, len(b.good.Secrets))
	use := map[identity.Service]bool{}
	var missing []string
	for _, secret := range b.good.Secrets {
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
		t.resources[secrets] = append(t.resources[secrets], r)
	}
	if len(missing) > 0 {
		n.published.complete = false // new leafs and roots publish again
		n.outcome(b, "not there yet: "+strings.Join(missing, ", "))
		return
	}
	n.published.input, n.published.bundles, n.published.complete = in, bundles, true
	waits := b.waitsForRecord(in)
	n.outcome(b, waits)
	var change uint64
	if waits == "" {
		var seen time.Time
		if change, seen = changesOf(view, in.ProxyView, n.published.change); change != 0 {
			n.published.change = change
			if !seen.IsZero() {
				since = seen
			}
		}
	}
	if t.equal(n.published.target) {
		t = n.published.target
	} else {
		n.leafs.Keep(use)
	}
	n.published.target = t
	n.set(t, since, change)
}

// secret makes one secret; nil: there is no leaf for it yet.
func (p *publisher) secret(n *session, secret snapshot.Secret, bundles *sds.Roots) (*discoveryv3.Resource, error) {
	if secret.Leaf == (identity.Service{}) {
		return p.cache.Validation(secret, bundles.PEM())
	}
	svid := n.leafs.SVID(secret.Leaf)
	if svid == nil {
		return nil, nil
	}
	return p.cache.Leaf(secret, svid.Certificates, svid.PrivateKey)
}
