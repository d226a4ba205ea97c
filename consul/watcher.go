package consul

import (
	"context"
	"fmt"
	"maps"
	"net/url"
	"sync"
	"time"

	"github.com/sallyport/sallyport/intention"
)

// watcher keeps one query going for each thing that some proxy needs.
type watcher struct {
	agent *Agent
	all   *sync.WaitGroup
	stop  context.CancelFunc // of the query for the node's services
	// stopChecks ends the reading of the agent's checks; nil: they are not read.
	stopChecks context.CancelFunc

	endLists   context.CancelFunc // of the queries for config entries; nil: there are none
	sharing    []string           // the destinations of the one query for intentions
	endSharing context.CancelFunc

	epoch uint64    // how often Consul's state was put back
	back  time.Time // when the agent came back
}

// node follows the services of a node. Called again with the same name it does nothing.
func (w *watcher) node(ctx context.Context, name string) {
	a := w.agent
	a.mu.Lock()
	same := a.known.node == name && w.stop != nil
	a.mu.Unlock()
	if same {
		return
	}
	a.mu.Lock()
	if w.stop != nil {
		w.stop()
	}
	a.known.node = name
	a.mu.Unlock()
	ctx, w.stop = context.WithCancel(ctx)
	follow(ctx, w.all, a, &a.known.services, query[nodeServices]{
		first:  true,
		path:   "/v1/catalog/node-services/" + url.PathEscape(name),
		params: consistent(url.Values{"merge-central-config": {""}}),
		decode: func(body []byte) (nodeServices, error) {
			s, err := decodeJSON[nodeServices](body)
			if err == nil && s.Node == nil { // every agent registers its own node, so this is too early, or not the whole
				err = fmt.Errorf("it does not know the node %.60q (does the token have node:read?)", name)
			}
			return s, err
		},
	}, mergeServices, false)
}

// nodeless polls the agent's own services instead, where it does not say what its node is called.
func (w *watcher) nodeless(ctx context.Context) {
	if w.stop != nil {
		return
	}
	a := w.agent
	ctx, w.stop = context.WithCancel(ctx)
	poll(ctx, w.all, a, &a.known.services, request{path: "/v1/agent/services"}, servicesEvery, func(body []byte) (nodeServices, error) {
		m, err := decodeJSON[map[string]*registration](body)
		s := nodeServices{Node: &node{}}
		for _, r := range m {
			s.Services = append(s.Services, r)
		}
		return s, err
	})
}

// servicesEvery is how often the agent's services are read where they cannot be watched.
const servicesEvery = 5 * time.Second

func mergeServices(old, now nodeServices) nodeServices {
	now.Services = merge(old.Services, now.Services, func(r *registration) string {
		if r == nil {
			return ""
		}
		return r.ID
	})
	return now
}

// want makes the queries those for the given names: chains and endpoints by target, intentions by destination.
func (w *watcher) want(ctx context.Context, chains, endpoints, intentions map[string]bool) {
	a := w.agent
	w.crowd(ctx, len(chains)+len(endpoints)+len(intentions))
	_, _, w.back, _ = a.client.contact.state()
	w.epoch = a.client.turns.epoch()
	a.mu.Lock()
	defer a.mu.Unlock()
	reconcile(ctx, w, a.known.endpoints, endpoints, func(string) manner { return alone }, func(target string, _ *watched[[]*instance]) query[[]*instance] {
		return endpointsQuery(target)
	}, mergeInstances, false)
	reconcile(ctx, w, a.known.chains, chains, w.mannerOfChain(), w.chain, nil, false)
	reconcile(ctx, w, a.known.intentions, intentions, w.mannerOfIntentions(), func(name string, _ *watched[[]intention.Intention]) query[[]intention.Intention] {
		return query[[]intention.Intention]{
			path:   "/v1/connect/intentions/match",
			params: consistent(url.Values{"by": {"destination"}, "name": {name}}),
			decode: decodeIntentions(name),
		}
	}, mergeIntentions, true)
	w.shareIntentions(ctx)
}

// chain is the query for how a target is dialled.
func (w *watcher) chain(target string, e *watched[*chain]) query[*chain] {
	name, datacenter := splitTarget(target)
	params := url.Values{}
	if datacenter != "" {
		params.Set("compile-dc", datacenter)
	}
	q := query[*chain]{
		path:   "/v1/discovery-chain/" + url.PathEscape(name),
		params: consistent(params),
		decode: func(body []byte) (*chain, error) {
			c, err := decodeJSON[chainAnswer](body)
			if err == nil && (c.Chain == nil || c.Chain.ServiceName != name) {
				err = fmt.Errorf("it has no chain of %.60q", name)
			}
			return c.Chain, err
		},
	}
	if e.manner == told {
		e.digest = w.digest(target)
		q.once, q.slots = true, w.agent.client.asking
	}
	return q
}

// consistent asks for an answer of a leader that is one and has all that was committed. In every other mode a server that was just started
// may answer, as a leader too, out of a state that it has not read back yet: no intentions, no registrations, no protocols, all of it with an
// index and looking like the truth. These answers change seldom, so asking for more costs little. Endpoints in the agent's datacenter are read from its own
// stream instead, as there are many of them and none of them allows anything; but an answer that leaves a service without any is confirmed so.
func consistent(params url.Values) url.Values {
	c := url.Values{"consistent": {""}}
	maps.Copy(c, params)
	return c
}

// manner is how one thing among several of its kind is watched.
type manner uint8

const (
	// alone: by a blocking query of its own. This asks least of Consul's servers, and takes a connection to the agent.
	alone manner = iota
	// told: it is asked for when other queries have heard that there may be something new.
	told
	// shared: by one query for all of its kind.
	shared
)

// reconcile makes the queries those for what is wanted, in the manner that it is to be watched in. What is known stays when the manner changes. Agent.mu
// is held.
func reconcile[T any](ctx context.Context, w *watcher, have map[string]*watched[T], want map[string]bool, how func(string) manner, make func(string, *watched[T]) query[T],
	keep func(old, now T) T, demand bool,
) {
	end := func(e *watched[T]) {
		if e.stop != nil {
			e.stop()
			e.stop = nil
		}
	}
	for name, e := range have {
		if !want[name] {
			end(e)
			delete(have, name)
		}
	}
	for name := range want {
		e, m := have[name], how(name)
		switch {
		case e == nil:
			e = &watched[T]{}
			have[name] = e
		case e.manner == m && (m != told || e.digest == w.digest(name)):
			continue
		}
		end(e)
		e.manner = m
		if m == shared { // how the one query is doing is told by that one
			e.err, e.since, e.filtered, e.stale = nil, time.Time{}, false, 0
			continue
		}
		var one context.Context
		one, e.stop = context.WithCancel(ctx)
		follow(one, w.all, w.agent, &e.found, make(name, e), keep, demand)
	}
}
