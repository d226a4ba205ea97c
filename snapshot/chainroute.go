package snapshot

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/chain"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// chainRoutes makes the routes of a chain, in the order in which Envoy tries them.
//
// Envoy takes a RouteConfiguration as a whole or not at all, so nothing leaves that it would refuse: requests of such a route are answered
// 503, and so is the share of such a split. They are never left to later routes, which are for others.
type chainRoutes struct {
	packer *packer
	chain  *chain.Chain
	// cluster is the name of a resolver node's cluster; empty: it has none, and what would go there is answered 503.
	cluster func(node string) string
	// regexSize bounds the programs of regular expressions.
	regexSize int
	warn      func(format string, args ...any)

	// leads are the clusters that the routes name, each once.
	leads []string
	// hashed are the hash policies of nodes, by key.
	hashed map[string][]*routev3.RouteAction_HashPolicy
}

// noCluster is the name of a cluster that no Envoy has, so the share of traffic that is led there is answered 503.
const noCluster = "none"

var errNowhere = errors.New("what it leads to is not known")

func (c *chainRoutes) routes() []*routev3.Route {
	start := c.chain.Nodes[c.chain.Start]
	if start == nil || start.Type != chain.RouterNode {
		return []*routev3.Route{c.route(fmt.Sprintf("all requests to %s", c.chain.Service), &chain.Route{}, c.chain.Start)}
	}
	out := make([]*routev3.Route, len(start.Routes))
	for i, r := range start.Routes {
		definition := r.Definition
		if definition == nil {
			definition = &chain.Route{}
		}
		name := fmt.Sprintf("Route[%d] of %s", i, c.chain.Service)
		if definition.Origin != "" {
			name += " (" + definition.Origin + ")"
		}
		out[i] = c.route(name, definition, r.Next)
	}
	return out
}

// route leads the requests of r to the node next. name is for warnings.
func (c *chainRoutes) route(name string, r *chain.Route, next string) *routev3.Route {
	match, err := c.match(r.Match)
	if err == nil {
		err = unservable(r.Unservable())
	}
	route := &routev3.Route{Match: match}
	if err == nil {
		err = c.lead(name, route, r.Destination, next)
	}
	if err == nil {
		err = refusal(route)
	}
	if err == nil {
		return route
	}
	c.warn("%s answers 503: %v", name, err)
	return &routev3.Route{Match: match, Action: &routev3.Route_DirectResponse{DirectResponse: &routev3.DirectResponseAction{
		Status: 503,
		Body:   &corev3.DataSource{Specifier: &corev3.DataSource_InlineString{InlineString: "this route cannot be served: see the status of its sidecar\n"}},
	}}}
}

// unservable is the first of the mistakes for which a route or a leg cannot be served; nil: there is none. What retries do not know they
// leave out, and in expressions letter case is ignored, too.
func unservable(mistakes []*chain.Mistake) error {
	for _, m := range mistakes {
		if !slices.Contains(m.Path, "RetryOn") && !slices.Contains(m.Path, "IgnoreCase") {
			return m
		}
	}
	return nil
}

// validated is a message whose definition bounds its values.
type validated interface {
	proto.Message
	Validate() error
}

// refusal is why Envoy would refuse m, as far as its definition says; nil: it would not.
func refusal(m validated) error {
	if err := m.Validate(); err != nil {
		return err
	}
	_, err := proto.Marshal(m) // texts that are no UTF-8
	return err
}

// lead sets what becomes of a route's requests.
func (c *chainRoutes) lead(name string, route *routev3.Route, d *chain.Destination, next string) error {
	node := c.chain.Nodes[next]
	if node == nil {
		return errNowhere
	}
	if d == nil {
		d = &chain.Destination{}
	}
	if err := rewritable(route.GetMatch(), d.PrefixRewrite); err != nil {
		return err
	}
	protocol, _ := catalog.ParseProtocol(c.chain.Protocol)
	a := &routev3.RouteAction{
		PrefixRewrite:  d.PrefixRewrite,
		UpgradeConfigs: upgrades(protocol),
		HashPolicy:     c.hashPolicies(node, next),
		IdleTimeout:    idle(d.IdleTimeout),
	}
	resolvers, err := c.clusters(name, node, next, a)
	if err != nil {
		return err
	}
	a.Timeout = durationpb.New(timeout(d.RequestTimeout, resolvers))
	a.RetryPolicy = c.retries(name, d, slices.ContainsFunc(resolvers, func(r *chain.Resolution) bool { return len(r.Failover) > 0 }))
	route.RequestHeadersToAdd, route.RequestHeadersToRemove = headers(d.RequestHeaders)
	route.ResponseHeadersToAdd, route.ResponseHeadersToRemove = headers(d.ResponseHeaders)
	route.Action = &routev3.Route_Route{Route: a}
	return nil
}

// clusters sets where a leads, and returns the resolvers that it leads to.
func (c *chainRoutes) clusters(name string, node *chain.Node, key string, a *routev3.RouteAction) ([]*chain.Resolution, error) {
	if node.Type != chain.SplitterNode {
		cluster := c.lookUp(node, key)
		if cluster == "" {
			return nil, errNowhere
		}
		a.ClusterSpecifier = &routev3.RouteAction_Cluster{Cluster: cluster}
		return []*chain.Resolution{node.Resolver}, nil
	}
	var resolvers []*chain.Resolution
	legs, sum := make([]*routev3.WeightedCluster_ClusterWeight, len(node.Splits)), uint32(0)
	for i, s := range node.Splits {
		if !(s.Weight >= 0 && s.Weight <= 100) {
			return nil, fmt.Errorf("a split has a weight of %v%%", s.Weight)
		}
		weight := uint32(math.Round(s.Weight * 100))
		sum += weight
		leg := &routev3.WeightedCluster_ClusterWeight{Weight: wrapperspb.UInt32(weight)}
		to := c.chain.Nodes[s.Next]
		err := errNowhere
		if leg.Name = c.lookUp(to, s.Next); leg.Name != "" {
			err = nil
			if s.Definition != nil {
				leg.RequestHeadersToAdd, leg.RequestHeadersToRemove = headers(s.Definition.RequestHeaders)
				leg.ResponseHeadersToAdd, leg.ResponseHeadersToRemove = headers(s.Definition.ResponseHeaders)
				err = unservable(s.Definition.Unservable())
			}
			if err == nil {
				err = refusal(leg)
			}
			if err == nil {
				resolvers = append(resolvers, to.Resolver)
			}
		}
		if err != nil {
			c.warn("%s answers 503 to %v%% of its requests: %v", name, s.Weight, err)
			leg = &routev3.WeightedCluster_ClusterWeight{Name: noCluster, Weight: leg.GetWeight()}
		}
		legs[i] = leg
	}
	if sum == 0 {
		return nil, errors.New("all splits have a weight of 0%")
	}
	a.ClusterSpecifier = &routev3.RouteAction_WeightedClusters{WeightedClusters: &routev3.WeightedCluster{Clusters: legs}}
	return resolvers, nil
}

// lookUp is the cluster of a resolver node, and notes that the routes lead there; empty: there is none.
func (c *chainRoutes) lookUp(node *chain.Node, key string) string {
	if node == nil || node.Type != chain.ResolverNode || node.Resolver == nil {
		return ""
	}
	cluster := c.cluster(key)
	if cluster != "" && !slices.Contains(c.leads, cluster) {
		c.leads = append(c.leads, cluster)
	}
	return cluster
}

// timeout is how long a request may take: as long as its route says, else as long as what it leads to does. A resolver's timeout holds behind
// a router, too, where Consul forgets it; of several legs the one that waits longest counts, as a route has one timeout. 0: no limit.
func timeout(ofRoute time.Duration, resolvers []*chain.Resolution) time.Duration {
	if ofRoute != 0 {
		return bounded(ofRoute)
	}
	longest := time.Duration(0)
	for _, r := range resolvers {
		if r.RequestTimeout <= 0 {
			return 0
		}
		longest = max(longest, r.RequestTimeout)
	}
	return bounded(longest)
}

// idle is how long nothing may happen on a stream; nil: what the connection manager says, for ever. A negative limit is none.
func idle(d time.Duration) *durationpb.Duration {
	if d == 0 {
		return nil
	}
	return durationpb.New(bounded(d))
}

// bounded is d as Envoy takes it: it refuses negative limits, and those that overflow its clock.
func bounded(d time.Duration) time.Duration { return min(max(d, 0), 100*365*24*time.Hour) }

// rewritable is why Envoy would not rewrite paths as said; nil: it does.
func rewritable(match *routev3.RouteMatch, rewrite string) error {
	switch {
	case rewrite == "":
		return nil
	case rewrite[0] != '/':
		return fmt.Errorf("PrefixRewrite %q doesn't start with '/'", rewrite)
	case match.GetSafeRegex() != nil:
		return errors.New("PrefixRewrite needs a PathExact or a PathPrefix")
	}
	return nil
}

// headers are the changes of m as Envoy is told them: it appends what is added, and replaces what is set; sorted, as a map has no order.
func headers(m *chain.HeaderModifiers) (add []*corev3.HeaderValueOption, remove []string) {
	if m == nil {
		return nil, nil
	}
	options := func(values map[string]string, action corev3.HeaderValueOption_HeaderAppendAction) {
		first := len(add)
		for key, value := range values {
			add = append(add, &corev3.HeaderValueOption{Header: &corev3.HeaderValue{Key: key, Value: value}, AppendAction: action})
		}
		slices.SortFunc(add[first:], func(x, y *corev3.HeaderValueOption) int {
			return cmp.Compare(x.GetHeader().GetKey(), y.GetHeader().GetKey())
		})
	}
	options(m.Add, corev3.HeaderValueOption_APPEND_IF_EXISTS_OR_ADD)
	options(m.Set, corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD)
	return add, m.Remove
}
