package api

// catalogRoutes are the endpoints that are answered from the catalog alone. Of the caller's rights those of intentions look at what they
// tell; the catalog is everybody's who is known.
func catalogRoutes() []*route {
	all := []*route{
		{path: "/v1/connect/intentions", methods: allowGet, files: true, render: intentionList.render, on: intentionList.on, wait: defaultWait, jitter: true},
		{path: "/v1/connect/intentions/", methods: allowGet, files: true, render: intentionByID.render, on: intentionByID.on, noIndex: true, bare: true},
		{path: "/v1/connect/intentions/exact", methods: allowGet, files: true, render: intentionPair.render, on: intentionPair.on, wait: defaultWait, jitter: true, noIndex: true, bare: true},
		{path: "/v1/connect/intentions/check", methods: allowGet, render: intentionCheck.render, on: intentionCheck.on, noIndex: true, bare: true},
		{path: "/v1/connect/intentions/match", methods: allowGet, render: intentionMatch.render, on: intentionMatch.on, wait: defaultWait, jitter: true, consistency: true},
		{path: "/v1/config/", methods: allowGet, files: true, render: configEntries.render, on: configEntries.on, wait: defaultWait, jitter: true},
		{path: "/v1/health/service/", methods: allowGet, render: healthService.render, on: healthService.on, wait: defaultWait, consistency: true},
		{path: "/v1/health/connect/", methods: allowGet, render: healthConnect.render, on: healthConnect.on, wait: defaultWait, consistency: true},
		{path: "/v1/health/checks/", methods: allowGet, render: healthChecks.render, on: healthChecks.on, wait: defaultWait, jitter: true, consistency: true},
		{path: "/v1/health/state/", methods: allowGet, render: healthState.render, on: healthState.on, wait: defaultWait, jitter: true, consistency: true},
		{path: "/v1/catalog/services", methods: allowGet, render: catalogServices.render, on: catalogServices.on, wait: defaultWait, jitter: true, consistency: true},
		{path: "/v1/catalog/service/", methods: allowGet, render: catalogService.render, on: catalogService.on, wait: defaultWait, jitter: true, consistency: true},
		{path: "/v1/catalog/connect/", methods: allowGet, render: catalogConnect.render, on: catalogConnect.on, wait: defaultWait, jitter: true, consistency: true},
		{path: "/v1/catalog/nodes", methods: allowGet, render: catalogNodes.render, on: catalogNodes.on, wait: defaultWait, jitter: true, consistency: true},
		{path: "/v1/catalog/datacenters", methods: allowGet, render: catalogDatacenters.render, on: catalogDatacenters.on, public: true, noIndex: true, bare: true},
		{path: "/v1/agent/services", methods: allowGet, render: agentServices.render, on: agentServices.on, noIndex: true, bare: true, anyDatacenter: true},
		{path: "/v1/agent/service/", methods: allowGet, render: agentService.render, on: agentService.on, wait: defaultWait, jitter: true, noIndex: true, bare: true, hashed: true, anyDatacenter: true},
		{path: "/v1/agent/self", methods: allowGet, render: agentSelf.render, on: agentSelf.on, noIndex: true, bare: true, anyDatacenter: true},
		{path: "/v1/status/leader", methods: allowGet, render: statusLeader.render, on: statusLeader.on, public: true, noIndex: true, bare: true},
		{path: "/v1/status/peers", methods: allowGet, render: statusPeers.render, on: statusPeers.on, public: true, noIndex: true, bare: true},
		{path: "/v1/discovery-chain/", methods: "OPTIONS,GET,POST", serve: (*Server).overriddenChain, render: discoveryChain.render, on: discoveryChain.on, wait: defaultWait, jitter: true, consistency: true},
	}
	for _, w := range writing {
		all = append(all, &route{path: w.path, methods: w.methods, files: true})
	}
	return all
}
