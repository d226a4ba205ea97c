package api

import "net/http"

// relayedReads are what the agent is asked for callers; a path that ends in a slash is a prefix. What is not here is not passed on:
// snapshots, logs, keys and values, ACLs.
var relayedReads = []string{
	"/v1/agent/checks", "/v1/agent/members", "/v1/agent/self", "/v1/agent/services", "/v1/agent/service/", "/v1/agent/health/service/name/", "/v1/agent/health/service/id/",
	"/v1/catalog/datacenters", "/v1/catalog/nodes", "/v1/catalog/services", "/v1/catalog/service/", "/v1/catalog/connect/", "/v1/catalog/node/", "/v1/catalog/node-services/", "/v1/catalog/gateway-services/",
	"/v1/health/service/", "/v1/health/connect/", "/v1/health/ingress/", "/v1/health/state/", "/v1/health/node/", "/v1/health/checks/",
	"/v1/connect/ca/configuration", "/v1/connect/intentions", "/v1/connect/intentions/", checkPath, "/v1/connect/intentions/exact", "/v1/connect/intentions/match",
	"/v1/config/", "/v1/discovery-chain/", "/v1/query", "/v1/query/", "/v1/status/leader", "/v1/status/peers",
}

// relayedWrites are what may be passed on where the operator lets writes through.
var relayedWrites = map[string][]string{
	"/v1/agent/service/register":     {http.MethodPut},
	"/v1/agent/service/deregister/":  {http.MethodPut},
	"/v1/agent/service/maintenance/": {http.MethodPut},
	"/v1/agent/check/register":       {http.MethodPut},
	"/v1/agent/check/deregister/":    {http.MethodPut},
	"/v1/agent/check/pass/":          {http.MethodPut},
	"/v1/agent/check/warn/":          {http.MethodPut},
	"/v1/agent/check/fail/":          {http.MethodPut},
	"/v1/agent/check/update/":        {http.MethodPut},
	"/v1/config":                     {http.MethodPut},
	"/v1/config/":                    {http.MethodDelete},
	"/v1/connect/intentions":         {http.MethodPost},
	"/v1/connect/intentions/exact":   {http.MethodPut, http.MethodDelete},
	"/v1/connect/intentions/":        {http.MethodPut, http.MethodDelete},
	"/v1/connect/ca/configuration":   {http.MethodPut},
}

// relayRoutes are the endpoints that the agent answers.
func relayRoutes() (all []*route) {
	by := map[string]*route{}
	add := func(path string) *route {
		if by[path] == nil {
			by[path] = &route{path: path, methods: "OPTIONS", serve: (*Server).relayed, anyNamespace: true, anyDatacenter: true}
			all = append(all, by[path])
		}
		return by[path]
	}
	for _, path := range relayedReads {
		add(path).methods += ",GET"
	}
	add("/v1/discovery-chain/").methods += ",POST" // which has only more parameters
	for path, methods := range relayedWrites {
		rt := add(path)
		rt.write = methods
		for _, m := range methods {
			rt.methods += "," + m
		}
	}
	return all
}
