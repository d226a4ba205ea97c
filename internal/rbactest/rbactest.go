// Package rbactest says what Envoy would do with the matcher of an RBAC filter, and with the
// subject alternative names of a validation context. It is for tests: it knows what is generated
// and refuses everything else, so that a test cannot pass by not understanding.
package rbactest

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	matcherv3 "github.com/cncf/xds/go/xds/type/matcher/v3"
	rbacv3 "github.com/envoyproxy/go-control-plane/envoy/config/rbac/v3"
	networkinputv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/matching/common_inputs/network/v3"
	sslv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/matching/common_inputs/ssl/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	envoymatcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/types/known/anypb"
)

// Allowed reports whether m lets in a peer whose certificate has these URI SANs. Envoy hands them
// to matchers as one text, joined by ",". As in Envoy, nobody is let in where nothing matches; the
// error says what of m is not understood, and it would not be generated.
func Allowed(m *matcherv3.Matcher, uris []string) (bool, error) {
	allowed, _, err := Decided(m, uris, nil)
	return allowed, err
}

// Decided is Allowed for a request, and the name of the action that decided; nil: for a connection, of which rules that look at requests
// are an error.
func Decided(m *matcherv3.Matcher, uris []string, r *Request) (allowed bool, by string, err error) {
	if m == nil {
		return false, "", errors.New("no matcher: Envoy would allow everything")
	}
	action, err := match(m, input{strings.Join(uris, ","), r})
	if err != nil || action == nil {
		return false, "", err
	}
	return action.GetAction() == rbacv3.RBAC_ALLOW, action.GetName(), nil
}

// input is what rules look at.
type input struct {
	uris string
	*Request
}

// match returns the action of the first match; nil if there is none. A match that leads to a
// matcher without a match falls through to what stands behind it, as Envoy does it.
func match(m *matcherv3.Matcher, in input) (*rbacv3.Action, error) {
	var on *matcherv3.Matcher_OnMatch
	switch t := m.GetMatcherType().(type) {
	case nil:
	case *matcherv3.Matcher_MatcherTree_:
		if err := uriInput(t.MatcherTree.GetInput().GetTypedConfig()); err != nil {
			return nil, err
		}
		exact := t.MatcherTree.GetExactMatchMap()
		if len(exact.GetMap()) == 0 {
			return nil, fmt.Errorf("a matcher tree without an exact map, or an empty one: %v", t.MatcherTree)
		}
		on = exact.GetMap()[in.uris]
	case *matcherv3.Matcher_MatcherList_:
		for _, f := range t.MatcherList.GetMatchers() {
			ok, err := predicate(f.GetPredicate(), in)
			if err != nil {
				return nil, err
			}
			if ok {
				on = f.GetOnMatch()
				break
			}
		}
	default:
		return nil, fmt.Errorf("matcher of type %T", t)
	}
	if on != nil {
		if a, err := follow(on, in); a != nil || err != nil {
			return a, err
		}
	}
	if m.GetOnNoMatch() == nil {
		return nil, fmt.Errorf("a matcher without on_no_match: %v", m)
	}
	return follow(m.GetOnNoMatch(), in)
}

func follow(on *matcherv3.Matcher_OnMatch, in input) (*rbacv3.Action, error) {
	if on.GetKeepMatching() {
		return nil, errors.New("keep_matching")
	}
	if m := on.GetMatcher(); m != nil {
		return match(m, in)
	}
	a := &rbacv3.Action{}
	if err := on.GetAction().GetTypedConfig().UnmarshalTo(a); err != nil {
		return nil, err
	}
	revoked := a.GetName() == "revoked" && a.GetAction() == rbacv3.RBAC_DENY // of whom Envoy's reports say so
	if a.GetName() != a.GetAction().String() && !revoked && (in.Request == nil || !named.MatchString(a.GetName())) {
		return nil, fmt.Errorf("an action is named %q and does %s", a.GetName(), a.GetAction())
	}
	return a, nil
}

// named is an action that names a permission.
var named = regexp.MustCompile(`^[-\w*%]+ => [-\w*%]+ #(\d+|path|token)$|^[-\w*%]+ => [-\w*%]+$`)

func predicate(p *matcherv3.Matcher_MatcherList_Predicate, in input) (bool, error) {
	switch t := p.GetMatchType().(type) {
	case *matcherv3.Matcher_MatcherList_Predicate_NotMatcher:
		ok, err := predicate(t.NotMatcher, in)
		return !ok, err
	case *matcherv3.Matcher_MatcherList_Predicate_OrMatcher:
		return several(t.OrMatcher, in, true)
	case *matcherv3.Matcher_MatcherList_Predicate_AndMatcher:
		return several(t.AndMatcher, in, false)
	}
	single := p.GetSinglePredicate()
	header := &envoymatcherv3.HttpRequestHeaderMatchInput{}
	if single.GetInput().GetTypedConfig().MessageIs(header) {
		if err := single.GetInput().GetTypedConfig().UnmarshalTo(header); err != nil {
			return false, err
		}
		return in.Request.matches(header.GetHeaderName(), single.GetValueMatch())
	}
	if custom := single.GetCustomMatch(); custom != nil {
		if input := single.GetInput().GetTypedConfig(); input.MessageIs(&networkinputv3.DynamicMetadataInput{}) {
			return in.Request.says(input, custom.GetTypedConfig())
		}
		return false, notRevoked(single.GetInput().GetTypedConfig(), custom.GetTypedConfig())
	}
	re := single.GetValueMatch().GetSafeRegex()
	if re == nil || re.GetGoogleRe2() == nil {
		return false, fmt.Errorf("a predicate that is no expression of engine google_re2: %v", p)
	}
	if err := uriInput(single.GetInput().GetTypedConfig()); err != nil {
		return false, err
	}
	return whole(re.GetRegex(), in.uris)
}

// notRevoked is nil for what asks whether the peer's certificate is one of a list of digests. That of a peer that has names alone is none.
func notRevoked(input, custom *anypb.Any) error {
	cel := &matcherv3.CelMatcher{}
	if err := custom.UnmarshalTo(cel); err != nil {
		return err
	}
	in := cel.GetExprMatch().GetCelExprParsed().GetExpr().GetCallExpr()
	args := in.GetArgs()
	if !input.MessageIs(&matcherv3.HttpAttributesCelMatchInput{}) || in.GetFunction() != "@in" || len(args) != 2 ||
		args[0].GetSelectExpr().GetField() != "sha256_peer_certificate_digest" || args[0].GetSelectExpr().GetOperand().GetIdentExpr().GetName() != "connection" {
		return fmt.Errorf("an expression that asks for something else: %v", cel)
	}
	for _, e := range args[1].GetListExpr().GetElements() {
		if len(e.GetConstExpr().GetStringValue()) != 64 {
			return fmt.Errorf("%v is no SHA-256", e)
		}
	}
	return nil
}

func uriInput(a *anypb.Any) error {
	if !a.MessageIs(&sslv3.UriSanInput{}) {
		return fmt.Errorf("input %s", a.GetTypeUrl())
	}
	return nil
}

func whole(expr, text string) (bool, error) {
	re, err := regexp.Compile(`\A(?:` + expr + `)\z`)
	if err != nil {
		return false, err
	}
	return re.MatchString(text), nil
}

// HandshakeAllows reports whether a validation context with these names finishes the handshake with
// a peer whose certificate has these URI SANs. One of them is enough. An empty list is an error, as
// it would let in everybody.
func HandshakeAllows(names []*tlsv3.SubjectAltNameMatcher, uris []string) (bool, error) {
	if len(names) == 0 {
		return false, errors.New("no names: Envoy would let in everybody")
	}
	for _, n := range names {
		if n.GetSanType() != tlsv3.SubjectAltNameMatcher_URI || n.GetMatcher().GetIgnoreCase() {
			return false, fmt.Errorf("a name that is not a URI: %v", n)
		}
		for _, uri := range uris {
			var ok bool
			var err error
			switch p := n.GetMatcher().GetMatchPattern().(type) {
			case *envoymatcherv3.StringMatcher_Exact:
				ok = uri == p.Exact
			case *envoymatcherv3.StringMatcher_Prefix:
				ok = strings.HasPrefix(uri, p.Prefix)
			case *envoymatcherv3.StringMatcher_SafeRegex:
				ok, err = whole(p.SafeRegex.GetRegex(), uri)
			default:
				err = fmt.Errorf("a name of pattern %T", p)
			}
			if ok || err != nil {
				return ok, err
			}
		}
	}
	return false, nil
}
