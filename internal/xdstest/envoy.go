package xdstest

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	resourcev3 "github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
)

// Envoy is a client that asks for what Envoy asks for, in Envoy's order, and keeps what it accepted
// from stream to stream: all clusters, then all listeners, and by name the endpoints, secrets,
// routes and extensions that those name. It keeps back the ACK of clusters until it has their
// endpoints, as Envoy does. It opens no port. Make it with NewEnvoy.
type Envoy struct {
	conn grpc.ClientConnInterface
	node *corev3.Node
	// Refuse, if set, is asked for each response: a text that is not empty refuses it. It is called
	// by the goroutine of Run.
	Refuse func(*discoveryv3.DeltaDiscoveryResponse) string
	// Accepted, if set, is told of each response after its ACK was sent. It is called by the
	// goroutine of Run.
	Accepted func(*discoveryv3.DeltaDiscoveryResponse)

	mu      sync.Mutex
	held    map[string]map[string]*discoveryv3.Resource // type URL → name
	refs    map[string]map[string]map[string][]string   // References of what is held of the parents
	asked   map[string]map[string]bool
	log     []Event
	changed chan struct{} // closed when anything of the above changes

	// The goroutine of Run's.
	stream  discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesClient
	warming map[string]bool                       // clusters that wait for endpoints
	keptACK []*discoveryv3.DeltaDiscoveryResponse // of clusters
	paused  bool                                  // no request for clusters yet, as some are warming
}

// Event is a response that came.
type Event struct {
	TypeURL string
	Names   []string // sorted
	Removed []string
	Refused bool
	At      time.Time
}

// NewEnvoy returns an Envoy that holds nothing.
func NewEnvoy(conn grpc.ClientConnInterface, node *corev3.Node) *Envoy {
	return &Envoy{
		conn: conn, node: node, held: map[string]map[string]*discoveryv3.Resource{}, refs: map[string]map[string]map[string][]string{}, asked: map[string]map[string]bool{},
		changed: make(chan struct{}), warming: map[string]bool{},
	}
}

// parents hold what names others, children what is asked for by name.
func parents() []string { return []string{resourcev3.ClusterType, resourcev3.ListenerType} }

func children() []string {
	return []string{resourcev3.EndpointType, resourcev3.SecretType, resourcev3.ExtensionConfigType, resourcev3.RouteType}
}

// Run opens one stream and speaks until it ends; the error says why. It may be run again, and then
// says what it holds.
func (e *Envoy) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := discoveryv3.NewAggregatedDiscoveryServiceClient(e.conn).DeltaAggregatedResources(ctx)
	if err != nil {
		return err
	}
	e.stream = stream
	e.keptACK = nil
	e.differences() // the last stream may have broken before it was told
	e.paused = len(e.warming) > 0
	node := e.node
	for _, url := range slices.Concat(parents(), children()) {
		q := &discoveryv3.DeltaDiscoveryRequest{TypeUrl: url, Node: node, InitialResourceVersions: e.Versions(url)}
		if slices.Contains(children(), url) {
			if q.ResourceNamesSubscribe = e.names(url); len(q.ResourceNamesSubscribe) == 0 {
				continue
			}
		}
		if url == resourcev3.ClusterType && e.paused {
			continue // as long as clusters are warming nothing is said about clusters
		}
		if err := stream.Send(q); err != nil {
			return err
		}
		node = nil
	}
	for {
		r, err := stream.Recv()
		if err != nil {
			return err
		}
		if err := e.take(r); err != nil {
			return err
		}
	}
}

// take applies a response, or refuses it.
func (e *Envoy) take(r *discoveryv3.DeltaDiscoveryResponse) error {
	event := Event{TypeURL: r.GetTypeUrl(), Removed: r.GetRemovedResources(), At: time.Now()}
	for _, resource := range r.GetResources() {
		event.Names = append(event.Names, resource.GetName())
	}
	slices.Sort(event.Names)
	answer := &discoveryv3.DeltaDiscoveryRequest{TypeUrl: r.GetTypeUrl(), ResponseNonce: r.GetNonce()}
	if e.Refuse != nil {
		if message := e.Refuse(r); message != "" {
			event.Refused = true
			answer.ErrorDetail = &status.Status{Code: int32(codes.Internal), Message: message}
			e.note(event)
			return e.stream.Send(answer)
		}
	}
	e.apply(r)
	e.note(event)
	switch r.GetTypeUrl() {
	case resourcev3.ClusterType:
		for _, resource := range r.GetResources() {
			if len(e.refs[r.GetTypeUrl()][resource.GetName()][resourcev3.EndpointType]) > 0 {
				e.warming[resource.GetName()] = true
			}
		}
		for _, name := range r.GetRemovedResources() {
			delete(e.warming, name)
		}
		e.keptACK = append(e.keptACK, r)
	case resourcev3.EndpointType:
		for _, resource := range r.GetResources() {
			delete(e.warming, resource.GetName())
		}
	}
	if err := e.ask(); err != nil {
		return err
	}
	if r.GetTypeUrl() != resourcev3.ClusterType {
		if err := e.accept(answer, r); err != nil {
			return err
		}
	}
	if len(e.warming) > 0 {
		return nil
	}
	if e.paused {
		e.paused = false
		return e.stream.Send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: resourcev3.ClusterType, InitialResourceVersions: e.Versions(resourcev3.ClusterType)})
	}
	for _, kept := range e.keptACK {
		if err := e.accept(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: kept.GetTypeUrl(), ResponseNonce: kept.GetNonce()}, kept); err != nil {
			return err
		}
	}
	e.keptACK = nil
	return nil
}

func (e *Envoy) accept(answer *discoveryv3.DeltaDiscoveryRequest, r *discoveryv3.DeltaDiscoveryResponse) error {
	err := e.stream.Send(answer)
	if err == nil && e.Accepted != nil {
		e.Accepted(r)
	}
	return err
}

func (e *Envoy) apply(r *discoveryv3.DeltaDiscoveryResponse) {
	e.mu.Lock()
	defer e.mu.Unlock()
	held := e.held[r.GetTypeUrl()]
	if held == nil {
		held = map[string]*discoveryv3.Resource{}
		e.held[r.GetTypeUrl()] = held
	}
	parent := slices.Contains(parents(), r.GetTypeUrl())
	for _, resource := range r.GetResources() {
		// Names that were unsubscribed while the response was on its way are ignored.
		if parent || e.asked[r.GetTypeUrl()][resource.GetName()] {
			held[resource.GetName()] = resource
		}
	}
	if !parent {
		return // of these Envoy ignores removals
	}
	refs := e.refs[r.GetTypeUrl()]
	if refs == nil {
		refs = map[string]map[string][]string{}
		e.refs[r.GetTypeUrl()] = refs
	}
	for _, resource := range r.GetResources() {
		refs[resource.GetName()] = References(resource)
	}
	for _, name := range r.GetRemovedResources() {
		delete(held, name)
		delete(refs, name)
	}
}

func (e *Envoy) note(event Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.log = append(e.log, event)
	close(e.changed)
	e.changed = make(chan struct{})
}

// ask subscribes to what is named and was not, and unsubscribes from what is no longer.
func (e *Envoy) ask() error {
	for _, q := range e.differences() {
		if err := e.stream.Send(q); err != nil {
			return err
		}
	}
	return nil
}

// differences brings asked up to what is named now, and returns the requests that say so.
func (e *Envoy) differences() (requests []*discoveryv3.DeltaDiscoveryRequest) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, url := range children() {
		want := map[string]bool{}
		for _, parent := range parents() {
			for _, refs := range e.refs[parent] {
				for _, name := range refs[url] {
					want[name] = true
				}
			}
		}
		q := &discoveryv3.DeltaDiscoveryRequest{TypeUrl: url}
		for name := range want {
			if !e.asked[url][name] {
				q.ResourceNamesSubscribe = append(q.ResourceNamesSubscribe, name)
			}
		}
		for name := range e.asked[url] {
			if !want[name] {
				q.ResourceNamesUnsubscribe = append(q.ResourceNamesUnsubscribe, name)
				delete(e.held[url], name)
			}
		}
		e.asked[url] = want
		if len(q.GetResourceNamesSubscribe())+len(q.GetResourceNamesUnsubscribe()) > 0 {
			slices.Sort(q.ResourceNamesSubscribe)
			slices.Sort(q.ResourceNamesUnsubscribe)
			requests = append(requests, q)
		}
	}
	return requests
}

func (e *Envoy) names(url string) []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Sorted(maps.Keys(e.asked[url]))
}

// Versions are the versions of what the Envoy holds of a type, by name.
func (e *Envoy) Versions(typeURL string) map[string]string {
	e.mu.Lock()
	defer e.mu.Unlock()
	out := map[string]string{}
	for name, r := range e.held[typeURL] {
		out[name] = r.GetVersion()
	}
	return out
}

// Resource is a resource that the Envoy holds; nil if it does not.
func (e *Envoy) Resource(typeURL, name string) *discoveryv3.Resource {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.held[typeURL][name]
}

// Log returns the responses that came since the last call.
func (e *Envoy) Log() []Event {
	e.mu.Lock()
	defer e.mu.Unlock()
	log := e.log
	e.log = nil
	return log
}

// Await waits until ok, which is called after each response, is true, and reports whether it was
// before ctx ended.
func (e *Envoy) Await(ctx context.Context, ok func() bool) bool {
	for {
		e.mu.Lock()
		changed := e.changed
		e.mu.Unlock()
		if ok() {
			return true
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return false
		}
	}
}

// Complete reports whether the Envoy has listeners and clusters and all that they name: what it
// needs to start.
func (e *Envoy) Complete() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, parent := range parents() {
		if len(e.held[parent]) == 0 {
			return false
		}
		for _, refs := range e.refs[parent] {
			for url, names := range refs {
				for _, name := range names {
					if e.held[url][name] == nil {
						return false
					}
				}
			}
		}
	}
	return true
}
