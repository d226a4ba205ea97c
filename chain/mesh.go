package chain

import (
	"reflect"
	"strings"
	"time"

	"github.com/sallyport/sallyport/identity"
)

// Entries are the config entries of a mesh that chains depend on, by service. Keys are folded (identity.Name.Fold), as letter case does
// not count where entries are looked up. The maps are only read.
type Entries struct {
	Routers   map[identity.Name]*Router
	Splitters map[identity.Name]*Splitter
	Resolvers map[identity.Name]*Resolver
	// Defaults are the service-defaults. One that gives no protocol is tcp, whatever Proxy says.
	Defaults map[identity.Name]*Defaults
	// Proxy is what proxy-defaults says of the services that Defaults does not have, and of gateways where Defaults says nothing of
	// those. Its ExternalSNI means nothing.
	Proxy Defaults
	// Datacenter is the one that chains are compiled in.
	Datacenter string
	// TrustDomain is the mesh's, which SNIs end in.
	TrustDomain string
}

// Bare reports whether no router, splitter or resolver is about the service, so its chain is Default if nothing is overridden.
func (e *Entries) Bare(service identity.Name) bool {
	service = service.Fold()
	return e.Routers[service] == nil && e.Splitters[service] == nil && e.Resolvers[service] == nil
}

// protocol is what a service speaks as far as defaults say: "tcp" if nothing does.
func (e *Entries) protocol(service identity.Name) string {
	d := e.Defaults[service.Fold()]
	if d == nil {
		d = &e.Proxy
	}
	if d.Protocol == "" {
		return tcp
	}
	return strings.ToLower(d.Protocol)
}

const tcp = "tcp"

// routed reports whether requests of a protocol can be told apart, so routers and splitters mean something.
func routed(protocol string) bool {
	return protocol == "http" || protocol == "http2" || protocol == "grpc"
}

// Overrides are what an upstream says otherwise than the entries. The zero Overrides are none.
type Overrides struct {
	Protocol       string        // empty: not overridden. tcp: routers and splitters are not looked at
	ConnectTimeout time.Duration // 0: not overridden
	GatewayMode    string        // "none", "local" or "remote"
}

// Equal reports whether e and o say the same, from the same places. Either may be nil.
func (e *Entries) Equal(o *Entries) bool { return e == o || reflect.DeepEqual(e, o) }
