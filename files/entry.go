package files

import (
	"slices"
	"strings"

	"github.com/sallyport/sallyport/definition"
	"github.com/sallyport/sallyport/identity"
)

// serviceDefaults is a service-defaults entry.
type serviceDefaults struct {
	at        definition.Position
	settings  definition.Settings         // its own proxies'
	upstreams definition.UpstreamSettings // UpstreamConfig.Defaults, of the proxies that dial
	overrides map[string]definition.UpstreamSettings
}

// proxyDefaults is the proxy-defaults entry.
type proxyDefaults struct {
	at       definition.Position
	settings definition.Settings
}

// mesh is the mesh entry.
type mesh struct {
	at definition.Position
	definition.Mesh
}

// entry reads one config entry, as `consul config write` takes it.
func (d *directory) entry(o *definition.Decoder) {
	o.Weak = true
	kind := o.Text("Kind")
	if !o.Require("Kind", kind) {
		return
	}
	o.What = kind.Value
	unsupported := []string{
		"service-router", "service-splitter", "service-resolver", "ingress-gateway", "terminating-gateway", "api-gateway", "bound-api-gateway",
		"exported-services", "sameness-group", "jwt-provider", "http-route", "tcp-route", "inline-certificate", "file-system-certificate",
		"control-plane-request-limit",
	}
	supported := []string{"service-intentions", "service-defaults", "proxy-defaults", "mesh"}
	switch kind.Value {
	case "service-intentions":
		d.serviceIntentions(o)
	case "service-defaults":
		d.serviceDefaults(o)
	case "proxy-defaults":
		d.readProxyDefaults(o)
	case "mesh":
		d.readMesh(o)
	default:
		near := definition.Nearest(strings.ReplaceAll(kind.Value, "-", "_"), supported)
		for _, k := range supported { // ServiceIntentions, as Kubernetes spells it
			if strings.EqualFold(strings.ReplaceAll(k, "-", ""), kind.Value) {
				near = k
			}
		}
		switch {
		case slices.Contains(unsupported, kind.Value):
			o.Mistake(kind.At, "config entries of kind %q are not supported yet", kind.Value)
		case near != "":
			o.Mistake(kind.At, "unknown kind %.60q: did you mean %s?", kind.Value, near)
		default:
			o.Mistake(kind.At, "unknown kind %.60q: config entries of kind %s are read, and services in service { ... }", kind.Value, strings.Join(supported, ", "))
		}
	}
}

// entryCommon reads the keys that all entries have.
func entryCommon(o *definition.Decoder) {
	for _, key := range []string{"Namespace", "Partition"} {
		o.Only(key, identity.Default)
	}
	meta(o, "Meta")
	o.Drop("CreateIndex", "ModifyIndex", "Hash") // of Consul's own output
}

func (d *directory) serviceDefaults(o *definition.Decoder) {
	name := o.Text("Name")
	entryCommon(o)
	e := &serviceDefaults{at: o.At, overrides: map[string]definition.UpstreamSettings{}}
	e.settings = o.ServiceSettings()
	if u, ok := o.Child("UpstreamConfig", "UpstreamConfig"); ok {
		d.upstreamConfig(u, e)
	}
	o.Only("Mode", "direct")
	o.Only("MutualTLSMode", "strict", "default")
	o.MeshGateway("MeshGateway")
	o.Unsupported("TransparentProxy", "Expose", "ExternalSNI", "Destination", "RateLimits", "EnvoyExtensions")
	o.Done()
	if !o.Require("Name", name) || !o.Name("Name", name) {
		return
	}
	d.addDefaults(name.Value, e)
}

func (d *directory) addDefaults(name string, e *serviceDefaults) {
	if first, ok := d.defaults[name]; ok {
		d.problem(e.at, "service-defaults of %s are given twice (first at %s)", name, first.at)
		return
	}
	d.defaults[name] = e
}

func (d *directory) upstreamConfig(o *definition.Decoder, e *serviceDefaults) {
	if defaults, ok := o.Child("Defaults", "Defaults"); ok {
		if n := defaults.Text("Name"); n.Set {
			o.Mistake(n.At, "Defaults hold for all upstreams and have no Name: use Overrides")
		}
		e.upstreams = defaults.UpstreamSettings()
	}
	for _, c := range o.Children("Overrides", "Overrides") {
		name := c.Text("Name")
		for _, key := range []string{"Namespace", "Partition"} {
			c.Only(key, identity.Default)
		}
		c.Only("Peer")
		s := c.UpstreamSettings()
		if !c.Require("Name", name) || !c.Name("Name", name) {
			continue
		}
		if _, ok := e.overrides[name.Value]; ok {
			o.Mistake(c.At, "Overrides of %s are given twice", name.Value)
		}
		e.overrides[name.Value] = s
	}
	o.Done()
}

func (d *directory) readProxyDefaults(o *definition.Decoder) {
	name := o.Text("Name")
	entryCommon(o)
	e := &proxyDefaults{at: o.At, settings: o.Config()}
	o.Only("Mode", "direct")
	o.Only("MutualTLSMode", "strict", "default")
	o.MeshGateway("MeshGateway")
	o.Unsupported("TransparentProxy", "Expose", "AccessLogs", "EnvoyExtensions", "FailoverPolicy", "PrioritizeByLocality")
	o.Done()
	switch {
	case !o.Require("Name", name):
	case name.Value != "global":
		o.Mistake(name.At, `the Name of proxy-defaults must be "global", not %.60q`, name.Value)
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

func (d *directory) readMesh(o *definition.Decoder) {
	e := &mesh{at: o.At}
	if name := o.Text("Name"); name.Set && name.Value != "mesh" {
		o.Mistake(name.At, `the Name of the mesh entry is "mesh", not %.60q`, name.Value)
	}
	entryCommon(o)
	e.Mesh = o.Mesh()
	o.Unsupported("TransparentProxy", "AllowEnablingPermissiveMutualTLS", "Peering", "ValidateClusters")
	o.Done()
	d.addMesh(e)
}

func (d *directory) addMesh(e *mesh) {
	if d.mesh != nil {
		d.problem(e.at, "the mesh entry is given twice (first at %s)", d.mesh.at)
		return
	}
	d.mesh = e
}
