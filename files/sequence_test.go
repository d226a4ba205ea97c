package files

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/chain"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// editor makes random edits of a directory that is mostly valid: small enough that what it says
// often is about the same thing, and sometimes contradicts itself.
type editor struct {
	*rand.Rand
	// files are what each says: definitions by a key that is mostly in one file alone. A file that
	// is nil is not there.
	files, valid map[string]map[string]string
	mistaken     bool
}

func (e *editor) of(list ...string) string { return list[e.IntN(len(list))] }

// sometimes is text once in n times.
func (e *editor) sometimes(n int, text func() string) string {
	if e.IntN(n) > 0 {
		return ""
	}
	return text()
}

func (e *editor) name() string { return e.of("a", "b", "c", "d", "e") }

func (e *editor) upstreams() string {
	var b strings.Builder
	names := []string{"a", "b", "c", "d", "e", "far"}
	e.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
	for _, name := range names[:e.IntN(4)] {
		bind := fmt.Sprintf("local_bind_port = %d", 9000+e.IntN(200))
		switch e.IntN(8) {
		case 0:
			bind = fmt.Sprintf("local_bind_socket_path = \"/run/%d\"", e.IntN(20))
		case 1:
			bind = fmt.Sprintf("local_bind_port = %d\n local_bind_address = %q", 21000+e.IntN(4), e.of("127.0.0.2", "10.0.0.9", "0.0.0.0", "::"))
		}
		fmt.Fprintf(&b, "upstreams {\n destination_name = %q\n %s\n%s}\n", name, bind,
			e.sometimes(4, func() string {
				return "config { " + e.of("connect_timeout_ms = 7", `protocol = "http"`, `protocol = "tcp"`) + " }\n"
			}))
	}
	return b.String()
}

func (e *editor) config() string {
	return "config { " + e.of(
		`local_request_timeout_ms = 5`, `bind_port = 21001`, `bind_address = "10.0.0.9"`, `envoy_prometheus_bind_addr = "0.0.0.0:21003"`,
		`protocol = "http"`, `intention_enforcement = "ext_authz"`, `revocation = "next-request"`, `revocation = "drain"`, `server_first = true`,
		`sallyport_uid = "root"`, `sallyport_uid = 7`) + " }\n"
}

func (e *editor) registration() string {
	return e.sometimes(3, func() string {
		return fmt.Sprintf("address = %q\n", e.of("10.0.0.1", "10.0.0.2", "db.internal", "localhost"))
	}) +
		e.sometimes(4, func() string { return "weights { passing = " + e.of("1", "2", "200") + " }\n" }) +
		e.sometimes(4, func() string {
			return "check { " + e.of(`status = "critical"`, `status = "warning"`, `http = "http://x" interval = "1s"`) + " }\n"
		})
}

func (e *editor) proxy() string {
	return e.upstreams() + e.sometimes(4, e.config) + e.sometimes(8, func() string {
		return fmt.Sprintf("expose { paths { path = %q listener_port = %d local_path_port = 21002 } }\n", e.of("/x", "/y"), 21000+e.IntN(4))
	})
}

// definition is another version of what key is about.
func (e *editor) definition(key string) string {
	kind, name, _ := strings.Cut(key, " ")
	entry := func(kind, name, text string) string {
		return fmt.Sprintf("Kind = %q\nName = %q\n%s", kind, name, text)
	}
	switch kind {
	case "service":
		return fmt.Sprintf("id = %q\nname = %q\n%s%s%s", name, e.of(name[:1], name[:1], name[:1], e.name()), e.registration(),
			e.of("port = 8080\n", "port = 8081\n", "port = 21000\n", "socket_path = \"/app\"\n", ""),
			e.sometimes(1+e.IntN(2), func() string {
				native := e.sometimes(4, func() string { return "native = true\n" })
				if native != "" && e.IntN(2) > 0 {
					return "connect { " + native + "}\n"
				}
				return "connect {\n" + native + "sidecar_service {\n" + e.sometimes(3, func() string { return fmt.Sprintf("port = %d\n", 21000+e.IntN(100)) }) +
					e.sometimes(2, e.registration) + "proxy {\n" + e.proxy() + "}\n} }\n"
			}))
	case "proxy":
		return fmt.Sprintf("kind = \"connect-proxy\"\nname = %q\nport = %d\n%sproxy {\n%s%s}\n", name, 20000+e.IntN(100), e.registration(),
			e.of("destination_service_name = \"a\"\n", "destination_service_name = \"b\"\n", "destination_service_name = \"a\"\ndestination_service_id = \"a1\"\n"),
			e.of("local_service_port = 7000\n", "")+e.proxy())
	case "intentions":
		var sources strings.Builder
		for _, n := range []string{"a", "b", "*"}[e.IntN(3):] {
			fmt.Fprintf(&sources, "Sources { Name = %q Action = %q }\n", n, e.of("allow", "deny"))
		}
		return entry("service-intentions", name, sources.String())
	case "defaults":
		return entry("service-defaults", name, e.of("", "Protocol = \"http\"\n", "Protocol = \"tcp\"\n", "MaxInboundConnections = 5\n")+
			e.sometimes(3, func() string {
				return "UpstreamConfig { Defaults { ConnectTimeoutMs = 5 } Overrides { Name = \"a\" " + e.of("Protocol = \"http\"", "ConnectTimeoutMs = 9") + " } }\n"
			}))
	case "service-router":
		return entry(kind, name, e.sometimes(2, func() string {
			return fmt.Sprintf("Routes { Match { HTTP { PathPrefix = \"/%d\" } } Destination { Service = %q } }\n", e.IntN(3), e.name())
		})+e.sometimes(4, func() string { return "Routes { Destination { ServiceSubset = \"v1\" } }\n" }))
	case "service-splitter":
		return entry(kind, name, fmt.Sprintf("Splits = [{ Weight = 50.5 }, { Weight = 49.5 Service = %q %s }]\n", e.name(), e.of("", "", `ServiceSubset = "v1"`)))
	case "service-resolver":
		return entry(kind, name, e.of(
			"", fmt.Sprintf("Redirect { Service = %q }\n", e.name()), fmt.Sprintf("Failover { \"*\" { Service = %q } }\n", e.name()),
			"Subsets { v1 {} v2 { OnlyPassing = true } }\nDefaultSubset = \"v2\"\n", "Subsets { v1 { OnlyPassing = true } }\nFailover { v1 { Targets = [{ Service = \"e\" }] } }\n",
			fmt.Sprintf("ConnectTimeout = \"%ds\"\n", e.IntN(3))))
	case "mesh":
		return "Kind = \"mesh\"\nTLS { Incoming { TLSMinVersion = \"" + e.of("TLSv1_2", "TLSv1_3") + "\" } }\n"
	}
	return entry("proxy-defaults", "global", e.of("", e.config()))
}

// edit changes one thing, or goes back to what was valid last.
func (e *editor) edit() {
	if e.mistaken && e.IntN(5) > 0 {
		e.files, e.mistaken = copied(e.valid), false
		return
	}
	keys := []string{"proxy p", "proxy q", "mesh", "proxy-defaults"}
	for _, n := range []string{"a", "b", "c", "d", "e", "*"} {
		if n != "*" {
			keys = append(keys, "service "+n+"1", "service "+n+"2", "defaults "+n)
		}
		if n == "a" || n == "b" {
			keys = append(keys, "service-router "+n, "service-splitter "+n, "service-resolver "+n)
		}
		keys = append(keys, "intentions "+n)
	}
	names := slices.Sorted(maps.Keys(e.files))
	file, key := names[e.IntN(len(names))], keys[e.IntN(len(keys))]
	if e.IntN(20) > 0 { // else it may be said twice
		for _, name := range names {
			if _, ok := e.files[name][key]; ok {
				file = name
			}
		}
	}
	said := e.files[file]
	if said == nil {
		said = map[string]string{}
		e.files[file] = said
	}
	_, broken := said["broken"]
	switch n := e.IntN(40); {
	case broken:
		delete(said, "broken")
	case n == 0:
		said["broken"] = e.of("}", "service { nam = 1 }\n", "services { name = \""+strings.Repeat("x", 250)+"\" }\n")
	case n == 1:
		e.files[file] = nil
	case n < 10:
		delete(said, key)
	default:
		said[key] = e.definition(key)
	}
}

// judged keeps what is valid.
func (e *editor) judged(valid bool) {
	if e.mistaken = !valid; valid {
		e.valid = copied(e.files)
	}
}

func copied(files map[string]map[string]string) map[string]map[string]string {
	out := map[string]map[string]string{}
	for file, said := range files {
		out[file] = maps.Clone(said)
	}
	return out
}

func (e *editor) text(file string) string {
	text, entries := "# written by a test\n", ""
	for _, key := range slices.Sorted(maps.Keys(e.files[file])) {
		said := e.files[file][key]
		switch kind, _, _ := strings.Cut(key, " "); kind {
		case "broken":
			text += said
		case "service", "proxy":
			text += "services {\n" + said + "}\n"
		default:
			entries += "bootstrap {\n" + said + "}\n"
		}
	}
	return text + "config_entries {\n" + entries + "}\n"
}

// sameIff demands that what both lists have is the same pointer if, and only if, it is equal. It
// returns how many are.
func sameIff[T any](t *testing.T, old, list []*T, key func(*T) string) (same int) {
	t.Helper()
	before := map[string]*T{}
	for _, o := range old {
		before[key(o)] = o
	}
	for _, n := range list {
		o := before[key(n)]
		if o == n {
			same++
		}
		if (o == n) != reflect.DeepEqual(o, n) {
			t.Errorf("%s: the same pointer: %t, equal: %t", key(n), o == n, o != n)
		}
	}
	return same
}

func compareOutcomes(want, got outcome) string {
	return cmp.Diff(want, got, cmp.AllowUnexported(outcome{}), cmp.Comparer(func(a, b spiffeid.TrustDomain) bool { return a == b }),
		cmp.FilterPath(func(p cmp.Path) bool {
			return len(want.problems) > 0 && slices.Contains([]string{".contents", ".ports", ".newPorts"}, p.Last().String())
		}, cmp.Ignore()), cmpopts.EquateEmpty())
}

// TestSequence demands that what is kept of earlier readings changes nothing in the outcome of any
// sequence of edits: neither contents, ports, problems nor warnings. What did not change is
// published as the same pointer, also after a mistake.
func TestSequence(t *testing.T) {
	t.Parallel()
	for seed := range uint64(3) {
		t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) {
			t.Parallel()
			config := cacheConfig(t)
			e := &editor{Rand: rand.New(rand.NewPCG(seed, 0)), files: map[string]map[string]string{}}
			for i := range 5 {
				e.files[fmt.Sprintf("%d.hcl", i)] = map[string]string{}
			}
			e.judged(true)
			put(t, config, "always.hcl", "# nothing")
			c, a := newCache(config), &assembler{config: config}
			var valid, followed, same, chained int
			for step := range 200 {
				e.edit()
				for file, said := range e.files {
					if said != nil {
						put(t, config, file, e.text(file))
					} else {
						_ = os.Remove(filepath.Join(config.Dir, file))
					}
				}
				files, err := scan(config.Dir)
				if err != nil {
					t.Fatal(err)
				}
				old, ports := a.contents, maps.Clone(a.ports)
				before, proxyDefaults := a.assembly, (*proxyDefaults)(nil)
				if before != nil {
					proxyDefaults = before.proxyDefaults
				}
				got := a.assemble(c.read(files))
				want := (&assembler{config: config, ports: ports}).assemble(newCache(config).read(files))
				if diff := compareOutcomes(want, got); diff != "" {
					t.Fatalf("step %d: what was kept changes the outcome (-without +with):\n%s", step, diff)
				}
				if e.judged(len(got.problems) == 0); e.mistaken {
					continue
				}
				if valid++; a.assembly == before {
					followed++
				} else if before != nil && a.assembly.proxyDefaults.equal(proxyDefaults) {
					t.Fatalf("step %d: all is assembled again", step)
				}
				if got.newPorts != !maps.Equal(ports, a.ports) || !maps.Equal(a.ports, got.ports) {
					t.Fatalf("step %d: ports %v became %v, new: %t", step, ports, got.ports, got.newPorts)
				}
				same += sameIff(t, old.Services, got.contents.Services, func(s *catalog.Service) string { return s.Name.Service })
				same += sameIff(t, old.Endpoints, got.contents.Endpoints, func(e *catalog.Endpoints) string { return e.Name.Service + " " + e.Subset })
				same += sameIff(t, old.Chains, got.contents.Chains, func(c *chain.Chain) string { return c.Service.Service })
				chained += len(got.contents.Chains)
				same += sameIff(t, old.Proxies, got.contents.Proxies, func(p *catalog.Proxy) string { return string(p.ID) })
				same += sameIff(t, old.Intentions, got.contents.Intentions, func(d *catalog.Destination) string { return d.Name.Service })
			}
			t.Logf("%d valid, %d followed, %d the same, %d chains", valid, followed, same, chained)
			if valid < 100 || chained < 40 || followed < valid/2 || same < valid {
				t.Errorf("of 200 directories %d valid, %d of them incremental, %d pointers the same: the test tests too little", valid, followed, same)
			}
		})
	}
}
