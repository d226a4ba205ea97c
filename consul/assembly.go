package consul

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"time"

	"github.com/hashicorp/consul/api"
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/internal/backoff"
)

const (
	// pause is how long is waited after contents were put together, so that a storm of answers is
	// taken in together. The first is taken in at once.
	pause = 10 * time.Millisecond
	// firstWait is how long a proxy that was never served waits for one of its upstreams.
	firstWait = 5 * time.Second
	// holdTime is how long, after the agent, or another datacenter, was away, a service whose every
	// instance is critical keeps its last healthy endpoints: checks come back critical until they
	// have run once.
	holdTime = 15 * time.Second
	// seedWait is how long a start waits for the agent before it publishes what the last-known-good
	// file holds.
	seedWait = 2 * time.Second
	// partialSave is how long after the start contents of which something is not known are not
	// saved: soon after it half of what is known is less than what the file holds.
	partialSave = time.Minute
)

// assembly puts contents together out of what is known. It is used by one goroutine.
//
// Contents are put together anew when anything changed but the endpoints of targets whose endpoints
// were known; what comes out equal stays the same pointer. New endpoints alone touch their target's
// Endpoints and nothing else.
type assembly struct {
	agent   *Agent
	watcher *watcher
	publish func(catalog.Contents)
	saver   *saver
	started time.Time
	logged  map[string]bool // problems
	away    bool            // the agent did not answer at the last turn
	memory

	roots *api.CARootList // that the agent's roots were made of

	// What was put together last:
	basis         basis
	contents      catalog.Contents
	nodeProxies   nodeProxies
	asksForTokens bool
	tokensAsked   time.Time // since when; zero: not
	inquired      []string  // the destinations that somebody asks about
	fromFile      bool      // something of it is the last-known-good file's
	complete      bool      // nothing of it is, or waits
	live          bool      // something of it is not the file's
	wakeAt        time.Time // when to do it again though nothing is learnt; zero: no need
	unpublished   time.Time // when the first news came that was not published yet; zero: none

	targets   map[string]*target            // that are dialled
	leads     map[leadKey]*lead             // what is in use
	published map[string]*catalog.Endpoints // by what they are published as
	asked     map[string]parts              // by what the agent is asked for

	// While it is put together:
	now      time.Time
	problems []Problem
	waits    bool // something of it is not known yet
}

// basis is what contents are put together from, beside their endpoints, memory and time.
type basis struct {
	epoch    uint64 // of what is known
	restored uint64 // how often Consul's state was put back
	contact  contactState
	aclsOff  bool
	open     string // the services that the anonymous token may write
}

// memory is what one assembly leaves to the next that what is known does not tell.
type memory struct {
	served     map[identity.ProxyID]bool      // have been served
	first      map[identity.ProxyID]time.Time // when they were first wanted
	waiting    map[string]time.Time           // applications by their origin: since when their intentions are not known
	checkPaths map[checkKey]string            // that checks ask for
	endpoints  map[string]endpointState       // by what they are published as
	inForce    map[string]*discovery          // whose chain is, by target
	awaited    map[string]time.Time           // what of the endpoints is asked for: since when
	// datacenters are all that were ever listed: servers that were restarted while another
	// datacenter is away know nothing of it, and those who come from there are not to be denied for
	// that.
	datacenters map[string]bool
}

// nodeProxies are the proxies that are registered on the node, by ID, and what they were read from.
type nodeProxies struct {
	from       *nodeServices
	datacenter string
	list       []*nodeProxy
	targets    map[string]*target // that they dial
	// applications are those that speak for themselves, sorted by ID.
	applications []*catalog.Registration
	wants        wants
}

// nodeProxy is what a registration was read as.
type nodeProxy struct {
	*sidecar
	targets []*target // of its upstreams

	// What sidecar.finish came to last, and with what.
	discovery        *discovery
	own              meshDefaults
	finished         catalog.Proxy
	finishedProblems []Problem
}

func newAssembly(a *Agent, publish func(catalog.Contents)) *assembly {
	b := &assembly{
		agent: a, watcher: &watcher{agent: a}, publish: publish, started: time.Now(),
		saver: newSaver(a.config.LKGFile, a.log),
		memory: memory{
			map[identity.ProxyID]bool{},
			map[identity.ProxyID]time.Time{},
			map[string]time.Time{},
			map[checkKey]string{},
			map[string]endpointState{},
			map[string]*discovery{},
			map[string]time.Time{},
			map[string]bool{},
		},
		leads: map[leadKey]*lead{},
	}
	if a.seed != nil {
		for id := range a.seed.proxies {
			b.served[id] = true
		}
	}
	return b
}

// run puts contents together whenever something is learnt, until ctx ends.
func (b *assembly) run(ctx context.Context) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	b.agent.running.Go(func() { b.saver.run(ctx) })
	for {
		b.turn(ctx)
		if !backoff.Sleep(ctx, pause) {
			return
		}
		next := time.Hour
		if !b.wakeAt.IsZero() {
			next = max(time.Until(b.wakeAt), 0)
		}
		timer.Reset(next)
		select {
		case <-ctx.Done():
			return
		case <-b.agent.wake:
		case <-timer.C:
		}
	}
}

// wake makes run put contents together again at t, if not earlier.
func (b *assembly) wake(t time.Time) {
	if b.wakeAt.IsZero() || t.Before(b.wakeAt) {
		b.wakeAt = t
	}
}

// pending is a problem of a proxy that waits for something, which soon comes as a rule.
func (b *assembly) pending(p identity.ProxyID, upstream, entry, format string, args ...any) {
	b.waits = true
	b.problem(p, upstream, entry, format, args...)
	b.problems[len(b.problems)-1].waits = true
}

func (b *assembly) problem(p identity.ProxyID, upstream, entry, format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	b.problems = append(b.problems, Problem{Proxy: p, Upstream: upstream, Entry: entry, Text: text})
}

// turn takes in what was learnt since the last one, and publishes it.
func (b *assembly) turn(ctx context.Context) {
	a := b.agent
	b.now = time.Now()
	c := a.client.contact.state()
	if away := !c.lost.IsZero(); away != b.away {
		b.away = away
		if away {
			a.log.Warn("consul agent does not answer, what is known stays: see that it runs, and that CONSUL_HTTP_ADDR names it", "addr", a.client.name,
				"err", c.cause)
		} else {
			a.log.Info("consul agent answers again", "addr", a.client.name)
		}
	}
	c.last = time.Time{}
	now := basis{restored: a.client.limiter.epoch(), contact: c, aclsOff: a.acl.aclsOff(), open: a.acl.openServices()}

	a.mu.Lock()
	now.epoch = a.known.epoch
	touched := a.known.newEndpoints
	a.known.newEndpoints = nil
	if b.unpublished.IsZero() {
		b.unpublished = a.known.unpublished
	}
	a.known.unpublished = time.Time{}
	due := !b.wakeAt.IsZero() && !b.now.Before(b.wakeAt)
	changed, ok := false, now == b.basis && !due && !b.fromFile
	if ok {
		changed, ok = b.takeEndpoints(touched)
	}
	a.mu.Unlock()
	switch {
	case !ok:
		b.basis = now
		b.rebuild(ctx)
	case changed:
		b.publishContents()
	default:
		b.unpublished = time.Time{} // it was no change
	}
}

// rebuild puts contents together anew, and publishes them.
func (b *assembly) rebuild(ctx context.Context) {
	a := b.agent
	b.wakeAt, b.problems, b.fromFile, b.waits = time.Time{}, nil, false, false
	a.mu.Lock()
	self, roots := a.known.self, a.known.roots
	a.mu.Unlock()
	if roots.ok && roots.value != b.roots {
		b.roots = roots.value
		if r, err := rootsOf(roots.value); err == nil { // each was read when it came
			a.roots.Set(r)
		}
	}
	switch {
	case a.config.Node != "":
		b.watcher.node(ctx, a.config.Node)
	case self.ok && self.value.Config.NodeName != "":
		b.watcher.node(ctx, self.value.Config.NodeName)
	case hasStatus(self.err, http.StatusForbidden):
		b.watcher.nodeless(ctx)
	}
	registered := b.readNode()
	if registered {
		b.watcher.want(ctx, b.wanted())
	}
	a.mu.Lock()
	if perName := a.known.bulk.perName; b.now.Before(perName) {
		b.wake(perName)
	}
	c, ok := b.assemble(registered)
	if ok {
		c.Reuse(&b.contents)
		b.contents = c
	}
	b.watcher.tokens(ctx, b.asksForTokens)
	b.failures()
	b.report() //nolint:contextcheck // a log line needs none
	if b.complete = b.live && !b.fromFile && !b.waits; b.complete {
		a.seed = nil
	}
	if end := b.started.Add(partialSave); b.live && !b.complete && b.now.Before(end) {
		b.wake(end)
	}
	settled := a.status.Settled
	if end := b.started.Add(firstWait); ok && !settled {
		if settled = b.complete || !b.live || !b.now.Before(end); !settled {
			b.wake(end)
		}
	}
	a.mu.Unlock()
	if ok {
		b.publishContents()
		a.mu.Lock()
		a.status.Settled = settled
		a.mu.Unlock()
	}
}

// publishContents publishes the contents.
func (b *assembly) publishContents() {
	b.contents.Seen, b.unpublished = b.unpublished, time.Time{}
	b.publish(b.contents)
	if b.complete || b.live && !b.now.Before(b.started.Add(partialSave)) {
		b.saver.put(b.contents)
	}
}

// readNode reads the proxies that are registered on the node; false: they are not known.
func (b *assembly) readNode() bool {
	a := b.agent
	a.mu.Lock()
	services, datacenter := a.known.services, b.datacenter()
	a.mu.Unlock()
	if !services.ok || datacenter == "" {
		return false
	}
	if n := &b.nodeProxies; n.from == services.value && n.datacenter == datacenter {
		return true
	}
	var host string
	if n := services.value.Node; n != nil {
		host = n.Address
	}
	byID := make(map[string]*registration, len(services.value.Services))
	for _, r := range services.value.Services {
		if r != nil {
			byID[r.ID] = r
		}
	}
	n := nodeProxies{from: services.value, datacenter: datacenter, targets: map[string]*target{}}
	n.wants = wants{chains: map[string]bool{}, intentions: map[string]bool{}}
	all := make(map[identity.ProxyID]*catalog.Proxy, len(byID))
	for _, id := range slices.Sorted(maps.Keys(byID)) {
		if app, ok := readApplication(byID[id]); ok {
			n.applications = append(n.applications, app)
			n.wants.intentions[app.Service.Service] = true
			n.wants.checks = n.wants.checks || app.Native
			continue
		}
		s, ok := readSidecar(byID[id], byID, datacenter, host)
		if !ok {
			continue
		}
		p := &nodeProxy{sidecar: s}
		n.list = append(n.list, p)
		all[s.proxy.ID] = &s.proxy
		if s.nobody {
			continue
		}
		n.wants.checks = n.wants.checks || s.checks
		n.wants.chains[s.proxy.Service.Service], n.wants.intentions[s.proxy.Service.Service] = true, true
		for _, u := range s.upstreams {
			t := n.targets[u.target]
			if t == nil {
				t = &target{name: u.target, mode: u.gateway}
				n.targets[u.target] = t
			}
			t.mixed = t.mixed || t.mode != u.gateway
			p.targets = append(p.targets, t)
		}
	}
	b.nodeProxies = n
	a.elsewhere.belong(n.wants.intentions)
	maps.DeleteFunc(b.waiting, func(origin string, _ time.Time) bool {
		return !slices.ContainsFunc(n.applications, func(r *catalog.Registration) bool { return r.Origin == origin })
	})
	a.proxies.Set(all)
	maps.DeleteFunc(b.first, func(id identity.ProxyID, _ time.Time) bool { return all[id] == nil })
	// one that comes back is a new one
	maps.DeleteFunc(b.served, func(id identity.ProxyID, _ bool) bool { return all[id] == nil })
	return true
}

// failures names the queries that fail and those that do not see everything. An agent that was lost
// is one problem, however many queries it does not answer. Agent.mu is held.
func (b *assembly) failures() {
	a, c := b.agent, &b.basis.contact
	a.status.Filtered = nil
	if !c.lost.IsZero() {
		b.problem("", "", "agent", "%s is not reached since %s: %s", a.client.name,
			c.lost.UTC().Format(time.RFC3339), c.cause)
	}
	if b.basis.aclsOff {
		b.problem("", "", aclsEntry,
			"they are off: any process of this machine that reaches the xDS socket or address is given any service's certificate, as under Consul's own control plane")
	}
	if b.basis.open != "" {
		b.problem("", "", "ACLs",
			"the anonymous token has service:write on %s: any process of this machine that reaches the xDS socket or address is given the certificates of these, as under Consul's own control plane (default_policy, or the policies of the anonymous token)", b.basis.open)
	}
	a.each(func(kind, name string, h *health) {
		// while it is lost, and until it was asked again afterwards, that is one problem
		away := errors.Is(h.err, errUnreachable) && (!c.lost.IsZero() || h.failed.Before(c.back))
		if h.err != nil && !away {
			b.problem("", "", kind+name, "cannot be read: %v", h.err)
		}
		if h.filtered {
			a.status.Filtered = append(a.status.Filtered, kind+name)
		}
	})
	slices.Sort(a.status.Filtered)
}

// report puts the problems into the status and logs those that are new. Agent.mu is held.
func (b *assembly) report() {
	a := b.agent
	slices.SortFunc(b.problems, func(x, y Problem) int {
		return cmp.Or(cmp.Compare(x.Proxy, y.Proxy), cmp.Compare(x.Upstream, y.Upstream),
			cmp.Compare(x.Entry, y.Entry), cmp.Compare(x.Text, y.Text))
	})
	b.problems = slices.Compact(b.problems)
	logged := make(map[string]bool, len(b.problems))
	for _, p := range b.problems {
		key := p.String()
		// What a proxy waits for at first is no news.
		first := b.first[p.Proxy]
		if p.Proxy == "" {
			first = b.waiting[p.Entry]
		}
		if p.waits && b.now.Before(first.Add(firstWait)) {
			b.wake(first.Add(firstWait))
			continue
		}
		logged[key] = true
		switch {
		case b.logged[key]:
		case p.Entry == aclsEntry: // somebody's choice, and nothing is amiss
			a.log.Info("consul has no ACLs", "err", p.Text)
		default:
			a.log.LogAttrs(context.Background(), slog.LevelWarn, "part of the Consul configuration is not served", p.attrs()...)
		}
	}
	b.logged = logged
	s := &a.status
	s.Problems, s.FromFile = b.problems, b.fromFile
	s.Node, s.Datacenter = a.known.node, b.datacenter()
	if a.known.self.ok {
		s.Version = a.known.self.value.Config.Version
	}
	if td, ok := a.trustDomain(); ok {
		s.TrustDomain = td.Name()
	}
}
