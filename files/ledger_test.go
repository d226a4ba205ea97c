package files

import (
	"fmt"
	"hash/maphash"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/intention"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// teams is a directory of a few files, and what people do with them. It is kept in memory.
type teams struct {
	*rand.Rand
	config Config
	texts  map[string]string // by the file's name
	read   map[string]*file  // likewise
	seed   maphash.Seed
}

func newTeams(t *testing.T, r *rand.Rand) *teams {
	t.Helper()
	config := cacheConfig(t)
	if r.IntN(2) == 0 {
		config.Default = intention.Allow
	}
	return &teams{Rand: r, config: config, texts: map[string]string{}, read: map[string]*file{}, seed: maphash.MakeSeed()}
}

func (e *teams) of(list ...string) string { return list[e.IntN(len(list))] }

var (
	sourceNames      = []string{"a", "b", "c", "unheard-of"}
	destinationNames = []string{"db", "DB", "api", "web", "unheard-of"}
)

// intentions is an entry about a destination.
func (e *teams) intentions(destination string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "bootstrap { Kind = \"service-intentions\" Name = %q\n", destination)
	names := []string{"a", "b", "c", "*"}
	e.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
	for _, name := range names[:1+e.IntN(3)] {
		fmt.Fprintf(&b, "Sources { Name = %q Action = %q }\n", name, e.of("allow", "deny"))
	}
	return b.String() + "}\n"
}

func (e *teams) service(id string) string {
	dials := ""
	if id == "c1" {
		dials = "proxy { upstreams { destination_name = \"a\" local_bind_port = 9000 } }"
	}
	return fmt.Sprintf("services { id = %q name = %q port = %d connect { sidecar_service { port = %s %s } } }\n",
		id, id[:1], 8000+e.IntN(3), e.of(strconv.Itoa(21000+int(id[0])*2+int(id[1]-'0')), strconv.Itoa(21000+int(id[0])*2+int(id[1]-'0')), "21999"), dials)
}

// routing is an entry that chains are made of.
func (e *teams) routing() string {
	return "bootstrap { " + e.of(
		"Kind = \"service-resolver\" Name = \"a\" Redirect { Service = \"b\" }", "Kind = \"service-resolver\" Name = \"A\" ConnectTimeout = \"1s\" Subsets { v1 {} }",
		"Kind = \"service-resolver\" Name = \"b\" DefaultSubset = \"v1\" Subsets { v1 { OnlyPassing = true } }", "Kind = \"service-resolver\" Name = \"b\" Failover { \"*\" { Service = \"a\" } }",
		"Kind = \"service-splitter\" Name = \"a\" Splits = [{ Weight = 99.5 }, { Weight = 0.5 ServiceSubset = \"v1\" }]", "Kind = \"service-router\" Name = \"a\"") + " }\n"
}

func (e *teams) text() string {
	var services, entries strings.Builder
	for range e.IntN(3) {
		services.WriteString(e.service(e.of("a1", "a2", "b1", "c1")))
	}
	for range e.IntN(3) {
		entries.WriteString(e.intentions(e.of("db", "db", "DB", "api", "web", "*", "*")))
	}
	if e.IntN(2) == 0 {
		entries.WriteString(e.routing())
	}
	for e.IntN(6) == 0 {
		entries.WriteString(e.of("bootstrap { Kind = \"mesh\" }\n",
			fmt.Sprintf("bootstrap { Kind = \"service-defaults\" Name = %q Protocol = %q }\n", e.of("a", "b"), e.of("http", "tcp"))))
	}
	return "# a file\n" + services.String() + "config_entries {\n" + entries.String() + "}\n"
}

// broken is a text in which something is wrong, or nothing at all: it is being written.
func (e *teams) broken(text string) string {
	switch e.IntN(4) {
	case 0:
		return ""
	case 1:
		return text[:e.IntN(len(text)+1)] // may be whole, or a smaller file without a mistake
	}
	return text + e.of("}", "service {", "nonsense = 1", "services {}\n") + strings.Repeat("\n", e.IntN(3))
}

// happens is one thing that happens to the directory.
func (e *teams) happens() string {
	names := slices.Sorted(maps.Keys(e.texts))
	file, other := "1.hcl", strconv.Itoa(1+e.IntN(5))+".hcl"
	if len(names) > 0 {
		file = names[e.IntN(len(names))]
	}
	text, there := e.texts[file]
	switch n := e.IntN(16); {
	case n < 4:
		e.texts[other] = e.text()
		return "write " + other
	case !there:
		return "nothing"
	case n < 7:
		e.texts[file] = e.broken(text)
		return "break " + file
	case n < 9:
		delete(e.texts, file)
		e.texts[other] = text
		return "move " + file + " to " + other
	case n < 10:
		e.texts[other] = text
		return "copy " + file + " to " + other
	case n < 11:
		e.texts[other] = e.broken(text)
		return "copy a part of " + file + " to " + other
	case n < 12:
		delete(e.texts, file)
		return "remove " + file
	case n < 13:
		for _, name := range names {
			e.texts[name] = e.text()
		}
		return "switch the directory"
	case n < 14:
		lines := strings.SplitAfter(text, "\n")
		e.Shuffle(len(lines), func(i, j int) { lines[i], lines[j] = lines[j], lines[i] })
		e.texts[file] = strings.Join(lines, "") // mostly nonsense
		return "shuffle " + file
	}
	for _, name := range names {
		e.texts[name] = e.text()
		if e.IntN(2) == 0 {
			delete(e.texts, name)
		}
	}
	return "mend all"
}

// files are what the directory holds, with the pointers of before where nothing changed.
func (e *teams) files() (files []*file) {
	read := map[string]*file{}
	for _, name := range slices.Sorted(maps.Keys(e.texts)) {
		f := e.read[name]
		if f == nil || string(f.src) != e.texts[name] {
			var before *file
			if f != nil && len(f.problems) == 0 {
				before = f
			}
			f = decode(&e.config, e.seed, name, []byte(e.texts[name]), before)
		}
		read[name] = f
		files = append(files, f)
	}
	e.read = read
	return files
}

// finds is what an entry says of a source; ok is false if it says nothing.
func finds(d *catalog.Destination, source string) (action intention.Action, ok bool) {
	for _, name := range []string{source, identity.Wildcard} {
		for _, i := range d.Intentions {
			if i.Source.Service == name {
				return i.Action, true
			}
		}
	}
	return intention.Deny, false
}

// allows is what entries allow, of which there may be several of one destination: by the words of the record.
func allows(entries []*catalog.Destination, def intention.Action, source, destination string) bool {
	rest := def == intention.Allow
	for n, all := 0, true; n < len(entries); n++ {
		if d := entries[n]; d.Name.IsWildcard() {
			action, ok := finds(d, source)
			all = all && (ok && action == intention.Allow || !ok && def == intention.Allow)
			rest = all
		}
	}
	any, all := false, true
	for _, d := range entries {
		if strings.EqualFold(d.Name.Service, destination) {
			action, ok := finds(d, source)
			any, all = true, all && (ok && action == intention.Allow || !ok && rest)
		}
	}
	return any && all || !any && rest
}

// inForce is who may reach whom by a mesh's intentions.
func (e *teams) inForce(list []*catalog.Destination) map[string]bool {
	v := (&catalog.View{}).Next(catalog.Contents{Mesh: catalog.Mesh{TrustDomain: e.config.TrustDomain, Datacenter: "dc1", Datacenters: []string{"dc1"}, Default: e.config.Default}, Intentions: list})
	scope := intention.Scope{TrustDomain: e.config.TrustDomain, Datacenters: []string{"dc1"}, Default: e.config.Default}
	var general []intention.Intention
	for _, d := range list {
		if d.Name.IsWildcard() {
			general = d.Intentions
		}
	}
	may := map[string]bool{}
	for _, d := range destinationNames {
		p := v.Policy(identity.NewName(d))
		if p == nil { // the same as of a service that no intention names
			p = intention.Share(identity.NewName(d), general, scope).Policy(identity.NewName(d), nil)
		}
		for _, s := range sourceNames {
			may[s+" => "+d] = p.Decide(identity.Service{TrustDomain: e.config.TrustDomain, Datacenter: "dc1", Name: identity.NewName(s)}).Allowed()
		}
	}
	return may
}

func ids(c catalog.Contents) map[string]string {
	all := map[string]string{}
	for _, p := range c.Proxies {
		all[string(p.ID)], _, _ = strings.Cut(p.Origin, ":")
	}
	return all
}

// TestLedger demands of everything that people do with files, one of which may be broken at any time: of what is read a
// deny counts at once; somebody is let in only if what is read says so and either all of it is known, or he was let in
// before, or the destination's own entries name him; no proxy leaves by a move, or to whom nobody gave its ID; and when all
// is mended, it is as read for the first time.
func TestLedger(t *testing.T) {
	t.Parallel()
	for seed := range uint64(20) {
		t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) {
			t.Parallel()
			e := newTeams(t, rand.New(rand.NewPCG(seed, 7)))
			e.texts["1.hcl"], e.texts["2.hcl"] = e.text(), "# nothing\n"
			l := newLedger(e.config, nil)
			saw := map[string]int{}
			for step := range 250 {
				what := e.happens()
				e.texts["0.hcl"] = "# a directory is never empty\n"
				files := e.files()
				before, started := l.outcome(outcome{}).contents, l.started
				var told []outcome
				l.take(files, time.Unix(int64(step), 0), func(o outcome) { told, l.published = append(told, o), l.intentions })
				o := told[len(told)-1]
				if !started && !l.started {
					continue
				}
				e.judge(t, fmt.Sprintf("step %d, %s", step, what), l, files, before, started, told, saw)
				if t.Failed() {
					for name, text := range e.texts {
						t.Logf("%s:\n%s", name, text)
					}
					t.Logf("problems %v", o.problems)
					return
				}
				if e.IntN(5) == 0 {
					l = e.restart(t, l)
					saw["restart"]++
				}
			}
			t.Log(saw)
			for _, what := range []string{"not taken", "held", "all taken", "all stays", "moved", "early", "restart", "chain"} {
				if saw[what] == 0 {
					t.Errorf("no state was %q: the test tests too little", what)
				}
			}
		})
	}
}

// restart is what becomes of l by way of the disk, which must be the same.
func (e *teams) restart(t *testing.T, l *ledger) *ledger {
	t.Helper()
	path := filepath.Join(t.TempDir(), "record")
	if err := l.record().write(path, e.config.Dir); err != nil {
		t.Fatal(err)
	}
	n := newLedger(e.config, l.assembler.ports)
	c := &cache{config: e.config, seed: e.seed}
	r, err := c.readRecord(path)
	if err == nil {
		err = n.restore(r)
	}
	if err != nil {
		t.Fatalf("the record is not read: %v", err)
	}
	n.published = n.intentions
	if diff := cmp.Diff(l.outcome(outcome{}).contents, n.outcome(outcome{}).contents, cmpopts.EquateEmpty(), sameDomain); diff != "" {
		t.Fatalf("a restart changed what is in force (-before +after):\n%s", diff)
	}
	if diff := cmp.Diff(l.whole.losers, n.whole.losers, cmpopts.EquateEmpty(), cmp.AllowUnexported(title{})); diff != "" && !l.clean {
		t.Fatalf("a restart changed who claimed something in vain (-before +after):\n%s", diff)
	}
	e.read = map[string]*file{}
	for _, s := range n.states {
		name, was := s.name, l.state(s.name)
		if s.taken.sum != was.taken.sum || !s.at.Equal(was.at) || (s.refused == nil) != (was.refused == nil) || s.refused != nil && s.refused.sum != was.refused.sum {
			t.Fatalf("%s is %+v after a restart, and was %+v", name, s, was)
		}
		if s.taken.name == name {
			e.read[name] = s.taken
		}
	}
	return n
}

// state is that of a file.
func (l *ledger) state(name string) *state {
	for _, s := range l.states {
		if s.name == name {
			return s
		}
	}
	return nil
}

var sameDomain = cmp.Comparer(func(a, b spiffeid.TrustDomain) bool { return a == b })

func (e *teams) judge(t *testing.T, what string, l *ledger, files []*file, before catalog.Contents, started bool, told []outcome, saw map[string]int) {
	t.Helper()
	o := told[len(told)-1]
	if len(told) > 1 {
		saw["early"]++
		if diff := cmp.Diff(e.inForce(told[0].contents.Intentions), e.inForce(o.contents.Intentions)); diff != "" {
			t.Errorf("%s: the first contents differ in what they allow from the last:\n%s", what, diff)
		}
	}
	var readable, all []*catalog.Destination
	known := true
	for _, f := range files {
		said := f
		if len(f.problems) > 0 {
			known = false
			said = l.state(f.name).taken
		}
		if said == nil {
			continue
		}
		for _, d := range said.definitions {
			if d.destination.Destination != nil {
				all = append(all, d.destination.Destination)
				if said == f {
					readable = append(readable, d.destination.Destination)
				}
			}
		}
	}
	was, is := e.inForce(before.Intentions), e.inForce(o.contents.Intentions)
	for _, d := range destinationNames {
		var own, every []*catalog.Destination
		for _, r := range readable {
			if strings.EqualFold(r.Name.Service, d) {
				own = append(own, r)
			}
		}
		for _, r := range all {
			if strings.EqualFold(r.Name.Service, d) {
				every = append(every, r)
			}
		}
		for _, s := range sourceNames {
			named := len(own) > 0 && len(own) == len(every)
			for _, r := range own {
				action, ok := finds(r, s)
				named = named && ok
				if ok && action == intention.Deny && is[s+" => "+d] {
					t.Errorf("%s: %s => %s though %s:%d says deny", what, s, d, d, len(own))
				}
			}
			want := allows(all, e.config.Default, s, d)
			if want && !known && !named && started && !was[s+" => "+d] {
				want = false
				saw["held"]++
			}
			if is[s+" => "+d] != want {
				t.Errorf("%s: %s => %s: %t, want %t (all known: %t, named: %t, before: %t)", what, s, d, is[s+" => "+d], want, known, named, was[s+" => "+d])
			}
		}
	}
	if !known {
		saw["not taken"]++
	}
	claimed := map[string]int{}
	for _, f := range files {
		if s := l.state(f.name); s.taken != nil {
			for _, d := range s.taken.definitions {
				for _, r := range d.registrations {
					id, _ := r.id()
					claimed[id]++
				}
			}
		}
	}
	proxies, left := ids(o.contents), ids(before)
	for id, file := range proxies {
		if claimed[id] > 1 && started && left[id] == "" {
			t.Errorf("%s: the proxy %s of %s is in force, and is a newcomer that two files have", what, id, file)
		}
		delete(left, id)
	}
	for id := range left {
		if !known || claimed[id] > 0 {
			t.Errorf("%s: the proxy %s left", what, id)
		}
	}
	if len(o.contents.Chains) > 0 {
		saw["chain"]++
	}
	switch {
	case len(o.problems) == 0:
		saw["all taken"]++
		want := (&assembler{config: e.config, ports: l.assembler.ports}).assemble(files)
		if diff := cmp.Diff(want.contents, o.contents, cmpopts.EquateEmpty(), sameDomain); diff != "" {
			t.Errorf("%s: all is taken, and it is not as read for the first time (-want +got):\n%s", what, diff)
		}
	case slices.Equal(before.Proxies, o.contents.Proxies):
		saw["all stays"]++
	default:
		saw["moved"]++
	}
}
