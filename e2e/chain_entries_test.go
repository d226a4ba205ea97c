//go:build e2e

package e2e

import (
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/sallyport/sallyport/chain"
	"github.com/sallyport/sallyport/identity"
)

// written is an entry as it is written to Consul.
func written(e any) map[string]any {
	switch e := e.(type) {
	case *chainDefaults:
		return filled("Kind", "service-defaults", "Name", e.service, "Protocol", e.Protocol, "ExternalSNI", e.ExternalSNI, "MeshGateway", map[string]any{"Mode": e.GatewayMode})
	case *chain.Router:
		routes := []any{}
		for _, r := range e.Routes {
			routes = append(routes, writtenRoute(r))
		}
		return filled("Kind", "service-router", "Name", e.Service.Service, "Routes", routes)
	case *chain.Splitter:
		splits := []any{}
		for _, s := range e.Splits {
			splits = append(splits, filled("Weight", s.Weight, "Service", s.Service, "ServiceSubset", s.Subset,
				"RequestHeaders", writtenHeaders(s.RequestHeaders), "ResponseHeaders", writtenHeaders(s.ResponseHeaders)))
		}
		return filled("Kind", "service-splitter", "Name", e.Service.Service, "Splits", splits)
	case *chain.Resolver:
		return writtenResolver(e)
	}
	panic(fmt.Sprintf("%T", e))
}

// filled is a mapping of keys to those values that are there.
func filled(pairs ...any) map[string]any {
	m := map[string]any{}
	for i := 0; i < len(pairs); i += 2 {
		switch v := pairs[i+1].(type) {
		case nil:
			continue
		case string:
			if v == "" {
				continue
			}
		case bool:
			if !v {
				continue
			}
		case map[string]any:
			if v == nil {
				continue
			}
		case []any:
			if v == nil {
				continue
			}
		case []string:
			if v == nil {
				continue
			}
		case []uint32:
			if v == nil {
				continue
			}
		case time.Duration:
			if v != 0 {
				m[pairs[i].(string)] = v.String()
			}
			continue
		}
		m[pairs[i].(string)] = pairs[i+1]
	}
	return m
}

func writtenRoute(r chain.Route) map[string]any {
	out := map[string]any{}
	if m := r.Match; m != nil {
		var headers, params []any
		for _, h := range m.Header {
			headers = append(headers, filled("Name", h.Name, "Present", h.Present, "Exact", h.Exact, "Prefix", h.Prefix, "Suffix", h.Suffix, "Regex", h.Regex, "Invert", h.Invert))
		}
		for _, q := range m.QueryParam {
			params = append(params, filled("Name", q.Name, "Present", q.Present, "Exact", q.Exact, "Regex", q.Regex))
		}
		out["Match"] = map[string]any{"HTTP": filled("PathExact", m.PathExact, "PathPrefix", m.PathPrefix, "PathRegex", m.PathRegex, "CaseInsensitive", m.CaseInsensitive,
			"Header", headers, "QueryParam", params, "Methods", m.Methods)}
	}
	if d := r.Destination; d != nil {
		out["Destination"] = filled("Service", d.Service, "ServiceSubset", d.Subset, "PrefixRewrite", d.PrefixRewrite, "RequestTimeout", d.RequestTimeout, "IdleTimeout", d.IdleTimeout,
			"NumRetries", d.NumRetries, "RetryOnConnectFailure", d.RetryOnConnectFailure, "RetryOn", d.RetryOn, "RetryOnStatusCodes", d.RetryOnStatusCodes,
			"RequestHeaders", writtenHeaders(d.RequestHeaders), "ResponseHeaders", writtenHeaders(d.ResponseHeaders))
	}
	return out
}

func writtenHeaders(m *chain.HeaderModifiers) map[string]any {
	if m == nil {
		return nil
	}
	return map[string]any{"Add": m.Add, "Set": m.Set, "Remove": m.Remove}
}

func writtenResolver(r *chain.Resolver) map[string]any {
	out := filled("Kind", "service-resolver", "Name", r.Service.Service, "DefaultSubset", r.DefaultSubset, "ConnectTimeout", r.ConnectTimeout, "RequestTimeout", r.RequestTimeout)
	if r.Subsets != nil {
		subsets := map[string]any{}
		for name, s := range r.Subsets {
			subsets[name] = filled("Filter", s.Filter, "OnlyPassing", s.OnlyPassing)
		}
		out["Subsets"] = subsets
	}
	if d := r.Redirect; d != nil {
		out["Redirect"] = filled("Service", d.Service, "ServiceSubset", d.Subset, "Datacenter", d.Datacenter, "Peer", d.Peer)
	}
	if r.Failover != nil {
		failover := map[string]any{}
		for name, f := range r.Failover {
			var targets []any
			for _, t := range f.Targets {
				targets = append(targets, filled("Service", t.Service, "ServiceSubset", t.Subset, "Datacenter", t.Datacenter, "Peer", t.Peer))
			}
			failover[name] = filled("Service", f.Service, "ServiceSubset", f.Subset, "Datacenters", f.Datacenters, "Targets", targets)
		}
		out["Failover"] = failover
	}
	if l := r.LoadBalancer; l != nil {
		b := filled("Policy", l.Policy)
		if l.RingHash != nil {
			b["RingHashConfig"] = map[string]any{"MinimumRingSize": l.RingHash.MinimumRingSize, "MaximumRingSize": l.RingHash.MaximumRingSize}
		}
		if l.LeastRequest != nil {
			b["LeastRequestConfig"] = map[string]any{"ChoiceCount": l.LeastRequest.ChoiceCount}
		}
		var policies []any
		for _, h := range l.HashPolicies {
			p := filled("Field", h.Field, "FieldValue", h.FieldValue, "SourceIP", h.SourceIP, "Terminal", h.Terminal)
			if c := h.Cookie; c != nil {
				p["CookieConfig"] = filled("Session", c.Session, "TTL", c.TTL, "Path", c.Path)
			}
			policies = append(policies, p)
		}
		if policies != nil {
			b["HashPolicies"] = policies
		}
		out["LoadBalancer"] = b
	}
	return out
}

func pick[T any](r *rand.Rand, values ...T) T { return values[r.IntN(len(values))] }

// often is true in p of 100 cases.
func often(r *rand.Rand, p int) bool { return r.IntN(100) < p }

// some is a value in p of 100 cases.
func some[T any](r *rand.Rand, p int, value T) (v T) {
	if often(r, p) {
		return value
	}
	return v
}

// defaults are mostly of one protocol: that of services without is http.
func (m *chainSet) defaults() (list []any) {
	r := m.r
	protocol := pick(r, "http", "http", "http", "http2", "grpc", "tcp")
	for _, s := range m.services {
		if protocol == "http" && often(r, 50) {
			continue
		}
		d := &chainDefaults{s, chain.Defaults{Protocol: protocol, ExternalSNI: some(r, 5, "sni.example"), GatewayMode: some(r, 30, pick(r, "none", "local", "remote"))}}
		if often(r, 7) {
			d.Protocol = pick(r, "", "tcp", "http", "grpc", "HTTP", "spdy")
		}
		list = append(list, d)
	}
	return list
}

func (m *chainSet) service() string { return pick(m.r, m.services...) }

// subset is mostly one that is there.
func (m *chainSet) subset() string { return pick(m.r, "v1", "v1", "v1", "v2", "v2", "v3") }

func (m *chainSet) resolvers() (list []any) {
	r := m.r
	for _, s := range m.services {
		if often(r, 35) {
			continue
		}
		e := &chain.Resolver{Service: identity.NewName(s)}
		if often(r, 70) {
			e.Subsets = map[string]chain.Subset{}
			for _, name := range []string{"v1", "v2", "v3"} {
				if often(r, 80) {
					e.Subsets[name] = chain.Subset{Filter: pick(r, "", "Service.Meta.version == 1", "blue in Service.Tags", "Foo == 1"), OnlyPassing: often(r, 30)}
				}
			}
			e.DefaultSubset = some(r, 40, m.subset())
		}
		switch {
		case often(r, 20):
			e.Redirect = &chain.Redirect{Service: some(r, 80, m.service()), Subset: some(r, 30, m.subset()), Datacenter: some(r, 25, pick(r, "dc1", "dc2"))}
			// Whether the entries of a peer's service are those of this mesh depends in Consul on whether another target needs them.
			if often(r, 7) {
				e.Redirect = &chain.Redirect{Service: s, Peer: "p"}
			}
		case often(r, 50):
			e.Failover = map[string]chain.Failover{}
			for range 1 + r.IntN(2) {
				e.Failover[pick(r, "*", "*", "v1", "v2")] = m.failover()
			}
		}
		e.ConnectTimeout = some(r, 30, pick(r, time.Second, 1500*time.Millisecond, 5*time.Second))
		e.RequestTimeout = some(r, 20, pick(r, time.Second, 90*time.Second))
		if often(r, 40) {
			e.LoadBalancer = m.balancer()
		}
		list = append(list, e)
	}
	return list
}

func (m *chainSet) failover() chain.Failover {
	r := m.r
	if often(r, 50) {
		f := chain.Failover{Service: some(r, 60, m.service()), Subset: some(r, 40, m.subset())}
		if often(r, 50) {
			f.Datacenters = []string{pick(r, "dc1", "dc2", "dc3"), pick(r, "dc1", "dc2", "dc3")}
		}
		return f
	}
	f := chain.Failover{Service: some(r, 5, m.service())}
	for range r.IntN(4) {
		t := chain.FailoverTarget{Service: some(r, 60, m.service()), Subset: some(r, 30, m.subset()), Datacenter: some(r, 30, pick(r, "dc1", "dc2"))}
		if often(r, 10) {
			t = chain.FailoverTarget{Peer: "p"}
		}
		f.Targets = append(f.Targets, t)
	}
	return f
}

func (m *chainSet) balancer() *chain.LoadBalancer {
	r := m.r
	l := &chain.LoadBalancer{Policy: pick(r, "", "random", "round_robin", "least_request", "ring_hash", "maglev", "ring_hash", "maglev")}
	if l.Policy == "ring_hash" {
		l.RingHash = some(r, 50, &chain.RingHash{MinimumRingSize: uint64(r.IntN(3)), MaximumRingSize: 100}) //nolint:gosec // not negative
	}
	if l.Policy == "least_request" {
		l.LeastRequest = some(r, 50, &chain.LeastRequest{ChoiceCount: uint32(r.IntN(5))}) //nolint:gosec // not negative
	}
	if l.Policy == "ring_hash" || l.Policy == "maglev" {
		for range r.IntN(3) {
			h := pick(r, chain.HashPolicy{SourceIP: true}, chain.HashPolicy{Field: "header", FieldValue: "x"}, chain.HashPolicy{Field: "query_parameter", FieldValue: "x"},
				chain.HashPolicy{Field: "cookie", FieldValue: "c"}, chain.HashPolicy{Field: "cookie", FieldValue: "c", Cookie: &chain.CookieConfig{TTL: time.Minute, Path: "/"}},
				chain.HashPolicy{Field: "cookie", FieldValue: "c", Cookie: &chain.CookieConfig{Session: true}}, chain.HashPolicy{})
			h.Terminal = often(r, 30)
			l.HashPolicies = append(l.HashPolicies, h)
		}
	}
	return l
}

// modifiers have all parts where it is a splitter's: a Consul ends if one leads to another and only one of them adds or sets.
func (m *chainSet) modifiers(all bool) *chain.HeaderModifiers {
	r := m.r
	if often(r, 70) {
		return nil
	}
	h := &chain.HeaderModifiers{}
	if all || often(r, 50) {
		h.Add = map[string]string{pick(r, "x-a", "x-b"): pick(r, "1", "%START_TIME%")}
	}
	if all || often(r, 50) {
		h.Set = map[string]string{pick(r, "x-a", "x-b", "x-c"): pick(r, "1", "2")}
	}
	if all || often(r, 50) || h.Add == nil && h.Set == nil {
		h.Remove = []string{pick(r, "x-d", "x-e", "X-F"), pick(r, "x-d", "x-e")}
	}
	return h
}

func (m *chainSet) splitters() (list []any) {
	r := m.r
	for i, s := range m.services {
		if often(r, 50) {
			continue
		}
		e := &chain.Splitter{Service: identity.NewName(s)}
		left := 10000
		for n := 1 + r.IntN(4); n > 0; n-- {
			weight := left
			if n > 1 {
				weight = r.IntN(left + 1)
			}
			left -= weight
			leg := chain.Split{Weight: float64(weight) / 100, Service: some(r, 70, m.service()), Subset: some(r, 40, m.subset()), RequestHeaders: m.modifiers(true), ResponseHeaders: m.modifiers(true)}
			// Most lead forward, as what leads back is a circle.
			if to := pick(r, m.services[i:]...); leg.Service != "" && often(r, 85) {
				leg.Service = to
			}
			e.Splits = append(e.Splits, leg)
		}
		list = append(list, e)
	}
	return list
}

func (m *chainSet) routers() (list []any) {
	r := m.r
	for _, s := range m.services {
		if often(r, 50) {
			continue
		}
		e := &chain.Router{Service: identity.NewName(s)}
		for range r.IntN(5) {
			e.Routes = append(e.Routes, chain.Route{Match: m.match(), Destination: m.destination()})
		}
		list = append(list, e)
	}
	return list
}

func (m *chainSet) match() *chain.HTTPMatch {
	r := m.r
	if often(r, 10) {
		return nil
	}
	h := &chain.HTTPMatch{CaseInsensitive: often(r, 20)}
	switch r.IntN(5) {
	case 0:
		h.PathExact = pick(r, "/x", "/", "x")
	case 1, 2:
		h.PathPrefix = pick(r, "/x", "/", "/y/z")
	case 3:
		h.PathRegex = pick(r, "/x.*", "(")
	}
	for range r.IntN(3) {
		c := pick(r, chain.HeaderMatch{Present: true}, chain.HeaderMatch{Exact: "1"}, chain.HeaderMatch{Prefix: "1"}, chain.HeaderMatch{Suffix: "1"}, chain.HeaderMatch{Regex: "1"})
		c.Name, c.Invert = pick(r, "x-a", "X-B"), often(r, 30)
		h.Header = append(h.Header, c)
	}
	for range r.IntN(2) {
		q := pick(r, chain.QueryMatch{Present: true}, chain.QueryMatch{Exact: "1"}, chain.QueryMatch{Regex: "1"})
		q.Name = pick(r, "a", "b")
		h.QueryParam = append(h.QueryParam, q)
	}
	h.Methods = some(r, 30, []string{pick(r, "GET", "PUT"), pick(r, "POST", "DELETE", "TRACE")})
	return h
}

func (m *chainSet) destination() *chain.Destination {
	r := m.r
	if often(r, 10) {
		return nil
	}
	return &chain.Destination{
		Service: some(r, 70, m.service()), Subset: some(r, 40, m.subset()), PrefixRewrite: some(r, 10, "/z"), RequestTimeout: some(r, 30, pick(r, time.Second, -1, 90*time.Minute)),
		IdleTimeout: some(r, 30, pick(r, time.Second, -time.Second)), NumRetries: some(r, 30, uint32(3)), RetryOnConnectFailure: often(r, 20),
		RetryOn: some(r, 30, []string{pick(r, "5xx", "reset", "unavailable")}), RetryOnStatusCodes: some(r, 20, []uint32{503, 429}), RequestHeaders: m.modifiers(false), ResponseHeaders: m.modifiers(false),
	}
}
