package consul

import (
	"strings"

	"github.com/sallyport/sallyport/catalog"
)

// The keys in the config of an upstream by which it is a workload of another trust domain: Consul has no place for one, and
// leaves alone what it does not know there.
const (
	keySpiffeID = "sallyport_spiffe_id"
	keyAddress  = "sallyport_address"
	keyPort     = "sallyport_port"
)

// readForeign reads an upstream that its config says is a workload of another trust domain, or says why its listener is not there;
// false: it is none. Such an upstream has a DestinationPeer, whichever, as such a source has a Peer: a sidecar under Consul's own
// control plane must not dial a service of this mesh in its place. Its DestinationName says nothing.
func (s *sidecar) readForeign(r *registration, u *upstreamRegistration) bool {
	d := s.decoder(r, u.DestinationName, &u.Config, "config")
	if d.Field(keySpiffeID) == nil {
		if d.Field(keyAddress) != nil || d.Field(keyPort) != nil {
			s.problem(u.DestinationName, entryOf(r), "config.%s and config.%s are for an upstream with %s: they are not taken", keyAddress, keyPort, keySpiffeID)
		}
		return false
	}
	refuse := func(format string, args ...any) {
		s.problem(u.DestinationName, entryOf(r), format+": its listener is not there", args...)
	}
	w, ok := d.Workload(keySpiffeID, keyAddress, keyPort)
	if !ok {
		return true
	}
	c := catalog.Upstream{Foreign: w.ID, Address: w.Address, Port: w.Port, Origin: entryOf(r)}
	replaced := d.Take("envoy_listener_json", "envoy_cluster_json")
	e := d.UpstreamSettings()
	switch reason := u.bind(&c); {
	case u.DestinationPeer == "":
		refuse("an upstream with %s needs a destination_peer, so that it is no service of this mesh to Consul", keySpiffeID)
	case u.DestinationType != "" && u.DestinationType != "service":
		refuse("an upstream with %s is no %.60s", keySpiffeID, u.DestinationType)
	case reason != "":
		refuse("%s", reason)
	case len(replaced) > 0:
		refuse("%s is not supported yet", strings.Join(replaced, " and "))
	default:
		c = e.Apply(c)
		c.Protocol = catalog.OptionalProtocol{Set: e.Protocol.Set, Protocol: e.Protocol.Value}
		s.foreign = append(s.foreign, c)
	}
	return true
}
