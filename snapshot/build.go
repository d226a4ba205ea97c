package snapshot

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
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
	// sockets are those of chains' targets, made once for all clusters.
	sockets map[socketKey]*corev3.TransportSocket
	// updating: out is a copy of last, whose resources are replaced.
	updating bool
}

func (b *builder) build() {
	if why := b.in.Proxy.Refused; why != "" {
		b.fail("%s", why)
		return
	}
	self, ok := b.self()
	if !ok || b.last != nil && b.update() {
		return
	}
	b.addSecret(Secret{Name: b.leaf(), Leaf: self})
	b.warnAboutLess()
	b.inbound()
	b.exposed()
	b.outbound()
}

// self is the proxy's own identity; ok is false if it cannot have one.
func (b *builder) self() (self identity.Service, ok bool) {
	self = identity.Service{TrustDomain: b.in.Mesh.TrustDomain, Datacenter: b.in.Mesh.Datacenter, Name: b.in.Proxy.Service}
	if self.ID().IsZero() {
		b.fail("service %s cannot be an identity of %s in %q: names are made of letters, digits, '.', '-' and '_'",
			self.Name, self.TrustDomain, self.Datacenter)
		return self, false
	}
	return self, true
}

// update takes over the last resources, and makes those anew that depend on what usually changes:
// the generation, the policy and endpoints. It reports whether that is all that is another, and
// else does nothing.
func (b *builder) update() bool {
	last := b.last
	// What else judges a tcp service depends on that.
	if foreign(b.in.Policy) != foreign(last.in.Policy) {
		return false
	}
	for i, t := range b.in.Upstreams {
		old := last.in.Upstreams[i]
		if t != old && !last.assignable(i, t) {
			return false
		}
	}
	b.updating = true
	*b.out = *last
	b.out.in, b.out.ByType = b.in, maps.Clone(last.ByType)
	if b.in.Generation != last.in.Generation || b.in.Ended != last.in.Ended {
		b.addInbound()
	}
	if b.in.Policy != last.in.Policy || !slices.Equal(b.in.Tokens, last.in.Tokens) {
		peers := b.validationName()
		b.out.Secrets = slices.DeleteFunc(slices.Clone(last.Secrets), func(s Secret) bool { return s.Name == peers })
		b.judges()
	}
	for i, t := range b.in.Upstreams {
		switch old := last.in.Upstreams[i]; {
		case t == old:
		case t.Chain == nil:
			b.put(endpointType, b.assignment(last.assigned[i], t.Endpoints))
		default:
			for _, r := range last.resolvers[i] {
				if !r.sameEndpoints(t.Chain, old.Chain) {
					b.put(endpointType, b.resolverAssignment(r, t.Chain))
				}
			}
		}
	}
	return true
}

func (b *builder) inbound() {
	b.addInbound()
	b.add(localApp, b.localCluster())
	b.judges()
	if b.in.Proxy.Inbound.Protocol.L7() {
		b.logged()
		for _, s := range []slot{httpExtensions} {
			b.fillEmpty(s)
		}
		return
	}
	b.fillEmpty(networkExtensions)
}

// judges adds the resources that decide who may connect, and says which of them are lifted.
func (b *builder) judges() {
	b.intentions()
	if b.in.Proxy.Inbound.Protocol.L7() {
		b.fillTokens()
		b.out.Judges = map[string]Judge{b.validationName(): {}, publicRouteName(b.in.Proxy.Service): {}, b.name(jwtSlot): {Written: true, Lifted: len(b.verifying()) == 0}}
		return
	}
	rules, authz := b.enforcement() != catalog.ExtAuthz, b.enforcement() != catalog.RBAC
	switch revoked := b.revokedCertificates(); {
	case authz:
		b.fill(authzSlot, b.networkAuthz())
	case len(revoked) > 0:
		b.fill(authzSlot, b.refuseCertificates(revoked))
		authz = true
	default:
		b.fillEmpty(authzSlot)
	}
	b.fill(proxySlot, b.tcpProxy())
	others := foreign(b.in.Policy)
	b.out.Judges = map[string]Judge{
		// Of who shows names of several trust domains the rules decide, and none of it before they do.
		b.validationName(): {Lifted: !rules || others},
		b.name(rulesSlot):  {Lifted: !rules},
		b.name(authzSlot):  {Lifted: !authz},
		b.name(proxySlot):  {Lifted: rules && !others && b.in.Envoy.ConnectMode, Written: true},
	}
}

func (b *builder) addInbound() {
	in := b.in.Proxy.Inbound
	if in.Closed != "" {
		return
	}
	b.out.Inbound = listenerName(publicListener, in.Address, in.Port)
	b.add(b.out.Inbound, b.inboundListener())
}

// intentions adds what depends on the policy.
func (b *builder) intentions() {
	b.addSecret(b.validation())
	if b.in.Proxy.Inbound.Protocol.L7() {
		b.add(publicRouteName(b.in.Proxy.Service), b.publicRoute())
	} else {
		b.fill(rulesSlot, b.networkRules())
	}
}

func (b *builder) outbound() {
	b.out.assigned = make([]string, len(b.in.Proxy.Upstreams))
	bound := map[string]upstream{}
	made := map[string]bool{} // clusters
	for _, u := range b.upstreams() {
		name := u.listener()
		_, where, _ := strings.Cut(name, ":")
		if other, ok := bound[where]; ok {
			b.fail("upstreams %s (%s) and %s (%s) both listen on %s", other.Name(), other.Origin, u.Name(), u.Origin, where)
			continue
		}
		bound[where] = u
		b.add(name, b.upstreamListener(u))
		b.leads(name, u.clusters()...)
		if u.Service.Protocol.L7() {
			routes, leads := b.upstreamRoute(u)
			b.add(u.routes(), routes)
			b.leads(u.routes(), leads...)
		}
		b.addSecret(u.roots())
		if u.Chain != nil {
			b.chainClusters(u, made)
			continue
		}
		if !needsDNS(u.Endpoints) {
			b.out.assigned[u.index] = u.cluster
		}
		if made[u.cluster] {
			continue
		}
		made[u.cluster] = true
		b.add(u.cluster, b.upstreamCluster(u))
		if !needsDNS(u.Endpoints) {
			b.put(endpointType, b.assignment(u.cluster, u.Endpoints))
		}
	}
}

// leads notes that a listener or RouteConfiguration leads to clusters.
func (b *builder) leads(name string, clusters ...string) {
	if b.out.Clusters == nil {
		b.out.Clusters = map[string][]string{}
	}
	b.out.Clusters[name] = append(b.out.Clusters[name], clusters...)
}

// assignment is the resource that tells a cluster its endpoints.
func (b *builder) assignment(cluster string, e *catalog.Endpoints) *discoveryv3.Resource {
	key := assignmentKey{cluster, e}
	if r := b.cache.assignments.Get(key); r != nil {
		return r
	}
	return b.cache.assignments.Keep(key, b.resource(cluster, assignment(cluster, e.List)))
}

// enforcement is the configured one, or the stricter form where that one cannot be enforced.
func (b *builder) enforcement() catalog.Enforcement {
	in := b.in.Proxy.Inbound
	// Envoy proves the trust domain of a certificate's first name alone, so the rules have to be behind that, always.
	if in.Enforcement == catalog.ExtAuthz && foreign(b.in.Policy) {
		return catalog.Both
	}
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
	if foreign(b.in.Policy) && !b.in.Envoy.ConnectMode {
		b.warn("%s has callers of other trust domains, and Envoy %s dials its application before their certificates are looked at: should it speak before its client, whoever a CA of "+
			"theirs gives a second name, one of this mesh, would hear the first words. Envoy 1.37 and later wait for the client's first byte", b.in.Proxy.Service, version)
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
	if in.ServerFirst {
		b.warn("should the CA ever sign a certificate with several URI SANs, one of which may connect to %s, its holder would hear the first words: Envoy's handshake looks for one that fits, and the rules end the connection at its first byte", b.in.Proxy.Service)
	}
	if in.ServerFirst && b.enforcement() == catalog.Both {
		b.warn("what only ext_authz denies hears the first words of %s: the handshake knows the intentions, and ext_authz is asked at the client's first byte", b.in.Proxy.Service)
	}
}

// add adds m to the resources.
func (b *builder) add(name string, m proto.Message) {
	b.put(b.cache.typeURL(m), b.resource(name, m))
}

// resource is m as a resource, of which all equal ones are one.
func (b *builder) resource(name string, m proto.Message) *discoveryv3.Resource {
	r := b.packer.resource(name, m)
	return b.cache.resources.Keep(contentKey{r.GetResource().GetTypeUrl(), name, r.GetVersion()}, r)
}

// put adds a resource or, if they are those of last, replaces the one of its name.
func (b *builder) put(typeURL string, r *discoveryv3.Resource) {
	of := b.out.ByType[typeURL]
	if b.updating {
		b.out.ByType[typeURL] = of.With(r)
	} else {
		b.out.ByType[typeURL] = append(of, r)
	}
}

// finish makes sets of what was added. Two resources of one type and name are an error: Envoy would
// pick one by chance.
func (b *builder) finish() {
	slices.SortFunc(b.out.Secrets, func(x, y Secret) int { return strings.Compare(x.Name, y.Name) })
	b.out.Warnings = slices.Clip(b.out.warnings)
	if b.out.admits != "" {
		b.out.Warnings = append(b.out.Warnings, b.out.admits)
	}
	if b.updating {
		return
	}
	for typeURL, of := range b.out.ByType {
		slices.SortFunc(of, func(x, y *discoveryv3.Resource) int { return strings.Compare(x.GetName(), y.GetName()) })
		for i, r := range of[1:] {
			if of[i].GetName() == r.GetName() {
				b.fail("two resources of type %s are named %q", typeURL[strings.LastIndexByte(typeURL, '.')+1:], r.GetName())
			}
		}
		b.out.ByType[typeURL] = slices.Clip(of)
	}
}

func (b *builder) warn(format string, args ...any) {
	b.out.warnings = append(b.out.warnings, fmt.Sprintf(format, args...))
}
