package snapshot

import (
	xdscorev3 "github.com/cncf/xds/go/xds/core/v3"
	matcherv3 "github.com/cncf/xds/go/xds/type/matcher/v3"
	networkinputv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/matching/common_inputs/network/v3"
	metadatamatcherv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/matching/input_matchers/metadata/v3"
	envoymatcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/intention"
)

// tokens is that a good token of one of the requirements was brought. It always looks at what the verified token says itself, and at who
// has issued it first: of what is not there nothing holds.
func (b *builder) tokens(all []intention.TokenRequirement) *predicate {
	var list []*predicate
	for i := range all {
		if p := b.token(&all[i]); p != nil {
			list = append(list, p)
		}
	}
	switch len(list) {
	case 0:
		return b.oneOf(nil)
	case 1:
		return list[0]
	}
	return &predicate{MatchType: &matcherv3.Matcher_MatcherList_Predicate_OrMatcher{OrMatcher: &matcherv3.Matcher_MatcherList_Predicate_PredicateList{Predicate: list}}}
}

// token is that one of a requirement was; nil: none is good.
func (b *builder) token(t *intention.TokenRequirement) *predicate {
	var provider *catalog.TokenProvider
	for _, p := range b.verifying() {
		if p.Name == t.Provider {
			provider = p
		}
	}
	if provider == nil {
		return nil
	}
	list := []*predicate{b.said(provider.Name, []string{"iss"}, exactText(provider.Issuer))}
	for i := range t.Claims {
		c := &t.Claims[i]
		if len(c.Path) == 0 {
			return nil
		}
		one := scalar(c)
		list = append(list, b.said(provider.Name, c.Path, eitherValue(one, &envoymatcherv3.ValueMatcher{MatchPattern: &envoymatcherv3.ValueMatcher_ListMatch{
			ListMatch: &envoymatcherv3.ListMatcher{MatchPattern: &envoymatcherv3.ListMatcher_OneOf{OneOf: one}},
		}})))
	}
	if len(list) == 1 {
		return list[0]
	}
	return &predicate{MatchType: &matcherv3.Matcher_MatcherList_Predicate_AndMatcher{AndMatcher: &matcherv3.Matcher_MatcherList_Predicate_PredicateList{Predicate: list}}}
}

// scalar is that a value, which is no list, is what a claim has to be.
func scalar(c *intention.Claim) *envoymatcherv3.ValueMatcher {
	m := exactText(c.Value)
	if n, ok := c.Number(); ok {
		m = eitherValue(m, &envoymatcherv3.ValueMatcher{MatchPattern: &envoymatcherv3.ValueMatcher_DoubleMatch{
			DoubleMatch: &envoymatcherv3.DoubleMatcher{MatchPattern: &envoymatcherv3.DoubleMatcher_Exact{Exact: n}},
		}})
	}
	if is, ok := c.Boolean(); ok {
		m = eitherValue(m, &envoymatcherv3.ValueMatcher{MatchPattern: &envoymatcherv3.ValueMatcher_BoolMatch{BoolMatch: is}})
	}
	return m
}

func exactText(text string) *envoymatcherv3.ValueMatcher {
	return &envoymatcherv3.ValueMatcher{MatchPattern: &envoymatcherv3.ValueMatcher_StringMatch{StringMatch: exactly(text)}}
}

func eitherValue(a, b *envoymatcherv3.ValueMatcher) *envoymatcherv3.ValueMatcher {
	return &envoymatcherv3.ValueMatcher{MatchPattern: &envoymatcherv3.ValueMatcher_OrMatch{
		OrMatch: &envoymatcherv3.OrMatcher{ValueMatchers: []*envoymatcherv3.ValueMatcher{a, b}},
	}}
}

// said is that the good token of a provider says something at a path. A text that is compared with such an input (value_match) never is what
// it has to be, so the comparison is one of the metadata.
func (b *builder) said(provider string, path []string, value *envoymatcherv3.ValueMatcher) *predicate {
	input := &networkinputv3.DynamicMetadataInput{Filter: jwtFilter}
	for _, key := range append([]string{payloadKey(provider)}, path...) {
		input.Path = append(input.Path, &networkinputv3.DynamicMetadataInput_PathSegment{Segment: &networkinputv3.DynamicMetadataInput_PathSegment_Key{Key: key}})
	}
	return &predicate{MatchType: &matcherv3.Matcher_MatcherList_Predicate_SinglePredicate_{SinglePredicate: &matcherv3.Matcher_MatcherList_Predicate_SinglePredicate{
		Input: &xdscorev3.TypedExtensionConfig{Name: "claim", TypedConfig: b.any(input)},
		Matcher: &matcherv3.Matcher_MatcherList_Predicate_SinglePredicate_CustomMatch{CustomMatch: &xdscorev3.TypedExtensionConfig{
			Name: "says", TypedConfig: b.any(&metadatamatcherv3.Metadata{Value: value}),
		}},
	}}}
}
