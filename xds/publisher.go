package xds

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/intention"
	"github.com/sallyport/sallyport/sds"
	"github.com/sallyport/sallyport/snapshot"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// publisher builds the targets of sessions. It belongs to the goroutine of Server.Run, and to those
// that it starts and waits for, each of which has builds and sessions of its own.
type publisher struct {
	server   *Server
	cache    snapshot.Cache
	recorder recorder
	view     *catalog.View // the one that was published last
	bundles  *sds.Roots    // the ones that were published last
	// federated are the bundles of other trust domains that were published last.
	federated []*sds.Roots
	// builds are those of open sessions: two streams of one proxy share one, unless their Envoys
	// differ.
	builds map[identity.ProxyID]map[snapshot.Features]*build
	// waiting are the services of which something waits for the disk, and the policies that hold
	// meanwhile, nil for those without a name yet; stale: told has others.
	waiting map[identity.Name]*intention.Policy
	stale   bool
	renames map[identity.Name]time.Time // delayed renames, and when they are due
}

// build is the last build of a proxy's resources, and the last that succeeded.
type build struct {
	input     snapshot.Input
	err       error
	good      *snapshot.Resources // nil: none has succeeded yet
	goodInput snapshot.Input      // of good
	// judges say who may connect now, if not even the last good resources can be built with that;
	// nil: good says it, or nothing can be said.
	judges *snapshot.Resources
	// bounded replaces boundedOf, the catalog's view of the proxy, as long as part of its policy
	// waits for the disk.
	bounded, boundedOf *catalog.ProxyView
	// redials is the Input's, and redialled the revocations that it is for.
	redials   string
	redialled map[string]bool
}

// published is what the publisher has published to a session.
type published struct {
	known     bool // the catalog has had the proxy since the stream was opened
	complete  bool // target was made of input and bundles
	input     snapshot.Input
	bundles   *sds.Roots
	federated []*sds.Roots // as of the secrets that name other trust domains
	target    *target
	dismissed bool              // the stream was ended
	secrets   []snapshot.Secret // those of target, in order
	change    uint64            // the newest change that target has
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
	views, bundles, federated := s.views.Changed(), s.credentials.RootsChanged(), s.federated.Changed()
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
		case <-federated:
			federated = s.federated.Changed()
			storm.change(time.Now())
		case <-s.wake:
			p.publish(s.takePending(), time.Now(), true)
		case <-s.ending:
			p.endConnections()
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
		p.recorder.start(s.generations, now, func(write func()) { go write() })
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
		waiting: map[identity.Name]*intention.Policy{}, renames: map[identity.Name]time.Time{},
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
	federated, _ := p.server.federated.Load()
	all := bundles != p.bundles || !slices.Equal(federated, p.federated)
	if p.bundles, p.federated = bundles, federated; all {
		p.warnOfIntermediates()
	}
	old := p.view
	p.view, p.stale = view, p.stale || view != old
	var out []*session
	for id, w := range view.Since(old) {
		if w != nil {
			p.observe(w) // without sessions, too: ext_authz is asked by whoever has a token
		} else {
			p.server.forget(id)
			p.left(old.Proxy(id).Proxy.Service)
		}
		if !all {
			out = append(out, p.server.sessionsOf(id)...)
		}
	}
	p.tell()
	p.server.metrics.change.Set(float64(view.Change().Number))
	if all {
		return p.server.sessions()
	}
	return append(out, p.holders(old)...)
}

// left notes that a proxy of the service left the catalog.
func (p *publisher) left(service identity.Name) {
	for range p.view.Of(service) {
		return
	}
	p.server.generations.leave(service, time.Now())
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
	was := p.waiting
	p.waiting, p.stale = map[identity.Name]*intention.Policy{}, true
	for service := range was {
		for w := range p.view.Of(service) {
			p.observe(w)
			waited = append(waited, p.server.sessionsOf(w.Proxy.ID)...)
		}
	}
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

// publish updates the targets of sessions to p's view and the present certificates. since is when
// the change behind it was seen. fresh: their leafs may have changed, or they are new.
func (p *publisher) publish(sessions []*session, since time.Time, fresh bool) {
	view := p.view
	if view.Mesh() == nil {
		for _, n := range sessions {
			n.wait("the catalog is not known yet")
		}
		return
	}
	bundles, haveBundles := p.server.credentials.Roots()
	var all []*build
	sharing := map[*build][]*session{}
	inputs := make(map[*build]input, len(sessions))
	for _, n := range sessions {
		w := view.Proxy(n.caller.Proxy)
		if w == nil {
			p.absent(n)
			continue
		}
		if !p.admits(w.Proxy, n) {
			continue
		}
		n.published.known = true
		b := p.buildOf(n)
		in, known := inputs[b]
		if !known {
			in = p.input(b, w, n)
			inputs[b] = in
		}
		n.describe(p.renames[w.Proxy.Service])
		if !fresh && n.published.complete && n.published.bundles == bundles && n.published.input == in.Input && !p.concernedByOthers(n) {
			continue
		}
		if sharing[b] == nil {
			all = append(all, b)
		}
		sharing[b] = append(sharing[b], n)
	}
	p.tell() // before Envoys have the names for which it holds
	parallel(all, func(b *build) {
		in := inputs[b].Input
		p.build(b, in)
		for _, n := range sharing[b] {
			switch {
			case b.judges != nil:
				n.outcome(b, "")
				p.handJudges(n, b.judges, bundles, since)
			case b.good == nil:
				n.outcome(b, "")
			case !haveBundles:
				n.outcome(b, "the trust bundle is not known yet")
				p.handJudges(n, b.good, nil, since)
			case inputs[b].unnamed && !n.published.target.whole():
				n.outcome(b, "the name of its filter chain is not recorded yet")
				p.handJudges(n, b.good, bundles, since)
			default:
				p.hand(view, n, in, b, bundles, since, fresh)
			}
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
	if err := p.recorder.end(p.server.generations); err != nil {
		p.server.log.Error("filter chain generations are not saved, the next start ends live connections once more", "err", err)
	}
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

// input is the Input of a proxy's resources for an Envoy. unnamed: it is not for Envoys that have
// nothing yet.
type input struct {
	snapshot.Input
	unnamed bool
}

// input is that of w for n's Envoy.
func (p *publisher) input(b *build, w *catalog.ProxyView, n *session) input {
	g, policy := p.observe(w)
	in := input{Input: snapshot.Input{ProxyView: w, Envoy: n.features, Redials: p.redials(b, w, n)}}
	if in.Ended = p.server.generations.ended; g != nil {
		in.Ended = 0
		in.Generation, in.unnamed = g.number, g.unnamed()
	}
	if policy != w.Policy {
		if b.boundedOf != w || b.bounded.Policy != policy {
			bounded := *w
			bounded.Policy = policy
			b.bounded, b.boundedOf = &bounded, w
		}
		in.ProxyView = b.bounded
	}
	return in
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

// build builds the resources of in, unless in is the Input of the last build. If that fails the last
// good resources stay, but for who may connect: that is always what in says, and nobody at all if
// the proxy is of another service by now. As long as none was good, only that is told. Builds of
// different proxies may run at the same time.
func (p *publisher) build(b *build, in snapshot.Input) {
	if b.input == in {
		return
	}
	b.input, b.judges = in, nil
	r, err := p.cache.Build(in, b.good)
	if b.err = err; err != nil {
		p.server.metrics.buildErrors.Inc()
		p.server.log.Error("no configuration for a proxy, it keeps its last one, but for who may connect", "proxy", in.Proxy.ID, "origin", in.Proxy.Origin, "err", err)
		if b.good == nil {
			b.judges, _ = p.cache.BuildJudges(in) // its error is a part of the one above
			return
		}
		kept := *b.goodInput.ProxyView
		if kept.Policy = in.Policy; kept.Proxy.Service != in.Proxy.Service {
			kept.Policy = nil
		}
		in.ProxyView = &kept
		if r, err = p.cache.Build(in, b.good); err != nil {
			b.judges, _ = p.cache.BuildJudges(in)
			return
		}
	}
	b.good, b.goodInput = r, in
}

// hand gives a session a target of the build and its secrets, if none is missing: without one,
// Envoy would not start or, once running, keep a listener warming, so that it is told only who may
// connect.
func (p *publisher) hand(view *catalog.View, n *session, in snapshot.Input, b *build, bundles *sds.Roots, since time.Time, fresh bool) {
	t := &target{generation: max(b.goodInput.Generation, b.goodInput.Ended), leadsTo: b.good.Clusters, inbound: b.good.Inbound, judges: b.good.Judges, bundles: bundles}
	if b.goodInput.Redials != "" {
		t.redials = b.goodInput.Proxy.Service.LeafSecret()
	}
	for k := range kinds {
		t.resources[k] = b.good.ByType[k.url()]
	}
	t.resources[secrets] = make(snapshot.Set, 0, len(b.good.Secrets))
	var missing []string
	had := n.published.secrets // that are still the same
	if fresh || !n.published.complete || n.published.bundles != bundles || p.concernedByOthers(n) || n.published.input.Redials != in.Redials {
		had = nil
	}
	others := len(had) != len(b.good.Secrets)
	for i, secret := range b.good.Secrets {
		if i < len(had) && had[i].Is(secret) {
			t.resources[secrets] = append(t.resources[secrets], n.published.target.resources[secrets][i])
			t.keep(secret.Name, n.published.target.leaf(secret.Name))
			continue
		}
		others = true
		r, svid, err := p.secret(n, secret, bundles)
		if err != nil {
			n.published.complete = false
			n.outcome(b, fmt.Sprintf("secret %s: %v", secret.Name, err))
			p.server.log.Error("no secret for a proxy, it keeps its last configuration, but for who may connect", "proxy", n.caller.Proxy, "err", err)
			p.handJudges(n, b.good, bundles, since)
			return
		}
		if r == nil {
			missing = append(missing, secret.Name)
			continue
		}
		t.resources[secrets] = append(t.resources[secrets], r)
		t.keep(secret.Name, svid)
	}
	if len(missing) > 0 {
		n.published.complete = false // new leafs and roots publish again
		n.outcome(b, "not there yet: "+strings.Join(missing, ", "))
		p.handJudges(n, b.good, bundles, since)
		return
	}
	n.published.input, n.published.bundles, n.published.federated, n.published.complete = in, bundles, p.federated, true
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
	} else if others {
		use := map[identity.Service]bool{}
		for _, secret := range b.good.Secrets {
			use[secret.Leaf] = true
		}
		n.leafs.Keep(use)
	}
	n.published.target, n.published.secrets = t, b.good.Secrets
	n.set(t, since, change)
}

// secret makes one secret, and returns the leaf in it, if it has one; nil: there is no leaf for it yet.
func (p *publisher) secret(n *session, secret snapshot.Secret, bundles *sds.Roots) (r *discoveryv3.Resource, svid *sds.SVID, err error) {
	if secret.Leaf == (identity.Service{}) {
		r, err = p.validation(secret, bundles)
		return r, nil, err
	}
	if svid = n.leafs.SVID(secret.Leaf); svid == nil {
		return nil, nil, nil
	}
	r, err = p.cache.Leaf(secret, svid.Certificates, svid.PrivateKey)
	return r, svid, err
}
