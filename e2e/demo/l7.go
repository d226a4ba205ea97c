package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"time"

	"github.com/sallyport/sallyport/internal/meshtest"
)

// versions is the mesh in which api has two versions; as in its catalog.
var versions = play{
	files: "catalog-l7", state: "processes-l7.json", answers: [][2]string{{"127.0.0.1:18480", "hello from api, version 1\n"}, {"127.0.0.1:18481", "hello from api, version 2\n"}},
	instances: []string{"api-v1", "api-v2", "web"}, asked: "http://127.0.0.1:18491/", show: showVersions, invite: (*mesh).inviteVersions,
}

// showVersions moves requests between the versions, while web asks api; an error says what did not hold.
func showVersions(ctx context.Context, m *mesh) error {
	fmt.Println("One service, api, of two versions, each behind an Envoy; web asks it 220 times a second:")
	if err := m.serve.Await(ctx, patience, "letting web ask api", func() error { //nolint:contextcheck // it has a deadline of its own
		if a := meshtest.GetPlain(m.asked); !a.Allowed() {
			return fmt.Errorf("web → api: %v", a)
		}
		return nil
	}); err != nil {
		return err
	}
	load, err := meshtest.StartLoad(meshtest.LoadConfig{URL: m.asked, KeepAlive: 200, Fresh: 20}) //nolint:contextcheck // it is stopped below
	if err != nil {
		return err
	}
	err = moveRequests(ctx, m)
	report := load.Stop()
	if err != nil {
		return err
	}
	fmt.Printf("\n  %d requests, %d failed", report.Requests, report.Failed)
	if report.Failed != 0 || report.Requests == 0 {
		fmt.Println()
		return fmt.Errorf("requests failed that should not: %v", report)
	}
	stats, err := m.admin("web", "/stats?filter=^listener_manager.listener_modified$") //nolint:contextcheck // it has a deadline of its own
	if err != nil {
		return err
	}
	if stats != "listener_manager.listener_modified: 0\n" {
		fmt.Println()
		return fmt.Errorf("web's Envoy changed a listener: %q", stats)
	}
	fmt.Println(", no listener changed – nobody who asked noticed.")
	return nil
}

// moveRequests does what a release does, and what goes wrong with one.
func moveRequests(ctx context.Context, m *mesh) error {
	fmt.Println("\nA canary: how many requests go to version 2 (api-splitter.hcl):")
	for _, percent := range []int{1, 50, 100} {
		start := time.Now()
		if err := m.split(percent); err != nil {
			return err
		}
		if err := m.reports(ctx, start, fmt.Sprintf("%3d %%", percent), float64(percent)); err != nil {
			return err
		}
	}
	fmt.Println("\nA failover: version 2 is said to be critical, and to be passing again (api.hcl):")
	for _, c := range []struct {
		status  string
		percent float64
	}{{"critical", 0}, {"passing", 100}} {
		start := time.Now()
		if err := m.edit("api.hcl", versionTwo, c.status); err != nil {
			return err
		}
		if err := m.reports(ctx, start, c.status, c.percent); err != nil {
			return err
		}
	}
	fmt.Println("\nA permission: who may ask for /admin (api-intentions.hcl):")
	for _, c := range []struct {
		action string
		status int
	}{{"deny", http.StatusForbidden}, {"allow", http.StatusOK}} {
		start := time.Now()
		if err := m.edit("api-intentions.hcl", adminAction, c.action); err != nil {
			return err
		}
		var a meshtest.Answer
		if err := m.serve.Await(ctx, patience, c.action+"ing /admin", func() error { //nolint:contextcheck // it has a deadline of its own
			if a = meshtest.GetPlain(m.asked + "admin"); a.Status != c.status {
				return fmt.Errorf("web → api /admin: %v", a)
			}
			return nil
		}); err != nil {
			return err
		}
		took := time.Since(start)
		if rest := meshtest.GetPlain(m.asked); !rest.Allowed() { //nolint:contextcheck // it has a deadline of its own
			return fmt.Errorf("web → api: %v, though it is /admin alone that is another", rest)
		}
		fmt.Printf("  %-8s  GET /admin: %d, %d ms after the file was saved; GET /: 200\n", c.action, a.Status, took.Milliseconds())
	}
	if !pause(ctx, time.Second) {
		return ctx.Err()
	}
	return nil
}

var (
	firstWeight  = regexp.MustCompile(`(?s)(Weight\s*=\s*)\d+(\s+ServiceSubset = "v1")`)
	secondWeight = regexp.MustCompile(`(?s)(Weight\s*=\s*)\d+(\s+ServiceSubset = "v2")`)
	versionTwo   = regexp.MustCompile(`(?s)(id\s*=\s*"api-v2".*status = ")\w+(")`)
	adminAction  = regexp.MustCompile(`(?s)(Action = ")\w+("\s+HTTP \{\s+PathPrefix = "/admin")`)
)

// split has so many of a hundred requests go to version 2.
func (m *mesh) split(percent int) error {
	return m.editAll("api-splitter.hcl", []edit{{firstWeight, strconv.Itoa(100 - percent)}, {secondWeight, strconv.Itoa(percent)}})
}

// edit is one change of a file: what stands between the two groups of a pattern.
type edit struct {
	at   *regexp.Regexp
	text string
}

func (m *mesh) edit(file string, at *regexp.Regexp, text string) error {
	return m.editAll(file, []edit{{at, text}})
}

// editAll edits a file as an editor would: a new one in place of the old one.
func (m *mesh) editAll(file string, edits []edit) error {
	path := filepath.Join(m.catalog(), file)
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	for _, e := range edits {
		text = e.at.ReplaceAll(text, []byte("${1}"+e.text+"${2}"))
	}
	tmp := filepath.Join(m.catalog(), "."+file+".new")
	if err := os.WriteFile(tmp, text, 0o644); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}

// reports waits until about that share of the requests goes to version 2, and prints what it is then.
func (m *mesh) reports(ctx context.Context, start time.Time, what string, percent float64) error {
	if err := m.serve.Await(ctx, patience, "moving requests: "+what, func() error {
		share, of, err := m.share(ctx, 200*time.Millisecond)
		if low, high := percent*0.6-1, percent*1.4+4; err == nil && (share < low || share > high) {
			err = fmt.Errorf("%.1f %% of %.0f requests go to version 2", share, of)
		}
		return err
	}); err != nil {
		return err
	}
	took := time.Since(start)
	share, of, err := m.share(ctx, 4*time.Second)
	if err != nil {
		return err
	}
	if share < percent*0.8-1.5 || share > percent*1.2+1.5 {
		return fmt.Errorf("%s: %.1f %% of %.0f requests went to version 2, want %g", what, share, of, percent)
	}
	fmt.Printf("  %-8s  %5.1f %% of %.0f requests are answered by version 2 (it was so %d ms after the file was saved)\n", what, share, of, took.Milliseconds())
	return nil
}

// share is how many of the requests of a while version 2 has answered, in percent, and of how many.
func (m *mesh) share(ctx context.Context, d time.Duration) (percent, of float64, err error) {
	first, second := m.apps[0].Requests.Load(), m.apps[1].Requests.Load()
	if !pause(ctx, d) {
		return 0, 0, ctx.Err()
	}
	first, second = m.apps[0].Requests.Load()-first, m.apps[1].Requests.Load()-second
	of = float64(first + second)
	if of == 0 {
		return 0, 0, fmt.Errorf("no request was answered in %s", d)
	}
	return 100 * float64(second) / of, of, nil
}

// inviteVersions says what else can be tried.
func (m *mesh) inviteVersions() {
	fmt.Printf(`
The mesh runs until Ctrl-C. In another terminal:

  export SALLYPORT_RUNTIME_DIR=%[1]s
  curl -i %[3]s                              # web asks api, and one of the versions answers
  $EDITOR %[4]s   # change the weights, save, ask again
  $EDITOR %[5]s      # say "critical" of version 2
  %[2]s chain api
  %[2]s intention check web api --method GET --path /admin
  %[2]s status
`, m.runtimeDir(), m.sallyport, m.asked, filepath.Join(m.catalog(), "api-splitter.hcl"), filepath.Join(m.catalog(), "api.hcl"))
}
