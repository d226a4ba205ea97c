package chain

import (
	"encoding/json"
	"time"

	"github.com/sallyport/sallyport/identity"
)

// MarshalJSON has the chain as Consul's /v1/discovery-chain has it, below its key Chain. What is not known here, virtual addresses, is null.
func (c *Chain) MarshalJSON() ([]byte, error) {
	w := wireChain{
		ServiceName: c.Service.Service, Namespace: c.Service.Namespace, Partition: c.Service.Partition, Datacenter: c.Datacenter, CustomizationHash: c.Customization,
		ServiceMeta: c.Meta, Default: c.Default, Protocol: c.Protocol, StartNode: c.Start, Nodes: make(map[string]wireNode, len(c.Nodes)), Targets: make(map[string]wireTarget, len(c.Targets)),
	}
	for key, n := range c.Nodes {
		w.Nodes[key] = n.wire(c.Service)
	}
	for id, t := range c.Targets {
		w.Targets[id] = wireTarget{
			ConnectTimeout: text(t.ConnectTimeout), ID: t.ID, Service: t.Service.Service, ServiceSubset: t.Subset, Namespace: t.Service.Namespace, Partition: t.Service.Partition,
			Datacenter: t.Datacenter, Peer: t.Peer, MeshGateway: wireGateway{t.GatewayMode}, Subset: wireSubset{t.Filter, t.OnlyPassing}, External: t.External, SNI: t.SNI, Name: t.Name,
		}
	}
	return json.Marshal(w)
}

func (n *Node) wire(service identity.Name) wireNode {
	w := wireNode{Type: n.Type, Name: n.Name, LoadBalancer: n.LoadBalancer.wire()}
	for i, r := range n.Routes {
		d := wireRouteDefinition{Match: r.Definition.Match.wire(), Destination: r.Definition.Destination.wire()}
		if i == len(n.Routes)-1 && d.Destination != nil { // which the compiler has added
			d.Destination.Namespace, d.Destination.Partition = service.Namespace, service.Partition
		}
		w.Routes = append(w.Routes, wireRoute{d, r.Next})
	}
	for _, s := range n.Splits {
		d := s.Definition
		w.Splits = append(w.Splits, wireSplit{
			wireSplitDefinition{roundWeight(d.Weight), d.Service, d.Subset, d.RequestHeaders.wire(), d.ResponseHeaders.wire()}, s.Weight, s.Next,
		})
	}
	if r := n.Resolver; r != nil {
		w.Resolver = &wireResolver{ConnectTimeout: text(r.ConnectTimeout), RequestTimeout: r.RequestTimeout, Default: r.Default, Target: r.Target}
		if len(r.Failover) > 0 {
			w.Resolver.Failover = &wireFailover{r.Failover}
		}
	}
	return w
}

func (m *HTTPMatch) wire() *wireMatch {
	if m == nil {
		return nil
	}
	w := &wireHTTPMatch{PathExact: m.PathExact, PathPrefix: m.PathPrefix, PathRegex: m.PathRegex, CaseInsensitive: m.CaseInsensitive, Methods: m.Methods}
	for _, h := range m.Header {
		w.Header = append(w.Header, wireHeader(h))
	}
	for _, q := range m.QueryParam {
		w.QueryParam = append(w.QueryParam, wireQuery(q))
	}
	return &wireMatch{HTTP: w}
}

func (d *Destination) wire() *wireDestination {
	if d == nil {
		return nil
	}
	return &wireDestination{
		RequestTimeout: text(d.RequestTimeout), IdleTimeout: text(d.IdleTimeout), Service: d.Service, ServiceSubset: d.Subset, PrefixRewrite: d.PrefixRewrite,
		NumRetries: d.NumRetries, RetryOnConnectFailure: d.RetryOnConnectFailure, RetryOn: d.RetryOn, RetryOnStatusCodes: d.RetryOnStatusCodes,
		RequestHeaders: d.RequestHeaders.wire(), ResponseHeaders: d.ResponseHeaders.wire(),
	}
}

func (m *HeaderModifiers) wire() *wireModifiers {
	if m == nil {
		return nil
	}
	return &wireModifiers{m.Add, m.Set, m.Remove}
}

func (l *LoadBalancer) wire() *wireBalancer {
	if l == nil {
		return nil
	}
	w := &wireBalancer{Policy: l.Policy}
	if r := l.RingHash; r != nil {
		w.RingHashConfig = &wireRing{r.MinimumRingSize, r.MaximumRingSize}
	}
	if r := l.LeastRequest; r != nil {
		w.LeastRequestConfig = &wireLeast{r.ChoiceCount}
	}
	for _, h := range l.HashPolicies {
		p := wireHash{Field: h.Field, FieldValue: h.FieldValue, SourceIP: h.SourceIP, Terminal: h.Terminal}
		if c := h.Cookie; c != nil {
			p.CookieConfig = &wireCookie{c.Session, c.TTL, c.Path}
		}
		w.HashPolicies = append(w.HashPolicies, p)
	}
	return w
}

// text is a duration as Consul spells it in most places; empty: 0.
func text(d time.Duration) string {
	if d == 0 {
		return ""
	}
	return d.String()
}

// The types of Consul's answer. Resolvers' request timeouts and cookies' times are numbers of nanoseconds, other times text.
type (
	wireChain struct {
		ServiceName, Namespace, Partition, Datacenter string
		CustomizationHash                             string `json:",omitempty"`
		Default                                       bool   `json:",omitempty"`
		Protocol                                      string
		ServiceMeta                                   map[string]string `json:",omitempty"`
		StartNode                                     string
		Nodes                                         map[string]wireNode
		Targets                                       map[string]wireTarget
		AutoVirtualIPs, ManualVirtualIPs              []string
	}
	wireNode struct {
		Type         NodeType
		Name         string
		Routes       []wireRoute   `json:",omitempty"`
		Splits       []wireSplit   `json:",omitempty"`
		Resolver     *wireResolver `json:",omitempty"`
		LoadBalancer *wireBalancer `json:",omitempty"`
	}
	wireRoute struct {
		Definition wireRouteDefinition
		NextNode   string
	}
	wireRouteDefinition struct {
		Match       *wireMatch       `json:",omitempty"`
		Destination *wireDestination `json:",omitempty"`
	}
	wireMatch struct {
		HTTP    *wireHTTPMatch `json:",omitempty"`
		unknown []string       // keys that are not known here, as they are read
	}
	wireHTTPMatch struct {
		PathExact       string       `json:",omitempty"`
		PathPrefix      string       `json:",omitempty"`
		PathRegex       string       `json:",omitempty"`
		CaseInsensitive bool         `json:",omitempty"`
		Header          []wireHeader `json:",omitempty"`
		QueryParam      []wireQuery  `json:",omitempty"`
		Methods         []string     `json:",omitempty"`
	}
	wireHeader struct {
		Name       string
		Present    bool   `json:",omitempty"`
		Exact      string `json:",omitempty"`
		Prefix     string `json:",omitempty"`
		Suffix     string `json:",omitempty"`
		Contains   string `json:",omitempty"`
		Regex      string `json:",omitempty"`
		IgnoreCase bool   `json:",omitempty"`
		Invert     bool   `json:",omitempty"`
	}
	wireQuery struct {
		Name    string
		Present bool   `json:",omitempty"`
		Exact   string `json:",omitempty"`
		Regex   string `json:",omitempty"`
	}
	wireDestination struct {
		RequestTimeout        string         `json:",omitempty"`
		IdleTimeout           string         `json:",omitempty"`
		Service               string         `json:",omitempty"`
		ServiceSubset         string         `json:",omitempty"`
		Namespace             string         `json:",omitempty"`
		Partition             string         `json:",omitempty"`
		PrefixRewrite         string         `json:",omitempty"`
		NumRetries            uint32         `json:",omitempty"`
		RetryOnConnectFailure bool           `json:",omitempty"`
		RetryOn               []string       `json:",omitempty"`
		RetryOnStatusCodes    []uint32       `json:",omitempty"`
		RequestHeaders        *wireModifiers `json:",omitempty"`
		ResponseHeaders       *wireModifiers `json:",omitempty"`
	}
	wireModifiers struct {
		Add    map[string]string `json:",omitempty"`
		Set    map[string]string `json:",omitempty"`
		Remove []string          `json:",omitempty"`
	}
	wireSplit struct {
		Definition wireSplitDefinition
		Weight     float64 `json:",omitempty"`
		NextNode   string
	}
	wireSplitDefinition struct {
		Weight          float64
		Service         string         `json:",omitempty"`
		ServiceSubset   string         `json:",omitempty"`
		RequestHeaders  *wireModifiers `json:",omitempty"`
		ResponseHeaders *wireModifiers `json:",omitempty"`
	}
	wireResolver struct {
		ConnectTimeout string        `json:",omitempty"`
		RequestTimeout time.Duration `json:",omitempty"`
		Default        bool          `json:",omitempty"`
		Target         string
		Failover       *wireFailover `json:",omitempty"`
	}
	wireFailover struct{ Targets []string }
	wireBalancer struct {
		Policy             string     `json:",omitempty"`
		RingHashConfig     *wireRing  `json:",omitempty"`
		LeastRequestConfig *wireLeast `json:",omitempty"`
		HashPolicies       []wireHash `json:",omitempty"`
	}
	wireRing struct {
		MinimumRingSize uint64 `json:",omitempty"`
		MaximumRingSize uint64 `json:",omitempty"`
	}
	wireLeast struct {
		ChoiceCount uint32 `json:",omitempty"`
	}
	wireHash struct {
		Field        string      `json:",omitempty"`
		FieldValue   string      `json:",omitempty"`
		CookieConfig *wireCookie `json:",omitempty"`
		SourceIP     bool        `json:",omitempty"`
		Terminal     bool        `json:",omitempty"`
	}
	wireCookie struct {
		Session bool          `json:",omitempty"`
		TTL     time.Duration `json:",omitempty"`
		Path    string        `json:",omitempty"`
	}
	wireTarget struct {
		ConnectTimeout   string `json:",omitempty"`
		ID, Service      string
		ServiceSubset    string `json:",omitempty"`
		Namespace        string
		Partition        string
		Datacenter       string `json:",omitempty"`
		Peer             string `json:",omitempty"`
		MeshGateway      wireGateway
		Subset           wireSubset
		TransparentProxy struct{}
		External         bool   `json:",omitempty"`
		SNI              string `json:",omitempty"`
		Name             string `json:",omitempty"`
	}
	wireGateway struct {
		Mode string `json:",omitempty"`
	}
	wireSubset struct {
		Filter      string `json:",omitempty"`
		OnlyPassing bool   `json:",omitempty"`
	}
)
