package snapshot

import (
	"cmp"
	"slices"
	"strings"

	xdscorev3 "github.com/cncf/xds/go/xds/core/v3"
	matcherv3 "github.com/cncf/xds/go/xds/type/matcher/v3"
	rbacv3 "github.com/envoyproxy/go-control-plane/envoy/config/rbac/v3"
	httprbacv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/rbac/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	networkrbacv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/rbac/v3"
	sslv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/matching/common_inputs/ssl/v3"
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/intention"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

const httpRBAC = "envoy.filters.http.rbac"

// rulesStats is what the network filter's counters start with: "intentions.rbac.denied". Envoy
// joins the two as they are.
const rulesStats = "intentions."

// networkRules are the rules of a tcp service; none where ext_authz alone decides.
func (b *builder) networkRules() *anypb.Any {
	if b.enforcement() == catalog.ExtAuthz {
		return b.any(&networkrbacv3.RBAC{StatPrefix: rulesStats})
	}
	return b.cache.networkRules.of(b.bare(), func() *anypb.Any {
		return b.any(&networkrbacv3.RBAC{StatPrefix: rulesStats, Matcher: b.matcher()})
	})
}

// denyAllFilter is the RBAC filter of an HTTP connection manager. Its rules are set and empty,
// which denies everything (unset rules allow everything). The routes override them, so that routes
// without rules of their own deny.
func (b *builder) denyAllFilter() *hcmv3.HttpFilter {
	config := b.constant(httpRBAC, func() proto.Message { return &httprbacv3.RBAC{Rules: &rbacv3.RBAC{}} })
	return &hcmv3.HttpFilter{Name: httpRBAC, ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: config}}
}

// routeRules are the rules of an http service for its virtual host. Where ext_authz alone decides
// they allow everything explicitly, as the connection manager's own rules deny.
func (b *builder) routeRules() *anypb.Any {
	rules := func(m *matcherv3.Matcher) *anypb.Any {
		return b.any(&httprbacv3.RBACPerRoute{Rbac: &httprbacv3.RBAC{Matcher: m}})
	}
	if b.enforcement() == catalog.ExtAuthz {
		return rules(&matcherv3.Matcher{OnNoMatch: b.action(intention.Allow)})
	}
	return b.cache.routeRules.of(b.bare(), func() *anypb.Any { return rules(b.matcher()) })
}

// bare is the layer below a policy without rules of its own; nil: it has some.
func (b *builder) bare() *intention.Shared {
	if shared, bare := b.in.Policy.Shared(); bare {
		return shared
	}
	return nil
}

// matcher translates the proxy's policy to Envoy's terms. It is the only place where rules are
// made. It is never nil, and denies where nothing matches.
//
// Each source that an intention names has an entry for each datacenter, whether it is allowed or
// not, so the rule for the rest never applies to it. A certificate with several URI SANs is looked
// up as all of them joined by ",", which is no key of the map and matches no expression.
//
// Where requests are judged it refuses revoked certificates, too. Connections are judged by certificates in a filter
// of its own.
func (b *builder) matcher() *matcherv3.Matcher {
	var revoked []digests
	if b.in.Proxy.Inbound.Protocol.L7() {
		revoked = b.revokedCertificates()
	}
	m := b.identityMatcher(revoked)
	if len(revoked) > 0 && revoked[0].id == "" {
		m = &matcherv3.Matcher{OnNoMatch: b.unlessRevoked(revoked[0].list, &matcherv3.Matcher_OnMatch{OnMatch: &matcherv3.Matcher_OnMatch_Matcher{Matcher: m}})}
	}
	return m
}

// identityMatcher is matcher by what certificates are called, and by their digests where their holders are known.
func (b *builder) identityMatcher(revoked []digests) *matcherv3.Matcher {
	allow, deny := b.action(intention.Allow), b.action(intention.Deny)
	s := scopeOf(b.in)
	rest := deny
	if len(s.datacenters) > 0 && b.in.Policy.Rest() == intention.Allow {
		rest = &matcherv3.Matcher_OnMatch{OnMatch: &matcherv3.Matcher_OnMatch_Matcher{Matcher: b.restMatcher(s, allow, deny)}}
	} else if i := b.conditional(intention.Source{Name: s.name(identity.Wildcard)}); i != nil && len(s.datacenters) > 0 {
		rest = &matcherv3.Matcher_OnMatch{OnMatch: &matcherv3.Matcher_OnMatch_Matcher{Matcher: b.restMatcher(s, b.permissions(i), deny)}}
	}
	sources := b.refuse(append(b.sources(s), b.foreignSources()...), revoked)
	if len(sources) == 0 { // Envoy refuses an empty map
		return &matcherv3.Matcher{OnNoMatch: rest}
	}
	slices.SortFunc(sources, func(x, y *source) int { return strings.Compare(x.id, y.id) })
	// The first entry is one of m's own, as one without entries is refused when it is validated.
	first := cmp.Or(sources[0].on, deny)
	if sources[0].on == nil && sources[0].allowed {
		first = allow
	}
	m := &matcherv3.Matcher_MatcherTree_MatchMap{Map: map[string]*matcherv3.Matcher_OnMatch{sources[0].id: first}}
	others := make([][]byte, len(sources)-1)
	for i, s := range sources[1:] {
		others[i] = s.rule
	}
	return &matcherv3.Matcher{
		MatcherType: &matcherv3.Matcher_MatcherTree_{MatcherTree: &matcherv3.Matcher_MatcherTree{
			Input:    b.uriInput(),
			TreeType: &matcherv3.Matcher_MatcherTree_ExactMatchMap{ExactMatchMap: withFields(m, others)},
		}},
		OnNoMatch: rest,
	}
}

// restMatcher has allow for each service of the mesh, and denies everybody else.
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
									// Without the engine Envoy refuses the matcher. With it, Envoy
									// does not limit the size of the program.
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

// action is the result of a match. Envoy's enum has ALLOW as its zero value, so both are named, and
// everything but Allow denies.
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
