package snapshot

import (
	"cmp"
	"slices"
	"strings"

	"cel.dev/expr"
	xdscorev3 "github.com/cncf/xds/go/xds/core/v3"
	matcherv3 "github.com/cncf/xds/go/xds/type/matcher/v3"
	typev3 "github.com/cncf/xds/go/xds/type/v3"
	rbacv3 "github.com/envoyproxy/go-control-plane/envoy/config/rbac/v3"
	networkrbacv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/rbac/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	envoymatcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/intention"
	v1alpha1 "google.golang.org/genproto/googleapis/api/expr/v1alpha1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// revokedStats is what the counters of the network filter that refuses certificates start with.
const revokedStats = "revoked."

// revokedAction begins what Envoy reports of whom it refuses because of a revocation; package observe counts it.
const revokedAction = "revoked"

// digests are revoked certificates of one holder; id is empty for those of which it is not known.
type digests struct {
	id   string
	list []string
}

// revokedCertificates are those that the rules have to refuse, by holder. There are none where ext_authz decides, which is
// asked about each connection or request and is shown the certificate.
func (b *builder) revokedCertificates() (all []digests) {
	if b.enforcement() != catalog.RBAC {
		return nil
	}
	_, certificates := b.in.Policy.Revoked()
	slices.SortStableFunc(certificates, func(x, y intention.Certificate) int { return cmp.Compare(x.ID, y.ID) })
	for _, c := range certificates {
		if n := len(all); n == 0 || all[n-1].id != c.ID {
			all = append(all, digests{id: c.ID})
		}
		last := &all[len(all)-1]
		last.list = append(last.list, c.SHA256)
	}
	return all
}

// refuseCertificates is the network filter that ends connections with a revoked certificate at their first byte. It is none
// of the rules' own, as a filter with a matcher knows nothing of certificates but their names. Expressions
// are looked at for connections of the certificates' holders alone.
func (b *builder) refuseCertificates(all []digests) *anypb.Any {
	policies := make(map[string]*rbacv3.Policy, len(all))
	for _, d := range all {
		who := &rbacv3.Principal{Identifier: &rbacv3.Principal_Any{Any: true}}
		if d.id != "" {
			who.Identifier = &rbacv3.Principal_Authenticated_{Authenticated: &rbacv3.Principal_Authenticated{
				PrincipalName: &envoymatcherv3.StringMatcher{MatchPattern: &envoymatcherv3.StringMatcher_Exact{Exact: d.id}},
			}}
		}
		policies[strings.TrimSuffix(revokedAction+" "+d.id, " ")] = &rbacv3.Policy{
			Permissions: []*rbacv3.Permission{{Rule: &rbacv3.Permission_Any{Any: true}}},
			Principals:  []*rbacv3.Principal{who},
			Condition:   b.condition(digestIn(d.list)),
		}
	}
	return b.any(&networkrbacv3.RBAC{StatPrefix: revokedStats, Rules: &rbacv3.RBAC{Action: rbacv3.RBAC_DENY, Policies: policies}})
}

// unlessRevoked is m for requests whose certificate is none of the list, and denies others.
func (b *builder) unlessRevoked(list []string, m *matcherv3.Matcher_OnMatch) *matcherv3.Matcher_OnMatch {
	return &matcherv3.Matcher_OnMatch{OnMatch: &matcherv3.Matcher_OnMatch_Matcher{Matcher: &matcherv3.Matcher{
		MatcherType: &matcherv3.Matcher_MatcherList_{MatcherList: &matcherv3.Matcher_MatcherList{
			Matchers: []*matcherv3.Matcher_MatcherList_FieldMatcher{{
				Predicate: &matcherv3.Matcher_MatcherList_Predicate{
					MatchType: &matcherv3.Matcher_MatcherList_Predicate_SinglePredicate_{
						SinglePredicate: &matcherv3.Matcher_MatcherList_Predicate_SinglePredicate{
							Input: &xdscorev3.TypedExtensionConfig{Name: "attributes", TypedConfig: b.constant("attributes", func() proto.Message {
								return &matcherv3.HttpAttributesCelMatchInput{}
							})},
							Matcher: &matcherv3.Matcher_MatcherList_Predicate_SinglePredicate_CustomMatch{
								CustomMatch: &xdscorev3.TypedExtensionConfig{Name: "revoked", TypedConfig: b.any(&matcherv3.CelMatcher{
									ExprMatch: &typev3.CelExpression{CelExprParsed: &expr.ParsedExpr{Expr: digestIn(list)}},
								})},
							},
						},
					},
				},
				OnMatch: b.denyRevoked(),
			}},
		}},
		OnNoMatch: m,
	}}}
}

// denyRevoked denies, and has Envoy's reports say why: they have the action's name, as they have that of the filter's policies for connections.
func (b *builder) denyRevoked() *matcherv3.Matcher_OnMatch {
	return &matcherv3.Matcher_OnMatch{OnMatch: &matcherv3.Matcher_OnMatch_Action{
		Action: &xdscorev3.TypedExtensionConfig{Name: "action", TypedConfig: b.constant(revokedAction, func() proto.Message {
			return &rbacv3.Action{Name: revokedAction, Action: rbacv3.RBAC_DENY}
		})},
	}}
}

// digestIn is the expression `connection.sha256_peer_certificate_digest in [list]`, parsed.
func digestIn(list []string) *expr.Expr {
	id := int64(0)
	next := func(e *expr.Expr) *expr.Expr {
		id++
		e.Id = id
		return e
	}
	elements := make([]*expr.Expr, len(list))
	for i, digest := range list {
		elements[i] = next(&expr.Expr{ExprKind: &expr.Expr_ConstExpr{ConstExpr: &expr.Constant{ConstantKind: &expr.Constant_StringValue{StringValue: digest}}}})
	}
	connection := next(&expr.Expr{ExprKind: &expr.Expr_IdentExpr{IdentExpr: &expr.Expr_Ident{Name: "connection"}}})
	return next(&expr.Expr{ExprKind: &expr.Expr_CallExpr{CallExpr: &expr.Expr_Call{
		Function: "@in",
		Args: []*expr.Expr{
			next(&expr.Expr{ExprKind: &expr.Expr_SelectExpr{SelectExpr: &expr.Expr_Select{Operand: connection, Field: "sha256_peer_certificate_digest"}}}),
			next(&expr.Expr{ExprKind: &expr.Expr_ListExpr{ListExpr: &expr.Expr_CreateList{Elements: elements}}}),
		},
	}}})
}

// condition is e in the type that rules of RBAC have, which is the same but for its name.
func (b *builder) condition(e *expr.Expr) *v1alpha1.Expr {
	c := &v1alpha1.Expr{}
	if err := proto.Unmarshal(b.fields(e), c); err != nil {
		b.fail("the expression for revoked certificates: %v", err)
	}
	return c
}

// refuse has the holders of revoked certificates among sources, and those certificates denied.
func (b *builder) refuse(sources []*source, all []digests) []*source {
	for _, d := range all {
		if d.id == "" {
			continue
		}
		on := b.action(intention.Allow)
		if i := b.conditionalID(identity.ID(d.id)); i != nil {
			on = b.permissions(i)
		} else if !b.in.Policy.DecideID(identity.ID(d.id)).Allowed() {
			continue
		}
		on = b.unlessRevoked(d.list, on)
		s := &source{id: d.id, allowed: true, on: on, rule: b.entry(d.id, on)}
		if i := slices.IndexFunc(sources, func(o *source) bool { return o.id == d.id }); i < 0 {
			sources = append(sources, s)
		} else if sources[i].allowed || sources[i].on != nil {
			sources[i] = s
		}
	}
	return sources
}

// deny puts revoked identities among sources, each of which is denied then.
func (b *builder) deny(sources []*source) []*source {
	identities, _ := b.in.Policy.Revoked()
	for _, id := range identities {
		s := b.newSource(id, intention.Deny)
		if s == nil {
			continue
		}
		s.rule = b.entry(s.id, b.denyRevoked())
		if i := slices.IndexFunc(sources, func(o *source) bool { return o.id == s.id }); i >= 0 {
			sources[i] = s
		} else {
			sources = append(sources, s)
		}
	}
	return sources
}

// allButRevoked is allBut for a policy that allows all services but the named ones, and the revoked
// identities, each of which is of one datacenter.
func (b *builder) allButRevoked(s scope, names []string) (sans []*tlsv3.SubjectAltNameMatcher, denied int) {
	identities, _ := b.in.Policy.Revoked()
	if len(identities) == 0 {
		return b.allBut(s, names)
	}
	for _, dc := range s.datacenters {
		of := scope{Service: s.Service, datacenters: []string{dc}}
		except := slices.Clone(names)
		for _, id := range identities {
			if id.Datacenter == dc {
				except = append(except, id.Service)
			}
		}
		slices.Sort(except)
		some, more := b.allBut(of, slices.Compact(except))
		sans, denied = append(sans, some...), denied+more
	}
	return sans, denied
}
