package consul

import (
	"strings"

	"github.com/sallyport/sallyport/catalog"
)

// A target is what is dialled, and what its chain, its service and its endpoints are found by: the name
// of a service, the datacenter that it is dialled in unless that is the agent's own, and what else
// tells it from others. It is spelled as Consul spells such an upstream: "api", "api?dc=dc2",
// "api?protocol=tcp" (spoken to it in the place of what it speaks), "api?dc=dc2&subset=v1". No name
// and no datacenter has a question mark or an ampersand.

// targetName is the target of a service in a datacenter, which is empty in the agent's own. more is
// empty or one of the marks below and what follows it.
func targetName(service, datacenter, more string) string {
	sign := "?"
	if datacenter != "" {
		service, sign = service+"?dc="+datacenter, "&"
	}
	if more != "" {
		service += sign + more
	}
	return service
}

// What tells targets apart that are one service's in one datacenter.
const (
	protocolMark = "protocol=" // chains: what is spoken, if that is not what the service speaks
	filterMark   = "filter="   // the instances that are asked for
	subsetMark   = "subset="   // the endpoints that are published
)

// targetOf is what u dials; own is the agent's datacenter.
func targetOf(u catalog.Upstream, own string) string {
	if u.Datacenter == own {
		u.Datacenter = ""
	}
	return u.Name()
}

// splitTarget returns the parts of a target; datacenter is empty in the agent's own.
func splitTarget(target string) (service, datacenter, more string) {
	service, more, _ = strings.Cut(target, "?")
	if rest, ok := strings.CutPrefix(more, "dc="); ok {
		datacenter, more, _ = strings.Cut(rest, "&")
	}
	return service, datacenter, more
}

// gatewayProblem says why what is dialled in another datacenter is not there: mode is of its mesh
// gateways. It is empty if none is to be used.
func gatewayProblem(mode string) string {
	if mode == "" || mode == "none" {
		return ""
	}
	return "it is dialled through mesh gateways (mode " + mode + "), which are not supported yet"
}
