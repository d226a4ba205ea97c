package consul

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/chain"
	"github.com/sallyport/sallyport/definition"
	"github.com/sallyport/sallyport/identity"
)

// target is what is known of what some proxy dials.
type target struct {
	name string
	// Service, chain and endpoints are what is published of it. A nil Service: not all is known.
	service   *catalog.Service
	chain     *chain.Chain // nil: the default one
	endpoints []*catalog.Endpoints
	lead      *lead // how it is dialled; nil: it is as the last-known-good file has it
	// newest is what the agent last said of it when it was looked at what is wanted: what was said since
	// is taken in with what it makes wanted. nil: nothing yet.
	newest *discovery
	// force is what is in force; nil: nothing yet.
	force  *discovery
	served bool // a proxy that is served dials it
	// mode is that of mesh gateways by which all who dial it do so; mixed: they differ.
	mode  string
	mixed bool
	// others are the targets of those who speak something else to it than it speaks.
	others []*target
}

// parts are what the instances are taken for that the agent was asked for together.
type parts struct {
	groups     []group
	undialable []string // of the instances
}

// leadKey is what a lead is of.
type leadKey struct {
	of   *discovery
	own  string
	mode string
}

// leadOf is what d comes to for the target t. Agent.mu is held, as for all below.
func (b *assembly) leadOf(t *target, d *discovery) *lead {
	k := leadKey{d, b.nodeProxies.datacenter, t.mode}
	if t.mixed {
		k.mode = ""
	}
	l := b.leads[k]
	if l == nil {
		name, datacenter, _ := splitTarget(t.name)
		l = d.lead(name, datacenter, k.own, k.mode)
		b.leads[k] = l
	}
	return l
}

// wanted is what is to be read: what the node needs, and what somebody asks about.
func (b *assembly) wanted() wants {
	b.agent.mu.Lock()
	defer b.agent.mu.Unlock()
	w := b.nodeProxies.wants
	w.chains, w.endpoints, w.intentions = maps.Clone(w.chains), map[string]bool{}, maps.Clone(w.intentions)
	b.noteDatacenters()
	b.inquire(&w)
	b.overrides()
	for name, t := range b.targets {
		w.chains[name] = true
		t.newest = b.said(name)
		b.needed(t, w.endpoints)
	}
	maps.DeleteFunc(b.awaited, func(asked string, _ time.Time) bool { return !w.endpoints[asked] && !w.chains[asked] })
	b.await(w.endpoints)
	b.await(w.chains)
	return w
}

// said is what the agent last said of how a target is dialled; nil: nothing yet.
func (b *assembly) said(target string) *discovery {
	if c := b.agent.known.chains[target]; c != nil && c.ok {
		return c.value
	}
	return nil
}

// await notes since when things are asked for.
func (b *assembly) await(names map[string]bool) {
	for name := range names {
		if b.awaited[name].IsZero() {
			b.awaited[name] = b.now
		}
	}
}

// needed adds the endpoints that t needs: those that its newest chain leads to, and until they are
// known those of the one in force. As long as its chain is not known that is the service itself, as
// most chains are the default one.
func (b *assembly) needed(t *target, endpoints map[string]bool) {
	name, datacenter, more := splitTarget(t.name)
	if t.newest == nil {
		if more == "" {
			endpoints[targetName(name, datacenter, "")] = true
		}
		return
	}
	for _, d := range []*discovery{t.newest, b.inForce[t.name]} {
		if d != nil {
			l := b.leadOf(t, d)
			for _, g := range l.groups {
				// Of a datacenter that is not there nothing can be asked, and nothing is out of date for that.
				if l.chain == nil || !b.isNowhere(g.datacenter) {
					endpoints[g.asked()] = true
				}
			}
		}
	}
}

// overrides makes the targets: those that the node's proxies dial, and where they speak something
// else to one than it speaks, that one as it is compiled for this. A chain that is the default one
// is so whatever is spoken, as no entry says anything.
func (b *assembly) overrides() {
	b.targets = maps.Clone(b.nodeProxies.targets)
	k := &b.agent.known
	if !k.proxyDefaults.ok {
		return
	}
	own, _ := k.proxyDefaults.value.settings()
	for _, t := range b.nodeProxies.targets {
		t.others = nil
	}
	for _, r := range b.nodeProxies.list {
		for i := range r.upstreams {
			u, base := &r.upstreams[i], r.targets[i]
			if !u.protocol.Set {
				continue
			}
			for _, d := range []*discovery{b.said(base.name), b.inForce[base.name]} {
				if d == nil {
					continue
				}
				name := overridden(base.name, own.spoken(u.protocol, definition.Protocol(d.protocol)), d)
				if name == base.name {
					continue
				}
				if b.targets[name] == nil {
					b.targets[name] = &target{name: name, mode: base.mode, mixed: base.mixed}
				}
				if !slices.Contains(base.others, b.targets[name]) {
					base.others = append(base.others, b.targets[name])
				}
			}
		}
	}
}

// overridden is the target of those who speak a protocol to what base dials.
func overridden(base string, protocol catalog.Protocol, d *discovery) string {
	if d.err != nil || d.chain.Default || protocol == definition.Protocol(d.protocol) {
		return base
	}
	name, datacenter, _ := splitTarget(base)
	return targetName(name, datacenter, protocolMark+protocol.String())
}

// readTargets reads what is known of all targets. Of two that disagree for a moment about what a
// subset is that which was heard of later counts.
func (b *assembly) readTargets() {
	b.published, b.asked = map[string]*catalog.Endpoints{}, map[string]parts{}
	all := slices.Collect(maps.Values(b.targets))
	index := func(t *target) uint64 {
		if c := b.agent.known.chains[t.name]; c != nil {
			return c.index
		}
		return 0
	}
	slices.SortFunc(all, func(x, y *target) int {
		return cmp.Or(cmp.Compare(index(y), index(x)), strings.Compare(x.name, y.name))
	})
	for _, t := range all {
		b.enforce(t)
	}
	for _, t := range all {
		b.readTarget(t)
	}
	maps.DeleteFunc(b.inForce, func(name string, _ *discovery) bool { return b.targets[name] == nil })
	used := map[*discovery]bool{}
	for _, d := range b.inForce {
		used[d] = true
	}
	for _, t := range b.targets {
		used[t.newest] = true
	}
	maps.DeleteFunc(b.leads, func(k leadKey, _ *lead) bool { return !used[k.of] })
}

// enforce decides by what t is dialled. A chain comes into force when the endpoints that it leads to
// are known, or were waited for for a moment: until then the one before is.
func (b *assembly) enforce(t *target) {
	*t = target{name: t.name, mode: t.mode, mixed: t.mixed, newest: t.newest, others: t.others}
	d, old := t.newest, b.inForce[t.name]
	if d == nil {
		return
	}
	known, waits := b.ready(t, d)
	switch {
	case old == d && known, known && !waits && (old == nil || !b.othersWait(t)):
	case old == nil || old == d:
		return
	default:
		still, _ := b.ready(t, old)
		if !still {
			return
		}
		if !known && !waits {
			b.problem("", "", chainEntry(t.name), "of the endpoints that it leads to now none are known yet: what it was before holds")
		}
		b.waits, d = true, old
	}
	if t.force = d; old != d {
		b.inForce[t.name] = d
		if old != nil {
			b.wake(b.now) // what the one before led to is not needed any more
		}
	}
}

// readTarget reads what is known of t.
func (b *assembly) readTarget(t *target) {
	d := t.force
	if d == nil {
		return
	}
	name, datacenter, more := splitTarget(t.name)
	protocol := definition.Protocol(d.protocol)
	if base := b.targets[targetName(name, datacenter, "")]; more != "" && base != nil && base.newest != nil {
		protocol = definition.Protocol(cmp.Or(base.force, base.newest).protocol) // what the service speaks, and not what is spoken to it
	}
	t.lead = b.leadOf(t, d)
	t.chain = t.lead.chain
	t.service = &catalog.Service{Name: identity.NewName(name), Datacenter: datacenter, Protocol: protocol}
	for _, text := range t.lead.refused {
		b.problem("", "", chainEntry(t.name), "%s", text)
	}
	for _, g := range t.lead.groups {
		t.endpoints = append(t.endpoints, b.endpointsOf(t, g))
	}
}

// chainEntry is what the chain of a target is called in problems.
func chainEntry(target string) string { return "discovery chain of " + target }

// ready reports whether something is known of the endpoints that t leads to by d, and whether others
// are waited for. Of a chain that has several targets, or leads elsewhere than to the service itself, a
// part may be missing: its other targets are as good, and nobody is sent to what is not known.
func (b *assembly) ready(t *target, d *discovery) (known, waits bool) {
	l := b.leadOf(t, d)
	known = len(l.groups) == 0
	for _, g := range l.groups {
		switch end := cmp.Or(b.awaited[g.asked()], b.now).Add(firstWait); {
		case b.isKnown(g), l.chain != nil && b.isNowhere(g.datacenter):
			known = true
		case b.now.Before(end):
			b.wake(end)
			waits = true
		}
	}
	return known, waits
}

// othersWait reports whether those who speak something else to t are waited for: what is known of it
// would take away what they dial, as long as their own chain is not known.
func (b *assembly) othersWait(t *target) bool {
	for _, o := range t.others {
		end := cmp.Or(b.awaited[o.name], b.now).Add(firstWait)
		known, waits := false, false
		if o.newest != nil {
			known, waits = b.ready(o, o.newest)
		}
		if (!known || waits) && b.now.Before(end) {
			b.wake(end)
			return true
		}
	}
	return false
}

// isNowhere reports whether a datacenter is known not to be there.
func (b *assembly) isNowhere(datacenter string) bool {
	return datacenter != "" && b.agent.known.datacenters.ok && !b.datacenters[datacenter]
}

// isKnown reports whether the endpoints of g are known. Of a service that nobody dialled the
// last-known-good file has none, which does not say that there are none.
func (b *assembly) isKnown(g group) bool {
	e := b.agent.known.endpoints[g.asked()]
	return e != nil && e.ok || b.seeded(g) != nil
}

// seeded are the endpoints of g that the last-known-good file has; nil: none.
func (b *assembly) seeded(g group) *catalog.Endpoints {
	if e := b.agent.seed.endpoints(g.published()); e != nil && len(e.List) > 0 {
		return e
	}
	return nil
}

// endpointsOf are the endpoints of g, which t leads to.
func (b *assembly) endpointsOf(t *target, g group) *catalog.Endpoints {
	name := g.published()
	if e := b.published[name]; e != nil {
		return e
	}
	out := &catalog.Endpoints{Name: g.name, Datacenter: g.datacenter, Subset: g.subset}
	e := b.agent.known.endpoints[g.asked()]
	switch {
	case e != nil && e.ok:
		out.List = b.hold(g, e)
		a := b.asked[g.asked()]
		a.groups, a.undialable = append(a.groups, g), e.value.undialable
		b.asked[g.asked()] = a
		for _, s := range e.value.undialable {
			b.problem("", "", "service "+s, "it has no address or port that can be dialled: it gets no traffic")
		}
	case b.seeded(g) != nil:
		out, b.fromFile = b.seeded(g), true
	case b.isNowhere(g.datacenter):
		b.problem("", "", chainEntry(t.name), "the datacenter %.60q is not known to Consul: its target there has no endpoints", g.datacenter)
	default:
		b.waits = true
		b.problem("", "", chainEntry(t.name), "the endpoints of %.200s are not known yet: it goes on without them", g.asked())
	}
	b.published[name] = out
	return out
}
