package files

import (
	"cmp"
	"slices"
	"strings"

	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/definition"
	"github.com/sallyport/sallyport/identity"
)

// serviceDefaults is a service-defaults entry.
type serviceDefaults struct {
	name      string
	at        definition.Position
	settings  definition.Settings         // its own proxies'
	upstreams definition.UpstreamSettings // UpstreamConfig.Defaults, of the proxies that dial
	overrides map[string]definition.UpstreamSettings
	written   written
}

// proxyDefaults is the proxy-defaults entry.
type proxyDefaults struct {
	at       definition.Position
	settings definition.Settings
	logs     definition.Setting[catalog.AccessLogs]
	written  written
}

// equal reports whether the same holds by e and o, which are nil where there is none.
func (e *proxyDefaults) equal(o *proxyDefaults) bool {
	return e == o || e != nil && o != nil && e.at == o.at && e.settings == o.settings && e.logs == o.logs && e.written.entry.Fields == o.written.entry.Fields
}

// mesh is the mesh entry.
type mesh struct {
	at definition.Position
	definition.Mesh
	entry *catalog.Entry
}

// supported are the kinds of config entries that are read.
var supported = []string{"service-intentions", "service-defaults", "service-router", "service-splitter", "service-resolver", "proxy-defaults", "mesh", providerKind}

// camelCase is the one of kinds that Kubernetes calls kind: ServiceIntentions; empty if none is.
func camelCase(kind string, kinds []string) string {
	for _, k := range kinds {
		if strings.EqualFold(strings.ReplaceAll(k, "-", ""), kind) {
			return k
		}
	}
	return ""
}

// kubernetes reports a resource of Kubernetes, which says at what it is one. Of one of Consul's it
// says how it is written here.
func kubernetes(o *definition.Decoder, at definition.Position) {
	var kind, name string
	for _, f := range o.Given("kind") {
		kind = f.Value.Text
	}
	for _, f := range append(o.Given("metadata"), o.Given("spec")...) {
		if d, ok := o.Decoder(f.Value, "").Child("destination", ""); ok { // of ServiceIntentions
			name = cmp.Or(d.Text("name").Value, name)
		}
		name = cmp.Or(name, o.Decoder(f.Value, "").Text("name").Value)
	}
	k := camelCase(kind, supported)
	if k == "" {
		o.Mistake(at, "a Kubernetes resource of kind %.60q: here are Consul's service definitions and config entries of kind %s", kind, strings.Join(supported, ", "))
		return
	}
	o.Mistake(at, "a Kubernetes resource (%.60s): write it as Consul's API has it: Kind %q, Name %.60q, and what is under spec beside them", kind, k, name)
}

// entry reads one config entry, as `consul config write` takes it.
func (d *definitions) entry(o *definition.Decoder) {
	o.Weak = true
	kind := o.Text("Kind")
	if !o.Require("Kind", kind) {
		return
	}
	o.What = kind.Value
	unsupported := []string{
		"ingress-gateway", "terminating-gateway", "api-gateway", "bound-api-gateway",
		"exported-services", "sameness-group", "http-route", "tcp-route", "inline-certificate", "file-system-certificate",
		"control-plane-request-limit",
	}
	switch kind.Value {
	case "service-intentions":
		d.serviceIntentions(o)
	case "service-defaults":
		d.serviceDefaults(o)
	case aRouter.String():
		d.readRouting(o, aRouter)
	case aSplitter.String():
		d.readRouting(o, aSplitter)
	case aResolver.String():
		d.readRouting(o, aResolver)
	case "proxy-defaults":
		d.readProxyDefaults(o)
	case "mesh":
		d.readMesh(o)
	case providerKind:
		d.readTokenProvider(o)
	default:
		near := cmp.Or(camelCase(kind.Value, supported), definition.Nearest(strings.ReplaceAll(kind.Value, "-", "_"), supported))
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
func entryCommon(o *definition.Decoder) (pairs map[string]string) {
	for _, key := range []string{"Namespace", "Partition"} {
		o.Only(key, identity.Default)
	}
	pairs = meta(o, "Meta")
	o.Drop("CreateIndex", "ModifyIndex", "Hash") // of Consul's own output
	return pairs
}

func (d *definitions) serviceDefaults(o *definition.Decoder) {
	name, fields := o.Text("Name"), o.Written(serviceDefaultsShape)
	pairs := entryCommon(o)
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
	if p, ok := fields["Protocol"].(string); ok {
		fields["Protocol"] = strings.ToLower(p)
	}
	e.name, e.written, d.defaults = name.Value, write("service-defaults", name.Value, o.At.String(), pairs, fields), e
}

func (d *definitions) upstreamConfig(o *definition.Decoder, e *serviceDefaults) {
	if defaults, ok := o.Child("Defaults", "Defaults"); ok {
		if n := defaults.Text("Name"); n.Set {
			o.Mistake(n.At, "Defaults hold for all upstreams and have no Name: use Overrides")
		}
		tenancy(defaults, "")
		e.upstreams = defaults.UpstreamSettings()
	}
	for _, c := range o.Children("Overrides", "Overrides") {
		name := c.Text("Name")
		tenancy(c, "")
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

func (d *definitions) readProxyDefaults(o *definition.Decoder) {
	name, fields := o.Text("Name"), o.Written(proxyDefaultsShape)
	pairs := entryCommon(o)
	e := &proxyDefaults{at: o.At, settings: o.Config()}
	o.Only("Mode", "direct")
	o.Only("MutualTLSMode", "strict", "default")
	o.MeshGateway("MeshGateway")
	e.logs = o.AccessLogs("AccessLogs")
	o.Unsupported("TransparentProxy", "Expose", "EnvoyExtensions", "FailoverPolicy", "PrioritizeByLocality")
	o.Done()
	switch {
	case !o.Require("Name", name):
	case name.Value != "global":
		o.Mistake(name.At, `the Name of proxy-defaults must be "global", not %.60q`, name.Value)
	default:
		e.written = write("proxy-defaults", name.Value, o.At.String(), pairs, fields)
		d.proxyDefaults = e
	}
}

func (d *definitions) readMesh(o *definition.Decoder) {
	e := &mesh{at: o.At}
	if name := o.Text("Name"); name.Set && name.Value != "mesh" {
		o.Mistake(name.At, `the Name of the mesh entry is "mesh", not %.60q`, name.Value)
	}
	fields := o.Written(meshShape)
	e.entry = write("mesh", "mesh", o.At.String(), entryCommon(o), fields).entry
	e.Mesh = o.Mesh()
	o.Unsupported("TransparentProxy", "AllowEnablingPermissiveMutualTLS", "Peering", "ValidateClusters")
	o.Done()
	d.mesh = e
}
