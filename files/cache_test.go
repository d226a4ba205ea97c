package files

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

func cacheConfig(t testing.TB) Config {
	t.Helper()
	config, err := Config{Dir: t.TempDir(), TrustDomain: spiffeid.RequireTrustDomainFromString("mesh.test")}.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	return config
}

func put(t testing.TB, config Config, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(config.Dir, name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// readAgain reads the directory as Run does.
func readAgain(t testing.TB, config Config, ports map[string]uint16, before cache) reading {
	t.Helper()
	files, err := scan(config.Dir)
	if err != nil {
		t.Fatal(err)
	}
	return read(config, files, ports, before)
}

// TestRemembered demands that what was remembered of files changes nothing in what comes out: not in what is published, nor in the
// mistakes that are found, nor in the ports that are chosen.
func TestRemembered(t *testing.T) {
	config := cacheConfig(t)
	texts := []string{
		`service { name = "web" port = 8080 connect { sidecar_service {} } }`,
		`service { name = "web" port = 9090 connect { sidecar_service { proxy { upstreams = [{ destination_name = "db" local_bind_port = 9191 config { connect_timeout_ms = 7 } }] } } } }`,
		`service { name = "db" port = 5432 connect { sidecar_service { port = 21000 } } }`,
		`service { name = "db" port = 5433 connect { sidecar_service { proxy { config { sallyport_uid = "root" } } } } }`,
		`service { name = "web-sidecar-proxy" port = 1 }`, // an ID that another file's sidecar has
		`service { kind = "connect-proxy" name = "p" port = 20000 proxy { destination_service_name = "web" } }`,
		`Kind = "service-intentions" Name = "db" Sources = [{ Name = "web" Action = "allow" }]`,
		`Kind = "service-intentions" Name = "db" Sources = [{ Name = "*" Action = "deny" }]`,
		`Kind = "service-defaults" Name = "web" Protocol = "http" UpstreamConfig { Defaults { ConnectTimeoutMs = 5 } }`,
		`Kind = "proxy-defaults" Name = "global" Config { protocol = "http" }`,
		`Kind = "mesh" TLS { Incoming { TLSMinVersion = "TLSv1_2" } }`,
		`service { name = "web" prot = 8080 }`,
		`service {`,
	}
	r := rand.New(rand.NewPCG(1, 2))
	before, remembered, clean := cache{}, 0, 0
	var ports map[string]uint16
	put(t, config, "always.hcl", "# nothing")
	for range 600 {
		name := fmt.Sprintf("f%d.hcl", r.IntN(6))
		if text := texts[r.IntN(len(texts))]; r.IntN(5) > 1 {
			put(t, config, name, text)
		} else {
			_ = os.Remove(filepath.Join(config.Dir, name))
		}
		remembered += len(before)
		got, want := readAgain(t, config, ports, before), readAgain(t, config, ports, nil)
		if diff := cmp.Diff(want, got, cmp.AllowUnexported(reading{}), cmp.Comparer(func(a, b spiffeid.TrustDomain) bool { return a == b }),
			cmp.FilterPath(func(p cmp.Path) bool { return p.Last().String() == ".contents" && len(want.problems) > 0 }, cmp.Ignore()),
			cmp.FilterPath(func(p cmp.Path) bool { return p.Last().String() == ".ports" && len(want.problems) > 0 }, cmp.Ignore()),
			cmpopts.EquateEmpty()); diff != "" {
			t.Fatalf("read with what was remembered differs (-without +with):\n%s", diff)
		}
		if len(want.problems) == 0 {
			ports = want.ports
			clean++
		}
	}
	if remembered == 0 || clean < 50 {
		t.Errorf("%d files remembered, %d directories without a mistake: the test tests nothing", remembered, clean)
	}
}

// TestNotRemembered demands that a file is read again if what it says depends on more than itself.
func TestNotRemembered(t *testing.T) {
	config := cacheConfig(t)
	before := cache{}
	for name, text := range map[string]string{
		"user.hcl":    `service { name = "a" port = 1 connect { sidecar_service { proxy { config { sallyport_uid = "root" } } } } }`,
		"mistake.hcl": `service { name = "b" prot = 1 }`,
		"good.hcl":    `service { name = "c" port = 3 }`,
		"gone.hcl":    `service { name = "d" port = 4 }`,
	} {
		put(t, config, name, text)
	}
	readAgain(t, config, nil, before)
	if err := os.Remove(filepath.Join(config.Dir, "gone.hcl")); err != nil {
		t.Fatal(err)
	}
	readAgain(t, config, nil, before)
	if len(before) != 1 || before["good.hcl"].said == nil {
		t.Errorf("remembered are %v, want good.hcl alone", before)
	}
}

// BenchmarkRead reads a directory of which one file has changed.
func BenchmarkRead(b *testing.B) {
	for _, n := range []int{1000, 10_000} {
		b.Run(fmt.Sprintf("services=%d", n), func(b *testing.B) {
			config := cacheConfig(b)
			service := func(i int) string { return fmt.Sprintf("web-%d", i%n) }
			var text strings.Builder
			for i := range n {
				fmt.Fprintf(&text, `services { name = %q address = "10.%d.%d.%d" port = 8080 connect { sidecar_service { port = 20000 proxy { `, service(i), i>>16, i>>8&255, i&255)
				for u := range 10 {
					fmt.Fprintf(&text, "upstreams { destination_name = %q local_bind_port = %d } ", service(i+u+1), 9000+u)
				}
				text.WriteString("} } } }\n")
				if i%100 == 99 {
					put(b, config, fmt.Sprintf("services-%d.hcl", i), text.String())
					text.Reset()
				}
			}
			text.WriteString("config_entries {")
			for i := range n {
				fmt.Fprintf(&text, "bootstrap { Kind = \"service-intentions\" Name = %q Sources = [{ Name = %q Action = \"allow\" }] }\n", service(i), service(i+1))
			}
			put(b, config, "intentions.hcl", text.String()+"}")
			before := cache{}
			readAgain(b, config, nil, before)
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				put(b, config, "one.hcl", fmt.Sprintf(`service { name = "one" port = %d }`, 1+i%60_000))
				r := readAgain(b, config, nil, before)
				if len(r.problems) > 0 {
					b.Fatal(r.problems)
				}
			}
		})
	}
}
