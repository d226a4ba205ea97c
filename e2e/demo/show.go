package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"

	"github.com/sallyport/sallyport/internal/meshtest"
)

// show shows what the mesh does; an error says what did not hold.
func show(ctx context.Context, m *mesh) error {
	s, err := m.status()
	if err != nil {
		return err
	}
	fmt.Println("Three services, each behind an Envoy that speaks mutual TLS:")
	for _, name := range services {
		fmt.Printf("  %-6s spiffe://%s/ns/default/dc/%s/svc/%s\n", name, s.TrustDomain, s.Datacenter, name)
	}

	fmt.Println("\nWho may reach api:")
	for _, c := range []struct {
		name, url string
		status    int
		exit      int
	}{{"web", webToAPI, http.StatusOK, 0}, {"batch", batchToAPI, http.StatusForbidden, 1}} {
		a := meshtest.GetPlain(c.url) //nolint:contextcheck // it has a deadline of its own
		why, exit := m.ask("intention", "check", c.name, "api")
		fmt.Printf("  %-5s → api   %d %s\n                %s\n", c.name, a.Status, word(a), why)
		if a.Status != c.status || exit != c.exit || !strings.Contains(why, m.origin()) {
			return fmt.Errorf("%s → api: %v, and `intention check` ended with %d; want status %d and %d, and where the intention is from", c.name, a, exit, c.status, c.exit)
		}
	}

	fmt.Println("\nUnder load, web asking api 120 times a second:")
	load, err := meshtest.StartLoad(meshtest.LoadConfig{URL: webToAPI, KeepAlive: 100, Fresh: 20}) //nolint:contextcheck // it is stopped in underLoad
	if err != nil {
		return err
	}
	report, err := underLoad(ctx, m, load)
	if err != nil {
		return err
	}
	fmt.Printf("  %d requests, %d failed", report.Requests, report.Failed)
	if report.Failed != 0 || report.Requests == 0 {
		fmt.Println()
		return fmt.Errorf("requests failed that should not: %v", report)
	}
	fmt.Println(" – the connections of the allowed never noticed.")
	return nil
}

func word(a meshtest.Answer) string {
	if a.Allowed() {
		return "allowed"
	}
	if a.Denied() {
		return "denied"
	}
	return a.String()
}

// underLoad does to the mesh what operators do, while the load runs.
func underLoad(ctx context.Context, m *mesh, load *meshtest.Load) (r meshtest.Report, err error) {
	defer func() { r = load.Stop() }()
	steps := []func(context.Context, *mesh) error{changeIntention, rotateLeaf, restart}
	if m.agent != nil {
		steps = []func(context.Context, *mesh) error{changeIntention, rotateRoot, restart, loseAgent}
	}
	for _, step := range steps {
		if !pause(ctx, time.Second) {
			return r, ctx.Err()
		}
		if err := step(ctx, m); err != nil {
			return r, err
		}
	}
	pause(ctx, time.Second)
	return r, ctx.Err()
}

// pause is true after d, and false if ctx ended before.
func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// changeIntention allows batch what it is denied, and takes it away again.
func changeIntention(ctx context.Context, m *mesh) error {
	for _, c := range []struct {
		action, done string
		status       int
	}{{"allow", "answered", http.StatusOK}, {"deny", "refused", http.StatusForbidden}} {
		if err := m.setBatch(c.action); err != nil {
			return err
		}
		saved := "the file was saved"
		if m.agent != nil {
			saved = "`consul config write`"
			if err := m.consul("config", "write", filepath.Join(m.catalog(), "api-intentions.hcl")); err != nil {
				return err
			}
		}
		start := time.Now()
		if err := m.serve.Await(ctx, patience, c.done, func() error { //nolint:contextcheck // it has a deadline of its own
			if a := meshtest.GetPlain(batchToAPI); a.Status != c.status {
				return fmt.Errorf("batch → api: %v", a)
			}
			return nil
		}); err != nil {
			return err
		}
		fmt.Printf("  intention changed: batch → api %s; batch is %s %d ms after %s\n", c.action, c.done, time.Since(start).Milliseconds(), saved)
	}
	return nil
}

var batchAction = regexp.MustCompile(`(?s)(Name\s*=\s*"batch"\s+Action\s*=\s*)"\w+"`)

// setBatch edits the intention of batch as an editor would: a new file in place of the old one.
func (m *mesh) setBatch(action string) error {
	path := filepath.Join(m.catalog(), "api-intentions.hcl")
	old, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	tmp := filepath.Join(m.catalog(), ".api-intentions.hcl.new")
	if err := os.WriteFile(tmp, batchAction.ReplaceAll(old, []byte(`${1}"`+action+`"`)), 0o644); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}

// origin is what sallyport calls the place that the intentions of api come from.
func (m *mesh) origin() string {
	if m.agent != nil {
		return "service-intentions/api"
	}
	return "api-intentions.hcl:"
}

// rotateLeaf gives api's sidecar a new certificate.
func rotateLeaf(ctx context.Context, m *mesh) error {
	old, err := m.serial("api") //nolint:contextcheck // it has a deadline of its own
	if err != nil {
		return err
	}
	start := time.Now()
	if line, exit := m.ask("leaf", "rotate", "api"); exit != 0 {
		return fmt.Errorf("leaf rotate api: %s", line)
	}
	now, err := m.newLeaf(ctx, old)
	if err != nil {
		return err
	}
	fmt.Printf("  leaf of api rotated in %d ms: serial %.8s… → %.8s…\n", time.Since(start).Milliseconds(), old, now)
	return nil
}

// newLeaf waits until api's Envoy has another leaf than the old one, and returns its serial number.
func (m *mesh) newLeaf(ctx context.Context, old string) (serial string, err error) {
	err = m.serve.Await(ctx, patience, "done with the rotation", func() error { //nolint:contextcheck // it has a deadline of its own
		var err error
		if serial, err = m.serial("api"); err == nil && serial == old {
			err = errors.New("api's Envoy still has the old leaf")
		}
		return err
	})
	return serial, err
}

// serial is the serial number of the leaf that a sidecar's Envoy has.
func (m *mesh) serial(service string) (string, error) {
	text, err := m.admin(service, "/certs")
	if err != nil {
		return "", err
	}
	var certs struct {
		Certificates []struct {
			Chain []struct {
				Serial string `json:"serial_number"`
				SANs   []struct {
					URI string `json:"uri"`
				} `json:"subject_alt_names"`
			} `json:"cert_chain"`
		} `json:"certificates"`
	}
	if err := json.Unmarshal([]byte(text), &certs); err != nil {
		return "", err
	}
	for _, c := range certs.Certificates {
		for _, leaf := range c.Chain {
			if len(leaf.SANs) == 1 && strings.HasSuffix(leaf.SANs[0].URI, "/svc/"+service) {
				return leaf.Serial, nil
			}
		}
	}
	return "", fmt.Errorf("%s's Envoy has no leaf", service)
}

// restart kills the control plane and starts it again.
func restart(ctx context.Context, m *mesh) error {
	before := m.serve.PID()
	m.serve.Stop(syscall.SIGKILL, endTime)
	if !pause(ctx, 500*time.Millisecond) {
		return ctx.Err()
	}
	start := time.Now()
	if err := m.startServe(ctx); err != nil {
		return err
	}
	if err := m.serve.Await(ctx, patience, "in sync with its sidecars", m.inSync); err != nil {
		return err
	}
	fmt.Printf("  control plane killed (process %d) and started again (%d); all sidecars are back after %d ms\n", before, m.serve.PID(), time.Since(start).Milliseconds())
	return nil
}

// invite says what else can be tried.
func (m *mesh) invite() {
	if m.agent != nil {
		m.inviteConsul()
		return
	}
	fmt.Printf(`
The mesh runs until Ctrl-C. In another terminal:

  export SALLYPORT_RUNTIME_DIR=%[1]s
  curl -i %[3]s                              # web asks api: 200
  curl -i %[4]s                              # batch asks api: 403
  $EDITOR %[5]s   # change an action, save, ask again
  %[2]s intention check batch api
  %[2]s status
  %[2]s leaf rotate api
  openssl s_client -connect 127.0.0.1:18100 </dev/null    # api's sidecar: TLS 1.3, a SPIFFE ID, no entry without a certificate
  curl --unix-socket %[1]s/api-sidecar-proxy/admin.sock http://envoy/config_dump
`, m.runtimeDir(), m.sallyport, webToAPI, batchToAPI, filepath.Join(m.catalog(), "api-intentions.hcl"))
}
