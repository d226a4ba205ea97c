package consul

import (
	"context"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"time"
)

// watcher keeps one query going for each thing that some proxy needs.
type watcher struct {
	agent *Agent
	stop  context.CancelFunc // of the query for the node's services
	// stopChecks ends the reading of the agent's checks; nil: they are not read.
	stopChecks context.CancelFunc

	endEntries    context.CancelFunc // of the queries for config entries; nil: there are none
	destinations  []string           // of the one query for intentions, sorted
	endIntentions context.CancelFunc

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
	follow(ctx, a, &a.known.services, query[*nodeServices]{
		first:  true,
		path:   "/v1/catalog/node-services/" + url.PathEscape(name),
		params: consistent(url.Values{"merge-central-config": {""}}),
		decode: func(body []byte) (*nodeServices, error) {
			s, err := decodeJSON[*nodeServices](body)
			if err == nil && (s == nil || s.Node == nil) { // every agent registers its own node, so this is too early, or not the whole
				err = fmt.Errorf("it does not know the node %.60q (does the token have node:read?)", name)
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
	poll(ctx, a, &a.known.services, "/v1/agent/services", servicesEvery, func(body []byte) (*nodeServices, error) {
		m, err := decodeJSON[map[string]*registration](body)
		return &nodeServices{Node: &node{}, Services: slices.Collect(maps.Values(m))}, err
	})
}

// servicesEvery is how often the agent's services are read where they cannot be watched.
const servicesEvery = 5 * time.Second

func mergeServices(old, now *nodeServices) *nodeServices {
	return &nodeServices{Node: now.Node, Services: merge(old.Services, now.Services, func(r *registration) string {
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
		k.wildcard, k.matched = nil, false // nobody asks any more
	}
	w.bulkIntentions(ctx)
}

// chain is the query for how a target is dialled.
func (w *watcher) chain(target string, e *watch[*chain]) query[*chain] {
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
	if e.mode == onSignal {
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

// reconcile makes the queries those for what is wanted, in the mode that it is to be watched in. What is
// known stays when the mode changes. Agent.mu is held.
func reconcile[T any](ctx context.Context, w *watcher, have map[string]*watch[T], want map[string]bool,
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
		ctx, stop := context.WithCancel(ctx)
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
