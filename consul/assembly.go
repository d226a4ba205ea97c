package consul

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/consul/api"
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/definition"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/intention"
	"github.com/sallyport/sallyport/internal/backoff"
)

const (
	// pause is how long is waited after contents were put together, so that a storm of answers is taken in together. The first is taken in at once.
	pause = 10 * time.Millisecond
	// firstWait is how long a proxy that was never there waits for one of its upstreams.
	firstWait = 5 * time.Second
	// holdTime is how long, after the agent, or another datacenter, was away, a service whose every instance is critical keeps its last healthy endpoints: checks
	// come back critical until they have run once.
	holdTime = 15 * time.Second
	// seedWait is how long a start waits for the agent before it publishes what the last-known-good file holds.
	seedWait = 2 * time.Second
)

// assembly puts contents together out of what is known. It is used by one goroutine.
type assembly struct {
	agent   *Agent
	publish func(catalog.Contents)
	started time.Time

	admitted map[identity.ProxyID]bool      // have been there
	first    map[identity.ProxyID]time.Time // when they were first wanted
	read     map[identity.ProxyID]*readProxy
	mapped   map[string]*mapped
	asked    map[checkKey]string // the paths that checks ask for
	logged   map[string]bool     // problems
	roots    *api.CARootList     // that the agent's roots were made of
	// datacenters are all that were ever listed: servers that were restarted while another datacenter is away know nothing of it, and those who come
	// from there are not to be denied for that.
	datacenters map[string]bool
	saver       *saver
	away        bool // the agent did not answer when it was last looked

	// Of one turn:
	now      time.Time
	back     time.Time // when the agent came back
	again    time.Time // when to look again though nothing is learnt; zero: no need
	problems []Problem
	dialled  map[string]*catalog.Service
	fromFile bool // something of it is the last-known-good file's
	waits    bool // something of it is not known yet
}

// readProxy remembers what a registration was read as.
type readProxy struct {
	from       *registration
	datacenter string
	sidecar    *sidecar

	// What it was finished as, and with what.
	chain    *chain
	own      definition.Own
	proxy    catalog.Proxy
	problems []Problem
}

// finish is sidecar.finish, remembered.
func (p *readProxy) finish(c *chain, own definition.Own, config Config) (catalog.Proxy, []Problem) {
	if p.chain != c || p.own != own {
		p.proxy, p.problems = p.sidecar.finish(c, own, config)
		p.chain, p.own = c, own
	}
	return p.proxy, p.problems
}

// mapped is what a service's instances were read as, and which of its endpoints are held.
type mapped struct {
	at        time.Time // of the answer
	endpoints []catalog.Endpoint
	skipped   []string
	healthy   []catalog.Endpoint // the last with a healthy one among them
	since     time.Time          // since when they are held; zero: they are not
}

func newAssembly(a *Agent, publish func(catalog.Contents)) *assembly {
	b := &assembly{
		agent: a, publish: publish, started: time.Now(),
		admitted: map[identity.ProxyID]bool{}, first: map[identity.ProxyID]time.Time{}, read: map[identity.ProxyID]*readProxy{},
		mapped: map[string]*mapped{}, asked: map[checkKey]string{}, logged: map[string]bool{}, datacenters: map[string]bool{}, saver: newSaver(a.config.LKGFile, a.log),
	}
	if a.seed != nil {
		for _, p := range a.seed.Contents.Proxies {
			b.admitted[p.ID] = true
		}
	}
	return b
}

// run puts contents together whenever something is learnt, until ctx ends.
func (b *assembly) run(ctx context.Context, w *watcher) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	w.all.Go(func() { b.saver.run(ctx) })
	for {
		b.turn(ctx, w)
		if !backoff.Sleep(ctx, pause) {
			return
		}
		next := time.Hour
		if !b.again.IsZero() {
			next = max(time.Until(b.again), 0)
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

// at makes run look again then.
func (b *assembly) at(t time.Time) {
	if b.again.IsZero() || t.Before(b.again) {
		b.again = t
	}
}

func (b *assembly) problem(p identity.ProxyID, upstream, entry, format string, args ...any) {
	b.problems = append(b.problems, Problem{Proxy: p, Upstream: upstream, Entry: entry, Text: fmt.Sprintf(format, args...)})
}

// turn looks at what is known, once.
func (b *assembly) turn(ctx context.Context, w *watcher) {
	a := b.agent
	b.now, b.again, b.problems, b.fromFile, b.waits = time.Now(), time.Time{}, nil, false, false
	b.dialled = make(map[string]*catalog.Service, len(b.mapped))
	_, lost, back, policy := a.client.contact.state()
	b.back = back
	if away := !lost.IsZero(); away != b.away {
		b.away = away
		if away {
			a.log.Warn("consul agent does not answer, what is known stays", "addr", a.client.name, "err", a.client.contact.why())
		} else {
			a.log.Info("consul agent answers again", "addr", a.client.name)
		}
	}

	a.mu.Lock()
	s, roots := a.known.self, a.known.roots
	a.mu.Unlock()
	if roots.ok && roots.value != b.roots {
		b.roots = roots.value
		if r, err := rootsOf(roots.value); err == nil { // each was read when it came
			a.roots.Set(r)
		}
	}
	switch {
	case a.config.Node != "":
		w.node(ctx, a.config.Node)
	case s.ok && s.value.Config.NodeName != "":
		w.node(ctx, s.value.Config.NodeName)
	case hasStatus(s.err, http.StatusForbidden):
		w.nodeless(ctx)
	}
	proxies, ok := b.sidecars()
	if ok {
		chains, endpoints, intentions := map[string]bool{}, map[string]bool{}, map[string]bool{}
		checks := false
		for _, p := range proxies {
			s := p.sidecar
			if s.refused {
				continue
			}
			checks = checks || s.checks
			chains[s.proxy.Service.Service], intentions[s.proxy.Service.Service] = true, true
			for _, u := range s.upstreams {
				t := targetOf(u.Upstream, p.datacenter)
				chains[t], endpoints[t] = true, true
			}
		}
		w.want(ctx, chains, endpoints, intentions)
		w.checks(ctx, checks)
	}
	a.mu.Lock()
	if apart := a.known.together.apart; b.now.Before(apart) {
		b.at(apart)
	}
	contents, live, ok := b.contents(proxies, ok, policy)
	b.failures(lost)
	b.report()
	whole := live && !b.fromFile && !b.waits
	if whole {
		a.seed = nil // everything is known
	}
	settled := a.status.Settled
	if end := b.started.Add(firstWait); ok && !settled {
		if settled = whole || !live || !b.now.Before(end); !settled {
			b.at(end)
		}
	}
	a.mu.Unlock()
	if ok {
		b.publish(contents)
		a.mu.Lock()
		a.status.Settled = settled
		a.mu.Unlock()
	}
	// Soon after the start half of what is known is less than what the file holds.
	if whole || live && b.now.Sub(b.started) > time.Minute {
		b.saver.put(contents)
	}
}

// sidecars are the proxies that are registered on the node; ok is false if that is not known.
func (b *assembly) sidecars() ([]*readProxy, bool) {
	a := b.agent
	a.mu.Lock()
	services := a.known.services
	datacenter := b.datacenter()
	a.mu.Unlock()
	if !services.ok || datacenter == "" {
		return nil, false
	}
	byID := make(map[string]*registration, len(services.value.Services))
	for _, r := range services.value.Services {
		if r != nil {
			byID[r.ID] = r
		}
	}
	var out []*readProxy
	read := make(map[identity.ProxyID]*readProxy, len(b.read))
	all := map[identity.ProxyID]*catalog.Proxy{}
	for _, id := range slices.Sorted(maps.Keys(byID)) {
		r := byID[id]
		p := b.read[identity.ProxyID(id)]
		if p == nil || p.from != r || p.datacenter != datacenter {
			s, ok := readSidecar(r, byID, datacenter)
			if !ok {
				continue
			}
			p = &readProxy{from: r, datacenter: datacenter, sidecar: s}
		}
		read[p.sidecar.proxy.ID] = p
		out = append(out, p)
		all[p.sidecar.proxy.ID] = &p.sidecar.proxy
	}
	b.read = read
	a.proxies.Set(all)
	for id := range b.admitted { // one that comes back is a new one
		if all[id] == nil {
			delete(b.admitted, id)
		}
	}
	for id := range b.first {
		if all[id] == nil {
			delete(b.first, id)
		}
	}
	return out, true
}

// datacenter is the agent's; empty if it is not known. Agent.mu is held.
func (b *assembly) datacenter() string {
	k := &b.agent.known
	if k.self.ok {
		return k.self.value.Config.Datacenter
	}
	if k.services.ok {
		if n := k.services.value.Node; n != nil && n.Datacenter != "" {
			return n.Datacenter
		}
		for _, r := range k.services.value.Services {
			if r != nil && r.Datacenter != "" {
				return r.Datacenter
			}
		}
	}
	if b.agent.seed != nil {
		return b.agent.seed.Contents.Mesh.Datacenter
	}
	return ""
}

// contents are all that is known; ok is false as long as that is not enough to say anything, and live is false if all of it is the
// last-known-good file's.
func (b *assembly) contents(proxies []*readProxy, known bool, policy string) (c catalog.Contents, live, ok bool) {
	a := b.agent
	mesh, own, ok := b.mesh(policy)
	if a.seed != nil && ok && a.seed.Contents.Mesh.TrustDomain != mesh.TrustDomain {
		a.log.Warn("last known good contents are of another trust domain, and forgotten", "file", a.config.LKGFile)
		a.seed = nil
	}
	if !ok || !known {
		if a.seed == nil {
			return c, false, false
		}
		if b.now.Sub(b.started) < seedWait {
			b.at(b.started.Add(seedWait))
			return c, false, false
		}
		b.fromFile = true
		return a.seed.Contents.contents(), false, true
	}
	c.Mesh = mesh
	b.readChecks()
	services := map[string]*catalog.Service{}
	intentions := map[string][]intention.Intention{}
	for _, r := range proxies {
		b.problems = append(b.problems, r.sidecar.problems...)
		if r.sidecar.refused {
			continue
		}
		if p, ok := b.proxy(r, own, services, intentions); ok {
			c.Proxies = append(c.Proxies, p)
			b.admitted[p.ID] = true
		}
	}
	for _, name := range slices.Sorted(maps.Keys(services)) {
		c.Services = append(c.Services, services[name])
	}
	for name := range b.mapped {
		if a.known.endpoints[name] == nil {
			delete(b.mapped, name)
		}
	}
	c.Intentions = catalog.ByDestination(b.intentions(intentions))
	c.Sort()
	return c, true, true
}

// mesh is what holds for all, and what proxy-defaults say; ok is false if something of it is not known.
func (b *assembly) mesh(policy string) (m catalog.Mesh, own definition.Own, ok bool) {
	k := &b.agent.known
	var seed *catalog.Mesh
	if s := b.agent.seed; s != nil {
		seed = &s.Contents.Mesh
	}
	m.TrustDomain, ok = b.agent.trustDomain()
	m.Datacenter = b.datacenter()
	if !ok || m.Datacenter == "" || identity.CheckDatacenter(m.Datacenter) != nil {
		return m, own, false
	}
	switch {
	case k.datacenters.ok:
		for _, dc := range k.datacenters.value {
			if identity.CheckDatacenter(dc) == nil {
				b.datacenters[dc] = true
			}
		}
		m.Datacenters = slices.Collect(maps.Keys(b.datacenters))
	case seed != nil:
		m.Datacenters = slices.Clone(seed.Datacenters)
		b.fromFile = true
	default:
		return m, own, false
	}
	if !slices.Contains(m.Datacenters, m.Datacenter) {
		m.Datacenters = append(m.Datacenters, m.Datacenter)
	}
	slices.Sort(m.Datacenters)
	m.Datacenters = slices.Compact(m.Datacenters)
	if m.Default, ok = b.defaultPolicy(policy, seed); !ok {
		return m, own, false
	}
	switch {
	case k.mesh.ok:
		b.problems = append(b.problems, k.mesh.value.readMesh(&m)...)
	case seed != nil:
		m.Incoming, m.Outgoing, m.DropForwardedClientCert = seed.Incoming, seed.Outgoing, seed.DropForwardedClientCert
		b.fromFile = true
	default:
		return m, own, false
	}
	if !k.proxyDefaults.ok {
		return m, own, false
	}
	own, problems := k.proxyDefaults.value.settings()
	b.problems = append(b.problems, problems...)
	return m, own, true
}

// defaultPolicy is what holds where no intention does: the agent's default_intention_policy, else the default of its ACLs (Consul,
// "default_intention_policy"). Where neither can be read it is to deny.
func (b *assembly) defaultPolicy(acls string, seed *catalog.Mesh) (intention.Action, bool) {
	s := b.agent.known.self
	switch {
	case s.ok:
		if p := s.value.DebugConfig.DefaultIntentionPolicy; p != nil && *p != "" {
			return actionOf(*p), true
		}
		if acls == "" {
			b.problem("", "", "agent configuration", "neither default_intention_policy nor the default of its ACLs can be read: what no intention allows is denied")
		}
		return actionOf(acls), true
	case hasStatus(s.err, http.StatusForbidden):
		if acls == "allow" {
			b.problem("", "", "agent configuration", "default_intention_policy cannot be read (it needs agent:read): what no intention allows is denied")
		}
		return intention.Deny, true
	case seed != nil:
		b.fromFile = true
		return seed.Default, true
	}
	return intention.Deny, false
}

func actionOf(policy string) intention.Action {
	if policy == "allow" {
		return intention.Allow
	}
	return intention.Deny
}

// intentions are those of all destinations, each once. What is said of all destinations comes with the answer for each of them; the newest one counts.
func (b *assembly) intentions(by map[string][]intention.Intention) []intention.Intention {
	var out, all []intention.Intention
	var newest time.Time
	seen := false // the newest answer may have none
	for _, name := range slices.Sorted(maps.Keys(by)) {
		var wildcards []intention.Intention
		for _, i := range by[name] {
			if i.Destination.IsWildcard() {
				wildcards = append(wildcards, i)
			} else {
				out = append(out, i)
			}
		}
		var at time.Time
		if w := b.agent.known.intentions[name]; w != nil {
			at = w.heard
		}
		if !seen || at.After(newest) {
			all, newest, seen = wildcards, at, true
		}
		for _, i := range by[name] {
			if i.Unsupported != "" {
				b.problem("", "", i.Origin, "the source %s is denied, for its intention has what is not supported yet: %s", i.Source, i.Unsupported)
			}
		}
	}
	out = append(out, all...)
	slices.SortFunc(out, intention.Compare)
	return slices.Compact(out)
}

// failures names the queries that fail and those that do not see everything. An agent that was lost is one problem, however many
// queries it does not answer.
func (b *assembly) failures(lost time.Time) {
	a := b.agent
	a.status.Filtered = nil
	if !lost.IsZero() {
		b.problem("", "", "agent", "%s is not reached since %s: %v", a.client.name, lost.UTC().Format(time.RFC3339), a.client.contact.why())
	}
	if a.verdicts.aclsOff() {
		b.problem("", "", "ACLs", "they are off: any process of this machine that reaches the xDS socket or address is given any service's certificate, as under Consul's own control plane")
	}
	a.each(func(what string, f state) {
		if f.err != nil && (lost.IsZero() || !errors.Is(f.err, errUnreachable)) {
			b.problem("", "", what, "cannot be read: %v", f.err)
		}
		if f.filtered {
			a.status.Filtered = append(a.status.Filtered, what)
		}
	})
	slices.Sort(a.status.Filtered)
}

// report puts the problems into the status and logs those that are new.
func (b *assembly) report() {
	a := b.agent
	slices.SortFunc(b.problems, func(x, y Problem) int {
		return cmp.Or(strings.Compare(string(x.Proxy), string(y.Proxy)), strings.Compare(x.Upstream, y.Upstream), strings.Compare(x.Entry, y.Entry), strings.Compare(x.Text, y.Text))
	})
	b.problems = slices.Compact(b.problems)
	logged := make(map[string]bool, len(b.problems))
	for _, p := range b.problems {
		key := p.String()
		if logged[key] = true; !b.logged[key] {
			a.log.Warn("not as Consul has it", "proxy", p.Proxy, "destination", p.Upstream, "origin", p.Entry, "err", p.Text)
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
