package snapshot

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/identity"
	"google.golang.org/protobuf/proto"
)

// ErrIncomplete marks an Input of which not enough is known to build anything: a mesh or a proxy that is not there yet.
var ErrIncomplete = errors.New("not enough is known of the proxy")

// Build makes the resources of a proxy's Envoy. Equal inputs give equal bytes. It does not block and changes nothing. Where the Envoy cannot do
// what the configuration asks for, it gets the stricter form and Resources a warning. An error names the proxy and where it was read; then
// there are no resources, and the ones that the Envoy has are to stay.
func Build(in Input) (*Resources, error) {
	switch {
	case in.Mesh == nil || in.Proxy == nil:
		return nil, ErrIncomplete
	case in.Mesh.TrustDomain.IsZero():
		return nil, fmt.Errorf("%s: %w: the mesh has no trust domain", in.Proxy.ID, ErrIncomplete)
	}
	b := &builder{in: in, out: &Resources{ByType: map[string]map[string]*discoveryv3.Resource{}}}
	b.build()
	if err := b.err(); err != nil {
		return nil, fmt.Errorf("proxy %s (%s): %w", in.Proxy.ID, in.Proxy.Origin, err)
	}
	slices.SortFunc(b.out.Secrets, func(x, y Secret) int { return strings.Compare(x.Name, y.Name) })
	return b.out, nil
}

// builder makes one proxy's resources. It lives as long as one call of Build.
type builder struct {
	packer
	in  Input
	out *Resources
}

func (b *builder) build() {
	self := identity.Service{TrustDomain: b.in.Mesh.TrustDomain, Datacenter: b.in.Mesh.Datacenter, Name: b.in.Proxy.Service}
	if self.ID().IsZero() {
		b.fail("service %s cannot be an identity of %s in %q: names are made of letters, digits, '.', '-' and '_'",
			self.Name, self.TrustDomain, self.Datacenter)
		return
	}
	b.names(Secret{Name: b.leaf(), Leaf: self})
	b.explain()
	b.inbound()
	b.outbound()
}

func (b *builder) inbound() {
	l := b.inboundListener()
	b.add(l.Name, l)
	b.add(localApp, b.localCluster())
	switch {
	case b.in.Proxy.Inbound.Protocol.L7():
		r := b.publicRoute()
		b.add(r.Name, r)
	case b.enforcement() != catalog.ExtAuthz:
		r := b.rules()
		b.add(r.Name, r)
	}
}

func (b *builder) outbound() {
	bound := map[string]upstream{}
	for _, u := range b.upstreams() {
		l := b.upstreamListener(u)
		_, where, _ := strings.Cut(l.Name, ":")
		if other, ok := bound[where]; ok {
			b.fail("upstreams %s (%s) and %s (%s) both listen on %s", other.Destination, other.Origin, u.Destination, u.Origin, where)
			continue
		}
		bound[where] = u
		b.add(l.Name, l)
		b.names(Secret{Name: identity.RootsSecret})
		if b.has(u.cluster) {
			continue
		}
		b.add(u.cluster, b.upstreamCluster(u))
		if !u.byName() {
			b.add(u.cluster, assignment(u.cluster, u.service.Endpoints))
		}
	}
}

// enforcement is what is asked for, or the stricter form where that would not hold.
func (b *builder) enforcement() catalog.Enforcement {
	in := b.in.Proxy.Inbound
	if in.Enforcement == catalog.ExtAuthz && !in.Protocol.L7() && (in.ServerFirst || !b.in.Envoy.ConnectMode) {
		return catalog.Both
	}
	return in.Enforcement
}

// explain warns of what this Envoy gets less, or else, than was asked for.
func (b *builder) explain() {
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

// add puts m among the resources. Two of one type and name would be a mistake that Envoy decides by chance.
func (b *builder) add(name string, m proto.Message) {
	t := typeURL(m)
	if b.out.ByType[t] == nil {
		b.out.ByType[t] = map[string]*discoveryv3.Resource{}
	}
	if b.out.ByType[t][name] != nil {
		b.fail("two resources of type %s are named %q", m.ProtoReflect().Descriptor().Name(), name)
		return
	}
	b.out.ByType[t][name] = b.resource(name, m)
}

// has reports whether there is a cluster of that name.
func (b *builder) has(cluster string) bool { return b.out.ByType[clusterType][cluster] != nil }

func (b *builder) fail(format string, args ...any) {
	b.errs = append(b.errs, fmt.Errorf(format, args...))
}

func (b *builder) warn(format string, args ...any) {
	b.out.Warnings = append(b.out.Warnings, fmt.Sprintf(format, args...))
}
