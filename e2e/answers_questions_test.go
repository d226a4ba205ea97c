//go:build e2e

package e2e

import "strings"

// apiQuestions are those of a text, one a line: a path to GET, or a method and a path, and after a bar a header or what begins with a
// brace and is the body.
func apiQuestions(text string) (all []apiQuestion) {
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		switch {
		case line == "" || line[0] == '#':
		case line[0] == '/':
			all = append(all, apiQuestion{line: apiLine("GET " + line)})
		default:
			q := apiQuestion{line: apiLine(line)}
			_, more, _ := strings.Cut(line, " | ")
			if strings.HasPrefix(more, "{") {
				q.body = more
			} else if name, value, ok := strings.Cut(more, ": "); ok {
				q.headers = map[string]string{name: value}
			}
			all = append(all, q)
		}
	}
	return all
}

// apiLines are what both are asked who have the catalog of definitions.
const apiLines = `
# rules for all endpoints
/v1/nosuch
/v1
/
/ui
/v1/health
/v1/health/service
/v1/health/connect
/v1/health/nosuch/x
/v1/config
/v1/catalog/services/
/v1/connect/intentions/match/
/v1//catalog/services
/v1/catalog/../catalog/services
/v1/health/service/a%01b
/v1/health/service/a%20b
/v1/health/service/a%2fb
/v1/catalog/services?a=%zz
/v1/catalog/services?index=abc
/v1/catalog/services?index=-1
/v1/catalog/services?index=
/v1/catalog/services?wait=abc
/v1/catalog/services?wait=5
/v1/catalog/services?wait=10s
/v1/catalog/services?index=1
/v1/catalog/services?index=18446744073709551615&wait=10ms
/v1/catalog/services?max_stale=abc
/v1/catalog/services?max_stale=5s
/v1/catalog/services?stale
/v1/catalog/services?consistent
/v1/catalog/services?stale&consistent
/v1/catalog/services?cached&consistent
/v1/catalog/services?dc=dc1
/v1/catalog/services?dc=nosuch
/v1/catalog/services?ns=default
/v1/catalog/services?ns=other
/v1/catalog/services?ns=
/v1/catalog/services?partition=default
/v1/catalog/services?pretty
/v1/catalog/services?pretty=false
GET /v1/catalog/services | Cache-Control: max-age=abc
GET /v1/catalog/services | Cache-Control: max-age=10
GET /v1/catalog/services | X-Consul-Namespace: default
GET /v1/catalog/services | X-Consul-Partition: other
HEAD /v1/catalog/services
POST /v1/catalog/services
PUT /v1/catalog/services
OPTIONS /v1/catalog/services
DELETE /v1/health/service/web
OPTIONS /v1/health/service/web
POST /v1/status/leader
POST /v1/connect/intentions/check
PUT /v1/connect/intentions/match
# health
/v1/health/service/
/v1/health/connect/
/v1/health/service/plain
/v1/health/service/nat
/v1/health/service/NAT
/v1/health/service/api
/v1/health/service/API
/v1/health/service/api?passing
/v1/health/service/api?passing=1
/v1/health/service/api?passing=true
/v1/health/service/api?passing=false
/v1/health/service/api?passing=maybe
/v1/health/service/Mixed?passing
/v1/health/service/mixed
/v1/health/service/nosuch
/v1/health/service/consul
/v1/health/service/web-sidecar-proxy
/v1/health/service/api-sidecar-proxy?passing
/v1/health/service/db-own
/v1/health/service/api?tag=blue
/v1/health/service/api?tag=GREEN
/v1/health/service/api?tag=green&tag=x
/v1/health/service/api?tag=blue&tag=x
/v1/health/service/api?tag=
/v1/health/service/api?peer=x
/v1/health/service/api?peer=x&sg=y
/v1/health/service/api?node-meta=a:b
/v1/health/service/api?node-meta=consul-version:1.19.2
/v1/health/service/api?near=_agent
/v1/health/service/api?near=nosuch
/v1/health/service/api?dc=dc9
/v1/health/service/api?datacenter=dc1
/v1/health/service/api?pretty
/v1/health/service/api?index=1
/v1/health/service/api?cached
/v1/health/service/api?merge-central-config
/v1/health/service/api?filter=Service.Tags+contains+blue
/v1/health/service/api?filter=Checks.Status==critical
/v1/health/service/api?filter=Checks.Status+!=+critical
/v1/health/service/api?filter=Service.ID+==+%22api-1%22
/v1/health/service/api?filter=Service.ID+!=+%22api-1%22
/v1/health/service/api?filter=Service.ID+matches+%22api-.%22
/v1/health/service/api?filter=not+Service.ID+matches+%22api-2%22
/v1/health/service/api?filter=Service.Meta.version==2
/v1/health/service/api?filter=Service.Meta+is+empty
/v1/health/service/api?filter=Service.Meta+contains+version
/v1/health/service/api?filter=Service.Port==9090
/v1/health/service/api?filter=Service.Weights.Passing==5
/v1/health/service/api?filter=Service.EnableTagOverride==true
/v1/health/service/api?filter=Service.Kind==%22%22
/v1/health/service/api?filter=Service.TaggedAddresses.lan_ipv4.Port==9090
/v1/health/service/api?filter=Node.Datacenter==dc1
/v1/health/service/api?filter=Node.Meta+is+not+empty
/v1/health/service/api?filter=%22blue%22+in+Service.Tags
/v1/health/service/api?filter=(Service.Port==9090+or+Service.Port==9091)+and+%22x%22+in+Service.Tags
/v1/health/service/api?filter=Nonsense==1
/v1/health/service/api?filter=Service.Nonsense==1
/v1/health/service/api?filter=Service.Connect.Native==true
/v1/health/service/api?filter=Service.Proxy.Config+is+empty
/v1/health/service/api?filter=Service.CreateIndex==1
/v1/health/service/api?filter=Checks.Definition+is+empty
/v1/health/service/api?filter=x
/v1/health/service/api?filter=Service.Port==abc
/v1/health/service/api?filter=Service.Port+contains+1
/v1/health/service/api?filter=%20
/v1/health/service/nosuch?filter=Nonsense==1
/v1/health/connect/api
/v1/health/connect/API
/v1/health/connect/api?passing
/v1/health/connect/web
/v1/health/connect/db
/v1/health/connect/db?filter=Service.Proxy.DestinationServiceID==db
/v1/health/connect/web?filter=Service.Proxy.Upstreams.DestinationName==db
/v1/health/connect/web?filter=Service.Proxy.Upstreams+is+not+empty
/v1/health/connect/web?filter=Service.Proxy.Mode==%22%22
/v1/health/connect/web?filter=Service.Proxy.MeshGateway.Mode==%22%22
/v1/health/connect/web?filter=Service.Proxy.TransparentProxy.OutboundListenerPort==0
/v1/health/connect/web?filter=Service.Proxy.TransparentProxy.DialedDirectly==true
/v1/health/connect/web?filter=Service.Proxy.AccessLogs.Enabled==false
/v1/health/connect/web?filter=Service.Proxy.AccessLogs.Type==%22%22
/v1/health/connect/web?filter=Service.Proxy.Expose.Checks==false
/v1/health/connect/web?filter=Service.Proxy.Upstreams.IngressHosts+is+empty
/v1/health/connect/web?filter=Service.Proxy.Upstreams.LocalBindPort==5001
/v1/health/connect/web?filter=Service.Proxy.LocalServicePort==8080
/v1/health/connect/web?filter=Service.Proxy.MutualTLSMode==%22%22
/v1/health/connect/web?filter=Service.Locality+is+empty
/v1/health/connect/web?filter=Service.PeerName==%22%22
/v1/health/connect/web?filter=Service.SocketPath==%22%22
/v1/health/connect/web?filter=Node.Partition==%22%22
/v1/health/connect/web?filter=Node.PeerName==%22%22
/v1/health/connect/web?filter=Checks.Type==alias
/v1/health/connect/web?filter=Checks.Interval==%22%22
/v1/health/connect/web?filter=Checks.PeerName==%22%22
/v1/health/connect/web?filter=Service.LocallyRegisteredAsSidecar==true
/v1/health/connect/web?filter=Service.Connect.SidecarService+is+empty
/v1/catalog/connect/web?filter=ServiceSocketPath==%22%22
/v1/catalog/connect/web?filter=ServiceConnect.Native==false
/v1/catalog/connect/web?filter=ServiceLocality+is+empty
/v1/health/connect/api?filter=Service.Proxy.Expose.Paths.Path==%22/healthz%22
/v1/health/connect/nat
/v1/health/connect/plain
/v1/health/connect/mixed
/v1/health/connect/web-sidecar-proxy
/v1/health/connect/nosuch
/v1/health/connect/web?connect=true&passing=1&stale=
/v1/health/state/
/v1/health/state/any
/v1/health/state/passing
/v1/health/state/warning
/v1/health/state/critical
/v1/health/state/nosuch
/v1/health/state/any?filter=ServiceName==api
/v1/health/state/any?filter=ServiceTags+contains+blue
/v1/health/state/any?filter=ExposedPort==0
/v1/health/state/any?filter=Nonsense==api
/v1/health/state/any?index=1
/v1/health/checks/api
/v1/health/checks/API
/v1/health/checks/nosuch
/v1/health/checks/
# catalog
/v1/catalog/services?node-meta=a:b
/v1/catalog/services?filter=ServiceName==api
/v1/catalog/services?filter=ServiceTags+contains+a
/v1/catalog/services?filter=Nonsense==1
/v1/catalog/service/
/v1/catalog/service/plain
/v1/catalog/service/nat
/v1/catalog/service/NAT
/v1/catalog/service/api
/v1/catalog/service/api?tag=blue
/v1/catalog/service/api?tag=blue&tag=x
/v1/catalog/service/nosuch
/v1/catalog/service/consul
/v1/catalog/service/web-sidecar-proxy
/v1/catalog/service/api?filter=ServiceMeta.version==2
/v1/catalog/service/api?filter=ServiceWeights.Passing==5
/v1/catalog/service/api?filter=NodeMeta+is+empty
/v1/catalog/service/api?filter=Nonsense==2
/v1/catalog/service/api?filter=x
/v1/catalog/connect/
/v1/catalog/connect/nat
/v1/catalog/connect/db
/v1/catalog/connect/plain
/v1/catalog/connect/api?filter=ServiceProxy.DestinationServiceName==api
/v1/catalog/datacenters
/v1/catalog/datacenters?filter=x
/v1/catalog/nodes
/v1/catalog/nodes?filter=Node==x
/v1/catalog/nodes?filter=Nonsense==x
/v1/catalog/nodes?node-meta=a:b
# agent
/v1/agent/services
/v1/agent/services?pretty
/v1/agent/services?filter=Service==db
/v1/agent/services?filter=Kind==%22connect-proxy%22
/v1/agent/services?filter=Service==api+and+Port==9090
/v1/agent/services?filter=Connect.Native==true
/v1/agent/services?filter=Proxy.DestinationServiceName==api
/v1/agent/services?filter=Nonsense==db
/v1/agent/services?filter=ContentHash==x
/v1/agent/service/web
/v1/agent/service/WEB
/v1/agent/service/web-sidecar-proxy
/v1/agent/service/api-1
/v1/agent/service/api-2-sidecar-proxy
/v1/agent/service/nat
/v1/agent/service/db-own-1
/v1/agent/service/Mixed
/v1/agent/service/nosuch
/v1/agent/service/
/v1/agent/service/web?hash=x
/v1/agent/service/web?pretty
/v1/agent/self
/v1/status/leader
/v1/status/leader?pretty
/v1/status/peers
# intentions
/v1/connect/intentions
/v1/connect/intentions?pretty
/v1/connect/intentions?index=1
/v1/connect/intentions?filter=
/v1/connect/intentions?filter=Action==allow
/v1/connect/intentions?filter=DestinationName==api+and+Precedence==9
/v1/connect/intentions?filter=Meta.a==b
/v1/connect/intentions?filter=SourceName+matches+%22w.*%22
/v1/connect/intentions?filter=Description==d
/v1/connect/intentions?filter=SourcePartition==%22default%22
/v1/connect/intentions?filter=SourcePeer==%22%22
/v1/connect/intentions?filter=ID==%22%22
/v1/connect/intentions?filter=Permissions+is+empty
/v1/connect/intentions?filter=CreatedAt==%22%22
/v1/connect/intentions?filter=Nonsense==1
/v1/connect/intentions?filter=Precedence+in+9
/v1/connect/intentions?filter=x
/v1/connect/intentions?ns=default
/v1/connect/intentions/
/v1/connect/intentions/abc
/v1/connect/intentions/8f246b77-f3e1-ff88-5b48-8ec93abf3e05
/v1/connect/intentions/exact?source=web&destination=api
/v1/connect/intentions/exact?source=web&destination=API
/v1/connect/intentions/exact?source=WEB&destination=api
/v1/connect/intentions/exact?source=batch&destination=api
/v1/connect/intentions/exact?source=Batch&destination=api
/v1/connect/intentions/exact?source=Web&destination=orders
/v1/connect/intentions/exact?source=*&destination=api
/v1/connect/intentions/exact?source=*&destination=*
/v1/connect/intentions/exact?source=w*&destination=api
/v1/connect/intentions/exact?source=web&destination=db
/v1/connect/intentions/exact?source=&destination=api
/v1/connect/intentions/exact?source=a&destination=
/v1/connect/intentions/exact?source=a
/v1/connect/intentions/exact?destination=a
/v1/connect/intentions/exact
/v1/connect/intentions/exact?source=a&source=b&destination=c
/v1/connect/intentions/exact?source=a&destination=b&destination=c
/v1/connect/intentions/exact?source=default/web&destination=default/default/api
/v1/connect/intentions/exact?source=other/web&destination=api
/v1/connect/intentions/exact?source=web&destination=other/api
/v1/connect/intentions/exact?source=ap/default/web&destination=api
/v1/connect/intentions/exact?source=web&destination=ap/default/api
/v1/connect/intentions/exact?source=a/b/c/d&destination=api
/v1/connect/intentions/exact?source=a&destination=a/b/c/d
/v1/connect/intentions/exact?source=peer:x/web&destination=api
/v1/connect/intentions/exact?source=web&destination=peer:x/api
/v1/connect/intentions/exact?source=peer:x&destination=api
/v1/connect/intentions/check?source=web&destination=api
/v1/connect/intentions/check?source=WEB&destination=API
/v1/connect/intentions/check?source=Batch&destination=api
/v1/connect/intentions/check?source=batch&destination=api
/v1/connect/intentions/check?source=legacy&destination=DB
/v1/connect/intentions/check?source=x&destination=nosuch
/v1/connect/intentions/check?source=mon&destination=xyz
/v1/connect/intentions/check?source=&destination=api
/v1/connect/intentions/check?source=*&destination=api
/v1/connect/intentions/check?source=web&destination=*
/v1/connect/intentions/check?source=web&destination=
/v1/connect/intentions/check?source=web&destination=w*
/v1/connect/intentions/check?source=a/b/c/d&destination=api
/v1/connect/intentions/check?source=other/web&destination=api
/v1/connect/intentions/check?source=web&destination=other/api
/v1/connect/intentions/check?source=ap/default/web&destination=api
/v1/connect/intentions/check?source=web&destination=ap/default/api
/v1/connect/intentions/check?source=peer:x/web&destination=api
/v1/connect/intentions/check?source=web&destination=peer:x/api
/v1/connect/intentions/check?source=web&destination=api&source-type=other
/v1/connect/intentions/check?source=web&destination=api&source-type=consul
/v1/connect/intentions/check?source=web
/v1/connect/intentions/check
/v1/connect/intentions/match
/v1/connect/intentions/match?by=destination
/v1/connect/intentions/match?by=x&name=a
/v1/connect/intentions/match?by=&name=a
/v1/connect/intentions/match?by=Source&name=web
/v1/connect/intentions/match?by=source&by=destination&name=a
/v1/connect/intentions/match?name=a
/v1/connect/intentions/match?by=destination&name=api
/v1/connect/intentions/match?by=destination&name=DB&name=API&name=nosuch&name=
/v1/connect/intentions/match?by=destination&name=api&name=api
/v1/connect/intentions/match?by=destination&name=orders
/v1/connect/intentions/match?by=destination&name=*
/v1/connect/intentions/match?by=destination&name=ap*
/v1/connect/intentions/match?by=source&name=web
/v1/connect/intentions/match?by=source&name=Web
/v1/connect/intentions/match?by=source&name=*
/v1/connect/intentions/match?by=source&name=nosuch
/v1/connect/intentions/match?by=destination&name=a/b/c/d
/v1/connect/intentions/match?by=destination&name=other/api
/v1/connect/intentions/match?by=destination&name=ap/default/api
/v1/connect/intentions/match?by=destination&name=default/api
/v1/connect/intentions/match?by=destination&name=peer:x/api
/v1/connect/intentions/match?by=source&name=*/web
/v1/connect/intentions/match?by=source&name=web&index=1
/v1/connect/intentions/match?by=source&name=web&filter=x
# config entries
/v1/config/
/v1/config/service-defaults
/v1/config/service-defaults/
/v1/config/service-defaults/web
/v1/config/service-defaults/WEB
/v1/config/service-defaults/db?pretty
/v1/config/service-defaults/nosuch
/v1/config/service-defaults/a/b
/v1/config/service-defaults?filter=Name==web
/v1/config/service-defaults?filter=Protocol==tcp
/v1/config/service-defaults?filter=Nonsense==1
/v1/config/service-intentions
/v1/config/service-intentions/api
/v1/config/service-intentions/*
/v1/config/service-intentions/orders
/v1/config/service-intentions?filter=Name==api
/v1/config/proxy-defaults
/v1/config/proxy-defaults/global
/v1/config/proxy-defaults/x
/v1/config/mesh
/v1/config/mesh/mesh
/v1/config/mesh/x
/v1/config/nosuch
/v1/config/nosuch/a
/v1/config/Service-Defaults/web
/v1/config/service-router
/v1/config/service-router/web
/v1/config/service-router/shop
/v1/config/service-router/SHOP
/v1/config/service-splitter
/v1/config/service-splitter/shop?pretty
/v1/config/service-resolver
/v1/config/service-resolver/shop
/v1/config/service-resolver/till
/v1/config/service-resolver/kiosk
/v1/config/exported-services
/v1/config/exported-services/default
/v1/config/jwt-provider
# discovery chains
/v1/discovery-chain/
/v1/discovery-chain/web
/v1/discovery-chain/db
/v1/discovery-chain/nosuch
/v1/discovery-chain/API
/v1/discovery-chain/Web
/v1/discovery-chain/a%20b
/v1/discovery-chain/*
/v1/discovery-chain/web?compile-dc=dc2
/v1/discovery-chain/web?filter=x
`
