package files

import (
	"slices"
	"strings"

	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/identity"
)

// serviceDefaults is a service-defaults entry.
type serviceDefaults struct {
	at        position
	settings  settings         // its own proxies'
	upstreams upstreamSettings // UpstreamConfig.Defaults, of the proxies that dial
	overrides map[string]upstreamSettings
}

// proxyDefaults is the proxy-defaults entry.
type proxyDefaults struct {
	at       position
	settings settings
}

// mesh is the mesh entry.
type mesh struct {
	at                 position
	incoming, outgoing catalog.TLS
	dropForwarded      bool
}

// entry reads one config entry, as `consul config write` takes it.
func (d *directory) entry(o *object) {
	o.weak = true
	kind := o.text("Kind")
	if !o.require("Kind", kind) {
		return
	}
	o.what = kind.value
	unsupported := []string{
		"service-router", "service-splitter", "service-resolver", "ingress-gateway", "terminating-gateway", "api-gateway", "bound-api-gateway",
		"exported-services", "sameness-group", "jwt-provider", "http-route", "tcp-route", "inline-certificate", "file-system-certificate",
		"control-plane-request-limit",
	}
	supported := []string{"service-intentions", "service-defaults", "proxy-defaults", "mesh"}
	switch kind.value {
	case "service-intentions":
		d.serviceIntentions(o)
	case "service-defaults":
		d.serviceDefaults(o)
	case "proxy-defaults":
		d.readProxyDefaults(o)
	case "mesh":
		d.readMesh(o)
	default:
		near := nearest(strings.ReplaceAll(kind.value, "-", "_"), supported)
		for _, k := range supported { // ServiceIntentions, as Kubernetes spells it
			if strings.EqualFold(strings.ReplaceAll(k, "-", ""), canonical(kind.value)) {
				near = k
			}
		}
		switch {
		case slices.Contains(unsupported, kind.value):
			o.problem(kind.at, "config entries of kind %q are not supported yet", kind.value)
		case near != "":
			o.problem(kind.at, "unknown kind %.60q: did you mean %s?", kind.value, near)
		default:
			o.problem(kind.at, "unknown kind %.60q: config entries of kind %s are read, and services in service { ... }", kind.value, strings.Join(supported, ", "))
		}
	}
}

// entryCommon reads the keys that all entries have.
func (o *object) entryCommon() {
	for _, key := range []string{"Namespace", "Partition"} {
		o.only(key, identity.Default)
	}
	o.meta("Meta")
	o.ignoreSilently("CreateIndex", "ModifyIndex", "Hash") // of Consul's own output
}

func (d *directory) serviceDefaults(o *object) {
	name := o.text("Name")
	o.entryCommon()
	e := &serviceDefaults{at: o.at, overrides: map[string]upstreamSettings{}}
	own := settings{
		protocol:       o.protocol("Protocol"),
		connectTimeout: o.milliseconds("LocalConnectTimeoutMs"),
		requestTimeout: o.milliseconds("LocalRequestTimeoutMs"),
		maxConnections: o.count("MaxInboundConnections"),
		balance:        o.balance("BalanceInboundConnections"),
	}
	config := o.settings()
	if own.protocol.set && config.protocol.set && own.protocol.value != config.protocol.value {
		o.problem(config.protocol.at, "protocol %s contradicts Protocol %s of the same entry", config.protocol.value, own.protocol.value)
	}
	e.settings = own.over(config)
	if u, ok := o.child("UpstreamConfig", "UpstreamConfig"); ok {
		d.upstreamConfig(u, e)
	}
	o.only("Mode", "direct")
	o.only("MutualTLSMode", "strict", "default")
	o.meshGateway("MeshGateway")
	o.unsupported("TransparentProxy", "Expose", "ExternalSNI", "Destination", "RateLimits", "EnvoyExtensions")
	o.done()
	if !o.require("Name", name) || !o.name("Name", name) {
		return
	}
	d.addDefaults(name.value, e)
}

func (d *directory) addDefaults(name string, e *serviceDefaults) {
	if first, ok := d.defaults[name]; ok {
		d.problem(e.at, "service-defaults of %s are given twice (first at %s)", name, first.at)
		return
	}
	d.defaults[name] = e
}

func (d *directory) upstreamConfig(o *object, e *serviceDefaults) {
	if defaults, ok := o.child("Defaults", "Defaults"); ok {
		if n := defaults.text("Name"); n.set {
			o.problem(n.at, "Defaults hold for all upstreams and have no Name: use Overrides")
		}
		e.upstreams = defaults.upstreamSettings()
	}
	for _, c := range o.children("Overrides", "Overrides") {
		name := c.text("Name")
		for _, key := range []string{"Namespace", "Partition"} {
			c.only(key, identity.Default)
		}
		c.only("Peer")
		s := c.upstreamSettings()
		if !c.require("Name", name) || !c.name("Name", name) {
			continue
		}
		if _, ok := e.overrides[name.value]; ok {
			o.problem(c.at, "Overrides of %s are given twice", name.value)
		}
		e.overrides[name.value] = s
	}
	o.done()
}

func (d *directory) readProxyDefaults(o *object) {
	name := o.text("Name")
	o.entryCommon()
	e := &proxyDefaults{at: o.at, settings: o.settings()}
	o.only("Mode", "direct")
	o.only("MutualTLSMode", "strict", "default")
	o.meshGateway("MeshGateway")
	o.unsupported("TransparentProxy", "Expose", "AccessLogs", "EnvoyExtensions", "FailoverPolicy", "PrioritizeByLocality")
	o.done()
	switch {
	case !o.require("Name", name):
	case name.value != "global":
		o.problem(name.at, `the Name of proxy-defaults must be "global", not %.60q`, name.value)
	default:
		d.addProxyDefaults(e)
	}
}

func (d *directory) addProxyDefaults(e *proxyDefaults) {
	if d.proxyDefaults != nil {
		d.problem(e.at, "proxy-defaults are given twice (first at %s)", d.proxyDefaults.at)
		return
	}
	d.proxyDefaults = e
}

func (d *directory) readMesh(o *object) {
	e := &mesh{at: o.at}
	if name := o.text("Name"); name.set && name.value != "mesh" {
		o.problem(name.at, `the Name of the mesh entry is "mesh", not %.60q`, name.value)
	}
	o.entryCommon()
	if t, ok := o.child("TLS", "TLS"); ok {
		if in, ok := t.child("Incoming", "Incoming"); ok {
			e.incoming = in.tls()
		}
		if out, ok := t.child("Outgoing", "Outgoing"); ok {
			e.outgoing = out.tls()
		}
		t.done()
	}
	if h, ok := o.child("HTTP", "HTTP"); ok {
		e.dropForwarded = h.boolean("SanitizeXForwardedClientCert").value
		h.unsupported("Incoming")
		h.done()
	}
	o.unsupported("TransparentProxy", "AllowEnablingPermissiveMutualTLS", "Peering", "ValidateClusters")
	o.done()
	d.addMesh(e)
}

func (d *directory) addMesh(e *mesh) {
	if d.mesh != nil {
		d.problem(e.at, "the mesh entry is given twice (first at %s)", d.mesh.at)
		return
	}
	d.mesh = e
}

// tls reads the bounds on one direction's TLS versions.
func (o *object) tls() (t catalog.TLS) {
	least := o.text("TLSMinVersion")
	switch least.value {
	case "", "TLS_AUTO", "TLSv1_3":
	case "TLSv1_2":
		t.Allow12 = true
	case "TLSv1_0", "TLSv1_1":
		o.problem(least.at, "TLSMinVersion %s is not secure: TLSv1_2 and TLSv1_3 are taken", least.value)
	default:
		o.problem(least.at, "TLSMinVersion %.60q is not known: TLS_AUTO, TLSv1_2 and TLSv1_3 are", least.value)
	}
	most := o.text("TLSMaxVersion")
	switch most.value {
	case "", "TLS_AUTO", "TLSv1_3":
	default:
		o.problem(most.at, "TLSMaxVersion %.60q: TLS_AUTO and TLSv1_3 are taken, as TLS 1.3 cannot be switched off", most.value)
	}
	o.unsupported("CipherSuites")
	o.done()
	return t
}
