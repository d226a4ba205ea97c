package chain

import (
	"cmp"
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sallyport/sallyport/identity"
)

// defaultConnectTimeout is that of services whose resolver gives none (Consul's).
const defaultConnectTimeout = 5 * time.Second

// maxDepth bounds how many redirects follow each other, and how many splitters. Consul has no bound.
const maxDepth = 100

// Compile makes the chain of a service, as an upstream with those overrides has it. It gives the same for the same entries, also where
// Consul's compilation depends on the order of its maps.
//
// uses are the services whose entries were looked at, whether there are any or not, sorted: as long as the entries of those, the proxy
// defaults and the overrides stay, so does the result. They are there beside an error, too, which is a *Mistake.
func Compile(e *Entries, service identity.Name, o Overrides) (c *Chain, uses []identity.Name, err error) {
	w := compiler{
		entries: e, overrides: o, service: service, used: map[identity.Name]bool{}, retained: map[string]bool{},
		nodes: map[string]*Node{}, targets: map[string]*Target{},
	}
	c, err = w.compile()
	uses = slices.SortedFunc(maps.Keys(w.used), compareNames)
	return c, uses, err
}

func compareNames(a, b identity.Name) int {
	return cmp.Or(cmp.Compare(a.Partition, b.Partition), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Service, b.Service))
}

type compiler struct {
	entries   *Entries
	overrides Overrides
	service   identity.Name
	// protocol is what the first service speaks; all others have to.
	protocol string
	used     map[identity.Name]bool
	nodes    map[string]*Node   // by key
	targets  map[string]*Target // by ID
	retained map[string]bool    // IDs of targets that resolvers name
	depth    int                // of splitters that are being made
	// overridden says which overrides have changed anything.
	overridden struct{ protocol, connectTimeout, gatewayMode bool }
}

func (w *compiler) compile() (*Chain, error) {
	w.use(w.service)
	start, advanced, err := w.start()
	if err != nil {
		return nil, err
	}
	if err := w.circle(start); err != nil {
		return nil, err
	}
	protocol := w.protocol
	if o := strings.ToLower(w.overrides.Protocol); o != "" && o != protocol {
		w.overridden.protocol = true
		protocol = o
	}
	if advanced != nil && !routed(protocol) {
		advanced.Message = fmt.Sprintf("discovery chain %q uses a protocol %q that does not permit advanced routing or splitting behavior", w.service.Service, protocol)
		return nil, advanced
	}
	if err := w.flatten(start); err != nil {
		return nil, err
	}
	w.prune(start)
	return &Chain{
		Service: w.service, Datacenter: w.entries.Datacenter, Protocol: protocol, Default: w.isDefault(start), Customization: w.customization(),
		Start: start, Nodes: w.nodes, Targets: w.targets,
	}, nil
}

func (w *compiler) use(service identity.Name) { w.used[service.Fold()] = true }

// start makes all nodes and returns the key of the first. What advanced says is the entry for whose sake requests have to be told apart.
func (w *compiler) start() (key string, advanced *Mistake, err error) {
	name := w.service.Fold()
	if w.overrides.Protocol == "" || routed(strings.ToLower(w.overrides.Protocol)) {
		if r := w.entries.Routers[name]; r != nil {
			key, err = w.router(r)
			return key, &Mistake{Kind: RouterKind, Service: r.Service, Origin: r.Origin}, err
		}
		if s := w.entries.Splitters[name]; s != nil {
			key, err = w.splitter(w.service, s)
			return key, &Mistake{Kind: SplitterKind, Service: s.Service, Origin: s.Origin}, err
		}
	}
	key, err = w.resolver(w.target(w.service, "", "", ""), &Mistake{Kind: ResolverKind, Service: w.service})
	return key, nil, err
}

// speak records that a service is part of the chain. by is who names it.
func (w *compiler) speak(service identity.Name, by *Mistake) error {
	w.use(service)
	p := w.entries.protocol(service)
	switch w.protocol {
	case "":
		w.protocol = p
	case p:
	default:
		return by.say("discovery chain %q uses inconsistent protocols; service %q has %q which is not %q", w.service.Service, service.Service, p, w.protocol)
	}
	return nil
}

// say is the mistake with its message.
func (m Mistake) say(format string, args ...any) *Mistake {
	m.Message = fmt.Sprintf(format, args...)
	return &m
}

// router makes the node of the chain's own router. Those of others are never followed.
func (w *compiler) router(r *Router) (string, error) {
	if err := w.speak(w.service, &Mistake{}); err != nil {
		return "", err
	}
	n := &Node{Type: RouterNode, Name: dotted(w.service)}
	for i := range r.Routes {
		route := &r.Routes[i]
		by := &Mistake{Kind: RouterKind, Service: r.Service, Origin: cmp.Or(route.Origin, r.Origin), Path: []string{"Routes", strconv.Itoa(i), "Destination"}}
		to, subset := w.service, ""
		if d := route.Destination; d != nil {
			if subset = d.Subset; d.Service != "" {
				to.Service = d.Service
			}
		}
		next, err := w.step(to, subset, by)
		if err != nil {
			return "", err
		}
		n.Routes = append(n.Routes, NodeRoute{Definition: route, Next: next})
	}
	next, err := w.step(w.service, "", &Mistake{Kind: RouterKind, Service: r.Service, Origin: r.Origin})
	if err != nil {
		return "", err
	}
	rest := &Route{Match: &HTTPMatch{PathPrefix: "/"}, Destination: &Destination{Service: w.service.Service}, Origin: r.Origin}
	n.Routes = append(n.Routes, NodeRoute{Definition: rest, Next: next})
	return w.put(n), nil
}

// step goes on to the splitter of a service, if no subset is named, or else to its resolver.
func (w *compiler) step(to identity.Name, subset string, by *Mistake) (string, error) {
	if subset == "" {
		w.use(to)
		if s := w.entries.Splitters[to.Fold()]; s != nil {
			return w.splitter(to, s)
		}
	}
	return w.resolver(w.target(to, subset, "", ""), by)
}

func (w *compiler) put(n *Node) string {
	key := string(n.Type) + ":" + n.Name
	w.nodes[key] = n
	return key
}

// splitter makes the node of a splitter and all that it leads to. Circles are not seen here.
func (w *compiler) splitter(service identity.Name, s *Splitter) (string, error) {
	n := &Node{Type: SplitterNode, Name: dotted(service)}
	key := string(n.Type) + ":" + n.Name
	if w.nodes[key] != nil {
		return key, nil
	}
	w.use(service) // what it speaks counts only if it is a target
	by := &Mistake{Kind: SplitterKind, Service: s.Service, Origin: s.Origin}
	if w.depth++; w.depth > maxDepth {
		return "", by.say("discovery chain %q has more than %d splitters behind one another", w.service.Service, maxDepth)
	}
	defer func() { w.depth-- }()
	w.put(n)
	for i := range s.Splits {
		split := &s.Splits[i]
		by := &Mistake{Kind: SplitterKind, Service: s.Service, Origin: s.Origin, Path: []string{"Splits", strconv.Itoa(i)}}
		to := service
		if split.Service != "" {
			to.Service = split.Service
		}
		leg := NodeSplit{Definition: split, Weight: roundWeight(split.Weight)}
		if to != service && split.Subset == "" {
			w.use(to)
			if inner := w.entries.Splitters[to.Fold()]; inner != nil {
				next, err := w.splitter(to, inner)
				if err != nil {
					return "", err
				}
				leg.Next = next
				n.Splits = append(n.Splits, leg)
				continue
			}
		}
		next, err := w.resolver(w.target(to, split.Subset, "", ""), by)
		if err != nil {
			return "", err
		}
		// A route has one list of hash policies, so the first leg that hashes gives them.
		if l := w.nodes[next].LoadBalancer; n.LoadBalancer == nil && l.hashes() {
			n.LoadBalancer = l
		}
		leg.Next = next
		n.Splits = append(n.Splits, leg)
	}
	return key, nil
}

// hashes reports whether the policy hashes something of a request.
func (l *LoadBalancer) hashes() bool {
	return l != nil && (l.Policy == "ring_hash" || l.Policy == "maglev")
}

// isDefault reports whether the chain leads where it would without any entry.
func (w *compiler) isDefault(start string) bool {
	n := w.nodes[start]
	if n.Type != ResolverNode || !n.Resolver.Default {
		return false
	}
	t := w.targets[n.Resolver.Target]
	return t.Service == w.service && t.Peer == "" && t.Datacenter == w.entries.Datacenter
}

// prune takes out the nodes that start does not lead to, and the targets that none of the others names.
func (w *compiler) prune(start string) {
	reached := map[string]bool{}
	todo := []string{start}
	for len(todo) > 0 {
		key := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if reached[key] {
			continue
		}
		reached[key] = true
		todo = append(todo, w.nodes[key].nexts()...)
	}
	maps.DeleteFunc(w.nodes, func(key string, _ *Node) bool { return !reached[key] })
	maps.DeleteFunc(w.targets, func(id string, _ *Target) bool { return !w.retained[id] })
}

// nexts are the keys of the nodes that n leads to, in order.
func (n *Node) nexts() (keys []string) {
	for _, r := range n.Routes {
		keys = append(keys, r.Next)
	}
	for _, s := range n.Splits {
		keys = append(keys, s.Next)
	}
	return keys
}

// customization is a hash of the overrides that have changed anything.
func (w *compiler) customization() string {
	if w.overridden == (struct{ protocol, connectTimeout, gatewayMode bool }{}) {
		return ""
	}
	var o Overrides
	if w.overridden.protocol {
		o.Protocol = strings.ToLower(w.overrides.Protocol)
	}
	if w.overridden.connectTimeout {
		o.ConnectTimeout = w.overrides.ConnectTimeout
	}
	if w.overridden.gatewayMode {
		o.GatewayMode = w.overrides.GatewayMode
	}
	h := fnv.New32a()
	_, _ = fmt.Fprintf(h, "%q %d %q", o.Protocol, o.ConnectTimeout, o.GatewayMode) // a hash takes everything
	return fmt.Sprintf("%08x", h.Sum32())
}
