package snapshot

import (
	"cmp"
	"fmt"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"github.com/sallyport/sallyport/chain"
	"google.golang.org/protobuf/types/known/durationpb"
)

// hashes reports whether a balancer looks at what is hashed of a request.
func hashes(lb *chain.LoadBalancer) bool {
	return lb != nil && (lb.Policy == "ring_hash" || lb.Policy == "maglev")
}

// hashPolicies are what of a request decides which instance answers, as the balancer of a node says. It warns where that is not what it
// looks like.
func (c *chainRoutes) hashPolicies(node *chain.Node, key string) []*routev3.RouteAction_HashPolicy {
	if out, ok := c.hashed[key]; ok {
		return out
	}
	var out []*routev3.RouteAction_HashPolicy
	switch lb := node.LoadBalancer; {
	case lb == nil:
	case !hashes(lb):
		if len(lb.HashPolicies) > 0 {
			c.warn("%s: nothing is sticky: hash policies need the balancer ring_hash or maglev, and it is %s", key, cmp.Or(lb.Policy, "round_robin"))
		}
	case len(lb.HashPolicies) == 0:
		c.warn("%s: nothing is sticky: the balancer is %s, and no hash policy says what to hash, so each request is for a random instance", key, lb.Policy)
	default:
		for i, p := range lb.HashPolicies {
			h, err := hashPolicy(p)
			if err == nil {
				err = refusal(h)
			}
			if err != nil {
				c.warn("%s: HashPolicies[%d] is left out: %v", key, i, err)
				continue
			}
			out = append(out, h)
			switch {
			case p.SourceIP:
				c.warn("%s: HashPolicies[%d] hashes the source's address, which is the application's own on this machine: all of its requests are for one instance", key, i)
			case p.Field == "cookie" && (p.Cookie == nil || p.Cookie.TTL <= 0 && !p.Cookie.Session):
				c.warn("%s: HashPolicies[%d] is sticky only for who has the cookie %q already: with a TTL, or as a Session, Envoy sets it", key, i, p.FieldValue)
			}
		}
	}
	if c.hashed == nil {
		c.hashed = map[string][]*routev3.RouteAction_HashPolicy{}
	}
	c.hashed[key] = out
	return out
}

func hashPolicy(p chain.HashPolicy) (*routev3.RouteAction_HashPolicy, error) {
	h := &routev3.RouteAction_HashPolicy{Terminal: p.Terminal}
	switch {
	case p.SourceIP && p.Field == "":
		h.PolicySpecifier = &routev3.RouteAction_HashPolicy_ConnectionProperties_{
			ConnectionProperties: &routev3.RouteAction_HashPolicy_ConnectionProperties{SourceIp: true},
		}
	case p.SourceIP:
		return nil, fmt.Errorf("it hashes both the source's address and a %q", p.Field)
	case p.Field == "header":
		h.PolicySpecifier = &routev3.RouteAction_HashPolicy_Header_{Header: &routev3.RouteAction_HashPolicy_Header{HeaderName: p.FieldValue}}
	case p.Field == "query_parameter":
		h.PolicySpecifier = &routev3.RouteAction_HashPolicy_QueryParameter_{QueryParameter: &routev3.RouteAction_HashPolicy_QueryParameter{Name: p.FieldValue}}
	case p.Field == "cookie":
		cookie := &routev3.RouteAction_HashPolicy_Cookie{Name: p.FieldValue}
		if config := p.Cookie; config != nil {
			cookie.Path = config.Path
			switch {
			case config.Session:
				cookie.Ttl = durationpb.New(0)
			case config.TTL > 0:
				cookie.Ttl = durationpb.New(bounded(config.TTL))
			}
		}
		h.PolicySpecifier = &routev3.RouteAction_HashPolicy_Cookie_{Cookie: cookie}
	default:
		return nil, fmt.Errorf("%q is nothing that is hashed", p.Field)
	}
	return h, nil
}
