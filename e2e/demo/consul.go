package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/sallyport/sallyport/internal/meshtest"
)

// agent is the Consul agent of the demo.
type agent struct {
	meshtest.API
	binary  string
	process *meshtest.Process
}

// The ports of the agent: not those that Consul has by default, where there may be one.
const (
	agentHTTP = 18500
	agentRPC  = 18300
	agentSerf = 18301
)

func newAgent(binary string) *agent {
	return &agent{API: meshtest.API{Addr: fmt.Sprintf("127.0.0.1:%d", agentHTTP)}, binary: binary}
}

// startAgent starts the agent, with the data that it has, and waits until it serves.
func (m *mesh) startAgent(ctx context.Context) error {
	if m.agent.process == nil { // the first time: what it is told must not reach another agent
		if err := free(ctx, agentHTTP, agentRPC, agentSerf); err != nil {
			return err
		}
	}
	dir := filepath.Join(m.dir, "consul")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	file, err := meshtest.Agent{Dir: dir, HTTP: agentHTTP, RPC: agentRPC, Serf: agentSerf}.Write()
	if err != nil {
		return err
	}
	cmd := exec.Command(m.agent.binary, "agent", "-config-file", file) //nolint:noctx // it is ended in order, not by a context
	cmd.Env = meshtest.Environ()
	if m.agent.process, err = m.launch("the Consul agent", "consul", cmd); err != nil {
		return err
	}
	return m.agent.process.Await(ctx, patience, "ready", m.agent.Ready)
}

// free is nil if nobody listens on ports of the loopback.
func free(ctx context.Context, ports ...int) error {
	var lc net.ListenConfig
	for _, port := range ports {
		l, err := lc.Listen(ctx, "tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			return fmt.Errorf("port %d, where the demo's Consul agent is to listen, is in use by another process (%w): end that first", port, err)
		}
		if err := l.Close(); err != nil {
			return err
		}
	}
	return nil
}

// tellAgent registers the services and writes the configuration entries: the files that a mesh without Consul reads.
func (m *mesh) tellAgent() error {
	for _, entry := range []string{"api-defaults.hcl", "api-intentions.hcl"} {
		if err := m.consul("config", "write", filepath.Join(m.catalog(), entry)); err != nil {
			return err
		}
	}
	for _, s := range services {
		if err := m.consul("services", "register", filepath.Join(m.catalog(), s+".hcl")); err != nil {
			return err
		}
	}
	return nil
}

// consul runs a command of Consul's.
func (m *mesh) consul(args ...string) error {
	cmd := exec.Command(m.agent.binary, args...) //nolint:noctx // the command that the demo shows
	cmd.Env = m.agent.ConsulEnviron()
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("consul %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return nil
}

// rotateRoot gives Consul's CA a new key, and with it a new root.
func rotateRoot(ctx context.Context, m *mesh) error {
	old, err := m.serial("api") //nolint:contextcheck // it has a deadline of its own
	if err != nil {
		return err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return err
	}
	config, err := json.Marshal(map[string]any{"Provider": "consul", "Config": map[string]any{
		"PrivateKey": string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der})), "RootCert": "",
	}})
	if err != nil {
		return err
	}
	file := filepath.Join(m.dir, "ca.json")
	if err := os.WriteFile(file, config, 0o600); err != nil {
		return err
	}
	fmt.Println("  `consul connect ca set-config` with a new key: Consul makes the new leafs within half a minute …")
	start := time.Now()
	if err := m.consul("connect", "ca", "set-config", "-config-file", file); err != nil {
		return err
	}
	now, err := m.newLeaf(ctx, old)
	if err != nil {
		return err
	}
	fmt.Printf("  … api has a leaf of the new root after %.1f s: serial %.8s → %.8s\n", time.Since(start).Seconds(), old, now)
	return nil
}

// loseAgent kills the agent and starts it again with its data.
func loseAgent(ctx context.Context, m *mesh) error {
	before := m.agent.process.PID()
	m.agent.process.Stop(syscall.SIGKILL, endTime)
	if !pause(ctx, 5*time.Second) {
		return ctx.Err()
	}
	if err := m.startAgent(ctx); err != nil {
		return err
	}
	start := time.Now()
	if err := m.serve.Await(ctx, patience, "ready again", func() error {
		s, err := m.status()
		if err == nil && len(s.NotReady) > 0 {
			err = fmt.Errorf("not ready: %s", strings.Join(s.NotReady, "; "))
		}
		return err
	}); err != nil {
		return err
	}
	fmt.Printf("  Consul agent killed for 5 s (process %d) and started again (%d), with all checks critical; sallyport has it again after %d ms\n", before, m.agent.process.PID(), time.Since(start).Milliseconds())
	pause(ctx, 5*time.Second) // whom the checks cost something notices it now
	return ctx.Err()
}

// inviteConsul says what else can be tried beside Consul.
func (m *mesh) inviteConsul() {
	fmt.Printf(`
The mesh runs until Ctrl-C. In another terminal:

  export SALLYPORT_RUNTIME_DIR=%[1]s CONSUL_HTTP_ADDR=%[6]s
  curl -i %[3]s                              # web asks api: 200
  curl -i %[4]s                              # batch asks api: 403
  $EDITOR %[5]s   # change an action, save, then:
  %[7]s config write %[5]s
  %[2]s intention check batch api
  %[2]s status
  %[7]s connect ca get-config
`, m.runtimeDir(), m.sallyport, webToAPI, batchToAPI, filepath.Join(m.catalog(), "api-intentions.hcl"), m.agent.Addr, m.agent.binary)
}
