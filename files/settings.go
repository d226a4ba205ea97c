package files

import (
	"net"
	"net/netip"
	"os/user"
	"strconv"
	"time"

	"github.com/sallyport/sallyport/catalog"
)

// settings are what may be said of a proxy at several levels: in its own config, in service-defaults, in proxy-defaults.
type settings struct {
	protocol       setting[catalog.Protocol]
	connectTimeout setting[time.Duration]
	requestTimeout setting[time.Duration]
	idleTimeout    setting[time.Duration]
	maxConnections setting[uint32]
	balance        setting[bool]
	bindAddress    setting[netip.Addr]
	bindPort       setting[uint16]
	prometheus     setting[netip.AddrPort]
	enforcement    setting[catalog.Enforcement]
	revocation     setting[catalog.Revocation]
	serverFirst    setting[bool]
	uid            setting[int]
}

// over is s where it says something, else t.
func (s settings) over(t settings) settings {
	return settings{
		protocol:       s.protocol.or(t.protocol),
		connectTimeout: s.connectTimeout.or(t.connectTimeout),
		requestTimeout: s.requestTimeout.or(t.requestTimeout),
		idleTimeout:    s.idleTimeout.or(t.idleTimeout),
		maxConnections: s.maxConnections.or(t.maxConnections),
		balance:        s.balance.or(t.balance),
		bindAddress:    s.bindAddress.or(t.bindAddress),
		bindPort:       s.bindPort.or(t.bindPort),
		prometheus:     s.prometheus.or(t.prometheus),
		enforcement:    s.enforcement.or(t.enforcement),
		revocation:     s.revocation.or(t.revocation),
		serverFirst:    s.serverFirst.or(t.serverFirst),
		uid:            s.uid.or(t.uid),
	}
}

// settings reads the opaque map that is called config in proxies and Config in config entries.
func (o *object) settings() settings {
	c, ok := o.child("config", "config")
	if !ok {
		return settings{}
	}
	c.weak = true
	s := settings{
		protocol:       c.protocol("protocol"),
		connectTimeout: c.milliseconds("local_connect_timeout_ms"),
		requestTimeout: c.milliseconds("local_request_timeout_ms"),
		idleTimeout:    c.milliseconds("local_idle_timeout_ms"),
		maxConnections: c.count("max_inbound_connections"),
		balance:        c.balance("balance_inbound_connections"),
		bindAddress:    c.ip("bind_address"),
		bindPort:       c.port("bind_port"),
		prometheus:     c.addrPort("envoy_prometheus_bind_addr"),
		enforcement:    c.enforcement("intention_enforcement"),
		revocation:     c.revocation("revocation"),
		serverFirst:    c.boolean("server_first"),
		uid:            c.user("sallyport_uid"),
	}
	c.unsupportedPrefix("envoy_")
	c.unsupported("handshake_timeout_ms", "xds_fetch_timeout_ms", "connect_timeout_ms", "mesh_gateway", "expose")
	c.done()
	return s
}

func (o *object) protocol(key string) setting[catalog.Protocol] {
	return named(o, key, catalog.ParseProtocol, "tcp, http, http2 and grpc are")
}

func (o *object) enforcement(key string) setting[catalog.Enforcement] {
	return named(o, key, catalog.ParseEnforcement, "rbac, ext_authz and both are")
}

func (o *object) revocation(key string) setting[catalog.Revocation] {
	return named(o, key, catalog.ParseRevocation, "drain, new and next-request are")
}

// named is one of the values that parse knows.
func named[T any](o *object, key string, parse func(string) (T, bool), known string) (s setting[T]) {
	t := o.text(key)
	if !t.set {
		return s
	}
	v, ok := parse(t.value)
	if !ok {
		o.problem(t.at, "%s %.60q is not known: %s", key, t.value, known)
		return s
	}
	return setting[T]{set: true, value: v, at: t.at}
}

func (o *object) balance(key string) (s setting[bool]) {
	t := o.text(key)
	if !t.set {
		return s
	}
	if t.value != "exact_balance" {
		o.problem(t.at, "%s %.60q is not known: exact_balance is", key, t.value)
		return s
	}
	return setting[bool]{set: true, value: true, at: t.at}
}

func (o *object) addrPort(key string) (s setting[netip.AddrPort]) {
	t := o.text(key)
	if !t.set {
		return s
	}
	host, port, err := net.SplitHostPort(t.value)
	a, ok := parseIP(host)
	p, perr := strconv.ParseUint(port, 10, 16)
	if err != nil || !ok || perr != nil || p == 0 {
		o.problem(t.at, `%s %.60q must be an IP address and a port, like "0.0.0.0:9102"`, key, t.value)
		return s
	}
	return setting[netip.AddrPort]{set: true, value: netip.AddrPortFrom(a, uint16(p)), at: t.at}
}

// user is a uid, or the name of a user of this machine.
func (o *object) user(key string) (s setting[int]) {
	n := o.field(key)
	if n == nil {
		return s
	}
	if n.kind == text {
		if n.text == "" {
			return s
		}
		if _, err := strconv.ParseInt(n.text, 10, 64); err != nil {
			o.volatile = true
			u, err := user.Lookup(n.text)
			if err != nil {
				o.problem(n.at, "%s %.60q is no user of this machine: give the name of one, or a number", key, n.text)
				return s
			}
			uid, err := strconv.Atoi(u.Uid)
			if err != nil {
				o.problem(n.at, "%s %.60q has no number on this machine", key, n.text)
				return s
			}
			return setting[int]{set: true, value: uid, at: n.at}
		}
	}
	i := o.integer(key, 0, 1<<32-2) // the largest uid_t means "no user"
	return setting[int]{set: i.set, value: int(i.value), at: i.at}
}

// upstreamSettings are what may be said of an upstream: by its own config, or by service-defaults of the service that dials.
type upstreamSettings struct {
	protocol       setting[catalog.Protocol]
	connectTimeout setting[time.Duration]
	limits         setting[catalog.Limits]
	passive        setting[catalog.PassiveHealthCheck]
	balance        setting[bool]
}

// over is s where it says something, else t. Limits and the passive health check are taken as a whole, as in Consul.
func (s upstreamSettings) over(t upstreamSettings) upstreamSettings {
	return upstreamSettings{
		protocol:       s.protocol.or(t.protocol),
		connectTimeout: s.connectTimeout.or(t.connectTimeout),
		limits:         s.limits.or(t.limits),
		passive:        s.passive.or(t.passive),
		balance:        s.balance.or(t.balance),
	}
}

// upstreamSettings reads the keys of o, which is an upstream's config or one of UpstreamConfig's. It is done with o then.
func (o *object) upstreamSettings() upstreamSettings {
	o.weak = true
	s := upstreamSettings{
		protocol:       o.protocol("protocol"),
		connectTimeout: o.milliseconds("connect_timeout_ms"),
		balance:        o.balance("balance_outbound_connections"),
	}
	if l, ok := o.child("limits", "limits"); ok {
		s.limits = setting[catalog.Limits]{set: true, at: l.at, value: catalog.Limits{
			MaxConnections:        l.limit("max_connections"),
			MaxPendingRequests:    l.limit("max_pending_requests"),
			MaxConcurrentRequests: l.limit("max_concurrent_requests"),
		}}
		l.done()
	}
	if p, ok := o.child("passive_health_check", "passive_health_check"); ok {
		s.passive = setting[catalog.PassiveHealthCheck]{set: true, at: p.at, value: p.passiveHealthCheck()}
	}
	if m, ok := o.child("mesh_gateway", "mesh_gateway"); ok {
		m.only("mode", "none")
		m.done()
	}
	o.unsupportedPrefix("envoy_")
	o.done()
	return s
}

func (o *object) limit(key string) catalog.Limit {
	c := o.count(key)
	return catalog.Limit{Set: c.set, N: c.value}
}

func (o *object) passiveHealthCheck() catalog.PassiveHealthCheck {
	percent := func(key string) catalog.Limit {
		p := o.integer(key, 0, 100)
		return catalog.Limit{Set: p.set, N: uint32(p.value)} //nolint:gosec // within the range
	}
	p := catalog.PassiveHealthCheck{
		Set:                     true,
		Interval:                o.duration("interval").value,
		MaxFailures:             o.limit("max_failures"),
		EnforcingConsecutive5xx: percent("enforcing_consecutive_5xx"),
		MaxEjectionPercent:      percent("max_ejection_percent"),
		BaseEjectionTime:        o.duration("base_ejection_time").value,
	}
	if p.MaxFailures.N == 0 {
		p.MaxFailures = catalog.Limit{} // 0 is Consul's "not set"
	}
	o.done()
	return p
}
