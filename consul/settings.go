package consul

import (
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/sallyport/sallyport/catalog"
)

// settings are what a proxy's config says. Their keys are those of Consul's proxies, and those that package files has beside them.
type settings struct {
	protocol       opt[string]
	connectTimeout opt[time.Duration]
	requestTimeout opt[time.Duration]
	idleTimeout    opt[time.Duration]
	maxConnections opt[uint32]
	balance        opt[string]
	bindAddress    opt[netip.Addr]
	bindPort       opt[uint16]
	prometheus     opt[netip.AddrPort]
	own            ownSettings
	// replaced are the escape hatches that would take the public listener's place.
	replaced []string
}

// ownSettings are those that Consul does not know. They can be said in a proxy's config, in Meta of its service's service-defaults, and in
// Config of proxy-defaults, and the first of these that says one counts.
type ownSettings struct {
	enforcement opt[catalog.Enforcement]
	revocation  opt[catalog.Revocation]
	serverFirst opt[bool]
	uid         opt[int]
}

func (o *options) own() ownSettings {
	return ownSettings{
		enforcement: named(o, "intention_enforcement", catalog.ParseEnforcement, "rbac, ext_authz or both"),
		revocation:  named(o, "revocation", catalog.ParseRevocation, "drain, new or next-request"),
		serverFirst: o.boolean("server_first"),
		uid:         o.user("sallyport_uid"),
	}
}

func (s ownSettings) or(t ownSettings) ownSettings {
	return ownSettings{s.enforcement.or(t.enforcement), s.revocation.or(t.revocation), s.serverFirst.or(t.serverFirst), s.uid.or(t.uid)}
}

// without is s without what t says too: what is left of a proxy's config when that of proxy-defaults, which Consul has merged into it, is taken out.
func (s ownSettings) without(t ownSettings) ownSettings {
	return ownSettings{without(s.enforcement, t.enforcement), without(s.revocation, t.revocation), without(s.serverFirst, t.serverFirst), without(s.uid, t.uid)}
}

func without[T comparable](s, t opt[T]) opt[T] {
	if s == t {
		return opt[T]{}
	}
	return s
}

// settings reads the config of a proxy.
func (o *options) settings() settings {
	s := settings{
		protocol:       o.text("protocol"),
		connectTimeout: o.milliseconds("local_connect_timeout_ms"),
		requestTimeout: o.milliseconds("local_request_timeout_ms"),
		idleTimeout:    o.milliseconds("local_idle_timeout_ms"),
		maxConnections: o.count("max_inbound_connections"),
		balance:        o.balance("balance_inbound_connections"),
		bindAddress:    o.ip("bind_address"),
		bindPort:       o.port("bind_port"),
		prometheus:     o.addrPort("envoy_prometheus_bind_addr"),
		own:            o.own(),
	}
	for _, key := range []string{"envoy_public_listener_json", "envoy_local_cluster_json"} {
		if t := o.text(key); t.set {
			s.replaced = append(s.replaced, key)
		}
	}
	for _, key := range o.given("envoy_") {
		o.problem("%s in %s is not supported yet: it is not taken", key, o.what)
	}
	return s
}

// ownKeys are the keys of ownSettings.
const (
	keyEnforcement = "intention_enforcement"
	keyRevocation  = "revocation"
	keyServerFirst = "server_first"
	keyUID         = "sallyport_uid"
)

// readMeta reads the settings that Meta of service-defaults may have among other things.
func readMetaSettings(what string, meta map[string]string, problems *[]string) ownSettings {
	m := map[string]any{}
	for _, key := range slices.Sorted(maps.Keys(meta)) {
		switch key {
		case keyEnforcement, keyRevocation, keyServerFirst, keyUID:
			m[key] = meta[key]
		}
	}
	return readOptions(what, m, problems).own()
}

func (o *options) balance(key string) opt[string] {
	t := o.text(key)
	if t.set && t.value != "exact_balance" {
		o.mismatch(key, "exact_balance", t.value)
		return opt[string]{}
	}
	return t
}

// upstreamSettings are what an upstream's config says.
type upstreamSettings struct {
	protocol       opt[string]
	connectTimeout opt[time.Duration]
	limits         catalog.Limits
	passive        catalog.PassiveHealthCheck
	balance        bool
	replaced       []string // escape hatches that would take the place of the listener or the cluster
}

func (o *options) upstreamSettings() upstreamSettings {
	s := upstreamSettings{
		protocol:       o.text("protocol"),
		connectTimeout: o.milliseconds("connect_timeout_ms"),
		balance:        o.balance("balance_outbound_connections").set,
	}
	if l, ok := o.child("limits"); ok {
		s.limits = catalog.Limits{
			MaxConnections:        l.limit("max_connections"),
			MaxPendingRequests:    l.limit("max_pending_requests"),
			MaxConcurrentRequests: l.limit("max_concurrent_requests"),
		}
	}
	if p, ok := o.child("passive_health_check"); ok {
		s.passive = p.passiveHealthCheck()
	}
	for _, key := range []string{"envoy_listener_json", "envoy_cluster_json"} {
		if t := o.text(key); t.set {
			s.replaced = append(s.replaced, key)
		}
	}
	for _, key := range o.given("envoy_") {
		o.problem("%s in %s is not supported yet: it is not taken", key, o.what)
	}
	return s
}

func (o *options) limit(key string) catalog.Limit {
	c := o.count(key)
	return catalog.Limit{Set: c.set, N: c.value}
}

func (o *options) passiveHealthCheck() catalog.PassiveHealthCheck {
	percent := func(key string) catalog.Limit {
		p := o.integer(key, 0, 100)
		return catalog.Limit{Set: p.set, N: uint32(p.value)} //nolint:gosec // within the range
	}
	p := catalog.PassiveHealthCheck{
		Set:                     true,
		Interval:                o.duration("interval"),
		MaxFailures:             o.limit("max_failures"),
		EnforcingConsecutive5xx: percent("enforcing_consecutive_5xx"),
		MaxEjectionPercent:      percent("max_ejection_percent"),
		BaseEjectionTime:        o.duration("base_ejection_time"),
	}
	if p.MaxFailures.N == 0 {
		p.MaxFailures = catalog.Limit{} // 0 is Consul's "not set"
	}
	for _, key := range []string{"enforcing_consecutive_gateway_failure", "consecutive_gateway_failure", "consecutive_5xx"} {
		if c := o.count(key); c.set && c.value != 0 {
			o.problem("%s in %s is not supported yet: it is not taken", key, o.what)
		}
	}
	return p
}
