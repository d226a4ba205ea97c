package files

import (
	"cmp"

	"github.com/sallyport/sallyport/catalog"
)

// service is the registration of an application.
type service struct {
	id, name string
	at       position
	address  setting[string]
	port     setting[uint16]
	socket   setting[string]
	weights  setting[weights]
	health   health
}

// proxy is the registration of a sidecar, nested in its service's or on its own.
type proxy struct {
	id     string
	at     position
	parent *service // nil: on its own

	destination setting[string] // name of the service
	instance    setting[string] // ID of its registration

	address setting[string]
	port    setting[uint16] // not set: one is chosen

	localAddress setting[string]
	localPort    setting[uint16]
	localSocket  setting[string]

	weights setting[weights]
	health  setting[health] // set if it has checks of its own

	settings  settings
	upstreams []upstream
	exposed   []exposed
}

// upstream is what a proxy dials, as far as the proxy itself says it.
type upstream struct {
	catalog.Upstream
	at       position
	settings *upstreamSettings // nil: it says none
}

// weights are an instance's shares of the traffic, by its health.
type weights struct{ passing, warning int64 }

// health is the worst status of an instance's checks.
type health uint8

const (
	passing health = iota
	warning
	critical
)

// service reads one service definition and what is nested in it.
func (d *directory) service(o *object) {
	kind := o.text("kind")
	switch kind.value {
	case "":
		d.application(o)
	case "connect-proxy":
		d.standalone(o)
	case "mesh-gateway", "terminating-gateway", "ingress-gateway", "api-gateway":
		o.problem(kind.at, "kind %q is not supported yet", kind.value)
	default:
		o.problem(kind.at, "kind %.60q of service is not known: connect-proxy is, or none", kind.value)
	}
}

// common reads the keys that all registrations have and that mean nothing to a mesh, and reports those that are not supported.
func (o *object) common() {
	o.tenancy("")
	o.texts("tags")
	o.meta("meta")
	o.boolean("enable_tag_override")
	o.unsupported("tagged_addresses", "locality", "ports")
	if t := o.text("token"); t.set {
		o.problem(t.at, "token in %s: files need no ACL tokens: remove it", o.what)
	}
}

func (d *directory) application(o *object) {
	name := o.text("name")
	id := o.text("id")
	s := &service{
		at:      o.at,
		address: o.address("address"),
		port:    o.port("port"),
		socket:  o.socket("socket_path"),
		weights: o.weights(),
	}
	h, _ := o.checks()
	s.health = h
	o.common()
	if s.socket.set && (s.port.set || s.address.set) {
		o.problem(s.socket.at, "service has a socket_path and an address or port: it can have one of them")
	}
	if b := o.field("proxy"); b != nil && !b.empty() {
		o.problem(b.at, `proxy is for registrations of kind "connect-proxy": put it into connect { sidecar_service { ... } }`)
	}
	connect, _ := o.child("connect", "connect")
	o.done()
	if !o.require("name", name) || !o.name("name", name) || id.set && !o.id("id", id) {
		return
	}
	s.name, s.id = name.value, id.or(name).value
	if d.claim(s.id, o.at) {
		d.services = append(d.services, s)
	}
	connect.unsupported("native")
	if sidecar, ok := connect.child("sidecar_service", "sidecar_service"); ok {
		d.sidecar(sidecar, s)
	}
	connect.done()
}

// sidecar reads connect.sidecar_service, all of which has defaults (Consul, "Sidecar service defaults").
func (d *directory) sidecar(o *object, parent *service) {
	id := parent.id + "-sidecar-proxy"
	if given := o.text("id"); given.set && given.value != id {
		o.problem(given.at, "id of sidecar_service is always %q, as in Consul: remove it", id)
	}
	if kind := o.text("kind"); kind.set && kind.value != "connect-proxy" {
		o.problem(kind.at, "kind of sidecar_service is always connect-proxy, not %.60q", kind.value)
	}
	if o.field("connect") != nil {
		o.problem(o.field("connect").at, "connect cannot be nested in sidecar_service")
	}
	o.name("name", o.text("name"))
	p := d.proxy(o, id)
	p.parent = parent
	o.done()
	if d.claim(id, o.at) {
		d.proxies = append(d.proxies, p)
	}
}

func (d *directory) standalone(o *object) {
	name, id := o.text("name"), o.text("id")
	if o.field("connect") != nil {
		o.problem(o.field("connect").at, "a connect-proxy has no sidecar of its own: remove connect")
	}
	p := d.proxy(o, id.or(name).value)
	o.done()
	if !o.require("name", name) || !o.name("name", name) || id.set && !o.id("id", id) {
		return
	}
	if !p.destination.set {
		o.problem(o.at, "a connect-proxy needs proxy { destination_service_name }")
		return
	}
	if !p.port.set && o.field("port") == nil {
		o.problem(o.at, "a connect-proxy needs a port (only a sidecar_service is given one)")
	}
	if d.claim(p.id, o.at) {
		d.proxies = append(d.proxies, p)
	}
}

// proxy reads what both kinds of proxy registration have.
func (d *directory) proxy(o *object, id string) *proxy {
	p := &proxy{id: id, at: o.at, address: o.address("address"), port: o.port("port"), weights: o.weights()}
	o.unsupported("socket_path")
	if h, ok := o.checks(); ok {
		p.health = setting[health]{set: true, value: h}
	}
	o.common()
	b, ok := o.child("proxy", "proxy")
	if !ok {
		return p
	}
	p.destination = b.text("destination_service_name")
	if p.destination.set && !b.name("destination_service_name", p.destination) {
		p.destination = setting[string]{}
	}
	p.instance = b.text("destination_service_id")
	p.localAddress = b.address("local_service_address")
	p.localPort = b.port("local_service_port")
	p.localSocket = b.socket("local_service_socket_path")
	if p.localSocket.set && (p.localPort.set || p.localAddress.set) {
		b.problem(p.localSocket.at, "proxy has a local_service_socket_path and a local_service_address or local_service_port: it can have one of them")
	}
	b.only("mode", "direct")
	b.only("mutual_tls_mode", "strict", "default")
	b.unsupported("transparent_proxy", "envoy_extensions", "access_logs")
	b.meshGateway("mesh_gateway")
	p.settings = b.settings()
	for _, u := range b.children("upstreams", "upstream") {
		d.upstream(u, p)
	}
	if e, ok := b.child("expose", "expose"); ok {
		p.exposed = e.exposed()
	}
	b.done()
	return p
}

// meshGateway takes the one mode that needs no gateway.
func (o *object) meshGateway(key string) {
	if m, ok := o.child(key, key); ok {
		m.only("mode", "none")
		m.done()
	}
}

// require reports that a key is missing, unless the object could not be read at all.
func (o *object) require(key string, s setting[string]) bool {
	if !s.set && !o.broken && (o.field(key) == nil || o.field(key).kind == text) {
		o.problem(o.at, "%s has no %s", o.what, key)
	}
	return s.set
}

// weights are set if the registration says something of them; 1 and 1 are Consul's defaults.
func (o *object) weights() (s setting[weights]) {
	w, ok := o.child("weights", "weights")
	if !ok {
		return s
	}
	// Consul's bounds: an instance without weight when passing would never be dialled.
	s = setting[weights]{set: true, at: w.at, value: weights{1, 1}}
	if p := w.integer("passing", 1, 65535); p.set {
		s.value.passing = p.value
	}
	if p := w.integer("warning", 0, 65535); p.set {
		s.value.warning = p.value
	}
	w.done()
	return s
}

// checks is the worst status of the checks; ok is false if there are none.
func (o *object) checks() (worst health, ok bool) {
	for _, c := range append(o.children("check", "check"), o.children("checks", "check")...) {
		ok = true
		status := c.text("status")
		switch status.value {
		case "", "passing":
		case "warning":
			worst = max(worst, warning)
		case "critical":
			worst = critical
		default:
			c.problem(status.at, "status %.60q of check is not known: passing, warning and critical are", status.value)
		}
		before := len(c.problems)
		probes := c.probes()
		if probes && !status.set {
			c.warning(c.at, "checks are not run here: without a status this one counts as passing")
		}
		c.ignore("id", "check_id", "name", "notes", "service_id", "method", "header", "body", "tls_server_name",
			"tls_skip_verify", "tcp_use_tls", "grpc_use_tls", "h2ping_use_tls", "shell", "disable_redirects", "output_max_size", "success_before_passing",
			"failures_before_warning", "failures_before_critical", "docker_container_id", "token")
		c.done()
		if !probes && !status.set && len(c.problems) == before && !c.broken {
			c.problem(c.at, "check says nothing: give it a status, or how the status is found out (http, tcp, ttl, …)")
		}
	}
	return worst, ok
}

// probes reports whether a check says how Consul's agent would find out about its status, and what of that Consul would refuse. A
// status alone is taken, which Consul does not: here it is all that counts.
func (o *object) probes() bool {
	given := func(keys ...string) (first string) {
		for _, key := range keys {
			if n := o.field(key); n != nil && !n.empty() {
				first = cmp.Or(first, key)
			}
		}
		return first
	}
	run := given("http", "tcp", "udp", "grpc", "h2ping", "args", "os_service")
	alias := given("alias_service", "alias_node")
	interval, ttl := o.duration("interval"), o.duration("ttl")
	o.duration("timeout")
	o.duration("deregister_critical_service_after")
	switch {
	case run != "" && alias != "":
		o.problem(o.at, "check has %s and %s: it can have one of them", run, alias)
	case run != "" && given("interval") == "":
		o.problem(o.at, "check with %s has no interval", run)
	case interval.set && ttl.set, alias != "" && ttl.set:
		o.problem(ttl.at, "check has a ttl and %s: it can have one of them", cmp.Or(alias, "an interval"))
	}
	return run != "" || alias != "" || ttl.set
}

// claim takes an ID for the registration at a place. IDs of services and proxies are one set, as on one agent.
func (d *directory) claim(id string, at position) bool {
	if first, ok := d.ids[id]; ok {
		d.problem(at, "the ID %q is taken (%s): IDs of services and proxies must differ", id, first)
		return false
	}
	d.ids[id] = at
	return true
}
