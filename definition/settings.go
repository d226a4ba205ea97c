package definition

import (
	"fmt"
	"net"
	"net/netip"
	"os/user"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/sallyport/sallyport/catalog"
)

// Settings are what may be said of a proxy at several levels: in its own config, in
// service-defaults, in proxy-defaults.
type Settings struct {
	Protocol       Setting[catalog.Protocol]
	ConnectTimeout Setting[time.Duration]
	RequestTimeout Setting[time.Duration]
	IdleTimeout    Setting[time.Duration]
	MaxConnections Setting[uint32]
	Balance        Setting[bool]
	BindAddress    Setting[netip.Addr]
	BindPort       Setting[uint16]
	Prometheus     Setting[netip.AddrPort]
	StatsTags      Setting[string]
	Network        Setting[string]
	Own
}

// Own are the settings that Consul does not know.
type Own struct {
	Enforcement  Setting[catalog.Enforcement]
	Revocation   Setting[catalog.Revocation]
	ServerFirst  Setting[bool]
	AcceptHTTP10 Setting[bool]
	// Logged is which of what is served AccessLogs have: true: what failed alone.
	Logged Setting[bool]
	UID    Setting[int]
}

// Over is s where it says something, else t.
func (s Settings) Over(t Settings) Settings {
	return Settings{
		Protocol:       s.Protocol.Or(t.Protocol),
		ConnectTimeout: s.ConnectTimeout.Or(t.ConnectTimeout),
		RequestTimeout: s.RequestTimeout.Or(t.RequestTimeout),
		IdleTimeout:    s.IdleTimeout.Or(t.IdleTimeout),
		MaxConnections: s.MaxConnections.Or(t.MaxConnections),
		Balance:        s.Balance.Or(t.Balance),
		BindAddress:    s.BindAddress.Or(t.BindAddress),
		BindPort:       s.BindPort.Or(t.BindPort),
		Prometheus:     s.Prometheus.Or(t.Prometheus),
		StatsTags:      s.StatsTags.Or(t.StatsTags),
		Network:        s.Network.Or(t.Network),
		Own:            s.Own.Over(t.Own),
	}
}

// Over is s where it says something, else t.
func (s Own) Over(t Own) Own {
	return Own{
		Enforcement:  s.Enforcement.Or(t.Enforcement),
		Revocation:   s.Revocation.Or(t.Revocation),
		ServerFirst:  s.ServerFirst.Or(t.ServerFirst),
		AcceptHTTP10: s.AcceptHTTP10.Or(t.AcceptHTTP10),
		Logged:       s.Logged.Or(t.Logged),
		UID:          s.UID.Or(t.UID),
	}
}

// Without is s without what t says too: what is left of a proxy's config when that of
// proxy-defaults, which Consul has merged into it, is taken out.
func (s Own) Without(t Own) Own {
	return Own{
		Enforcement:  without(s.Enforcement, t.Enforcement),
		Revocation:   without(s.Revocation, t.Revocation),
		ServerFirst:  without(s.ServerFirst, t.ServerFirst),
		AcceptHTTP10: without(s.AcceptHTTP10, t.AcceptHTTP10),
		Logged:       without(s.Logged, t.Logged),
		UID:          without(s.UID, t.UID),
	}
}

func without[T comparable](s, t Setting[T]) Setting[T] {
	if s.Set == t.Set && s.Value == t.Value {
		return Setting[T]{}
	}
	return s
}

// Apply puts what the settings say of time, number and balance into in.
func (s Settings) Apply(in *catalog.Inbound) {
	in.ConnectTimeout, in.RequestTimeout = s.ConnectTimeout.Value, s.RequestTimeout.Value
	in.IdleTimeout = catalog.Timeout{Set: s.IdleTimeout.Set, Duration: s.IdleTimeout.Value}
	in.MaxConnections, in.BalanceConnections = s.MaxConnections.Value, s.Balance.Value
}

// Config reads the settings of the key config.
func (d *Decoder) Config() Settings {
	c, ok := d.Child("config", "config")
	if !ok {
		return Settings{}
	}
	return c.Settings()
}

// ServiceSettings reads what service-defaults say of their service's own proxies: in fields, and in
// Config.
func (d *Decoder) ServiceSettings() Settings {
	own, config := d.inbound(), d.Config()
	if own.Protocol.Set && config.Protocol.Set && own.Protocol.Value != config.Protocol.Value {
		d.Mistake(config.Protocol.At, "protocol %s contradicts Protocol %s of the same entry", config.Protocol.Value, own.Protocol.Value)
	}
	return own.Over(config)
}

// Settings reads the opaque map that is called config in proxies and Config in config entries. It
// is done with d then.
func (d *Decoder) Settings() Settings {
	d.Weak = true
	s := d.inbound()
	s.IdleTimeout = d.milliseconds("local_idle_timeout_ms")
	s.BindAddress = d.ListenAddress("bind_address")
	s.BindPort = d.Port("bind_port")
	s.Prometheus = readText(d, "envoy_prometheus_bind_addr", parseAddrPort)
	s.StatsTags = readValue(d, "envoy_stats_tags", statsTags)
	s.Network = readText(d, "sallyport_network", network)
	s.Own = d.Own()
	d.unsupportedPrefix("envoy_")
	d.Unsupported("handshake_timeout_ms", "xds_fetch_timeout_ms", "connect_timeout_ms",
		"mesh_gateway", "expose")
	d.Done()
	return s
}

// Given is a key that says something, and where.
type Given struct {
	Key string
	At  Position
}

// OfSidecar are the keys of s that say something of a sidecar and nothing of its service.
func (s Settings) OfSidecar() (given []Given) {
	note := func(key string, set bool, at Position) {
		if set {
			given = append(given, Given{key, at})
		}
	}
	note("local_connect_timeout_ms", s.ConnectTimeout.Set, s.ConnectTimeout.At)
	note("local_request_timeout_ms", s.RequestTimeout.Set, s.RequestTimeout.At)
	note("local_idle_timeout_ms", s.IdleTimeout.Set, s.IdleTimeout.At)
	note("max_inbound_connections", s.MaxConnections.Set, s.MaxConnections.At)
	note("balance_inbound_connections", s.Balance.Set, s.Balance.At)
	note("bind_address", s.BindAddress.Set, s.BindAddress.At)
	note("bind_port", s.BindPort.Set, s.BindPort.At)
	note("envoy_prometheus_bind_addr", s.Prometheus.Set, s.Prometheus.At)
	note("envoy_stats_tags", s.StatsTags.Set, s.StatsTags.At)
	note("sallyport_network", s.Network.Set, s.Network.At)
	note("intention_enforcement", s.Enforcement.Set, s.Enforcement.At)
	note("revocation", s.Revocation.Set, s.Revocation.At)
	note("server_first", s.ServerFirst.Set, s.ServerFirst.At)
	note("accept_http_10", s.AcceptHTTP10.Set, s.AcceptHTTP10.At)
	note("access_logs", s.Logged.Set, s.Logged.At)
	note("sallyport_uid", s.UID.Set, s.UID.At)
	return given
}

// Bootstrap is what the settings say of a proxy's bootstrap. Without a uid it is root's alone.
func (s Settings) Bootstrap() catalog.Bootstrap {
	b := catalog.Bootstrap{StatsTags: s.StatsTags.Value, UID: s.UID.Else(-1)}
	if s.Prometheus.Set {
		b.PrometheusBindAddr = s.Prometheus.Value.String()
	}
	return b
}

// inbound reads what service-defaults have as fields, too.
func (d *Decoder) inbound() Settings {
	return Settings{
		Protocol:       d.Protocol(),
		ConnectTimeout: d.milliseconds("local_connect_timeout_ms"),
		RequestTimeout: d.RequestTimeout(),
		MaxConnections: count(d.Integer("max_inbound_connections", 0, maxCount)),
		Balance:        readText(d, "balance_inbound_connections", parseBalance),
	}
}

// RequestTimeout is how long a request to the application may take.
func (d *Decoder) RequestTimeout() Setting[time.Duration] {
	return d.milliseconds("local_request_timeout_ms")
}

// Own reads the settings that Consul does not know, and leaves the other keys alone.
func (d *Decoder) Own() Own {
	return Own{
		Enforcement:  readText(d, "intention_enforcement", known(catalog.ParseEnforcement, "rbac, ext_authz and both are")),
		Revocation:   readText(d, "revocation", known(catalog.ParseRevocation, "drain, new and next-request are")),
		ServerFirst:  d.Boolean("server_first"),
		AcceptHTTP10: d.Boolean("accept_http_10"),
		Logged:       readText(d, "access_logs", known(parseLogged, "all and failures are")),
		UID:          d.user("sallyport_uid"),
	}
}

// Protocol is what a service speaks. What Consul's API has and nobody knows is tcp, as to Consul
// itself.
func (d *Decoder) Protocol() Setting[catalog.Protocol] {
	return readText(d, "protocol", func(s string) (catalog.Protocol, error) {
		p, err := known(parseProtocol, "tcp, http, http2 and grpc are")(s)
		if d.Lenient {
			err = nil
		}
		return p, err
	})
}

// parseProtocol reads a protocol in any letter case, as Consul does.
func parseProtocol(s string) (catalog.Protocol, bool) {
	return catalog.ParseProtocol(strings.ToLower(s))
}

// Protocol is a protocol as Consul's API spells it; what is not known is tcp.
func Protocol(s string) catalog.Protocol {
	p, _ := parseProtocol(s)
	return p
}

// known is parse with what is wrong in words.
func known[T any](parse func(string) (T, bool), values string) func(string) (T, error) {
	return func(s string) (T, error) {
		v, ok := parse(s)
		if !ok {
			return v, fmt.Errorf("%.60q is not known: %s", s, values)
		}
		return v, nil
	}
}

func parseBalance(s string) (bool, error) {
	return known(func(s string) (bool, bool) { return true, s == "exact_balance" }, "exact_balance is")(s)
}

// ParseIP reads an IP address without a zone.
func ParseIP(s string) (netip.Addr, bool) {
	a, err := netip.ParseAddr(s)
	if err != nil || a.Zone() != "" {
		return netip.Addr{}, false
	}
	return a.Unmap(), true
}

// ParseListen reads where something listens: an IP address, or localhost for 127.0.0.1.
func ParseListen(s string) (netip.Addr, bool) {
	if s == "localhost" {
		return netip.AddrFrom4([4]byte{127, 0, 0, 1}), true
	}
	return ParseIP(s)
}

// ListenAddress is an IP address without a zone, or localhost.
func (d *Decoder) ListenAddress(key string) Setting[netip.Addr] {
	return readText(d, key, func(s string) (netip.Addr, error) {
		a, ok := ParseListen(s)
		if !ok {
			return a, fmt.Errorf("%.60q must be an IP address, without brackets or zone", s)
		}
		return a, nil
	})
}

func parseAddrPort(s string) (netip.AddrPort, error) {
	host, port, err := net.SplitHostPort(s)
	a, ok := ParseListen(host)
	p, perr := strconv.ParseUint(port, 10, 16)
	if err != nil || !ok || perr != nil || p == 0 {
		return netip.AddrPort{}, fmt.Errorf(`%.60q must be an IP address and a port, like "0.0.0.0:9102"`, s)
	}
	return netip.AddrPortFrom(a, uint16(p)), nil
}

// statsTags reads labels of metrics, "name=value" each, into lines.
func statsTags(n *Node) (tags string, set bool, err error) {
	if n.Kind != List {
		return "", false, Mismatch(`a list of strings like "team=shop"`, n)
	}
	var lines []string
	seen := map[string]bool{}
	for _, item := range n.List {
		if item.Kind != Text {
			return "", false, Mismatch(`a list of strings like "team=shop"`, item)
		}
		name, value, _ := strings.Cut(item.Text, "=")
		printed := !strings.ContainsFunc(item.Text, func(r rune) bool { return !unicode.IsPrint(r) })
		switch {
		case name == "" || value == "" || !printed || len(item.Text) > 2*MaxName:
			return "", false, fmt.Errorf(`has %.60q: it must be a name and a value, like "team=shop"`, item.Text)
		case seen[name]:
			return "", false, fmt.Errorf("has %.60q twice", name)
		}
		seen[name] = true
		lines = append(lines, item.Text)
	}
	return strings.Join(lines, "\n"), len(lines) > 0, nil
}

// network is what a network namespace is called.
func network(s string) (string, error) {
	if len(s) > MaxName || strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return "", fmt.Errorf("%.60q: at most %d characters that can be printed are allowed", s, MaxName)
	}
	return s, nil
}

// user is a uid, or the name of a user of this machine.
func (d *Decoder) user(key string) Setting[int] {
	if n := d.Field(key); n != nil && n.Kind == Text && n.Text != "" {
		if _, err := strconv.ParseInt(n.Text, 10, 64); err != nil {
			d.Volatile = true
			return readText(d, key, func(name string) (int, error) {
				u, err := user.Lookup(name)
				if err != nil {
					return 0, fmt.Errorf("%.60q is no user of this machine: give the name of one, or a number", name)
				}
				return strconv.Atoi(u.Uid)
			})
		}
	}
	i := d.Integer(key, 0, 1<<32-2) // the largest uid_t means "no user"
	return Setting[int]{i.Set, int(i.Value), i.At}
}

// UpstreamSettings are what may be said of an upstream: by its own config, or by service-defaults
// of the service that dials.
type UpstreamSettings struct {
	Protocol       Setting[catalog.Protocol]
	ConnectTimeout Setting[time.Duration]
	Limits         Setting[catalog.Limits]
	Passive        Setting[catalog.PassiveHealthCheck]
	Balance        Setting[bool]
}

// Over is s where it says something, else t. Limits and the passive health check are taken as a
// whole, as in Consul.
func (s UpstreamSettings) Over(t UpstreamSettings) UpstreamSettings {
	return UpstreamSettings{
		Protocol:       s.Protocol.Or(t.Protocol),
		ConnectTimeout: s.ConnectTimeout.Or(t.ConnectTimeout),
		Limits:         s.Limits.Or(t.Limits),
		Passive:        s.Passive.Or(t.Passive),
		Balance:        s.Balance.Or(t.Balance),
	}
}

// Apply is u with what its settings say.
func (s UpstreamSettings) Apply(u catalog.Upstream) catalog.Upstream {
	u.ConnectTimeout, u.BalanceConnections = s.ConnectTimeout.Value, s.Balance.Value
	u.Limits, u.Passive = s.Limits.Value, s.Passive.Value
	return u
}

// UpstreamSettings reads an upstream's config, or one of UpstreamConfig's. It is done with d then.
func (d *Decoder) UpstreamSettings() UpstreamSettings {
	d.Weak = true
	s := UpstreamSettings{
		Protocol:       d.Protocol(),
		ConnectTimeout: d.milliseconds("connect_timeout_ms"),
		Balance:        readText(d, "balance_outbound_connections", parseBalance),
	}
	if l, ok := d.Child("limits", "limits"); ok {
		s.Limits = Setting[catalog.Limits]{true, catalog.Limits{
			MaxConnections:        l.limit("max_connections", maxCount),
			MaxPendingRequests:    l.limit("max_pending_requests", maxCount),
			MaxConcurrentRequests: l.limit("max_concurrent_requests", maxCount),
		}, l.At}
		l.Done()
	}
	if p, ok := d.Child("passive_health_check", "passive_health_check"); ok {
		s.Passive = Setting[catalog.PassiveHealthCheck]{true, catalog.PassiveHealthCheck{
			Set:                     true,
			Interval:                p.Duration("interval").Value,
			MaxFailures:             p.limit("max_failures", maxCount),
			EnforcingConsecutive5xx: p.limit("enforcing_consecutive_5xx", 100),
			MaxEjectionPercent:      p.limit("max_ejection_percent", 100),
			BaseEjectionTime:        p.Duration("base_ejection_time").Value,
		}, p.At}
		if s.Passive.Value.MaxFailures.N == 0 {
			s.Passive.Value.MaxFailures = catalog.Limit{} // 0 is Consul's "not set"
		}
		p.Unsupported("enforcing_consecutive_gateway_failure", "consecutive_gateway_failure", "consecutive_5xx")
		p.Done()
	}
	d.MeshGateway("mesh_gateway")
	d.unsupportedPrefix("envoy_")
	d.Done()
	return s
}

// MeshGateway takes the one mode that needs no gateway.
func (d *Decoder) MeshGateway(key string) {
	if d.Lenient {
		return // Consul has resolved it, and only other datacenters are dialled by gateways
	}
	if m, ok := d.Child(key, key); ok {
		m.Only("mode", "none")
		m.Done()
	}
}

// maxCount bounds numbers of things.
const maxCount = 1 << 31

func count(s Setting[int64]) Setting[uint32] {
	return Setting[uint32]{s.Set, uint32(s.Value), s.At} //nolint:gosec // within maxCount
}

func (d *Decoder) limit(key string, most int64) catalog.Limit {
	c := count(d.Integer(key, 0, most))
	return catalog.Limit{Set: c.Set, N: c.Value}
}

// SocketMode is the permission bits of a socket, a string in octal as in Consul.
func (d *Decoder) SocketMode(key string) Setting[uint32] {
	return readValue(d, key, func(n *Node) (uint32, bool, error) {
		if n.Kind != Text {
			return 0, false, Mismatch(`a string in octal, like "0700"`, n)
		}
		m, err := strconv.ParseUint(n.Text, 8, 32)
		if err != nil || m > 0o777 {
			return 0, false, fmt.Errorf(`%.20q must be permission bits in octal, like "0700"`, n.Text)
		}
		return uint32(m), true, nil
	})
}
