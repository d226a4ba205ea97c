package files

import (
	"encoding/json"
	"maps"

	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/definition"
)

// What Consul's API tells of config entries. The fields that are not supported, and so never written, are not here.
var (
	gatewayShape  = definition.Shape{{Name: "Mode"}}
	upstreamShape = definition.Shape{
		{Name: "Name"},
		{Name: "Peer", Fill: ""},
		{Name: "Protocol"},
		{Name: "ConnectTimeoutMs", Type: definition.ShapedInteger},
		{Name: "Limits", Type: definition.ShapedBlock, Of: definition.Shape{
			{Name: "MaxConnections", Type: definition.ShapedInteger, Zero: true},
			{Name: "MaxPendingRequests", Type: definition.ShapedInteger, Zero: true},
			{Name: "MaxConcurrentRequests", Type: definition.ShapedInteger, Zero: true},
		}},
		{Name: "PassiveHealthCheck", Type: definition.ShapedBlock, Of: definition.Shape{
			{Name: "Interval", Type: definition.ShapedTime},
			{Name: "MaxFailures", Type: definition.ShapedInteger},
			{Name: "EnforcingConsecutive5xx", Type: definition.ShapedInteger, Zero: true},
			{Name: "MaxEjectionPercent", Type: definition.ShapedInteger, Zero: true},
			{Name: "BaseEjectionTime", Type: definition.ShapedTime, Zero: true},
		}},
		{Name: "MeshGateway", Type: definition.ShapedBlock, Of: gatewayShape, Fill: struct{}{}},
		{Name: "BalanceOutboundConnections"},
	}
	serviceDefaultsShape = definition.Shape{
		{Name: "Protocol"},
		{Name: "Mode"},
		{Name: "MutualTLSMode"},
		{Name: "MeshGateway", Type: definition.ShapedBlock, Of: gatewayShape},
		{Name: "UpstreamConfig", Type: definition.ShapedBlock, Of: definition.Shape{
			{Name: "Defaults", Type: definition.ShapedBlock, Of: upstreamShape},
			{Name: "Overrides", Type: definition.ShapedBlocks, Of: upstreamShape},
		}},
		{Name: "MaxInboundConnections", Type: definition.ShapedInteger},
		{Name: "LocalConnectTimeoutMs", Type: definition.ShapedInteger},
		{Name: "LocalRequestTimeoutMs", Type: definition.ShapedInteger},
		{Name: "BalanceInboundConnections"},
		{Name: "Config", Type: definition.ShapedOpaque}, // sallyport's own
	}
	proxyDefaultsShape = definition.Shape{
		{Name: "Config", Type: definition.ShapedOpaque},
		{Name: "Mode"},
		{Name: "MutualTLSMode"},
		{Name: "MeshGateway", Type: definition.ShapedBlock, Of: gatewayShape},
		{Name: "AccessLogs", Type: definition.ShapedBlock, Of: definition.Shape{
			{Name: "Enabled", Type: definition.ShapedBoolean},
			{Name: "DisableListenerLogs", Type: definition.ShapedBoolean},
			{Name: "Type"},
			{Name: "Path"},
			{Name: "JSONFormat"},
			{Name: "TextFormat"},
		}},
	}
	tlsShape  = definition.Shape{{Name: "TLSMinVersion"}, {Name: "TLSMaxVersion"}}
	meshShape = definition.Shape{
		{Name: "TLS", Type: definition.ShapedBlock, Of: definition.Shape{
			{Name: "Incoming", Type: definition.ShapedBlock, Of: tlsShape},
			{Name: "Outgoing", Type: definition.ShapedBlock, Of: tlsShape},
		}},
		{Name: "HTTP", Type: definition.ShapedBlock, Of: definition.Shape{{Name: "SanitizeXForwardedClientCert", Type: definition.ShapedBoolean, Zero: true}}},
	}
)

// What is told of the entries that chains are made of.
var (
	headersShape = definition.Shape{
		{Name: "Add", Type: definition.ShapedPairs},
		{Name: "Set", Type: definition.ShapedPairs},
		{Name: "Remove", Type: definition.ShapedTexts},
	}
	httpMatchShape = definition.Shape{
		{Name: "PathExact"},
		{Name: "PathPrefix"},
		{Name: "PathRegex"},
		{Name: "CaseInsensitive", Type: definition.ShapedBoolean},
		{Name: "Header", Type: definition.ShapedBlocks, Of: definition.Shape{
			{Name: "Name", Fill: ""},
			{Name: "Present", Type: definition.ShapedBoolean},
			{Name: "Exact"},
			{Name: "Prefix"},
			{Name: "Suffix"},
			{Name: "Contains"},
			{Name: "Regex"},
			{Name: "IgnoreCase", Type: definition.ShapedBoolean},
			{Name: "Invert", Type: definition.ShapedBoolean},
		}},
		{Name: "QueryParam", Type: definition.ShapedBlocks, Of: definition.Shape{
			{Name: "Name", Fill: ""},
			{Name: "Present", Type: definition.ShapedBoolean},
			{Name: "Exact"},
			{Name: "Regex"},
		}},
		{Name: "Methods", Type: definition.ShapedTexts},
	}
	destinationShape = definition.Shape{
		{Name: "Service"},
		{Name: "ServiceSubset"},
		{Name: "PrefixRewrite"},
		{Name: "RequestTimeout", Type: definition.ShapedDuration},
		{Name: "IdleTimeout", Type: definition.ShapedDuration},
		{Name: "NumRetries", Type: definition.ShapedInteger},
		{Name: "RetryOnConnectFailure", Type: definition.ShapedBoolean},
		{Name: "RetryOn", Type: definition.ShapedTexts},
		{Name: "RetryOnStatusCodes", Type: definition.ShapedIntegers},
		{Name: "RequestHeaders", Type: definition.ShapedBlock, Of: headersShape},
		{Name: "ResponseHeaders", Type: definition.ShapedBlock, Of: headersShape},
	}
	targetShape = definition.Shape{{Name: "Service"}, {Name: "ServiceSubset"}, {Name: "Datacenter"}}
	// routingShapes are those of each kind.
	routingShapes = [routingKinds]definition.Shape{
		aRouter: {{Name: "Routes", Type: definition.ShapedBlocks, Fill: []any(nil), Of: definition.Shape{
			{Name: "Match", Type: definition.ShapedBlock, Of: definition.Shape{{Name: "HTTP", Type: definition.ShapedBlock, Of: httpMatchShape}}},
			{Name: "Destination", Type: definition.ShapedBlock, Of: destinationShape},
		}}},
		aSplitter: {{Name: "Splits", Type: definition.ShapedBlocks, Fill: []any(nil), Of: definition.Shape{
			{Name: "Weight", Type: definition.ShapedNumber, Fill: 0},
			{Name: "Service"},
			{Name: "ServiceSubset"},
			{Name: "RequestHeaders", Type: definition.ShapedBlock, Of: headersShape},
			{Name: "ResponseHeaders", Type: definition.ShapedBlock, Of: headersShape},
		}}},
		aResolver: {
			{Name: "ConnectTimeout", Type: definition.ShapedDuration},
			{Name: "RequestTimeout", Type: definition.ShapedDuration},
			{Name: "DefaultSubset"},
			{Name: "Subsets", Type: definition.ShapedNamed, Of: definition.Shape{{Name: "Filter"}, {Name: "OnlyPassing", Type: definition.ShapedBoolean}}},
			{Name: "Redirect", Type: definition.ShapedBlock, Of: targetShape},
			{Name: "Failover", Type: definition.ShapedNamed, Of: definition.Shape{
				{Name: "Service"},
				{Name: "ServiceSubset"},
				{Name: "Datacenters", Type: definition.ShapedTexts},
				{Name: "Targets", Type: definition.ShapedBlocks, Of: targetShape},
			}},
			{Name: "LoadBalancer", Type: definition.ShapedBlock, Of: definition.Shape{
				{Name: "Policy"},
				{Name: "RingHashConfig", Type: definition.ShapedBlock, Of: definition.Shape{
					{Name: "MinimumRingSize", Type: definition.ShapedInteger}, {Name: "MaximumRingSize", Type: definition.ShapedInteger},
				}},
				{Name: "LeastRequestConfig", Type: definition.ShapedBlock, Of: definition.Shape{{Name: "ChoiceCount", Type: definition.ShapedInteger}}},
				{Name: "HashPolicies", Type: definition.ShapedBlocks, Of: definition.Shape{
					{Name: "Field"},
					{Name: "FieldValue"},
					{Name: "CookieConfig", Type: definition.ShapedBlock, Of: definition.Shape{
						{Name: "Session", Type: definition.ShapedBoolean}, {Name: "TTL", Type: definition.ShapedTime}, {Name: "Path"},
					}},
					{Name: "SourceIP", Type: definition.ShapedBoolean},
					{Name: "Terminal", Type: definition.ShapedBoolean},
				}},
			}},
		},
	}
)

// jwtShape is what service-intentions say of tokens.
var jwtShape = definition.Shape{{Name: "JWT", Type: definition.ShapedBlock, Of: definition.Shape{{Name: "Providers", Type: definition.ShapedBlocks, Of: definition.Shape{
	{Name: "Name"},
	{Name: "VerifyClaims", Type: definition.ShapedBlocks, Of: definition.Shape{{Name: "Path", Type: definition.ShapedTexts}, {Name: "Value"}}},
}}}}}

// providerShape is that of jwt-provider.
var providerShape = definition.Shape{
	{Name: "Issuer"},
	{Name: "Audiences", Type: definition.ShapedTexts},
	{Name: "JSONWebKeySet", Type: definition.ShapedBlock, Of: definition.Shape{
		{Name: "Local", Type: definition.ShapedBlock, Of: definition.Shape{{Name: "JWKS"}, {Name: "Filename"}}},
		{Name: "Remote", Type: definition.ShapedBlock, Of: definition.Shape{
			{Name: "URI"},
			{Name: "RequestTimeoutMs", Type: definition.ShapedInteger},
			{Name: "CacheDuration", Type: definition.ShapedTime},
			{Name: "FetchAsynchronously", Type: definition.ShapedBoolean},
			{Name: "RetryPolicy", Type: definition.ShapedBlock, Of: definition.Shape{
				{Name: "NumRetries", Type: definition.ShapedInteger},
				{Name: "RetryPolicyBackOff", Type: definition.ShapedBlock, Of: definition.Shape{
					{Name: "BaseInterval", Type: definition.ShapedTime}, {Name: "MaxInterval", Type: definition.ShapedTime},
				}},
			}},
			{Name: "JWKSCluster", Type: definition.ShapedBlock, Of: definition.Shape{
				{Name: "DiscoveryType"},
				{Name: "TLSCertificates", Type: definition.ShapedBlock, Of: definition.Shape{
					{Name: "TrustedCA", Type: definition.ShapedBlock, Of: definition.Shape{{Name: "Filename"}, {Name: "InlineString"}, {Name: "InlineBytes"}}},
				}},
				{Name: "ConnectTimeout", Type: definition.ShapedTime},
			}},
		}},
	}},
	{Name: "Locations", Type: definition.ShapedBlocks, Of: definition.Shape{
		{Name: "Header", Type: definition.ShapedBlock, Of: definition.Shape{{Name: "Name"}, {Name: "ValuePrefix"}, {Name: "Forward", Type: definition.ShapedBoolean}}},
		{Name: "QueryParam", Type: definition.ShapedBlock, Of: definition.Shape{{Name: "Name"}}},
		{Name: "Cookie", Type: definition.ShapedBlock, Of: definition.Shape{{Name: "Name"}}},
	}},
	{Name: "Forwarding", Type: definition.ShapedBlock, Of: definition.Shape{{Name: "HeaderName"}, {Name: "PadForwardPayloadHeader", Type: definition.ShapedBoolean}}},
	{Name: "ClockSkewSeconds", Type: definition.ShapedInteger},
	{Name: "CacheConfig", Type: definition.ShapedBlock, Of: definition.Shape{{Name: "Size", Type: definition.ShapedInteger}}},
}

// What is told of registrations.
var (
	configShape       = definition.Shape{{Name: "config", Type: definition.ShapedOpaque}}
	overrideShape     = definition.Shape{{Name: "enable_tag_override", Type: definition.ShapedBoolean}}
	descriptionShape  = definition.Shape{{Name: "Description"}}
	upstreamToldShape = definition.Shape{
		{Name: "datacenter"}, {Name: "local_bind_address"}, {Name: "local_bind_socket_mode"}, {Name: "config", Type: definition.ShapedOpaque},
	}
	checkShape = definition.Shape{
		{Name: "check_id"},
		{Name: "id"},
		{Name: "name"},
		{Name: "notes"},
		{Name: "interval", Type: definition.ShapedTime},
		{Name: "timeout", Type: definition.ShapedTime},
		{Name: "http"},
		{Name: "tcp"},
		{Name: "udp"},
		{Name: "grpc"},
		{Name: "h2ping"},
		{Name: "os_service"},
		{Name: "alias_service"},
		{Name: "alias_node"},
		{Name: "ttl", Type: definition.ShapedTime},
	}
)

// written is a config entry as it is told to those who ask.
type written struct {
	entry  *catalog.Entry
	fields map[string]any // those of the entry
}

// write makes what is told of an entry.
func write(kind, name, origin string, meta map[string]string, fields map[string]any) written {
	e := &catalog.Entry{Kind: kind, Name: name, Meta: meta, Origin: origin}
	if fields != nil {
		e.Fields = object(fields)
	}
	return written{e, fields}
}

// object is a map in JSON; empty if there is nothing in it.
func object(fields map[string]any) string {
	if len(fields) == 0 {
		return ""
	}
	b, err := json.Marshal(fields)
	if err != nil {
		panic("files: what was read cannot be written: " + err.Error()) // it is made of texts, numbers, booleans and maps of them
	}
	return string(b)
}

// centralConfig are the fields of service-defaults that Consul puts into the config of the service's sidecars.
var centralConfig = map[string]string{
	"Protocol": "protocol", "MaxInboundConnections": "max_inbound_connections", "LocalConnectTimeoutMs": "local_connect_timeout_ms",
	"LocalRequestTimeoutMs": "local_request_timeout_ms", "BalanceInboundConnections": "balance_inbound_connections",
}

// configOf is what is told of the config of s: its own, over service-defaults, over proxy-defaults.
func (a *assembly) configOf(s *sidecar) string {
	all := map[string]any{}
	put := func(m any) {
		if m, ok := m.(map[string]any); ok {
			maps.Copy(all, m)
		}
	}
	if e := a.proxyDefaults; e != nil {
		put(e.written.fields["Config"])
	}
	if e := s.of.defaults; e != nil {
		for field, key := range centralConfig {
			if v, ok := e.written.fields[field]; ok {
				all[key] = v
			}
		}
		put(e.written.fields["Config"])
	}
	put(s.config)
	return object(all)
}

// centralUpstream are the fields of UpstreamConfig that Consul puts into the config of upstreams.
var centralUpstream = map[string]string{
	"Protocol": "protocol", "ConnectTimeoutMs": "connect_timeout_ms", "Limits": "limits", "PassiveHealthCheck": "passive_health_check",
	"BalanceOutboundConnections": "balance_outbound_connections",
}

// upstreamConfigOf is what is told of the config of an upstream of s: its own, over service-defaults of s's service, over what the upstream speaks.
func (a *assembly) upstreamConfigOf(s *sidecar, i int) string {
	all := map[string]any{}
	n := s.dials[i]
	if protocol, _ := a.protocolOf(n); protocol != catalog.TCP || a.proxyDefaults != nil && a.proxyDefaults.settings.Protocol.Set {
		all["protocol"] = protocol.String() // it is left out where nobody says any, and where service-defaults say what holds anyway
	}
	put := func(m any) {
		fields, _ := m.(map[string]any)
		for field, key := range centralUpstream {
			if v, ok := fields[field]; ok {
				all[key] = v
			}
		}
	}
	if e := s.of.defaults; e != nil {
		config, _ := e.written.fields["UpstreamConfig"].(map[string]any)
		put(config["Defaults"])
		overrides, _ := config["Overrides"].([]any)
		for _, o := range overrides {
			if m, ok := o.(map[string]any); ok && m["Name"] == n.name {
				put(m)
			}
		}
	}
	maps.Copy(all, s.upstreams[i].config)
	return object(all)
}
