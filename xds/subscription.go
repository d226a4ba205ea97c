package xds

import (
	"maps"
	"slices"
	"strings"
	"time"

	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/sallyport/sallyport/snapshot"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// How soon a resource that Envoy refused is sent again with the same bytes: a bind error is over
// when the port is free, most others are permanent. In the first minute that makes four times: with
// others, alone, and twice more.
const (
	firstRetry = 10 * time.Second
	lastRetry  = 60 * time.Second
)

// subscription is one stream's state of one kind of resource. Its session's lock guards it.
type subscription struct {
	kind  kind
	asked bool // a request for this kind has come
	// wildcard: everything is subscribed to. implicit: not by "*", but by a first request without
	// names.
	wildcard, implicit bool
	names              map[string]bool
	// held is the version of each resource that Envoy was sent, or listed itself; "" where it is
	// not known, after a NACK.
	held map[string]string
	// acked are the clusters or routes of which Envoy has accepted some version, and still has it.
	acked map[string]bool
	// resend holds names to be sent although they are held: subscribed to again, or endpoints of a
	// cluster that was sent.
	resend map[string]bool
	// unanswered are listeners and clusters that were subscribed to by name, and not answered yet:
	// neither sent nor said to be missing.
	unanswered map[string]bool
	// isolated holds names of responses that were refused. They are sent one at a time, to find the
	// bad one.
	isolated map[string]bool
	refused  map[string]refusal
	// nacked are resources that Envoy refused, alone, and of which it has accepted no version since.
	nacked map[string]bool
	out    *outstanding // the last response, if it is unanswered
	// before are older unanswered responses; only for clusters, see mayFollow.
	before []*outstanding
	// upToDate: todo found nothing to send, and nothing has changed since.
	upToDate bool
	// sentAt and ackedAt are of the last response and of the last ACK; zero: there was none.
	sentAt, ackedAt time.Time
}

// outstanding is a response that Envoy has not answered.
type outstanding struct {
	response *discoveryv3.DeltaDiscoveryResponse
	at       time.Time
}

// refusal is a resource that Envoy refused when it was the only one of its response.
type refusal struct {
	version string
	wait    time.Duration
	retry   time.Time // when the same version may be sent again
}

func newSubscription(k kind) *subscription {
	return &subscription{
		kind: k, names: map[string]bool{}, held: map[string]string{}, resend: map[string]bool{},
		isolated: map[string]bool{}, refused: map[string]refusal{},
	}
}

// wantsAll reports whether Envoy is subscribed to everything after q (xDS protocol, "How the client
// specifies what resources to return"). Only for listeners and clusters it can be.
func (s *subscription) wantsAll(q *discoveryv3.DeltaDiscoveryRequest) bool {
	named := q.GetResourceNamesSubscribe()
	switch {
	case !s.kind.hasWildcard():
		return false
	case len(named) == 0 && !s.asked:
		s.implicit = true
		return true
	case len(named) == 0 && s.implicit:
		return true
	}
	s.implicit = false
	return (s.wildcard || slices.Contains(named, "*")) && !slices.Contains(q.GetResourceNamesUnsubscribe(), "*")
}

// update applies the subscriptions and unsubscriptions of q.
func (s *subscription) update(q *discoveryv3.DeltaDiscoveryRequest) {
	wildcard := s.wantsAll(q)
	s.upToDate = false
	if !s.asked {
		s.asked = true
		maps.Copy(s.held, q.GetInitialResourceVersions())
		for name := range s.held {
			s.accept(name)
		}
	} else {
		// A name that is subscribed to again is to be sent again, even if Envoy has the resource
		// (xDS protocol, "Subscribing to resources").
		for _, name := range q.GetResourceNamesSubscribe() {
			s.resend[name] = true
		}
	}
	for _, name := range q.GetResourceNamesSubscribe() {
		if name != "*" {
			s.names[name] = true
			s.awaitAnswer(name)
		}
	}
	delete(s.resend, "*")
	for _, name := range q.GetResourceNamesUnsubscribe() {
		delete(s.names, name)
		if _, ok := s.held[name]; ok && wildcard {
			s.resend[name] = true // the wildcard still includes it, so Envoy has to be sent it
			continue
		}
		s.forget(name)
	}
	s.wildcard = wildcard
	if s.kind.hasWildcard() && !s.wildcard && slices.Contains(q.GetResourceNamesUnsubscribe(), "*") {
		for name := range s.held {
			if !s.names[name] {
				s.forget(name)
			}
		}
	}
}

// awaitAnswer notes that a name was subscribed to. Of a listener or cluster that does not exist
// Envoy is told so, in removed_resources (xDS protocol, "Knowing When a Requested Resource Does Not
// Exist"): on-demand CDS would wait until its timeout. Of other kinds it is not: see hasWildcard.
func (s *subscription) awaitAnswer(name string) {
	if !s.kind.hasWildcard() {
		return
	}
	if s.unanswered == nil {
		s.unanswered = map[string]bool{}
	}
	s.unanswered[name] = true
}

func (s *subscription) forget(name string) {
	delete(s.held, name)
	delete(s.unanswered, name)
	delete(s.acked, name)
	delete(s.resend, name)
	delete(s.isolated, name)
	delete(s.refused, name)
}

// retarget drops the refusals of resources that are gone or have another version: a new version is
// sent at once, together with others. It returns what Envoy refused and is to have no more, if
// whole says that it is to have all of want.
func (s *subscription) retarget(want snapshot.Set, whole bool) (withdrawn []string) {
	for name := range s.nacked {
		if whole && want.Get(name) == nil {
			delete(s.nacked, name)
			withdrawn = append(withdrawn, name)
		}
	}
	slices.Sort(withdrawn)
	s.upToDate = false
	for name, r := range s.refused {
		if w := want.Get(name); w == nil || w.GetVersion() != r.version {
			delete(s.refused, name)
		}
	}
	for name := range s.isolated {
		if want.Get(name) == nil {
			delete(s.isolated, name)
		}
	}
	return withdrawn
}

// answer returns the unanswered response with that nonce, which is answered now; nil if there is
// none.
func (s *subscription) answer(nonce string) *discoveryv3.DeltaDiscoveryResponse {
	// Responses in the queue have an empty nonce, and a request without one is no answer to them.
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

// mayFollow reports whether another response may be sent now. At most one is unanswered, so that
// later changes are merged and an Envoy that does not read costs little. But Envoy delays the ACK
// of clusters that cannot become warm, and only their next version or removal may help: after
// timeout that is sent too, if the last response has left the queue.
func (s *subscription) mayFollow(timeout time.Duration, now time.Time) bool {
	return s.out == nil || s.kind == clusters && s.out.response.GetNonce() != "" && !now.Before(s.out.at.Add(timeout))
}

// accepted notes an ACK of r, and returns what Envoy had refused before.
func (s *subscription) accepted(r *discoveryv3.DeltaDiscoveryResponse) (healed []string) {
	for _, r := range r.GetResources() {
		if s.nacked[r.GetName()] {
			delete(s.nacked, r.GetName())
			healed = append(healed, r.GetName())
		}
		if _, ok := s.held[r.GetName()]; ok { // not removed meanwhile
			s.accept(r.GetName())
		}
		if s.held[r.GetName()] == r.GetVersion() { // no later version was sent
			delete(s.refused, r.GetName())
			delete(s.isolated, r.GetName())
		}
	}
	return healed
}

// accept notes that Envoy has accepted some version of the resource.
func (s *subscription) accept(name string) {
	if s.kind != clusters && s.kind != routes {
		return // no order depends on the others
	}
	if s.acked == nil {
		s.acked = map[string]bool{}
	}
	s.acked[name] = true
}

// has reports whether Envoy has accepted this version of r.
func (s *subscription) has(r *discoveryv3.Resource) bool {
	return s.held[r.GetName()] == r.GetVersion() && !s.inFlight(r.GetName())
}

// inFlight reports whether Envoy has not answered a response with the resource, or its removal.
func (s *subscription) inFlight(name string) bool {
	if s.out == nil {
		return false
	}
	in := func(o *outstanding) bool {
		return slices.Contains(o.response.GetRemovedResources(), name) ||
			slices.ContainsFunc(o.response.GetResources(), func(r *discoveryv3.Resource) bool { return r.GetName() == name })
	}
	return in(s.out) || slices.ContainsFunc(s.before, in)
}

// rejected notes a NACK of response. Envoy may have applied a part of it.
func (s *subscription) rejected(response *discoveryv3.DeltaDiscoveryResponse, now time.Time) {
	s.upToDate = false
	var sent []*discoveryv3.Resource
	for _, r := range response.GetResources() {
		if s.held[r.GetName()] == r.GetVersion() {
			sent = append(sent, r)
		}
	}
	if len(sent) > 0 {
		// Removals are sent again only if the response had resources, which may be why it was
		// refused.
		for _, name := range response.GetRemovedResources() {
			if _, ok := s.held[name]; !ok {
				s.held[name] = ""
			}
		}
	}
	for _, r := range sent {
		s.held[r.GetName()] = ""
		if len(sent) > 1 {
			s.isolated[r.GetName()] = true
		}
	}
	if len(sent) != 1 {
		return
	}
	r := sent[0]
	delete(s.isolated, r.GetName())
	if s.nacked == nil {
		s.nacked = map[string]bool{}
	}
	s.nacked[r.GetName()] = true
	wait := firstRetry
	if old, ok := s.refused[r.GetName()]; ok && old.version == r.GetVersion() {
		wait = min(2*old.wait, lastRetry)
	}
	s.refused[r.GetName()] = refusal{version: r.GetVersion(), wait: wait, retry: now.Add(wait)}
}

// todo lists, sorted by name, the resources of want that Envoy lacks and, for listeners and
// clusters, those that it has to remove or has asked for in vain.
func (s *subscription) todo(want snapshot.Set, now time.Time) (add []*discoveryv3.Resource, removed []string) {
	if !s.asked || s.upToDate {
		return nil, nil
	}
	check := func(r *discoveryv3.Resource) {
		name := r.GetName()
		if held, ok := s.held[name]; ok && held == r.GetVersion() && !s.resend[name] {
			return
		}
		if f, ok := s.refused[name]; ok && f.version == r.GetVersion() && now.Before(f.retry) {
			return
		}
		add = append(add, r)
	}
	if s.wildcard {
		for _, r := range want {
			check(r)
		}
	} else {
		for name := range s.names {
			if r := want.Get(name); r != nil {
				check(r)
			} else if s.kind == endpoints && s.lacks(name) {
				add = append(add, noEndpoints(name))
			}
		}
	}
	if s.kind.hasWildcard() {
		for name := range s.held {
			if want.Get(name) == nil {
				removed = append(removed, name)
			}
		}
		for name := range s.unanswered {
			if _, held := s.held[name]; !held && want.Get(name) == nil {
				removed = append(removed, name)
			}
		}
	}
	slices.SortFunc(add, func(a, b *discoveryv3.Resource) int { return strings.Compare(a.GetName(), b.GetName()) })
	slices.Sort(removed)
	s.upToDate = len(add)+len(removed)+len(s.refused) == 0
	return add, removed
}

// lacks reports whether Envoy has no resource of that name, or subscribed to it again.
func (s *subscription) lacks(name string) bool {
	_, held := s.held[name]
	return !held || s.resend[name]
}

// noEndpoints are the endpoints of a cluster that the proxy is not to have. Envoy may ask for those
// of a cluster that was removed from the target meanwhile. Without an answer it would wait, and
// send no request for any cluster, so that not even the removal could be sent.
func noEndpoints(cluster string) *discoveryv3.Resource {
	r := &discoveryv3.Resource{Name: cluster, Version: "none"}
	// A message with one string can always be marshalled; were it not, Envoy would refuse the
	// resource.
	b, _ := proto.MarshalOptions{Deterministic: true}.Marshal(&endpointv3.ClusterLoadAssignment{ClusterName: cluster})
	r.Resource = &anypb.Any{TypeUrl: endpoints.url(), Value: b}
	return r
}

// batch returns the part of add that may go into one response.
func (s *subscription) batch(add []*discoveryv3.Resource) []*discoveryv3.Resource {
	for i, r := range add {
		if s.isolated[r.GetName()] {
			return add[i : i+1]
		}
		if _, ok := s.refused[r.GetName()]; ok { // must not have others refused with it
			return add[i : i+1]
		}
	}
	if s.kind == secrets && len(add) > 1 {
		// One bad secret makes Envoy refuse some of the good ones in the same response, at random.
		return add[:1]
	}
	return add
}

// refuses returns the names of the resources in want whose present version Envoy refuses, sorted.
func (s *subscription) refuses(want snapshot.Set) []string {
	var names []string
	for name, f := range s.refused {
		if r := want.Get(name); r != nil && r.GetVersion() == f.version {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}
