package consul

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/sallyport/sallyport/identity"
)

// On a node with more to watch than there are connections for, intentions and chains are not asked
// for by name. One query lists the intentions of all destinations of the node, and the chain of a
// service about which only service-defaults and proxy-defaults can say something is asked for when
// these have changed, which the lists of the config entries tell. The answers mean the same: it is
// Consul that matches intentions and compiles chains. They cost its servers more, which look
// through all intentions and entries for each of them, so nodes with few services do without.

// entryKinds are the config entries that chains are made of, beside proxy-defaults.
var entryKinds = [...]string{"service-defaults", "service-router", "service-splitter", "service-resolver"}

// defaultsKind is the one of entryKinds with which a chain is still the default one.
const defaultsKind = 0

// bulk is what queries for all names at once have found out.
type bulk struct {
	on bool // the entries are watched
	// entries are the indexes at which the entries were written, by name as it is looked up, and
	// kind.
	entries    [len(entryKinds)]queryState[map[string]uint64]
	intentions queryState[struct{}]
	asked      bool      // there is one query for all intentions
	perName    time.Time // until when there is none, as what it answered was not all there is
}

const (
	// perNameFor is how long intentions are asked for by destination after a list of them was not
	// complete.
	perNameFor = 10 * time.Minute
)

// digest says what a chain is made of that is the default one: when it was written, and in which
// state of Consul's, as an agent that comes back may have another one in which the same numbers
// mean something else.
type digest struct {
	proxyDefaults, serviceDefaults, epoch uint64
	back                                  time.Time
}

// bulk starts and ends the queries for config entries. n is how many things there are to watch.
func (w *watcher) bulk(ctx context.Context, n int) {
	a := w.agent
	most := a.client.limiter.most
	on := w.endEntries != nil
	if !on && n <= most || on && n > most*3/4 {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	t := &a.known.bulk
	if t.on = !on; on {
		w.endEntries()
		w.endEntries = nil
		return
	}
	ctx, w.endEntries = context.WithCancel(ctx)
	for i, kind := range entryKinds {
		t.entries[i] = queryState[map[string]uint64]{}
		follow(ctx, a, &t.entries[i], query[map[string]uint64]{
			first: true, path: "/v1/config/" + kind, params: consistent(nil), decode: decodeEntries,
		})
	}
}

// decodeEntries reads when entries were written. Of those that the token may not read there is
// nothing to know: it may not read their chains either.
func decodeEntries(body []byte) (map[string]uint64, error) {
	list, err := decodeList[struct {
		Name        string
		ModifyIndex uint64
	}](body)
	m := make(map[string]uint64, len(list))
	for _, e := range list {
		m[entryKey(e.Name)] = max(e.ModifyIndex, 1)
	}
	return m, err
}

// modeOfChains is how chains are to be watched now. Agent.mu is held, as for all below.
func (w *watcher) modeOfChains() func(string) mode {
	k := &w.agent.known
	t := &k.bulk
	if !t.on {
		return func(string) mode { return perName }
	}
	known := k.proxyDefaults.ok
	for i := range t.entries {
		if e := &t.entries[i]; !e.ok {
			if refused(e.err) {
				return func(string) mode { return perName }
			}
			known = false
		}
	}
	return func(target string) mode {
		if !known {
			if e := k.chains[target]; e != nil {
				return e.mode
			}
			return inBulk // nobody asks yet
		}
		name, _, _ := splitTarget(target)
		for i := range t.entries {
			if i != defaultsKind && t.entries[i].value[entryKey(name)] > 0 {
				return perName // it depends on what other entries say, too
			}
		}
		return onSignal
	}
}

// digest is what the chain of a target is made of, in whichever datacenter it is: entries are the
// same in all.
func (w *watcher) digest(target string) digest {
	name, _, _ := splitTarget(target)
	k := &w.agent.known
	defaults := k.bulk.entries[defaultsKind].value[entryKey(name)]
	return digest{k.proxyDefaults.value.ModifyIndex, defaults, w.epoch, w.back}
}

// modeOfIntentions is how intentions are to be watched now.
func (w *watcher) modeOfIntentions() func(string) mode {
	t := &w.agent.known.bulk
	bulk := t.on && !time.Now().Before(t.perName)
	return func(name string) mode {
		if bulk && filterable.MatchString(name) {
			return inBulk
		}
		return perName
	}
}

// filterable is what can stand in a filter as it is, but for dots.
var filterable = regexp.MustCompile(`^[A-Za-z0-9._-]+$`)

// bulkIntentions keeps one query going for the intentions of all destinations that are watched in
// bulk.
func (w *watcher) bulkIntentions(ctx context.Context) {
	a := w.agent
	k := &a.known
	var names []string
	for name, e := range k.intentions {
		if e.mode == inBulk {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	if slices.Equal(names, w.destinations) {
		return
	}
	if w.endIntentions != nil {
		w.endIntentions()
		w.endIntentions = nil
	}
	w.destinations = names
	if k.bulk.asked = len(names) > 0; !k.bulk.asked {
		return
	}
	k.bulk.intentions = queryState[struct{}]{}
	ctx, w.endIntentions = context.WithCancel(ctx)
	f := &k.bulk.intentions
	giveUp := func() { k.bulk.perName = time.Now().Add(perNameFor) }
	q := query[destinations]{
		client: a.client, metrics: a.metrics, first: true,
		path: "/v1/connect/intentions", params: consistent(intentionFilter(names)), decode: decodeIntentionList(),
		got: func(by destinations, m meta) {
			a.learn(ctx, "", func() news {
				f.take(struct{}{}, m, &query[struct{}]{})
				wildcard := by[identity.Wildcard]
				if !m.authoritative() {
					giveUp()
					wildcard = mergeIntentions(k.wildcard, wildcard)
				}
				m.filtered, m.noLeader, m.age = false, false, 0 // that is told of f
				if f.filtered {
					m.index = 0
				}
				for _, name := range names {
					if e := k.intentions[name]; e != nil && e.mode == inBulk {
						q := k.intentionsQuery(name)
						e.take(matched{by.of(name).own, wildcard}, m, &q)
					}
				}
				return newState
			})
		},
		same: func(m meta) { a.learn(ctx, "", func() news { return f.confirm(m) }) },
		failed: func(err error) bool {
			return a.failed(ctx, "/v1/connect/intentions", err, func(err error) news {
				if refused(err) {
					giveUp()
				}
				return f.fail(err)
			})
		},
	}
	a.running.Go(func() { _ = q.run(ctx) })
}

// refused reports whether retrying is useless: the agent rejects the request itself (4xx except 403
// and 429), or what it answers makes no sense, or is too long.
func refused(err error) bool {
	if s, ok := errors.AsType[*statusError](err); ok {
		return s.code/100 == 4 && s.code != http.StatusForbidden && s.code != http.StatusTooManyRequests
	}
	return errors.Is(err, errGarbled)
}

// intentionFilter leaves out the intentions of other destinations. Entries may spell theirs in other
// letter case.
func intentionFilter(names []string) url.Values {
	n := 0
	for _, name := range names {
		n += len(name) + 2
	}
	if n > longestFilter {
		return nil
	}
	// Sorted, so that the expression becomes a tree and not a list.
	return url.Values{"filter": {"DestinationName matches `^(?i:\\*|" + strings.ReplaceAll(strings.Join(names, "|"), ".", `\.`) + ")$`"}}
}
