package consul

import (
	"strings"

	"github.com/sallyport/sallyport/catalog"
)

// A target is what a chain, endpoints and a service are found by: the name of a service, and the
// datacenter that it is dialled in unless that is the agent's own. It is spelled as Consul spells
// such an upstream: "api", "api?dc=dc2". No name has a question mark.

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

// gatewayProblem says why what is dialled in another datacenter is not there: mode is of its mesh
// gateways. It is empty if none is to be used.
func gatewayProblem(mode string) string {
	if mode == "" || mode == "none" {
		return ""
	}
	return "it is dialled through mesh gateways (mode " + mode + "), which are not supported yet"
}
