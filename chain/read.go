package chain

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/sallyport/sallyport/identity"
)

// longestTime bounds times in a chain: those beyond are mistakes, and Envoy has a bound, too.
const longestTime = 365 * 24 * time.Hour

// Read reads a chain as MarshalJSON and Consul write it: what is below the key Chain of /v1/discovery-chain. Keys that are not known do not
// count, but in what a route matches: such a route would get requests that are not meant for it, so Unservable knows of it. What does not
// hold together (a node or a target that is named and not there, a time that is none) is an error.
func Read(data []byte) (*Chain, error) {
	var w wireChain
	if err := json.Unmarshal(data, &w); err != nil {
		return nil, fmt.Errorf("discovery chain: %w", err)
	}
	c := &Chain{
		Service: identity.Name{Partition: orDefault(w.Partition), Namespace: orDefault(w.Namespace), Service: w.ServiceName}, Datacenter: w.Datacenter,
		Protocol: strings.ToLower(w.Protocol), Default: w.Default, Customization: w.CustomizationHash, Meta: w.ServiceMeta, Start: w.StartNode,
		Nodes: make(map[string]*Node, len(w.Nodes)), Targets: make(map[string]*Target, len(w.Targets)),
	}
	if c.Protocol == "" {
		c.Protocol = tcp
	}
	for _, id := range slices.Sorted(maps.Keys(w.Targets)) {
		t, err := w.Targets[id].read(id)
		if err != nil {
			return nil, fmt.Errorf("discovery chain of %q: target %q: %w", w.ServiceName, id, err)
		}
		c.Targets[id] = t
	}
	for _, key := range slices.Sorted(maps.Keys(w.Nodes)) {
		n, err := w.Nodes[key].read()
		if err != nil {
			return nil, fmt.Errorf("discovery chain of %q: node %q: %w", w.ServiceName, key, err)
		}
		c.Nodes[key] = n
	}
	if err := c.check(); err != nil {
		return nil, fmt.Errorf("discovery chain of %q: %w", w.ServiceName, err)
	}
	return c, nil
}

// UnmarshalJSON is Read.
func (c *Chain) UnmarshalJSON(data []byte) error {
	read, err := Read(data)
	if err == nil {
		*c = *read
	}
	return err
}

func orDefault(s string) string {
	if s == "" {
		return identity.Default
	}
	return s
}

// check is an error if nodes or targets are named that are not there, or in an order in which no chain has them.
func (c *Chain) check() error {
	switch {
	case c.Service.Service == "":
		return errors.New("it has no ServiceName")
	case c.Datacenter == "":
		return errors.New("it has no Datacenter")
	case c.Nodes[c.Start] == nil:
		return fmt.Errorf("its StartNode %q is not there", c.Start)
	}
	for _, key := range slices.Sorted(maps.Keys(c.Nodes)) {
		n := c.Nodes[key]
		for _, next := range n.nexts() {
			to := c.Nodes[next]
			if to == nil {
				return fmt.Errorf("node %q leads to %q, which is not there", key, next)
			}
			// A router is the first, and splitters that follow each other are one: so nothing leads in a circle.
			if to.Type == RouterNode || n.Type == SplitterNode && to.Type != ResolverNode {
				return fmt.Errorf("node %q leads to %q, as none of its type does", key, next)
			}
		}
		if n.Type != ResolverNode {
			continue
		}
		for _, id := range append([]string{n.Resolver.Target}, n.Resolver.Failover...) {
			if c.Targets[id] == nil {
				return fmt.Errorf("node %q has the target %q, which is not there", key, id)
			}
		}
	}
	return nil
}

func (w wireTarget) read(id string) (*Target, error) {
	t := &Target{
		ID: id, Service: identity.Name{Partition: orDefault(w.Partition), Namespace: orDefault(w.Namespace), Service: w.Service}, Subset: w.ServiceSubset,
		Datacenter: w.Datacenter, Peer: w.Peer, Filter: w.Subset.Filter, OnlyPassing: w.Subset.OnlyPassing, GatewayMode: w.MeshGateway.Mode,
		External: w.External, SNI: w.SNI, Name: w.Name,
	}
	var err error
	t.ConnectTimeout, err = duration("ConnectTimeout", w.ConnectTimeout)
	switch {
	case err != nil:
		return nil, err
	case w.ID != id:
		return nil, fmt.Errorf("its ID is %q", w.ID)
	case w.Service == "":
		return nil, errors.New("it has no Service")
	case w.Peer == "" && (w.Datacenter == "" || w.SNI == "" || w.Name == ""):
		return nil, errors.New("it has no Datacenter, SNI or Name")
	}
	return t, nil
}

func (w wireNode) read() (*Node, error) {
	n := &Node{Type: w.Type, Name: w.Name, LoadBalancer: w.LoadBalancer.read()}
	switch w.Type {
	case RouterNode:
		if len(w.Routes) == 0 {
			return nil, errors.New("a router without routes")
		}
		for i, r := range w.Routes {
			d, err := r.Definition.read()
			if err != nil {
				return nil, fmt.Errorf("Routes[%d]: %w", i, err)
			}
			n.Routes = append(n.Routes, NodeRoute{Definition: d, Next: r.NextNode})
		}
	case SplitterNode:
		if len(w.Splits) == 0 {
			return nil, errors.New("a splitter without splits")
		}
		for _, s := range w.Splits {
			d := s.Definition
			n.Splits = append(n.Splits, NodeSplit{Weight: s.Weight, Next: s.NextNode, Definition: &Split{
				Weight: d.Weight, Service: d.Service, Subset: d.ServiceSubset, RequestHeaders: d.RequestHeaders.read(), ResponseHeaders: d.ResponseHeaders.read(),
			}})
		}
	case ResolverNode:
		r := w.Resolver
		if r == nil {
			return nil, errors.New("a resolver without Resolver")
		}
		connect, err := duration("ConnectTimeout", r.ConnectTimeout)
		if err != nil {
			return nil, err
		}
		n.Resolver = &Resolution{Default: r.Default, ConnectTimeout: connect, RequestTimeout: min(r.RequestTimeout, longestTime), Target: r.Target}
		if r.Failover != nil {
			n.Resolver.Failover = r.Failover.Targets
		}
		if len(n.Resolver.Failover) == 0 {
			n.Resolver.Failover = nil
		}
	default:
		return nil, fmt.Errorf("%q is no type of nodes that sallyport knows", w.Type)
	}
	return n, nil
}

// duration reads a time as Consul writes it. Empty is 0.
func duration(key, s string) (time.Duration, error) {
	if s == "" {
		return 0, nil
	}
	d, err := time.ParseDuration(s)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", key, err)
	}
	return min(d, longestTime), nil
}

func (w wireRouteDefinition) read() (*Route, error) {
	r := &Route{}
	if w.Match != nil && w.Match.HTTP != nil {
		r.Match = w.Match.HTTP.read()
	}
	if w.Match != nil {
		r.Unknown = w.Match.unknown
	}
	d := w.Destination
	if d == nil {
		return r, nil
	}
	r.Destination = &Destination{
		Service: d.Service, Subset: d.ServiceSubset, PrefixRewrite: d.PrefixRewrite, NumRetries: d.NumRetries, RetryOnConnectFailure: d.RetryOnConnectFailure,
		RetryOn: d.RetryOn, RetryOnStatusCodes: d.RetryOnStatusCodes, RequestHeaders: d.RequestHeaders.read(), ResponseHeaders: d.ResponseHeaders.read(),
	}
	var err error
	if r.Destination.RequestTimeout, err = duration("RequestTimeout", d.RequestTimeout); err != nil {
		return nil, err
	}
	r.Destination.IdleTimeout, err = duration("IdleTimeout", d.IdleTimeout)
	return r, err
}

func (w *wireHTTPMatch) read() *HTTPMatch {
	m := &HTTPMatch{PathExact: w.PathExact, PathPrefix: w.PathPrefix, PathRegex: w.PathRegex, CaseInsensitive: w.CaseInsensitive}
	for _, h := range w.Header {
		m.Header = append(m.Header, HeaderMatch(h))
	}
	for _, q := range w.QueryParam {
		m.QueryParam = append(m.QueryParam, QueryMatch(q))
	}
	for _, method := range w.Methods {
		m.Methods = append(m.Methods, strings.ToUpper(method))
	}
	return m
}

func (w *wireModifiers) read() *HeaderModifiers {
	if w == nil || len(w.Add)+len(w.Set)+len(w.Remove) == 0 {
		return nil
	}
	return &HeaderModifiers{Add: w.Add, Set: w.Set, Remove: w.Remove}
}

func (w *wireBalancer) read() *LoadBalancer {
	if w == nil {
		return nil
	}
	l := &LoadBalancer{Policy: w.Policy}
	if r := w.RingHashConfig; r != nil {
		l.RingHash = &RingHash{r.MinimumRingSize, r.MaximumRingSize}
	}
	if r := w.LeastRequestConfig; r != nil {
		l.LeastRequest = &LeastRequest{r.ChoiceCount}
	}
	for _, h := range w.HashPolicies {
		p := HashPolicy{Field: h.Field, FieldValue: h.FieldValue, SourceIP: h.SourceIP, Terminal: h.Terminal}
		if c := h.CookieConfig; c != nil {
			p.Cookie = &CookieConfig{c.Session, min(c.TTL, longestTime), c.Path}
		}
		l.HashPolicies = append(l.HashPolicies, p)
	}
	return l
}

// UnmarshalJSON notes the keys of a match that are not known and say something.
func (w *wireMatch) UnmarshalJSON(data []byte) error {
	type plain wireMatch
	if err := json.Unmarshal(data, (*plain)(w)); err != nil {
		return err
	}
	var match map[string]json.RawMessage
	var all struct{ HTTP map[string]json.RawMessage }
	if err := errors.Join(json.Unmarshal(data, &match), json.Unmarshal(data, &all)); err != nil {
		return err
	}
	w.unknown = append(strange(match, "Match.", "HTTP"), strange(all.HTTP, "Match.HTTP.", "PathExact", "PathPrefix", "PathRegex", "CaseInsensitive", "Header", "QueryParam", "Methods")...)
	var lists struct {
		HTTP struct{ Header, QueryParam []map[string]json.RawMessage }
	}
	if err := json.Unmarshal(data, &lists); err != nil {
		return err
	}
	for i, h := range lists.HTTP.Header {
		w.unknown = append(w.unknown, strange(h, fmt.Sprintf("Match.HTTP.Header[%d].", i), "Name", "Present", "Exact", "Prefix", "Suffix", "Contains", "Regex", "IgnoreCase", "Invert")...)
	}
	for i, q := range lists.HTTP.QueryParam {
		w.unknown = append(w.unknown, strange(q, fmt.Sprintf("Match.HTTP.QueryParam[%d].", i), "Name", "Present", "Exact", "Regex")...)
	}
	return nil
}

// strange are the keys of m, with a prefix, that are not among known and whose value is not empty.
func strange(m map[string]json.RawMessage, prefix string, known ...string) (keys []string) {
	for _, key := range slices.Sorted(maps.Keys(m)) {
		if !slices.ContainsFunc(known, func(k string) bool { return strings.EqualFold(k, key) }) && !slices.Contains([]string{"null", "false", `""`, "0", "[]", "{}"}, string(m[key])) {
			keys = append(keys, prefix+key)
		}
	}
	return keys
}
