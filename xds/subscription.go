package xds

import (
	"maps"
	"slices"
	"strings"
	"time"

	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// How soon a resource that Envoy refused is tried again with the same bytes: a bind error heals
// when the port is freed, most others never do.
const (
	firstRetry = 5 * time.Second
	lastRetry  = 60 * time.Second
)

// subscription is what one stream knows of one kind of resource. Its session's lock guards it.
type subscription struct {
	kind  kind
	asked bool // a request for this kind has come
	// wildcard: everything is subscribed to. unsaid says that no request has said so in words: the
	// first one named nothing.
	wildcard, unsaid bool
	names            map[string]bool
	// held is the version of each resource that Envoy was sent, or said it had; "" where it is not
	// known, after a NACK.
	held map[string]string
	// taken are clusters of which Envoy has accepted some version, and still has it.
	taken map[string]bool
	// again holds names to be sent although they are held: asked for anew, or endpoints of a
	// cluster that was sent.
	again map[string]bool
	// alone holds names that were refused in company. They are sent one at a time, to find the bad
	// one.
	alone   map[string]bool
	refused map[string]refusal
	out     *outstanding // the last response, if it has no answer
	// before are older ones without an answer: of clusters alone, see mayFollow.
	before []*outstanding
	// settled: at the last look there was nothing to send, and nothing changed since.
	settled bool
}

// outstanding is a response that Envoy has not answered.
type outstanding struct {
	response *discoveryv3.DeltaDiscoveryResponse
	at       time.Time
}

// refusal is a resource that Envoy refused when it came alone.
type refusal struct {
	version string
	wait    time.Duration
	retry   time.Time // when the same version may be sent again
}

func newSubscription(k kind) *subscription {
	return &subscription{
		kind: k, names: map[string]bool{}, held: map[string]string{}, again: map[string]bool{},
		alone: map[string]bool{}, refused: map[string]refusal{},
	}
}

// everything reports whether q leaves everything subscribed (xDS protocol, "How the client
// specifies what resources to return"). It is obeyed for listeners and clusters alone.
func (s *subscription) everything(q *discoveryv3.DeltaDiscoveryRequest) bool {
	named := q.GetResourceNamesSubscribe()
	switch {
	case !s.kind.whole():
		return false
	case len(named) == 0 && !s.asked:
		s.unsaid = true
		return true
	case len(named) == 0 && s.unsaid:
		return true
	}
	s.unsaid = false
	return (s.wildcard || slices.Contains(named, "*")) && !slices.Contains(q.GetResourceNamesUnsubscribe(), "*")
}

// take notes what q subscribes to and unsubscribes from.
func (s *subscription) take(q *discoveryv3.DeltaDiscoveryRequest) {
	wildcard := s.everything(q)
	s.settled = false
	if !s.asked {
		s.asked = true
		maps.Copy(s.held, q.GetInitialResourceVersions())
		for name := range s.held {
			s.accept(name)
		}
	} else {
		// Asked for again, it is to be sent again whatever Envoy holds (xDS protocol, "Subscribing
		// to resources").
		for _, name := range q.GetResourceNamesSubscribe() {
			s.again[name] = true
		}
	}
	for _, name := range q.GetResourceNamesSubscribe() {
		if name != "*" {
			s.names[name] = true
		}
	}
	delete(s.again, "*")
	for _, name := range q.GetResourceNamesUnsubscribe() {
		delete(s.names, name)
		if _, ok := s.held[name]; ok && wildcard {
			s.again[name] = true // still part of everything, so it has to be said whether it exists
			continue
		}
		s.forget(name)
	}
	s.wildcard = wildcard
	if s.kind.whole() && !s.wildcard && slices.Contains(q.GetResourceNamesUnsubscribe(), "*") {
		for name := range s.held {
			if !s.names[name] {
				s.forget(name)
			}
		}
	}
}

func (s *subscription) forget(name string) {
	delete(s.held, name)
	delete(s.taken, name)
	delete(s.again, name)
	delete(s.alone, name)
	delete(s.refused, name)
}

// retarget drops what was noted of resources that are gone or have another version: a new version
// is sent at once, and in company.
func (s *subscription) retarget(want map[string]*discoveryv3.Resource) {
	s.settled = false
	for name, r := range s.refused {
		if w := want[name]; w == nil || w.GetVersion() != r.version {
			delete(s.refused, name)
		}
	}
	for name := range s.alone {
		if want[name] == nil {
			delete(s.alone, name)
		}
	}
}

// answer finds the response that a nonce belongs to, and takes it off those without an answer; nil
// if there is none.
func (s *subscription) answer(nonce string) *discoveryv3.DeltaDiscoveryResponse {
	// An empty nonce belongs to a response still in the queue, and a request without one is no
	// answer to it.
	if nonce == "" {
		return nil
	}
	if s.out != nil && s.out.response.GetNonce() == nonce {
		r := s.out.response
		s.out, s.before = nil, nil
		return r
	}
	for i, o := range s.before {
		if o.response.GetNonce() == nonce {
			s.before = s.before[i+1:]
			return o.response
		}
	}
	return nil
}

// mayFollow reports whether another response may be sent now. There is one without an answer at
// most, so that what comes meanwhile is folded and an Envoy that does not read costs little. But
// Envoy keeps back the ACK of clusters that cannot become warm, which only the next version of
// them, or their removal, may change: after the time to wait that is sent too, once the one before
// is on its way.
func (s *subscription) mayFollow(timeout time.Duration, now time.Time) bool {
	return s.out == nil || s.kind == clusters && s.out.response.GetNonce() != "" && !now.Before(s.out.at.Add(timeout))
}

// accepted notes an ACK of r.
func (s *subscription) accepted(r *discoveryv3.DeltaDiscoveryResponse) {
	for _, r := range r.GetResources() {
		if _, ok := s.held[r.GetName()]; ok { // not taken away meanwhile
			s.accept(r.GetName())
		}
		if s.held[r.GetName()] == r.GetVersion() { // not a later version that is on its way
			delete(s.refused, r.GetName())
			delete(s.alone, r.GetName())
		}
	}
}

// accept notes that Envoy has accepted some version of a cluster.
func (s *subscription) accept(name string) {
	if s.kind != clusters {
		return // nobody asks
	}
	if s.taken == nil {
		s.taken = map[string]bool{}
	}
	s.taken[name] = true
}

// has reports whether Envoy has accepted r as it is.
func (s *subscription) has(r *discoveryv3.Resource) bool {
	if s.held[r.GetName()] != r.GetVersion() {
		return false
	}
	return s.out == nil || !slices.ContainsFunc(s.out.response.GetResources(), func(o *discoveryv3.Resource) bool {
		return o.GetName() == r.GetName()
	})
}

// rejected notes a NACK of response. Envoy applied some of it or none: it does not say.
func (s *subscription) rejected(response *discoveryv3.DeltaDiscoveryResponse, now time.Time) {
	s.settled = false
	var sent []*discoveryv3.Resource
	for _, r := range response.GetResources() {
		if s.held[r.GetName()] == r.GetVersion() {
			sent = append(sent, r)
		}
	}
	if len(sent) > 0 {
		// A removal that was refused without any company is not repeated: there is nothing that
		// could make it good.
		for _, name := range response.GetRemovedResources() {
			if _, ok := s.held[name]; !ok {
				s.held[name] = ""
			}
		}
	}
	for _, r := range sent {
		s.held[r.GetName()] = ""
		if len(sent) > 1 {
			s.alone[r.GetName()] = true
		}
	}
	if len(sent) != 1 {
		return
	}
	r := sent[0]
	delete(s.alone, r.GetName())
	wait := firstRetry
	if old, ok := s.refused[r.GetName()]; ok && old.version == r.GetVersion() {
		wait = min(2*old.wait, lastRetry)
	}
	s.refused[r.GetName()] = refusal{version: r.GetVersion(), wait: wait, retry: now.Add(wait)}
}

// todo lists, in the order of their names, what Envoy lacks of want and, for listeners and
// clusters, what it holds too much.
func (s *subscription) todo(want map[string]*discoveryv3.Resource, now time.Time) (add []*discoveryv3.Resource, removed []string) {
	if !s.asked || s.settled {
		return nil, nil
	}
	look := func(r *discoveryv3.Resource) {
		name := r.GetName()
		if held, ok := s.held[name]; ok && held == r.GetVersion() && !s.again[name] {
			return
		}
		if f, ok := s.refused[name]; ok && f.version == r.GetVersion() && now.Before(f.retry) {
			return
		}
		add = append(add, r)
	}
	if s.wildcard {
		for _, r := range want {
			look(r)
		}
	} else {
		for name := range s.names {
			if r := want[name]; r != nil {
				look(r)
			} else if s.kind == endpoints && s.lacks(name) {
				add = append(add, noEndpoints(name))
			}
		}
	}
	if s.kind.whole() {
		for name := range s.held {
			if want[name] == nil {
				removed = append(removed, name)
			}
		}
	}
	slices.SortFunc(add, func(a, b *discoveryv3.Resource) int { return strings.Compare(a.GetName(), b.GetName()) })
	slices.Sort(removed)
	s.settled = len(add)+len(removed)+len(s.refused) == 0
	return add, removed
}

// lacks reports whether Envoy has nothing of that name, or asked again for it.
func (s *subscription) lacks(name string) bool {
	_, held := s.held[name]
	return !held || s.again[name]
}

// noEndpoints are the endpoints of a cluster that the proxy is not to have. Envoy asks for those of
// a cluster that was taken away meanwhile, and without them it would wait, and say nothing of any
// cluster, so that it could not even be told of the removal.
func noEndpoints(cluster string) *discoveryv3.Resource {
	r := &discoveryv3.Resource{Name: cluster, Version: "none"}
	// A message with one text in it can always be marshalled; should it not be, Envoy refuses the
	// resource.
	b, _ := proto.MarshalOptions{Deterministic: true}.Marshal(&endpointv3.ClusterLoadAssignment{ClusterName: cluster})
	r.Resource = &anypb.Any{TypeUrl: endpoints.url(), Value: b}
	return r
}

// batch cuts add down to what may go into one response.
func (s *subscription) batch(add []*discoveryv3.Resource) []*discoveryv3.Resource {
	for i, r := range add {
		if s.alone[r.GetName()] {
			return add[i : i+1]
		}
		if _, ok := s.refused[r.GetName()]; ok { // must not take others with it
			return add[i : i+1]
		}
	}
	if s.kind == secrets && len(add) > 1 {
		// One bad secret makes Envoy refuse some of the good ones in the same response, at random.
		return add[:1]
	}
	return add
}

// refuses reports whether Envoy stands by its refusal of something in want, and names it.
func (s *subscription) refuses(want map[string]*discoveryv3.Resource) []string {
	var names []string
	for name, f := range s.refused {
		if r := want[name]; r != nil && r.GetVersion() == f.version {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}
