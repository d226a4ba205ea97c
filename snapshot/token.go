package snapshot

import (
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	jwtv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/jwt_authn/v3"
	"github.com/sallyport/sallyport/catalog"
	"google.golang.org/protobuf/types/known/emptypb"
)

// jwtFilter is the name under which Envoy's JWT filter has what verified tokens say.
const jwtFilter = "envoy.filters.http.jwt_authn"

// payloadKey is where the claims of a provider's verified token are in the metadata of jwtFilter.
func payloadKey(provider string) string { return "jwt_payload_" + provider }

// verifying are the providers whose tokens this proxy's Envoy verifies: those that its service's intentions ask for and of which keys are
// known. Of all others no token counts.
func (b *builder) verifying() (list []*catalog.TokenProvider) {
	for _, p := range b.in.Tokens {
		if p.Known() {
			list = append(list, p)
		}
	}
	return list
}

// fillTokens fills the slot of the filter that verifies tokens. It refuses nothing: rules and ext_authz do, by what it says of the tokens
// that are good. A token that is none, or not good, is as none.
func (b *builder) fillTokens() {
	list := b.verifying()
	if len(list) == 0 {
		b.fillEmpty(jwtSlot)
		return
	}
	filter := &jwtv3.JwtAuthentication{Providers: make(map[string]*jwtv3.JwtProvider, len(list))}
	all := &jwtv3.JwtRequirementAndList{}
	for _, p := range list {
		filter.Providers[p.Name] = jwtProvider(p)
		// The alternative to it, which is always met, is tried last: of each provider that has a good token here the claims are told.
		all.Requirements = append(all.Requirements, &jwtv3.JwtRequirement{RequiresType: &jwtv3.JwtRequirement_RequiresAny{RequiresAny: &jwtv3.JwtRequirementOrList{
			Requirements: []*jwtv3.JwtRequirement{
				{RequiresType: &jwtv3.JwtRequirement_ProviderName{ProviderName: p.Name}},
				{RequiresType: &jwtv3.JwtRequirement_AllowMissingOrFailed{AllowMissingOrFailed: &emptypb.Empty{}}},
			},
		}}})
	}
	requires := all.Requirements[0]
	if len(all.Requirements) > 1 { // Envoy refuses a list of one
		requires = &jwtv3.JwtRequirement{RequiresType: &jwtv3.JwtRequirement_RequiresAll{RequiresAll: all}}
	}
	filter.Rules = []*jwtv3.RequirementRule{{
		Match:           &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/"}},
		RequirementType: &jwtv3.RequirementRule_Requires{Requires: requires},
	}}
	b.fill(jwtSlot, b.any(filter))
}

func jwtProvider(p *catalog.TokenProvider) *jwtv3.JwtProvider {
	out := &jwtv3.JwtProvider{
		Issuer:                  p.Issuer,
		Audiences:               p.Audiences,
		Forward:                 p.Forward,
		ForwardPayloadHeader:    p.PayloadHeader,
		PadForwardPayloadHeader: p.PadPayload,
		PayloadInMetadata:       payloadKey(p.Name),
		ClockSkewSeconds:        uint32(p.ClockSkew.Seconds()),
		JwksSourceSpecifier: &jwtv3.JwtProvider_LocalJwks{LocalJwks: &corev3.DataSource{
			Specifier: &corev3.DataSource_InlineString{InlineString: p.Keys},
		}},
	}
	if p.CacheSize > 0 {
		out.JwtCacheConfig = &jwtv3.JwtCacheConfig{JwtCacheSize: p.CacheSize}
	}
	for _, at := range p.Places {
		switch at.In {
		case catalog.InHeader:
			out.FromHeaders = append(out.FromHeaders, &jwtv3.JwtHeader{Name: at.Name, ValuePrefix: at.Prefix})
		case catalog.InQuery:
			out.FromParams = append(out.FromParams, at.Name)
		case catalog.InCookie:
			out.FromCookies = append(out.FromCookies, at.Name)
		}
	}
	return out
}
