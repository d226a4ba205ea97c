package snapshot

import (
	xdscorev3 "github.com/cncf/xds/go/xds/core/v3"
	matcherv3 "github.com/cncf/xds/go/xds/type/matcher/v3"
	rbacv3 "github.com/envoyproxy/go-control-plane/envoy/config/rbac/v3"
	httprbacv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/rbac/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	networkrbacv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/rbac/v3"
	sslv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/matching/common_inputs/ssl/v3"
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/intention"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

const httpRBAC = "envoy.filters.http.rbac"

// rulesStats is what the network filter's counters start with: "intentions.rbac.denied". Envoy
// joins the two as they are.
const rulesStats = "intentions."

// networkRules are the rules of a tcp service. Where ext_authz alone decides there are none.
func (b *builder) networkRules() *anypb.Any {
	if b.enforcement() == catalog.ExtAuthz {
		return b.any(&networkrbacv3.RBAC{StatPrefix: rulesStats})
	}
	return b.cache.networkRules.of(b.in.Policy.Shared(), func() *anypb.Any {
		return b.any(&networkrbacv3.RBAC{StatPrefix: rulesStats, Matcher: b.matcher()})
	})
}

// denyAllFilter is the RBAC filter of an HTTP connection manager. Its rules are there and empty,
// which denies everything (rules that are not there allow everything); the route's own rules take
// its place, and a route that lost them denies.
func (b *builder) denyAllFilter() *hcmv3.HttpFilter {
	config := b.constant(httpRBAC, func() proto.Message { return &httprbacv3.RBAC{Rules: &rbacv3.RBAC{}} })
	return &hcmv3.HttpFilter{Name: httpRBAC, ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: config}}
}

// routeRules are the rules of an http service as its virtual host carries them. Where ext_authz
// alone decides they allow everything, which has to be said: the connection manager's own deny.
func (b *builder) routeRules() *anypb.Any {
	rules := func(m *matcherv3.Matcher) *anypb.Any {
		return b.any(&httprbacv3.RBACPerRoute{Rbac: &httprbacv3.RBAC{Matcher: m}})
	}
	if b.enforcement() == catalog.ExtAuthz {
		return rules(&matcherv3.Matcher{OnNoMatch: b.action(intention.Allow)})
	}
	return b.cache.routeRules.of(b.in.Policy.Shared(), func() *anypb.Any { return rules(b.matcher()) })
}

// matcher is the proxy's policy in Envoy's terms, and the only place where rules are made. It is
// never nil, and where it ends, it denies.
//
// Each source that an intention names has an entry of its own for each datacenter, whatever is said
// of it, so it never meets the rule for the rest. A certificate with several URI SANs is looked up
// as all of them joined by ",", which is no key of the map, and matches no expression.
func (b *builder) matcher() *matcherv3.Matcher {
	allow, deny := b.action(intention.Allow), b.action(intention.Deny)
	s := scopeOf(b.in)
	if b.in.Policy == nil || len(s.datacenters) == 0 {
		return &matcherv3.Matcher{OnNoMatch: deny}
	}
	rest := deny
	if b.in.Policy.Rest() == intention.Allow {
		rest = &matcherv3.Matcher_OnMatch{OnMatch: &matcherv3.Matcher_OnMatch_Matcher{Matcher: b.restMatcher(s, allow, deny)}}
	}
	exact := map[string]*matcherv3.Matcher_OnMatch{}
	for name, action := range b.in.Policy.Exact() {
		for _, id := range s.ids(name.Service) {
			exact[id] = deny
			if action == intention.Allow {
				exact[id] = allow
			}
		}
	}
	if len(exact) == 0 { // Envoy refuses an empty map
		return &matcherv3.Matcher{OnNoMatch: rest}
	}
	return &matcherv3.Matcher{
		MatcherType: &matcherv3.Matcher_MatcherTree_{MatcherTree: &matcherv3.Matcher_MatcherTree{
			Input:    b.uriInput(),
			TreeType: &matcherv3.Matcher_MatcherTree_ExactMatchMap{ExactMatchMap: &matcherv3.Matcher_MatcherTree_MatchMap{Map: exact}},
		}},
		OnNoMatch: rest,
	}
}

// restMatcher allows each service of the mesh, and nobody else.
func (b *builder) restMatcher(s scope, allow, deny *matcherv3.Matcher_OnMatch) *matcherv3.Matcher {
	return &matcherv3.Matcher{
		MatcherType: &matcherv3.Matcher_MatcherList_{MatcherList: &matcherv3.Matcher_MatcherList{
			Matchers: []*matcherv3.Matcher_MatcherList_FieldMatcher{{
				Predicate: &matcherv3.Matcher_MatcherList_Predicate{
					MatchType: &matcherv3.Matcher_MatcherList_Predicate_SinglePredicate_{
						SinglePredicate: &matcherv3.Matcher_MatcherList_Predicate_SinglePredicate{
							Input: b.uriInput(),
							Matcher: &matcherv3.Matcher_MatcherList_Predicate_SinglePredicate_ValueMatch{
								ValueMatch: &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_SafeRegex{SafeRegex: &matcherv3.RegexMatcher{
									// Without the engine Envoy refuses the matcher. With it, it
									// does not bound the size of the program.
									EngineType: &matcherv3.RegexMatcher_GoogleRe2{GoogleRe2: &matcherv3.RegexMatcher_GoogleRE2{}},
									Regex:      s.expression(complement(nil)),
								}}},
							},
						},
					},
				},
				OnMatch: allow,
			}},
		}},
		OnNoMatch: deny,
	}
}

// action is what ends a match. Envoy's enum has ALLOW as its zero value, so both are named, and
// whatever is not Allow denies.
func (b *builder) action(a intention.Action) *matcherv3.Matcher_OnMatch {
	config := b.constant(a, func() proto.Message {
		if a == intention.Allow {
			return &rbacv3.Action{Name: "ALLOW", Action: rbacv3.RBAC_ALLOW}
		}
		return &rbacv3.Action{Name: "DENY", Action: rbacv3.RBAC_DENY}
	})
	return &matcherv3.Matcher_OnMatch{OnMatch: &matcherv3.Matcher_OnMatch_Action{
		Action: &xdscorev3.TypedExtensionConfig{Name: "action", TypedConfig: config},
	}}
}

// uriInput is the URI SAN of the peer's certificate.
func (b *builder) uriInput() *xdscorev3.TypedExtensionConfig {
	return &xdscorev3.TypedExtensionConfig{Name: "uri", TypedConfig: b.constant("uri", func() proto.Message { return &sslv3.UriSanInput{} })}
}
