package meshtest

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/envoytest"
)

// Consul is a Consul agent, which is a server, beside which meshes run (Config.Consul). Its methods
// are for the test's own goroutine.
type Consul struct {
	API
	// Agent is its configuration; a change counts from its next start on.
	Agent Agent

	t       testing.TB
	binary  string
	process *Process
}

// NewConsul makes an agent that does not run yet. Of a the ports, and the directory, that are not
// there are given out.
func NewConsul(t testing.TB, a Agent) *Consul {
	t.Helper()
	c := &Consul{t: t, binary: consulBinary(t), Agent: a}
	dir, err := os.MkdirTemp("", "consul-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("Consul's files are kept in %s", dir)
			return
		}
		os.RemoveAll(dir)
	})
	c.Agent.Dir = dir
	for _, p := range []*int{&c.Agent.HTTP, &c.Agent.GRPC, &c.Agent.RPC, &c.Agent.Serf, &c.Agent.Expose, &c.Agent.WAN} {
		if *p == 0 {
			if *p, err = ports.Next(); err != nil {
				t.Fatal(err)
			}
		}
	}
	c.API = API{Addr: fmt.Sprintf("127.0.0.1:%d", c.Agent.HTTP), Token: c.Agent.Management}
	return c
}

// settling is how long after the first leader the agent tells its servers all that it has, once
// more, give or take. If it is just taking in a registration then, it tells them nothing more for 15
// to 30 s, whatever its checks find.
const settling = 4 * time.Second

// StartConsul makes an agent, starts it, and waits until what is registered from then on, and its
// checks, reach its servers at once.
func StartConsul(t testing.TB, a Agent) *Consul {
	t.Helper()
	c := NewConsul(t, a)
	c.Start()
	time.Sleep(settling)
	return c
}

// consulBinary is $CONSUL, else what `make tools` has built.
func consulBinary(t testing.TB) string {
	t.Helper()
	if b := os.Getenv("CONSUL"); b != "" {
		return b
	}
	return envoytest.Tool(t, "consul-"+ConsulVersion)
}

// Binary is the path of the `consul` command.
func (c *Consul) Binary() string { return c.binary }

// Launch starts the agent without waiting for it.
func (c *Consul) Launch() {
	c.t.Helper()
	file, err := c.Agent.Write()
	if err != nil {
		c.t.Fatal(err)
	}
	cmd := exec.Command(c.binary, "agent", "-config-file", file)
	cmd.Env = Environ()
	c.process = Start(c.t, "consul agent "+c.Agent.node(), c.Log(), cmd)
}

// Start starts the agent, with the data that it has, and waits until it serves.
func (c *Consul) Start() {
	c.t.Helper()
	c.Launch()
	c.AwaitReady()
}

// AwaitReady waits until the agent serves.
func (c *Consul) AwaitReady() {
	c.t.Helper()
	Await(c.t, "Consul agent ready", func() error {
		if c.process.Ended() {
			c.t.Fatalf("consul agent ended: %v\n%s", c.process.err, c.process.Tail(40))
		}
		return c.Ready()
	})
}

// Kill ends the agent with SIGKILL.
func (c *Consul) Kill() { c.process.Kill() }

// Log is the file of what it has written.
func (c *Consul) Log() string { return filepath.Join(c.Agent.Dir, "consul.log") }

// Must calls the API, which has to succeed.
func (c *Consul) Must(method, path string, in, out any) {
	c.t.Helper()
	if err := c.Do(method, path, in, out); err != nil {
		c.t.Fatal(err)
	}
}

// Run runs a `consul` command, which has to succeed, and returns what it printed.
func (c *Consul) Run(args ...string) string {
	c.t.Helper()
	cmd := exec.Command(c.binary, args...)
	cmd.Env = c.ConsulEnviron()
	r, err := run(cmd)
	if err != nil {
		c.t.Fatal(err)
	}
	if r.Exit != 0 {
		c.t.Fatalf("consul %s: exit %d\n%s%s", strings.Join(args, " "), r.Exit, r.Stdout, r.Stderr)
	}
	return r.Stdout
}

// File writes a file for a command of Consul's and returns its path.
func (c *Consul) File(name, text string) string {
	c.t.Helper()
	path := filepath.Join(c.Agent.Dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		c.t.Fatal(err)
	}
	return path
}

// PutConfig writes a configuration entry.
func (c *Consul) PutConfig(entry map[string]any) {
	c.t.Helper()
	c.Must(http.MethodPut, "/v1/config", entry, nil)
}

// DeleteConfig deletes a configuration entry.
func (c *Consul) DeleteConfig(kind, name string) {
	c.t.Helper()
	c.Must(http.MethodDelete, "/v1/config/"+kind+"/"+url.PathEscape(name), nil, nil)
}

// Register registers a service as it is.
func (c *Consul) Register(registration map[string]any) {
	c.t.Helper()
	c.Must(http.MethodPut, "/v1/agent/service/register?replace-existing-checks=true", registration, nil)
}

// Intend writes the intentions of a destination; nil removes them.
func (c *Consul) Intend(destination string, i Intentions) {
	c.t.Helper()
	if i == nil {
		c.DeleteConfig("service-intentions", destination)
		return
	}
	c.PutConfig(i.entry(destination))
}

// AwaitChecks waits until Consul has looked at each sidecar that is registered and found it
// listening. Before its first look it may have one for listening that does not yet, and call it
// critical afterwards.
func (c *Consul) AwaitChecks() {
	c.t.Helper()
	Await(c.t, "Consul's checks", func() error {
		var checks map[string]struct{ ServiceID, Status, Output string }
		if err := c.Do(http.MethodGet, "/v1/agent/checks", nil, &checks); err != nil {
			return err
		}
		for _, k := range checks {
			if k.Status != "passing" || !strings.Contains(k.Output, "Success") {
				return fmt.Errorf("%s: %s %q", k.ServiceID, k.Status, k.Output)
			}
		}
		return nil
	})
}

// Policy creates an ACL policy.
func (c *Consul) Policy(name, rules string) {
	c.t.Helper()
	c.Must(http.MethodPut, "/v1/acl/policy", map[string]any{"Name": name, "Rules": rules}, nil)
}

// NewToken creates an ACL token. body is what the API takes: its policies or service identities.
func (c *Consul) NewToken(body map[string]any) (accessor, secret string) {
	c.t.Helper()
	var t struct{ AccessorID, SecretID string }
	c.Must(http.MethodPut, "/v1/acl/token", body, &t)
	return t.AccessorID, t.SecretID
}

// ServiceToken creates the token of a service's proxies.
func (c *Consul) ServiceToken(service string) (accessor, secret string) {
	c.t.Helper()
	return c.NewToken(map[string]any{"ServiceIdentities": []map[string]any{{"ServiceName": service}}})
}

// DeleteToken deletes an ACL token.
func (c *Consul) DeleteToken(accessor string) {
	c.t.Helper()
	c.Must(http.MethodDelete, "/v1/acl/token/"+accessor, nil, nil)
}

// ActiveRoot is the ID of the CA root that leafs are signed with.
func (c *Consul) ActiveRoot() string {
	c.t.Helper()
	var r struct{ ActiveRootID string }
	c.Must(http.MethodGet, "/v1/connect/ca/roots", nil, &r)
	return r.ActiveRootID
}

// RotateRoot gives Consul's CA a new root with `consul connect ca set-config`, and returns its ID.
// config is that of the provider; if that is the one there is it has to name another key, or
// another kind of key.
func (c *Consul) RotateRoot(provider string, config map[string]any) string {
	c.t.Helper()
	old := c.ActiveRoot()
	b, err := json.Marshal(map[string]any{"Provider": provider, "Config": config})
	if err != nil {
		c.t.Fatal(err)
	}
	c.Run("connect", "ca", "set-config", "-config-file", c.File("ca.json", string(b)))
	now := c.ActiveRoot()
	if now == old {
		c.t.Fatal("the CA has the same root as before")
	}
	return now
}

// Envoy starts the sidecar of a service under Consul's own control plane, `consul connect envoy`,
// beside the others of m, and waits until its Envoy is ready. What Envoy counts and dumps is not
// checked at the end: it is not told it by sallyport.
func (c *Consul) Envoy(m *Mesh, service string, drain time.Duration) *Sidecar {
	c.t.Helper()
	admin := fmt.Sprintf("127.0.0.1:%d", m.Port())
	cmd := exec.Command(c.binary,
		"connect", "envoy", "-sidecar-for", service, "-envoy-binary", m.envoy, "-ignore-envoy-compatibility",
		"-grpc-addr", fmt.Sprintf("http://127.0.0.1:%d", c.Agent.GRPC), "-admin-bind", admin, "--", "--concurrency", "1", "--disable-hot-restart", "--drain-time-s", fmt.Sprintf("%.0f", drain.Seconds()),
	)
	cmd.Env = c.ConsulEnviron()
	p := Start(c.t, "consul connect envoy "+service, filepath.Join(m.dir, service+"-consul.log"), cmd)
	s := m.Adopt(service, p, admin).Abandon()
	s.AwaitReady()
	return s
}

// Timed runs a `consul` command as Run does, and returns when it had ended.
func (c *Consul) Timed(args ...string) time.Time {
	c.t.Helper()
	c.Run(args...)
	return time.Now()
}
