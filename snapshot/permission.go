package snapshot

import (
	xdscorev3 "github.com/cncf/xds/go/xds/core/v3"
	matcherv3 "github.com/cncf/xds/go/xds/type/matcher/v3"
	rbacv3 "github.com/envoyproxy/go-control-plane/envoy/config/rbac/v3"
	envoymatcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/intention"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// conditional is the intention whose permissions decide about the requests of a source; nil: none does, or what is protected has no
// requests.
func (b *builder) conditional(source intention.Source) *intention.Intention {
	if !b.in.Proxy.Inbound.Protocol.L7() {
		return nil
	}
	return b.in.Policy.Permissions(source)
}

// conditionalID is conditional for an identity that is known to be one of the mesh's, or a workload of another trust domain.
func (b *builder) conditionalID(id identity.ID) *intention.Intention {
	d := b.in.Policy.DecideID(id)
	if d.Reason != intention.RequestsOnly {
		return nil
	}
	return b.conditional(d.Intention.Source)
}

// permissions are an intention's, one after the other: the first one that a request meets decides, none leads to the default. Each has an
// entry of its own, as an entry's action names the one that decided. It is as large as what is written.
func (b *builder) permissions(i *intention.Intention) *matcherv3.Matcher_OnMatch {
	steps := i.Permissions.Steps()
	list := make([]*matcherv3.Matcher_MatcherList_FieldMatcher, len(steps))
	for n := range steps {
		step := &steps[n]
		list[n] = &matcherv3.Matcher_MatcherList_FieldMatcher{Predicate: b.conditions(step), OnMatch: b.namedAction(step.Action, i.Label(step.Permission))}
	}
	on := listed(list, b.action(b.in.Policy.Scope().Default))
	if t := i.Permissions.Tokens(); len(t) > 0 {
		return listed([]*matcherv3.Matcher_MatcherList_FieldMatcher{{Predicate: b.tokens(t), OnMatch: on}}, b.namedAction(intention.Deny, i.TokenLabel()))
	}
	return on
}

// listed is a list of which the first entry that holds decides.
func listed(list []*matcherv3.Matcher_MatcherList_FieldMatcher, otherwise *matcherv3.Matcher_OnMatch) *matcherv3.Matcher_OnMatch {
	return &matcherv3.Matcher_OnMatch{OnMatch: &matcherv3.Matcher_OnMatch_Matcher{Matcher: &matcherv3.Matcher{
		MatcherType: &matcherv3.Matcher_MatcherList_{MatcherList: &matcherv3.Matcher_MatcherList{Matchers: list}},
		OnNoMatch:   otherwise,
	}}}
}

// conditions is that all of a step holds.
func (b *builder) conditions(s *intention.Step) *predicate {
	switch {
	case len(s.Tokens) == 0:
		return b.clauses(s.Clauses)
	case len(s.Clauses) == 0:
		return b.tokens(s.Tokens)
	}
	return &predicate{MatchType: &matcherv3.Matcher_MatcherList_Predicate_AndMatcher{AndMatcher: &matcherv3.Matcher_MatcherList_Predicate_PredicateList{
		Predicate: []*predicate{b.clauses(s.Clauses), b.tokens(s.Tokens)},
	}}}
}

// namedAction is action with a name for Envoy's logs and counters.
func (b *builder) namedAction(a intention.Action, name string) *matcherv3.Matcher_OnMatch {
	action := &rbacv3.Action{Name: name, Action: rbacv3.RBAC_DENY}
	if a == intention.Allow {
		action.Action = rbacv3.RBAC_ALLOW
	}
	return &matcherv3.Matcher_OnMatch{OnMatch: &matcherv3.Matcher_OnMatch_Action{
		Action: &xdscorev3.TypedExtensionConfig{Name: "action", TypedConfig: b.any(action)},
	}}
}

type predicate = matcherv3.Matcher_MatcherList_Predicate

// clauses is that all hold; without any it always does.
func (b *builder) clauses(all [][]intention.Test) *predicate {
	list := make([]*predicate, len(all))
	for i, tests := range all {
		list[i] = b.oneOf(tests)
	}
	switch len(list) {
	case 0:
		return b.test(&anyMethod)
	case 1:
		return list[0]
	}
	return &predicate{MatchType: &matcherv3.Matcher_MatcherList_Predicate_AndMatcher{AndMatcher: &matcherv3.Matcher_MatcherList_Predicate_PredicateList{Predicate: list}}}
}

// anyMethod holds of all requests: each has a method, and in HTTP/2 any text may be one.
var anyMethod = intention.Test{Of: ":method", Kind: intention.Expression, Value: `\C*`}

// oneOf is that one holds; without any none does.
func (b *builder) oneOf(tests []intention.Test) *predicate {
	list := make([]*predicate, len(tests))
	for i := range tests {
		list[i] = b.test(&tests[i])
	}
	switch len(list) {
	case 0:
		none := anyMethod
		none.Not = true
		return b.test(&none)
	case 1:
		return list[0]
	}
	return &predicate{MatchType: &matcherv3.Matcher_MatcherList_Predicate_OrMatcher{OrMatcher: &matcherv3.Matcher_MatcherList_Predicate_PredicateList{Predicate: list}}}
}

func (b *builder) test(t *intention.Test) *predicate {
	text := &matcherv3.StringMatcher{IgnoreCase: t.IgnoreCase}
	switch t.Kind {
	case intention.Prefix:
		text.MatchPattern = &matcherv3.StringMatcher_Prefix{Prefix: t.Value}
	case intention.Suffix:
		text.MatchPattern = &matcherv3.StringMatcher_Suffix{Suffix: t.Value}
	case intention.Contains:
		text.MatchPattern = &matcherv3.StringMatcher_Contains{Contains: t.Value}
	case intention.Expression, intention.Path: // of a path two texts would be half as large again
		// With the engine Envoy does not limit the size of the program; package intention does.
		text.MatchPattern = &matcherv3.StringMatcher_SafeRegex{SafeRegex: &matcherv3.RegexMatcher{
			EngineType: &matcherv3.RegexMatcher_GoogleRe2{GoogleRe2: &matcherv3.RegexMatcher_GoogleRE2{}}, Regex: t.RE2(),
		}}
	case intention.Exact:
		text.MatchPattern = &matcherv3.StringMatcher_Exact{Exact: t.Value}
	}
	p := &predicate{MatchType: &matcherv3.Matcher_MatcherList_Predicate_SinglePredicate_{SinglePredicate: &matcherv3.Matcher_MatcherList_Predicate_SinglePredicate{
		Input:   &xdscorev3.TypedExtensionConfig{Name: "h", TypedConfig: b.headerInput(t.Of)},
		Matcher: &matcherv3.Matcher_MatcherList_Predicate_SinglePredicate_ValueMatch{ValueMatch: text},
	}}}
	if t.Not {
		p = &predicate{MatchType: &matcherv3.Matcher_MatcherList_Predicate_NotMatcher{NotMatcher: p}}
	}
	return p
}

// headerInput is a header's value, or ":method" or ":path".
func (b *builder) headerInput(name string) *anypb.Any {
	input := func() proto.Message { return &envoymatcherv3.HttpRequestHeaderMatchInput{HeaderName: name} }
	if name == ":path" || name == ":method" { // of names that users choose there is no end
		return b.constant("input "+name, input)
	}
	return b.any(input())
}
