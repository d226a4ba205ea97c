package snapshot

import (
	"errors"
	"fmt"
	"strings"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/identity"
	"google.golang.org/protobuf/proto"
)

// errIncomplete marks an Input without a mesh, a trust domain or a proxy, of which nothing can be
// built yet.
var errIncomplete = errors.New("not enough is known of the proxy")

// Build makes the resources of a proxy's Envoy. Equal inputs give equal bytes. It neither blocks
// nor changes its input. Where the Envoy lacks a feature that the configuration asks for, it gets
// the stricter form and Resources get a warning. An error names the proxy and its origin; then
// there are no resources, and the Envoy is to keep those that it has.
func Build(in Input) (*Resources, error) { return new(Cache).Build(in, nil) }

// builder makes one proxy's resources. It lives as long as one call of Build.
type builder struct {
	packer
	in  Input
	out *Resources
	// last are earlier resources of the same mesh, proxy and Envoy; the rest of their Input may
	// differ. Nil: there are none.
	last *Resources
}

func (b *builder) build() {
	self := identity.Service{TrustDomain: b.in.Mesh.TrustDomain, Datacenter: b.in.Mesh.Datacenter, Name: b.in.Proxy.Service}
	if self.ID().IsZero() {
		b.fail("service %s cannot be an identity of %s in %q: names are made of letters, digits, '.', '-' and '_'",
			self.Name, self.TrustDomain, self.Datacenter)
		return
	}
	b.addSecret(Secret{Name: b.leaf(), Leaf: self})
	b.warnAboutLess()
	b.inbound()
	b.exposed()
	b.outbound()
}

func (b *builder) inbound() {
	in := b.in.Proxy.Inbound
	same := b.last != nil
	if name := listenerName(publicListener, in.Address, in.Port); !b.keep(same && b.last.in.Generation == b.in.Generation, listenerType, name) {
		b.add(name, b.inboundListener())
	}
	if !b.keep(same, clusterType, localApp) {
		b.add(localApp, b.localCluster())
	}
	same = same && b.last.in.Policy == b.in.Policy
	if same {
		b.out.validation, b.out.warnings = b.last.validation, b.last.warnings
	} else {
		b.out.validation, b.out.warnings = b.validation()
	}
	b.addSecret(b.out.validation)
	b.out.Warnings = append(b.out.Warnings, b.out.warnings...)
	if in.Protocol.L7() {
		if name := publicRouteName(b.in.Proxy.Service); !b.keep(same, routeType, name) {
			b.add(name, b.publicRoute())
		}
		for _, s := range []slot{logSlot, jwtSlot, httpExtensions} {
			b.fillEmpty(s, b.last != nil)
		}
		return
	}
	b.fill(rulesSlot, same, b.networkRules)
	if b.enforcement() == catalog.RBAC {
		b.fillEmpty(authzSlot, b.last != nil)
	} else {
		b.fill(authzSlot, b.last != nil, b.networkAuthz)
	}
	b.fillEmpty(networkExtensions, b.last != nil)
	b.fill(proxySlot, b.last != nil, b.tcpProxy)
	b.judges()
}

// judges lists the resources that decide about connections to a tcp service, and which of them are
// lifted.
func (b *builder) judges() {
	if b.last != nil {
		b.out.Judges = b.last.Judges
		return
	}
	rules, authz := b.enforcement() != catalog.ExtAuthz, b.enforcement() != catalog.RBAC
	b.out.Judges = map[string]Judge{
		b.validationName(): {Lifted: !rules},
		b.name(rulesSlot):  {Lifted: !rules},
		b.name(authzSlot):  {Lifted: !authz},
		b.name(proxySlot):  {Lifted: rules && b.in.Envoy.ConnectMode, Foreign: true},
	}
}

func (b *builder) outbound() {
	if b.outboundAsBefore() {
		return
	}
	b.out.assigned = make([]string, len(b.in.Proxy.Upstreams))
	bound := map[string]upstream{}
	for _, u := range b.upstreams() {
		name := u.listener()
		_, where, _ := strings.Cut(name, ":")
		if other, ok := bound[where]; ok {
			b.fail("upstreams %s (%s) and %s (%s) both listen on %s", other.Name(), other.Origin, u.Name(), u.Origin, where)
			continue
		}
		bound[where] = u
		same := b.unchanged(u)
		if !b.keep(same, listenerType, name) {
			b.add(name, b.upstreamListener(u))
		}
		if u.Service.Protocol.L7() {
			if !b.keep(same, routeType, u.routes()) {
				b.add(u.routes(), upstreamRoute(u))
			}
			if b.out.RouteClusters == nil {
				b.out.RouteClusters = map[string][]string{}
			}
			b.out.RouteClusters[u.routes()] = []string{u.cluster}
		}
		b.addSecret(Secret{Name: identity.RootsSecret})
		if !needsDNS(u.Endpoints) {
			b.out.assigned[u.index] = u.cluster
		}
		if b.has(u.cluster) {
			continue
		}
		if !b.keep(same, clusterType, u.cluster) {
			b.add(u.cluster, b.upstreamCluster(u))
		}
		if !needsDNS(u.Endpoints) {
			b.put(endpointType, u.cluster, b.assignment(u.cluster, u.Endpoints))
		}
	}
}

// assignment is the resource that tells a cluster its endpoints.
func (b *builder) assignment(cluster string, e *catalog.Endpoints) *discoveryv3.Resource {
	key := assignmentKey{cluster, e}
	if r := b.cache.assignments.Get(key); r != nil {
		return r
	}
	return b.cache.assignments.Keep(key, b.resource(cluster, assignment(cluster, e.List)))
}

// outboundAsBefore takes over all that was made for the upstreams, with the endpoints that changed, and
// reports whether that is all that is another: the usual case.
func (b *builder) outboundAsBefore() bool {
	if b.last == nil {
		return false
	}
	for i, t := range b.in.Upstreams {
		old := b.last.in.Upstreams[i]
		if t != old && (b.last.assigned[i] == "" || t.Service != old.Service || needsDNS(t.Endpoints)) {
			return false
		}
	}
	for _, typeURL := range []string{listenerType, routeType, clusterType, endpointType} {
		of := b.out.ByType[typeURL]
		if of == nil {
			of = make(map[string]*discoveryv3.Resource, len(b.last.ByType[typeURL]))
		}
		for name, r := range b.last.ByType[typeURL] {
			if of[name] == nil { // else it is none of an upstream's, and made already
				of[name] = r
			}
		}
		if len(of) > 0 {
			b.out.ByType[typeURL] = of
		}
	}
	for i, t := range b.in.Upstreams {
		if t != b.last.in.Upstreams[i] {
			b.out.ByType[endpointType][b.last.assigned[i]] = b.assignment(b.last.assigned[i], t.Endpoints)
		}
	}
	for _, s := range b.last.Secrets {
		b.addSecret(s)
	}
	b.out.RouteClusters, b.out.assigned = b.last.RouteClusters, b.last.assigned
	return true
}

// unchanged reports whether the listener and the cluster of u are the same as last time. Mesh and
// proxy are the same, so they depend on the service alone and, where the cluster resolves them by
// DNS, on its endpoints.
func (b *builder) unchanged(u upstream) bool {
	if b.last == nil {
		return false
	}
	last := b.last.in.Upstreams[u.index]
	return last == u.Target || last.Service == u.Service && !needsDNS(last.Endpoints) && !needsDNS(u.Endpoints)
}

// enforcement is the configured one, or the stricter form where that one cannot be enforced.
func (b *builder) enforcement() catalog.Enforcement {
	in := b.in.Proxy.Inbound
	if in.Enforcement == catalog.ExtAuthz && !in.Protocol.L7() && (in.ServerFirst || !b.in.Envoy.ConnectMode) {
		return catalog.Both
	}
	return in.Enforcement
}

// warnAboutLess warns where this Envoy gets less than the configuration asks for.
func (b *builder) warnAboutLess() {
	in := b.in.Proxy.Inbound
	if in.Protocol.L7() {
		return
	}
	version := b.in.Envoy.Version
	if version == "" {
		version = "of unknown version"
	}
	if !b.in.Envoy.ConnectMode {
		b.warn("Envoy %s dials the application for every TCP connect to %s, before it knows who asks; no byte of those who are denied reaches it. Envoy 1.37 and later wait for the handshake",
			version, listenerName(publicListener, in.Address, in.Port))
	}
	switch {
	case in.Enforcement != catalog.ExtAuthz:
	case in.ServerFirst:
		b.warn("enforcement of %s is both, not ext_authz: its application speaks first, and ext_authz decides at the client's first byte, so everybody would hear it", b.in.Proxy.Service)
	case !b.in.Envoy.ConnectMode:
		b.warn("enforcement of %s is both, not ext_authz: Envoy %s would dial the application, and pass on what it says, before it asks. Envoy 1.37 and later can do without", b.in.Proxy.Service, version)
	}
	if in.ServerFirst && b.enforcement() == catalog.Both {
		b.warn("what only ext_authz denies hears the first words of %s: the handshake knows the intentions, and ext_authz is asked at the client's first byte", b.in.Proxy.Service)
	}
}

// add adds m to the resources.
func (b *builder) add(name string, m proto.Message) {
	b.put(b.cache.typeURL(m), name, b.resource(name, m))
}

// put adds a resource. Two of one type and name are an error: Envoy would pick one by chance.
func (b *builder) put(typeURL, name string, r *discoveryv3.Resource) {
	if b.out.ByType[typeURL] == nil {
		b.out.ByType[typeURL] = map[string]*discoveryv3.Resource{}
	}
	if b.out.ByType[typeURL][name] != nil {
		b.fail("two resources of type %s are named %q", typeURL[strings.LastIndexByte(typeURL, '.')+1:], name)
		return
	}
	b.out.ByType[typeURL][name] = r
}

// keep adds the last resource of that name, if it is the same as last time and there was one, and
// reports whether it did.
func (b *builder) keep(same bool, typeURL, name string) bool {
	if !same {
		return false
	}
	r := b.last.ByType[typeURL][name]
	if r == nil {
		return false
	}
	b.put(typeURL, name, r)
	return true
}

// has reports whether there is a cluster of that name.
func (b *builder) has(cluster string) bool { return b.out.ByType[clusterType][cluster] != nil }

func (b *builder) warn(format string, args ...any) {
	b.out.Warnings = append(b.out.Warnings, fmt.Sprintf(format, args...))
}
