package consul

import (
	"net/url"
	"strings"

	"github.com/sallyport/sallyport/catalog"
)

// A target is what a chain, endpoints and a service are found by: the name of a service, and the datacenter that it is dialled in unless that is the agent's
// own. It is spelled as Consul spells such an upstream: "api", "api?dc=dc2". No name has a question mark.

// separator is between the two parts of a target.
const separator = "?dc="

// targetOf is what u dials; own is the agent's datacenter.
func targetOf(u catalog.Upstream, own string) string {
	if u.Datacenter == own {
		u.Datacenter = ""
	}
	return u.Name()
}

// splitTarget returns the parts of a target; datacenter is empty in the agent's own.
func splitTarget(target string) (service, datacenter string) {
	service, datacenter, _ = strings.Cut(target, separator)
	return service, datacenter
}

// endpointsQuery asks for the instances of a target. In the agent's own datacenter the agent answers out of its own stream of events. For another one that stream
// hides that the servers there are away, so they are asked themselves: "near" is what the agent cannot answer out of the stream, with an index or without, and
// the order that it asks for is not looked at. They are asked for a consistent answer, as those that were just started could say otherwise that there are no instances.
func endpointsQuery(target string) query[[]*instance] {
	service, datacenter := splitTarget(target)
	q := query[[]*instance]{path: "/v1/health/connect/" + url.PathEscape(service), params: url.Values{"cached": {""}}, decode: decodeList[*instance], doubt: noneHealthy}
	if datacenter != "" {
		q.doubt = nil
		q.params, q.far, q.retry = consistent(url.Values{"dc": {datacenter}, "near": {"_agent"}}), true, serverRetry
	}
	return q
}

// gatewayed says why what is dialled in another datacenter is not there: mode is of its mesh gateways. It is empty if none is to be used.
func gatewayed(mode string) string {
	if mode == "" || mode == "none" {
		return ""
	}
	return "it is dialled through mesh gateways (mode " + mode + "), which are not supported yet"
}
