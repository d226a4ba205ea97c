//go:build e2e

package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/sallyport/sallyport/chain"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/internal/meshtest"
)

// TestChainDifferential writes random entries to Consul, which refuses some, and compares what it says of those, and the chains that it
// makes of the others, with what package chain does.
func TestChainDifferential(t *testing.T) {
	sets := 60
	if os.Getenv(longVariable) != "" {
		sets = 400
	}
	d := newChainDifferential(t)
	numbers := make(chan int)
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for n := range numbers {
				d.set(n)
			}
		})
	}
	for n := range sets {
		numbers <- n
	}
	close(numbers)
	all.Wait()
	d.done(sets)
}

// TestChainMistakes does so with entries each of which has a mistake.
func TestChainMistakes(t *testing.T) {
	d := newChainDifferential(t)
	for i, m := range chainMistakes(rand.New(rand.NewPCG(1, 2))) {
		s := d.mesh(i)
		for j, e := range m {
			if s.put(e) && j == len(m)-1 {
				t.Errorf("mistake %d: Consul takes %s", i, mustJSON(t, written(e)))
			}
		}
	}
	if d.refused < 100 {
		t.Errorf("%d mistakes, not 100", d.refused)
	}
	d.done(0)
}

type chainDifferential struct {
	t           *testing.T
	c           *meshtest.Consul
	trustDomain string

	mu                      sync.Mutex
	chains, refused, differ int
	words                   map[string]int
}

func newChainDifferential(t *testing.T) *chainDifferential {
	t.Helper()
	d := &chainDifferential{t: t, c: meshtest.StartConsul(t, meshtest.Agent{Default: "allow", Node: "sallyport"}), words: map[string]int{}}
	var roots struct{ TrustDomain string }
	d.c.Must("GET", "/v1/connect/ca/roots", nil, &roots)
	d.trustDomain = roots.TrustDomain
	d.c.PutConfig(map[string]any{"Kind": "proxy-defaults", "Name": "global", "Config": map[string]any{"protocol": "http"}, "MeshGateway": map[string]any{"Mode": "local"}})
	return d
}

func (d *chainDifferential) done(sets int) {
	d.t.Helper()
	if d.t.Failed() {
		return
	}
	figure(d.t, "%d sets, %d chains, %d mistakes of %d kinds, %d differ", sets, d.chains, d.refused, len(d.words), d.differ)
}

func (d *chainDifferential) differs(format string, args ...any) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.differ++; d.differ <= 10 {
		d.t.Errorf(format, args...)
	}
}

// ask is a question to Consul: the status and the body of its answer.
func (d *chainDifferential) ask(method, path string, body any) (int, []byte) {
	data := []byte{}
	var err error
	if method != "GET" {
		if data, err = json.Marshal(body); err != nil {
			panic(err)
		}
	}
	for range 5 {
		var r *http.Request
		if r, err = http.NewRequestWithContext(d.t.Context(), method, "http://"+d.c.Addr+path, bytes.NewReader(data)); err != nil {
			break
		}
		var a *http.Response
		if a, err = http.DefaultClient.Do(r); err != nil {
			continue
		}
		answer, readErr := io.ReadAll(a.Body)
		a.Body.Close()
		if err = readErr; err == nil {
			return a.StatusCode, answer
		}
	}
	panic(fmt.Sprintf("%s %s %s: %v", method, path, data, err)) // of another goroutine than the test's
}

// chainSet are services of one set and what Consul has taken of their entries.
type chainSet struct {
	*chainDifferential
	r        *rand.Rand
	services []string
	entries  chain.Entries
}

const chainServices = 8

func (d *chainDifferential) mesh(n int) *chainSet {
	m := &chainSet{chainDifferential: d, r: rand.New(rand.NewPCG(uint64(n), 7)), entries: chain.Entries{ //nolint:gosec // no secret
		Routers: map[identity.Name]*chain.Router{}, Splitters: map[identity.Name]*chain.Splitter{}, Resolvers: map[identity.Name]*chain.Resolver{},
		Defaults: map[identity.Name]*chain.Defaults{}, Proxy: chain.Defaults{Protocol: "http", GatewayMode: "local"}, Datacenter: "dc1", TrustDomain: d.trustDomain,
	}}
	for i := range chainServices {
		m.services = append(m.services, fmt.Sprintf("%c-%s%d", 'a'+i, strings.ToLower(strings.TrimPrefix(d.t.Name(), "TestChain")), n))
	}
	return m
}

// set is one set: its entries and then its chains.
func (d *chainDifferential) set(n int) {
	m := d.mesh(n)
	for _, kind := range [][]any{m.defaults(), m.resolvers(), m.splitters(), m.routers()} {
		// What is refused may be taken when others are there.
		for again := true; again && len(kind) > 0; {
			again = false
			kind = slices.DeleteFunc(kind, func(e any) bool {
				ok := m.put(e)
				again = again || ok
				return ok
			})
		}
	}
	for _, s := range m.services {
		m.compare(s, "", chain.Overrides{})
		m.compare(s, "?compile-dc=dc7", chain.Overrides{})
		m.compare(s, "", chain.Overrides{
			Protocol: pick(m.r, "", "", "http", "tcp", "grpc"), ConnectTimeout: pick(m.r, 0, 5*time.Second, 8*time.Second), GatewayMode: pick(m.r, "", "none", "local", "remote"),
		})
	}
}

// with is the entries of m and e.
func (m *chainSet) with(e any) *chain.Entries {
	w := m.entries
	switch e := e.(type) {
	case *chain.Router:
		w.Routers = plus(w.Routers, e.Service, e)
	case *chain.Splitter:
		w.Splitters = plus(w.Splitters, e.Service, e)
	case *chain.Resolver:
		w.Resolvers = plus(w.Resolvers, e.Service, e)
	case *chainDefaults:
		w.Defaults = plus(w.Defaults, identity.NewName(e.service), &e.Defaults)
	}
	return &w
}

func plus[T any](m map[identity.Name]T, key identity.Name, value T) map[identity.Name]T {
	out := map[identity.Name]T{key: value}
	for k, v := range m {
		if k != key {
			out[k] = v
		}
	}
	return out
}

// chainDefaults is a service-defaults entry.
type chainDefaults struct {
	service string
	chain.Defaults
}

// put writes an entry, and reports whether Consul has taken it. Both have to say the same of it.
func (m *chainSet) put(e any) bool {
	code, body := m.ask("PUT", "/v1/config", written(e))
	consul := strings.TrimSpace(string(body))
	var ours []string
	if c, ok := e.(interface{ Check() []*chain.Mistake }); ok {
		for _, w := range c.Check() {
			ours = append(ours, w.Message) // of several Consul says one
		}
	}
	all := m.with(e)
	if len(ours) == 0 {
		// Consul says of which chain it found first that it is wrong, in no order.
		for _, s := range m.services {
			if _, _, err := chain.Compile(all, identity.NewName(s), chain.Overrides{}); err != nil {
				ours = append(ours, err.Error())
			}
		}
	}
	switch {
	case code == http.StatusOK && len(ours) == 0:
		m.entries = *all
		return true
	case code == http.StatusOK:
		m.differs("%s: Consul takes it, and not we: %q\nbeside %s", mustJSON(m.t, written(e)), ours, m.told())
		m.entries = *all
		return true
	case !slices.Contains(ours, consul):
		m.differs("%s: Consul says %d %q, and we %q\nbeside %s", mustJSON(m.t, written(e)), code, consul, ours, m.told())
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.refused++
	m.words[kindOfWords(consul)]++
	return false
}

// kindOfWords is a message without what is quoted.
func kindOfWords(s string) string {
	for i, part := range strings.Split(s, `"`) {
		if i%2 == 1 {
			s = strings.Replace(s, `"`+part+`"`, "", 1)
		}
	}
	if before, _, ok := strings.Cut(s, "["); ok && strings.HasPrefix(s, "detected") {
		return before
	}
	return s
}

// told are the entries that Consul has taken.
func (m *chainSet) told() string {
	var out []string
	for _, s := range m.services {
		n := identity.NewName(s)
		if e := m.entries.Routers[n]; e != nil {
			out = append(out, string(mustJSON(m.t, written(e))))
		}
		if e := m.entries.Splitters[n]; e != nil {
			out = append(out, string(mustJSON(m.t, written(e))))
		}
		if e := m.entries.Resolvers[n]; e != nil {
			out = append(out, string(mustJSON(m.t, written(e))))
		}
		if e := m.entries.Defaults[n]; e != nil {
			out = append(out, string(mustJSON(m.t, written(&chainDefaults{s, *e}))))
		}
	}
	return strings.Join(out, "\n")
}

// compare compares one chain.
func (m *chainSet) compare(service, query string, o chain.Overrides) {
	method, body := "GET", map[string]any(nil)
	if o != (chain.Overrides{}) {
		method, body = "POST", map[string]any{"OverrideProtocol": o.Protocol, "OverrideMeshGateway": map[string]any{"Mode": o.GatewayMode}}
		if o.ConnectTimeout != 0 {
			body["OverrideConnectTimeout"] = o.ConnectTimeout.String()
		}
	}
	code, answer := m.ask(method, "/v1/discovery-chain/"+service+query, body)
	entries := m.entries
	if query != "" {
		entries.Datacenter = "dc7"
	}
	c, _, err := chain.Compile(&entries, identity.NewName(service), o)
	m.mu.Lock()
	m.chains++
	m.mu.Unlock()
	where := fmt.Sprintf("%s %s%s %+v", method, service, query, o)
	if code != http.StatusOK || err != nil {
		if code == http.StatusOK || err == nil || strings.TrimSpace(string(answer)) != err.Error() {
			m.differs("%s: Consul says %d %s, and we %v\nof %s", where, code, answer, err, m.told())
		}
		return
	}
	var consuls struct{ Chain json.RawMessage }
	if err := json.Unmarshal(answer, &consuls); err != nil {
		m.differs("%s: %v", where, err)
		return
	}
	read, err := chain.Read(consuls.Chain)
	if err != nil {
		m.differs("%s: Consul's chain is not read: %v", where, err)
		return
	}
	want := comparedChain(consuls.Chain)
	for what, c := range map[string]*chain.Chain{"compiled": c, "read": read} {
		if diff := cmp.Diff(want, comparedChain(mustJSON(m.t, c)), cmp.Comparer(func(a, b float64) bool { return math.Abs(a-b) < 0.0101 })); diff != "" {
			m.differs("%s, %s: %s\nof %s", where, what, diff, m.told())
		}
	}
}

// comparedChain is a chain without what is not compared: virtual addresses, and how what is overridden is hashed.
func comparedChain(data []byte) map[string]any {
	var v map[string]any
	if err := json.Unmarshal(data, &v); err != nil {
		panic(err) // Consul's JSON was read already, and ours is JSON
	}
	delete(v, "AutoVirtualIPs")
	delete(v, "ManualVirtualIPs")
	if v["CustomizationHash"] != nil {
		v["CustomizationHash"] = "some"
	}
	return v
}

func mustJSON(t *testing.T, v any) []byte {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return data
}
