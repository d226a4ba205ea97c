package consul

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/sallyport/sallyport/catalog"
)

// watcher keeps one query going for each thing that some proxy needs.
type watcher struct {
	agent *Agent
	stop  context.CancelFunc // of the query for the node's services
	// stopChecks ends the reading of the agent's checks; nil: they are not read.
	stopChecks context.CancelFunc

	endEntries    context.CancelFunc // of the queries for config entries; nil: there are none
	endTokens     context.CancelFunc // of the query for token providers; nil: there is none
	destinations  []string           // of the one query for intentions, sorted
	endIntentions context.CancelFunc

	epoch uint64    // how often Consul's state was put back
	back  time.Time // when the agent came back
}

// node follows the services of a node. Called again with the same name it does nothing.
func (w *watcher) node(ctx context.Context, name string) {
	a := w.agent
	a.mu.Lock()
	same := a.known.node == name
	if a.known.node = name; !same && w.stop != nil {
		w.stop()
	}
	a.mu.Unlock()
	if same {
		return
	}
	ctx, w.stop = context.WithCancel(ctx)
	follow(ctx, a, &a.known.services, query[*nodeServices]{
		first:  true,
		path:   "/v1/catalog/node-services/" + url.PathEscape(name),
		params: consistent(url.Values{"merge-central-config": {""}}),
		decode: func(body []byte) (*nodeServices, error) {
			s, err := decodeJSON[*nodeServices](body)
			// every agent registers its own node, so this is too early, or not the whole
			if err == nil && (s == nil || s.Node == nil) {
				err = fmt.Errorf("it does not know the node %.60q (has the token node:read?)", name)
			}
			return s, err
		},
		merge: mergeServices,
	})
}

// nodeless polls the agent's own services instead, where it does not say what its node is called.
func (w *watcher) nodeless(ctx context.Context) {
	if w.stop != nil {
		return
	}
	a := w.agent
	ctx, w.stop = context.WithCancel(ctx)
	poll(ctx, a, &a.known.services, "/v1/agent/services", servicesEvery,
		func(body []byte) (*nodeServices, error) {
			m, err := decodeJSON[map[string]*registration](body)
			return &nodeServices{Node: &node{}, Services: slices.Collect(maps.Values(m))}, err
		})
}

// servicesEvery is how often the agent's services are read where they cannot be watched.
const servicesEvery = 5 * time.Second

func mergeServices(old, now *nodeServices) *nodeServices {
	return &nodeServices{Node: now.Node, Services: merge(old.Services, now.Services,
		func(r *registration) string {
			if r == nil {
				return ""
			}
			return r.ID
		})}
}

// wants are the things that some proxy needs: chains and endpoints by target, intentions by
// destination, and the agent's checks.
type wants struct {
	chains, endpoints, intentions map[string]bool
	checks                        bool
}

// want makes the queries those for what is wanted.
func (w *watcher) want(ctx context.Context, wanted wants) {
	a := w.agent
	w.checks(ctx, wanted.checks)
	w.bulk(ctx, len(wanted.chains)+len(wanted.endpoints)+len(wanted.intentions))
	w.back, w.epoch = a.client.contact.state().back, a.client.limiter.epoch()
	a.mu.Lock()
	defer a.mu.Unlock()
	k := &a.known
	reconcile(ctx, w, k.endpoints, wanted.endpoints, func(string) mode { return perName },
		func(target string, _ *watch[instances]) query[instances] { return endpointsQuery(target) })
	reconcile(ctx, w, k.chains, wanted.chains, w.modeOfChains(), w.chain)
	reconcile(ctx, w, k.intentions, wanted.intentions, w.modeOfIntentions(),
		func(name string, _ *watch[matched]) query[matched] { return k.intentionsQuery(name) })
	if len(k.intentions) == 0 {
		k.wildcard, k.wildcardAt, k.matched = nil, position{}, false // nobody asks any more
	}
	w.bulkIntentions(ctx)
}

// endpointsQuery asks for the instances of a target. In the agent's own datacenter the agent
// answers out of its own stream of events, and that there is nothing healthy must be confirmed.
//
// For another datacenter that stream hides that the servers there are away, so they are asked
// themselves: "near" is what the agent cannot answer out of the stream, with an index or without,
// and the order that it asks for is not looked at. They are asked for a consistent answer, as those
// that were just started could say otherwise that there are no instances.
func endpointsQuery(target string) query[instances] {
	service, datacenter, more := splitTarget(target)
	filter, _ := strings.CutPrefix(more, filterMark)
	far := datacenter != ""
	q := query[instances]{
		target: target,
		merge:  mergeInstances(far),
		path:   "/v1/health/connect/" + url.PathEscape(service),
		params: url.Values{"cached": {""}},
		doubt:  func(i instances) bool { return !anyHealthy(i.endpoints) },
		decode: func(body []byte) (instances, error) {
			list, err := decodeList[*instance](body)
			return readInstances(list, far), err
		},
	}
	if far {
		q.params = consistent(url.Values{"dc": {datacenter}, "near": {"_agent"}})
		q.doubt, q.far, q.retry = nil, true, serverRetry
	}
	if filter != "" {
		q.params.Set("filter", filter)
	}
	return q
}

// intentionsQuery asks for what is said of one destination, and of all destinations.
func (k *known) intentionsQuery(name string) query[matched] {
	return query[matched]{
		path:   "/v1/connect/intentions/match",
		params: consistent(url.Values{"by": {"destination"}, "name": {name}}),
		decode: decodeIntentions(name),
		wary:   true,
		merge: func(old, now matched) matched {
			return matched{
				own:      mergeIntentions(old.own, now.own),
				wildcard: mergeIntentions(k.wildcard, now.wildcard),
			}
		},
		taken: func(said matched, m meta, back bool) { k.setWildcard(said.wildcard, m, back) },
	}
}

// setWildcard takes in what the newest answer says of all destinations. Answers for each destination
// say it; an older one must not bring back what is gone. One without an index may be of any time.
func (k *known) setWildcard(d *catalog.Destination, m meta, back bool) {
	k.matched = true
	if at := (position{m.epoch, m.index}); m.index > 0 {
		if !back && at.before(k.wildcardAt) {
			return
		}
		k.wildcardAt = at
	}
	was := k.wildcard
	if was == nil || d == nil || was != d && !slices.Equal(was.Intentions, d.Intentions) {
		k.wildcard = d
	}
}

// chain is the query for how a target is dialled. Where something else is spoken to it than it
// speaks that is said in a body; the agent lets such a question wait as any other.
func (w *watcher) chain(target string, e *watch[*discovery]) query[*discovery] {
	name, datacenter, more := splitTarget(target)
	params := url.Values{}
	if datacenter != "" {
		params.Set("compile-dc", datacenter)
	}
	q := query[*discovery]{
		path:   "/v1/discovery-chain/" + url.PathEscape(name),
		params: consistent(params),
		decode: func(body []byte) (*discovery, error) { return readDiscovery(body, name) },
	}
	if protocol, ok := strings.CutPrefix(more, protocolMark); ok {
		q.body = map[string]string{"OverrideProtocol": protocol}
	}
	if e.mode == onSignal {
		e.digest = w.digest(target)
		q.once, q.slots = true, w.agent.client.chainSlots
	}
	return q
}

// mode is how one thing among several of its kind is watched.
type mode uint8

const (
	// perName: by a blocking query of its own. This asks least of Consul's servers, and takes a
	// connection to the agent.
	perName mode = iota
	// onSignal: it is asked for when other queries have found that there may be something new.
	onSignal
	// inBulk: by one query for all of its kind.
	inBulk
)

// reconcile makes the queries those for what is wanted, in the mode that it is to be watched in.
// What is known stays when the mode changes. Agent.mu is held.
func reconcile[T any](ctx context.Context, w *watcher, have map[string]*watch[T],
	want map[string]bool,
	modeOf func(string) mode, newQuery func(string, *watch[T]) query[T],
) {
	for name, e := range have {
		if !want[name] {
			e.end()
			delete(have, name)
		}
	}
	for name := range want {
		e, m := have[name], modeOf(name)
		switch {
		case e == nil:
			e = &watch[T]{}
			have[name] = e
		case e.mode == m && (m != onSignal || e.digest == w.digest(name)):
			continue
		}
		e.end()
		e.mode = m
		if m == inBulk { // how the one query is doing is told by that one
			e.health = health{}
			continue
		}
		q := newQuery(name, e)
		ctx, stop := context.WithCancel(ctx) //nolint:gosec // end calls it
		e.stop = stop
		follow(ctx, w.agent, &e.queryState, q)
	}
}

// end ends the query, if there is one.
func (e *watch[T]) end() {
	if e.stop != nil {
		e.stop()
		e.stop = nil
	}
}

// checks has the agent's checks read, or not any more.
func (w *watcher) checks(ctx context.Context, wanted bool) {
	a := w.agent
	switch {
	case wanted && w.stopChecks == nil:
		ctx, w.stopChecks = context.WithCancel(ctx)
		poll(ctx, a, &a.known.checks, "/v1/agent/checks", checksEvery,
			func(body []byte) (map[string]*agentCheck, error) {
				m, err := decodeJSON[map[string]*agentCheck](body)
				if err == nil && m == nil {
					err = errors.New("it is no list of checks")
				}
				return m, err
			})
	case !wanted && w.stopChecks != nil:
		a.mu.Lock()
		w.stopChecks()
		w.stopChecks = nil
		a.known.checks = queryState[map[string]*agentCheck]{}
		a.mu.Unlock()
	}
}
