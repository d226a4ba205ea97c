package files

import (
	"cmp"

	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/definition"
	"github.com/sallyport/sallyport/identity"
)

// service is the registration of an application.
type service struct {
	id, name string
	at       definition.Position
	// registration is what is said of the instance itself.
	registration *catalog.Registration
	address      definition.Setting[string]
	port         definition.Setting[uint16]
	socket       definition.Setting[string]
	weights      definition.Setting[weights]
	health       health
	// misplaced says that a mistake was reported of port or socket: that there is neither is none of its own.
	misplaced bool
}

// proxy is the registration of a sidecar, nested in its service's or on its own.
type proxy struct {
	id     string
	at     definition.Position
	parent *service // nil: on its own

	destination definition.Setting[string] // name of the service
	nobodys     bool                       // a mistake was reported of it
	instance    definition.Setting[string] // ID of its registration

	address definition.Setting[string]
	port    definition.Setting[uint16] // not set: one is chosen

	localAddress definition.Setting[string]
	localPort    definition.Setting[uint16]
	localSocket  definition.Setting[string]
	misplaced    bool // as that of service, of these

	weights definition.Setting[weights]
	health  definition.Setting[health] // set if it has checks of its own

	// name, tags, meta, checks and config are what is told of the registration.
	name   string
	tags   []string
	meta   map[string]string
	checks []catalog.Check
	config map[string]any

	settings  definition.Settings
	logs      definition.Setting[catalog.AccessLogs]
	upstreams []upstream
	foreign   []upstream // those in other trust domains
	exposed   []definition.Exposed
}

// upstream is what a proxy dials, as far as the proxy itself says it.
type upstream struct {
	catalog.Upstream
	at       definition.Position
	settings *definition.UpstreamSettings // nil: it says none
	// told is what is told of the registration, and config its own config.
	told   catalog.SidecarUpstream
	config map[string]any
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

// String is h as Consul spells it.
func (h health) String() string { return [...]string{"passing", "warning", "critical"}[h] }

// service reads one service definition and what is nested in it.
func (d *definitions) service(o *definition.Decoder) {
	kind := o.Text("kind")
	switch kind.Value {
	case "":
		d.application(o)
	case "connect-proxy":
		d.standalone(o)
	case "mesh-gateway", "terminating-gateway", "ingress-gateway", "api-gateway":
		o.Mistake(kind.At, "kind %q is not supported yet", kind.Value)
	default:
		o.Mistake(kind.At, "kind %.60q of service is not known: connect-proxy is, or none", kind.Value)
	}
}

// common reads the keys that all registrations have and that mean nothing to a sidecar, and reports those that are not supported.
func common(o *definition.Decoder) (tags []string, pairs map[string]string) {
	tenancy(o, "")
	tags, pairs = texts(o, "tags"), meta(o, "meta")
	o.Boolean("enable_tag_override")
	o.Unsupported("tagged_addresses", "locality", "ports")
	if t := o.Text("token"); t.Set {
		o.Mistake(t.At, "token in %s: files need no ACL tokens: remove it", o.What)
	}
	return tags, pairs
}

func (d *definitions) application(o *definition.Decoder) {
	name := o.Text("name")
	id := o.Text("id")
	s := &service{
		at:      o.At,
		address: o.DialAddress("address"),
		port:    o.Port("port"),
		socket:  socket(o, "socket_path"),
		weights: weightsOf(o),
	}
	checks, h, _ := d.checks(o)
	s.health = h
	override, _ := o.Written(overrideShape)["enable_tag_override"].(bool)
	tags, pairs := common(o)
	selectors(o, pairs)
	if s.socket.Set && (s.port.Set || s.address.Set) {
		o.Mistake(s.socket.At, "service has a socket_path and an address or port: it can have one of them")
	}
	if b := o.Field("proxy"); b != nil && !b.Empty() {
		o.Mistake(b.At, `proxy is for registrations of kind "connect-proxy": put it into connect { sidecar_service { ... } }`)
	}
	connect, _ := o.Child("connect", "connect")
	o.Done()
	s.misplaced = o.Faulty("port", "socket_path")
	if !o.Require("name", name) || !o.Name("name", name) || id.Set && !validID(o, "id", id) {
		return
	}
	s.name, s.id = name.Value, id.Or(name).Value
	s.register(tags, pairs, connect.Boolean("native").Value)
	s.registration.EnableTagOverride, s.registration.Checks = override, identified(checks, s.id, s.name)
	d.registrations = append(d.registrations, registration{service: s})
	if sidecar, ok := connect.Child("sidecar_service", "sidecar_service"); ok {
		d.sidecar(sidecar, s)
	}
	connect.Done()
}

// sidecar reads connect.sidecar_service, all of which has defaults (Consul, "Sidecar service defaults").
func (d *definitions) sidecar(o *definition.Decoder, parent *service) {
	id := parent.id + "-sidecar-proxy"
	if given := o.Text("id"); given.Set && given.Value != id {
		o.Mistake(given.At, "id of sidecar_service is always %q, as in Consul: remove it", id)
	}
	if kind := o.Text("kind"); kind.Set && kind.Value != "connect-proxy" {
		o.Mistake(kind.At, "kind of sidecar_service is always connect-proxy, not %.60q", kind.Value)
	}
	if o.Field("connect") != nil {
		o.Mistake(o.Field("connect").At, "connect cannot be nested in sidecar_service")
	}
	name := o.Text("name")
	o.Name("name", name)
	p := d.proxy(o, id, false)
	p.parent, p.name = parent, name.Else(parent.name+"-sidecar-proxy")
	p.checks = identified(p.checks, id, p.name)
	o.Done()
	d.registrations = append(d.registrations, registration{proxy: p})
}

func (d *definitions) standalone(o *definition.Decoder) {
	name, id := o.Text("name"), o.Text("id")
	if o.Field("connect") != nil {
		o.Mistake(o.Field("connect").At, "a connect-proxy has no sidecar of its own: remove connect")
	}
	p := d.proxy(o, id.Or(name).Value, true)
	o.Done()
	if !o.Require("name", name) || !o.Name("name", name) || id.Set && !validID(o, "id", id) {
		return
	}
	if !p.destination.Set {
		if !p.nobodys && !o.Faulty("proxy") {
			o.Mistake(o.At, "a connect-proxy needs proxy { destination_service_name }")
		}
		return
	}
	if !p.port.Set && o.Field("port") == nil && !o.Faulty("port") {
		o.Mistake(o.At, "a connect-proxy needs a port (only a sidecar_service is given one)")
	}
	p.name, p.checks = name.Value, identified(p.checks, p.id, name.Value)
	d.registrations = append(d.registrations, registration{proxy: p})
}

// proxy reads what both kinds of proxy registration have. alone: it is one of its own, which has to say
// whose it is.
func (d *definitions) proxy(o *definition.Decoder, id string, alone bool) *proxy {
	p := &proxy{id: id, at: o.At, address: o.DialAddress("address"), port: o.Port("port"), weights: weightsOf(o)}
	o.Unsupported("socket_path")
	checks, h, ok := d.checks(o)
	if p.checks = checks; ok {
		p.health = definition.Setting[health]{Set: true, Value: h}
	}
	p.tags, p.meta = common(o)
	if p.meta[catalog.MetaSelectors] != "" {
		o.Mistake(metaAt(o, catalog.MetaSelectors), "%s in a sidecar's registration: it counts in the service's own alone: move it there", catalog.MetaSelectors)
	}
	b, ok := o.Child("proxy", "proxy")
	if !ok {
		return p
	}
	p.destination = b.Text("destination_service_name")
	if alone {
		b.Need("destination_service_name", p.destination)
	}
	if p.destination.Set && !b.Name("destination_service_name", p.destination) {
		p.destination = definition.Setting[string]{}
	}
	p.instance = b.Text("destination_service_id")
	p.localAddress = b.DialAddress("local_service_address")
	p.localPort = b.Port("local_service_port")
	p.localSocket = socket(b, "local_service_socket_path")
	if p.localSocket.Set && (p.localPort.Set || p.localAddress.Set) {
		b.Mistake(p.localSocket.At, "proxy has a local_service_socket_path and a local_service_address or local_service_port: it can have one of them")
	}
	b.Only("mode", "direct")
	b.Only("mutual_tls_mode", "strict", "default")
	b.Unsupported("transparent_proxy", "envoy_extensions")
	p.logs = b.AccessLogs("access_logs")
	b.MeshGateway("mesh_gateway")
	p.config, _ = b.Written(configShape)["config"].(map[string]any)
	p.settings = b.Config()
	upstreams := b.Children("upstreams", "upstream")
	p.upstreams = make([]upstream, 0, len(upstreams))
	taken := make(map[identity.Name]definition.Position, len(upstreams))
	for _, u := range upstreams {
		d.upstream(u, p, taken)
	}
	if e, ok := b.Child("expose", "expose"); ok {
		p.exposed = d.exposed(e)
	}
	b.Done()
	p.misplaced = b.Faulty("local_service_port", "local_service_socket_path")
	p.nobodys = b.Faulty("destination_service_name")
	return p
}

// weights are set if the registration says something of them; 1 and 1 are Consul's defaults.
func weightsOf(o *definition.Decoder) (s definition.Setting[weights]) {
	w, ok := o.Child("weights", "weights")
	if !ok {
		return s
	}
	// Consul's bounds: an instance without weight when passing would never be dialled.
	s = definition.Setting[weights]{Set: true, At: w.At, Value: weights{1, 1}}
	if p := w.Integer("passing", 1, 65535); p.Set {
		s.Value.passing = p.Value
	}
	if p := w.Integer("warning", 0, 65535); p.Set {
		s.Value.warning = p.Value
	}
	w.Done()
	return s
}

// checks are the checks, as far as they are told to those who ask, and the worst of their statuses; ok is false if there are none.
func (d *definitions) checks(o *definition.Decoder) (list []catalog.Check, worst health, ok bool) {
	for _, c := range append(o.Children("check", "check"), o.Children("checks", "check")...) {
		ok = true
		status := c.Text("status")
		switch status.Value {
		case "", "passing":
		case "warning":
			worst = max(worst, warning)
		case "critical":
			worst = critical
		default:
			c.Mistake(status.At, "status %.60q of check is not known: passing, warning and critical are", status.Value)
		}
		before := len(d.problems)
		list = append(list, told(c.Written(checkShape), status.Else("passing")))
		probes := probes(c)
		if probes && !status.Set {
			d.warning(c.At, "checks are not run here: without a status this one counts as passing")
		}
		c.Know("id", "check_id", "name", "notes", "service_id", "method", "header", "body", "tls_server_name",
			"tls_skip_verify", "tcp_use_tls", "grpc_use_tls", "h2ping_use_tls", "shell", "disable_redirects", "output_max_size", "success_before_passing",
			"failures_before_warning", "failures_before_critical", "docker_container_id", "token")
		c.Done()
		if !probes && !status.Set && len(d.problems) == before && !c.Broken {
			c.Mistake(c.At, "check says nothing: give it a status, or how the status is found out (http, tcp, ttl, …)")
		}
	}
	return list, worst, ok
}

// probes reports whether a check says how Consul's agent would find out about its status, and what of that Consul would refuse. A
// status alone is taken, which Consul does not: here it is all that counts.
func probes(o *definition.Decoder) bool {
	given := func(keys ...string) (first string) {
		for _, key := range keys {
			if n := o.Field(key); n != nil && !n.Empty() {
				first = cmp.Or(first, key)
			}
		}
		return first
	}
	run := given("http", "tcp", "udp", "grpc", "h2ping", "args", "os_service")
	alias := given("alias_service", "alias_node")
	interval, ttl := o.Duration("interval"), o.Duration("ttl")
	o.Duration("timeout")
	o.Duration("deregister_critical_service_after")
	switch {
	case run != "" && alias != "":
		o.Mistake(o.At, "check has %s and %s: it can have one of them", run, alias)
	case run != "" && given("interval") == "":
		o.Mistake(o.At, "check with %s has no interval", run)
	case interval.Set && ttl.Set, alias != "" && ttl.Set:
		o.Mistake(ttl.At, "check has a ttl and %s: it can have one of them", cmp.Or(alias, "an interval"))
	}
	return run != "" || alias != "" || ttl.Set
}
