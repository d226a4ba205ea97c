//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/sallyport/sallyport/internal/meshtest"
)

// differencesPage is the guide whose table the test holds to what was seen.
const differencesPage = "../docs/guides/from-consul-connect-envoy.md"

// difference is a row of the table: what is looked at, and how.
type difference struct {
	what string
	see  func(s *side) string
	// alone is a row that would disturb others: one side after the other.
	alone bool
	// noSwitch says that nothing makes sallyport's sidecar do as Consul's does.
	noSwitch bool
}

// measure is what is seen under each side.
func (d difference) measure(sides []*side) (got [3]string) {
	var all sync.WaitGroup
	for i, s := range sides {
		if d.alone {
			got[i] = d.see(s)
		} else {
			all.Go(func() { got[i] = d.see(s) })
		}
	}
	all.Wait()
	return got
}

// compare is what is wrong with the table, by what was seen; ok: it has a row of this.
func (d difference) compare(row documented, ok, alike bool, got [3]string) (wrong []string) {
	switch {
	case alike && (got[0] != got[1] || got[0] == ""):
		return []string{fmt.Sprintf("%q under Consul's sidecar and %q under sallyport's, want the same", got[0], got[1])}
	case alike:
		return nil
	case !ok:
		return []string{fmt.Sprintf("%s does not say it: under Consul's sidecar it is %q, under sallyport's %q", differencesPage, got[0], got[1])}
	}
	if diff := cmp.Diff([]string{row.consul, row.sallyport}, got[:2]); diff != "" {
		wrong = append(wrong, "what the table says, and what was seen (-says +seen):\n"+diff)
	}
	if strings.HasPrefix(row.switches, "none") != d.noSwitch {
		wrong = append(wrong, fmt.Sprintf("the switch is said to be %q", row.switches))
	}
	if !d.noSwitch && got[2] != got[0] {
		wrong = append(wrong, fmt.Sprintf("with the switch %q, and under Consul's sidecar %q", got[2], got[0]))
	}
	return wrong
}

// TestConsulDifferences asks the same of sidecars of Consul's own control plane, of sallyport's, and of sallyport's with the switches of the table set, and holds
// the table to what it sees: what the second column says of the first, the third of the second, and that with the fourth the third do as the first.
func TestConsulDifferences(t *testing.T) {
	t.Parallel()
	rows, alike := readDifferences(t)
	sides := startSides(t)
	seen := map[string][3]string{}
	var names []string
	for _, d := range differences {
		names = append(names, d.what)
		var wrong []string
		starved := ""
		// 1,100 requests do not come at a time where nobody comes to anything.
		for range 3 {
			began := time.Now()
			got := d.measure(sides)
			seen[d.what] = got
			figure(t, "what=%q consul=%q sallyport=%q switched=%q", d.what, got[0], got[1], got[2])
			row, ok := rows[d.what]
			wrong = d.compare(row, ok, slices.Contains(alike, d.what), got)
			if starved = meshtest.Starved(began); len(wrong) == 0 || starved == "" {
				break
			}
		}
		for _, w := range wrong {
			t.Errorf("%s%s: %s", starved, d.what, w)
		}
	}
	for what := range rows {
		if !slices.Contains(names, what) {
			t.Errorf("%s says %q, which nothing looks at", differencesPage, what)
		}
	}
	for _, what := range alike {
		if !slices.Contains(names, what) {
			t.Errorf("%s calls %q alike, which nothing looks at", differencesPage, what)
		}
	}
}

// documented is a row as the page has it, without its marks.
type documented struct{ consul, sallyport, switches string }

// readDifferences reads the table, by what a row is about, and the list of what is alike.
func readDifferences(t *testing.T) (rows map[string]documented, alike []string) {
	t.Helper()
	page, err := os.ReadFile(differencesPage)
	if err != nil {
		t.Fatal(err)
	}
	_, section, ok := strings.Cut(string(page), "\n### What applications see")
	if !ok {
		t.Fatalf("%s has no section about what applications see", differencesPage)
	}
	section, _, _ = strings.Cut(section, "\n## ")
	rows = map[string]documented{}
	plain := strings.NewReplacer("`", "")
	for line := range strings.Lines(section) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), " | ")
		for i := range cells {
			cells[i] = strings.TrimSpace(plain.Replace(cells[i]))
		}
		if strings.HasPrefix(line, "| ") && len(cells) == 4 && cells[0] != "" {
			rows[cells[0]] = documented{cells[1], cells[2], cells[3]}
		}
	}
	list := regexp.MustCompile(`(?s)\nAlike[^:]*: (.*?)\.\n`).FindStringSubmatch(section)
	if len(rows) < 10 || list == nil {
		t.Fatalf("%s: %d rows, and what is alike: %q", differencesPage, len(rows), list)
	}
	for what := range strings.SplitSeq(plain.Replace(strings.ReplaceAll(list[1], "\n", " ")), "; ") {
		alike = append(alike, strings.TrimSpace(what))
	}
	return rows, alike
}

// differences are in the order in which they are looked at: the last ones leave something behind.
var differences = []difference{
	{what: "Host, with its port", see: func(s *side) string { return s.line("host", "GET / HTTP/1.1", "host: shop:8443") }},
	{what: "the path", see: func(s *side) string {
		return s.line("", `GET /a//b/./c/../d%2Fe%5Cf\g;h?i=//.. HTTP/1.1`, "host: shop")
	}},
	{what: "names of headers with _", see: func(s *side) string {
		return s.line("x_tenant_id", "GET / HTTP/1.1", "host: shop", "x_tenant_id: 7", "x-tenant-id: 8")
	}},
	{what: "x-forwarded-proto that an edge has written", see: func(s *side) string {
		return s.line("x-forwarded-proto", "GET / HTTP/1.1", "host: shop", "x-forwarded-proto: https")
	}},
	{what: "x-forwarded-proto that nobody has written", see: func(s *side) string { return s.line("x-forwarded-proto", "GET / HTTP/1.1", "host: shop") }},
	{what: "x-forwarded-for", see: func(s *side) string {
		return s.line("x-forwarded-for", "GET / HTTP/1.1", "host: shop", "x-forwarded-for: 203.0.113.7, 10.0.0.1")
	}},
	{what: "x-request-id", see: func(s *side) string { return s.line("x-request-id", "GET / HTTP/1.1", "host: shop", "x-request-id: 1") }},
	{what: "Origin and Host of a WebSocket", see: func(s *side) string {
		return s.status("GET /socket HTTP/1.1", "host: shop:8443", "origin: http://shop:8443", "upgrade: websocket", "connection: upgrade", "sec-websocket-version: 13", "sec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==")
	}},
	{what: "x-forwarded-client-cert", noSwitch: true, see: func(s *side) string {
		var keys []string
		for part := range strings.SplitSeq(s.line("x-forwarded-client-cert", "GET / HTTP/1.1", "host: shop"), ";") {
			key, _, _ := strings.Cut(part, "=")
			keys = append(keys, key)
		}
		return strings.Join(keys, ", ")
	}},
	{what: "x-envoy-original-path that an application sends", noSwitch: true, see: func(s *side) string {
		return present("passed on", s.line("x-envoy-original-path", "GET / HTTP/1.1", "host: shop", "x-envoy-original-path: /x"))
	}},
	{what: "x-envoy-expected-rq-timeout-ms", noSwitch: true, see: func(s *side) string {
		return present("added", s.line("x-envoy-expected-rq-timeout-ms", "GET / HTTP/1.1", "host: shop"))
	}},
	{what: "x-envoy-upstream-service-time in answers", noSwitch: true, see: func(s *side) string {
		return present("added", s.get("GET / HTTP/1.1", "host: shop").header.Get("x-envoy-upstream-service-time"))
	}},
	{what: "a request in HTTP/1.0", see: func(s *side) string { return s.status("GET / HTTP/1.0", "host: shop") }},
	{what: "an upstream whose config says http2, of a service that says http", see: (*side).http2},
	{what: "a gRPC request in HTTP/1.1", noSwitch: true, see: (*side).bridged},
	{what: "service-defaults without a Protocol, under proxy-defaults that say http", see: (*side).bare},
	{what: "a request that takes 16 s", see: func(s *side) string { return s.status("GET /slow HTTP/1.1", "host: shop") }},
	{what: "an idle tcp connection, with local_idle_timeout_ms = 2000", see: (*side).idle},
	{what: "time that the caller's sidecar gives an idle request and an idle tcp connection", noSwitch: true, see: (*side).callersTimes},
	{what: "1,100 requests at a time, with max_inbound_connections = 5000", alone: true, noSwitch: true, see: (*side).hold},
	{what: "10 instances that answer with 5xx, five times in a row each", see: (*side).failing},
	{what: "requests when one of 11 instances refuses connections", noSwitch: true, see: (*side).refusing},
}
