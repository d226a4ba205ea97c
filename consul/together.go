package consul

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/sallyport/sallyport/intention"
)

// On a node with more to watch than there are connections for, intentions and chains are not asked for by name. One query lists the intentions of all
// destinations of the node, and the chain of a service about which only service-defaults and proxy-defaults can say something is asked for when
// these have changed, which the lists of the config entries tell. The answers mean the same: it is Consul that matches intentions and compiles chains. They cost its
// servers more, which look through all intentions and entries for each of them, so nodes with few services do without.

// entryKinds are the config entries that chains are made of, beside proxy-defaults.
var entryKinds = [...]string{"service-defaults", "service-router", "service-splitter", "service-resolver"}

// defaultsKind is the one of entryKinds with which a chain is still the default one.
const defaultsKind = 0

// together is what queries for all names at once have found out.
type together struct {
	on bool // the entries are watched
	// entries are the indexes at which the entries were written, by name as it is looked up, and kind.
	entries    [len(entryKinds)]found[map[string]uint64]
	intentions found[struct{}]
	shared     bool      // there is one query for all intentions
	apart      time.Time // until when there is none, as what it answered was not all there is
}

const (
	// apartFor is how long intentions are asked for by destination after a list of them was not complete.
	apartFor = 10 * time.Minute
	// longestFilter bounds a filter. Go's servers, and so Consul's, take requests with 1 MiB before the body.
	longestFilter = 200_000
)

// digest says what a chain is made of that is the default one: when it was written, and in which state of Consul's, as an agent that comes back may have
// another one in which the same numbers mean something else.
type digest struct {
	proxyDefaults, serviceDefaults, epoch uint64
	back                                  time.Time
}

// crowd starts and ends the queries for config entries. n is how many things there are to watch.
func (w *watcher) crowd(ctx context.Context, n int) {
	a := w.agent
	most := a.client.turns.most
	switch {
	case w.endLists == nil && n <= most, w.endLists != nil && n > most*3/4:
		return
	case w.endLists != nil:
		a.mu.Lock()
		w.endLists()
		w.endLists, a.known.together.on = nil, false
		a.mu.Unlock()
		return
	}
	a.mu.Lock()
	a.known.together.on = true
	for i := range entryKinds {
		a.known.together.entries[i] = found[map[string]uint64]{}
	}
	a.mu.Unlock()
	ctx, w.endLists = context.WithCancel(ctx)
	for i, kind := range entryKinds {
		follow(ctx, w.all, a, &a.known.together.entries[i], query[map[string]uint64]{first: true, path: "/v1/config/" + kind, params: consistent(nil), decode: decodeEntries}, nil, false)
	}
}

// decodeEntries reads when entries were written. Of those that the token may not read there is nothing to know: it may not read their chains either.
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

// entryKey is what Consul looks an entry up by.
func entryKey(name string) string { return strings.ToLower(name) }

// mannerOfChain is how chains are to be watched now. Agent.mu is held, as for all below.
func (w *watcher) mannerOfChain() func(string) manner {
	k := &w.agent.known
	t := &k.together
	if !t.on {
		return func(string) manner { return alone }
	}
	known := k.proxyDefaults.ok
	for i := range t.entries {
		if e := &t.entries[i]; !e.ok {
			if refused(e.err) {
				return func(string) manner { return alone }
			}
			known = false
		}
	}
	return func(target string) manner {
		if !known {
			if e := k.chains[target]; e != nil {
				return e.manner
			}
			return shared // nobody asks yet
		}
		name, _ := splitTarget(target)
		for i := range t.entries {
			if i != defaultsKind && t.entries[i].value[entryKey(name)] > 0 {
				return alone // it depends on what other entries say, too
			}
		}
		return told
	}
}

// digest is what the chain of a target is made of, in whichever datacenter it is: entries are the same in all.
func (w *watcher) digest(target string) digest {
	name, _ := splitTarget(target)
	k := &w.agent.known
	return digest{k.proxyDefaults.value.ModifyIndex, k.together.entries[defaultsKind].value[entryKey(name)], w.epoch, w.back}
}

// mannerOfIntentions is how intentions are to be watched now.
func (w *watcher) mannerOfIntentions() func(string) manner {
	t := &w.agent.known.together
	together := t.on && !time.Now().Before(t.apart)
	return func(name string) manner {
		if together && filterable.MatchString(name) {
			return shared
		}
		return alone
	}
}

// filterable is what can stand in a filter as it is, but for dots.
var filterable = regexp.MustCompile(`^[A-Za-z0-9._-]+$`)

// shareIntentions keeps one query going for the intentions of all destinations that are watched in this manner.
func (w *watcher) shareIntentions(ctx context.Context) {
	a := w.agent
	k := &a.known
	var names []string
	for name, e := range k.intentions {
		if e.manner == shared {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	if slices.Equal(names, w.sharing) {
		return
	}
	if w.endSharing != nil {
		w.endSharing()
		w.endSharing = nil
	}
	w.sharing = names
	if k.together.shared = len(names) > 0; !k.together.shared {
		return
	}
	k.together.intentions = found[struct{}]{}
	ctx, w.endSharing = context.WithCancel(ctx)
	f := &k.together.intentions
	apart := func() { k.together.apart = time.Now().Add(apartFor) }
	q := query[map[string][]intention.Intention]{
		client: a.client, metrics: a.metrics, first: true,
		path: "/v1/connect/intentions", params: consistent(intentionFilter(names)), decode: decodeIntentionList(),
		got: func(by map[string][]intention.Intention, m meta) {
			learn(ctx, a, func() bool {
				whole := m.authoritative()
				if f.take(struct{}{}, m, true, false, nil); !whole {
					apart()
				}
				m.filtered, m.noLeader, m.age = false, false, 0 // that is told of f
				for _, name := range names {
					if e := k.intentions[name]; e != nil && e.manner == shared {
						e.take(slices.Concat(by[name], by["*"]), m, whole, true, mergeIntentions)
					}
				}
				return true
			})
		},
		same: func(m meta) { learn(ctx, a, func() bool { return f.confirm(m) }) },
		failed: func(err error) bool {
			return a.failed(ctx, "/v1/connect/intentions", err, func(err error) bool {
				if refused(err) {
					apart()
				}
				return f.fail(err)
			})
		},
	}
	w.all.Go(func() { _ = q.run(ctx) })
}

// refused reports whether an agent does not answer a question, and would answer another one: it does not understand it, or the answer is too long. A 403
// is an answer: the token has no rights, or is none.
func refused(err error) bool {
	if s, ok := errors.AsType[*statusError](err); ok {
		return s.code/100 == 4 && s.code != http.StatusForbidden && s.code != http.StatusTooManyRequests
	}
	return errors.Is(err, errGarbled)
}

// intentionFilter leaves out the intentions of other destinations.
func intentionFilter(names []string) url.Values {
	n := 0
	for _, name := range names {
		n += len(name) + 2
	}
	if n > longestFilter {
		return nil
	}
	// Sorted, so that the expression becomes a tree and not a list.
	return url.Values{"filter": {"DestinationName matches `^(?:\\*|" + strings.ReplaceAll(strings.Join(names, "|"), ".", `\.`) + ")$`"}}
}

// decodeIntentionList reads intentions by destination. Those that it has read before it does not read again.
func decodeIntentionList() func([]byte) (map[string][]intention.Intention, error) {
	type decoded struct {
		intention.Intention
		ok bool
	}
	var before map[[sha256.Size]byte]decoded
	return func(body []byte) (map[string][]intention.Intention, error) {
		list, err := decodeList[json.RawMessage](body)
		if err != nil {
			return nil, err
		}
		now := make(map[[sha256.Size]byte]decoded, len(list))
		by := map[string][]intention.Intention{}
		for _, raw := range list {
			key := sha256.Sum256(raw)
			d, ok := before[key]
			if !ok {
				if d.Intention, d.ok, err = decodeIntention(raw); err != nil {
					return nil, err
				}
			}
			now[key] = d
			if d.ok {
				by[d.Destination.Service] = append(by[d.Destination.Service], d.Intention)
			}
		}
		before = now
		return by, nil
	}
}

// each calls f for what is watched for all names at once.
func (t *together) each(f func(what string, s state)) {
	if t.on {
		for i, kind := range entryKinds {
			s := t.entries[i].state()
			s.filtered = false // see decodeEntries
			f("config entries "+kind, s)
		}
	}
	if t.shared {
		f("intentions", t.intentions.state())
	}
}
