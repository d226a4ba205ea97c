package main

import (
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"

	"github.com/sallyport/sallyport/admin"
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/intention"
	"github.com/sallyport/sallyport/xds"
)

// describeProxy is all that v and the statuses of its proxies say of one.
func describeProxy(v *catalog.View, id string, all []xds.ProxyStatus) (admin.Proxy, error) {
	at := slices.IndexFunc(all, func(p xds.ProxyStatus) bool { return string(p.ID) == id })
	if v == nil || at < 0 {
		return admin.Proxy{}, fmt.Errorf("proxy %q: %w in the catalog: `sallyport status` lists the proxies", id, admin.ErrUnknown)
	}
	out := admin.Proxy{Status: all[at]}
	w := v.Proxy(identity.ProxyID(id))
	if w == nil { // it has left the catalog
		return out, nil
	}
	out.Identity, out.Application, out.Listeners = v.Identity(w.Proxy.Service).String(), applicationAddress(w.Proxy), listenersOf(w.Proxy)
	for i, u := range w.Proxy.Upstreams {
		out.Upstreams = append(out.Upstreams, describeUpstream(v, u, w.Upstreams[i]))
	}
	out.Rules = describePolicy(v, w.Policy)
	return out, nil
}

// locateRefusals says where the addresses are defined that Envoys cannot listen on.
func locateRefusals(v *catalog.View, proxies []xds.ProxyStatus) {
	for i, p := range proxies {
		w := v.Proxy(p.ID)
		if w == nil || p.LastNACK == nil || p.LastNACK.Address() == "" {
			continue
		}
		for _, l := range listenersOf(w.Proxy) {
			if address := p.LastNACK.Address(); address == l.Address || address == l.Socket {
				n := *p.LastNACK
				n.Origin = l.Origin
				proxies[i].LastNACK = &n
			}
		}
	}
}

func describeUpstream(v *catalog.View, u catalog.Upstream, t catalog.Target) admin.Upstream {
	if u.Foreign != "" {
		return describeForeignUpstream(u, t)
	}
	peer := v.Identity(t.Service.Name)
	if t.Service.Datacenter != "" {
		peer.Datacenter = t.Service.Datacenter
	}
	out := admin.Upstream{Name: u.Name(), Listen: u.BindSocket, Expects: peer.String(), Protocol: t.Service.Protocol.String(), Origin: u.Origin}
	if out.Listen == "" {
		out.Listen = net.JoinHostPort(u.BindAddress, strconv.Itoa(int(u.BindPort)))
	}
	if t.Service.Datacenter == "" {
		for range v.Instances(t.Service.Name) {
			out.Registered++
		}
	}
	out.Endpoints = describeEndpoints(t.Endpoints)
	if c := t.Chain; c != nil {
		out.Protocol, out.Expects = c.Protocol, ""
		for _, id := range slices.Sorted(maps.Keys(c.Targets)) {
			of := c.Targets[id]
			x := admin.UpstreamTarget{ID: id, Endpoints: describeEndpoints(c.Endpoints[id])}
			if of.Peer == "" {
				x.Expects = identity.Service{TrustDomain: peer.TrustDomain, Datacenter: of.Datacenter, Name: of.Service}.String()
			}
			out.Targets = append(out.Targets, x)
		}
	}
	return out
}

func describeEndpoints(of *catalog.Endpoints) (out []admin.Endpoint) {
	for _, e := range of.List {
		out = append(out, admin.Endpoint{Address: net.JoinHostPort(e.Address, strconv.Itoa(int(e.Port))), Healthy: e.Healthy, Weight: e.Weight})
	}
	return out
}

// describePolicy lists the rules of a destination.
func describePolicy(v *catalog.View, p *intention.Policy) (out []admin.Rule) {
	rule := func(source identity.Name, d intention.Decision) {
		r := admin.Rule{Source: source.String(), Destination: p.Destination().String(), Allowed: d.Allowed()}
		if i := d.Intention; i != nil {
			r = describeIntention(*i)
			r.Allowed = d.Allowed()
		}
		out = append(out, r)
	}
	for source := range p.Exact() {
		rule(source, p.Decide(v.Identity(source)))
	}
	out = append(out, describeForeign(p)...)
	rest := p.Decide(v.Identity(identity.NewName(unnamed)))
	rule(identity.NewName(identity.Wildcard), rest)
	return out
}

// unnamed is a source that no intention names, as no service can be called so.
const unnamed = "\x00"

func describeIntention(i intention.Intention) admin.Rule {
	r := admin.Rule{
		Source: i.Source.String(), Destination: i.Destination.String(), Allowed: i.Action == intention.Allow && i.Unsupported+i.Held == "",
		Precedence: i.Precedence(), Origin: i.Origin,
	}
	r.Note = i.WhyDenied()
	if n := i.Permissions.Len(); n > 0 && r.Note == "" {
		r.Note = fmt.Sprintf("has %d permissions, for requests", n)
	}
	return r
}

// listIntentions are all intentions of v, by destination, those that decide first at the top.
func listIntentions(v *catalog.View) []admin.Rule {
	out := []admin.Rule{}
	if v == nil {
		return out
	}
	for d := range v.Intentions() {
		n := len(out)
		for _, i := range d.Intentions {
			out = append(out, describeIntention(i))
		}
		slices.SortStableFunc(out[n:], func(a, b admin.Rule) int { return b.Precedence - a.Precedence })
	}
	return out
}

// word is what a rule does.
func word(r admin.Rule) string {
	if r.Allowed {
		return "allow"
	}
	return "deny"
}
