package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/sallyport/sallyport/admin"
)

// waitCallers is how many applications wait: one alone may not wait for thousands of answers.
const waitCallers = 10

// Who answers Consul's HTTP API.
const (
	byFiles  = "from files"
	byBeside = "beside Consul"
)

// apiServer answers Consul's HTTP API, or as if.
type apiServer struct {
	by      string
	process *process
	// unix is the path of its socket, tcp its address on loopback; workload is the socket of the Workload API, empty: it has none.
	unix, tcp, workload string
	// domain is the trust domain of the mesh.
	domain string
	// token is that of an application of service(0), reader one that may read all; applications are as token, each a caller of its own.
	token, reader string
	applications  []string
	// uid is the user that asks for the leaf; 0: this process's.
	uid    int
	client *admin.Client // nil: it is no sallyport
}

// await waits until s listens.
func (s *apiServer) await(ctx context.Context) error {
	return s.process.Await(ctx, time.Minute, "listening", func() error {
		for network, address := range map[string]string{"unix": s.unix, "tcp": s.tcp} {
			if address == "" {
				continue
			}
			c, err := dialRaw(ctx, network, address, 0)
			if err != nil {
				return err
			}
			_ = c.Close()
		}
		return nil
	})
}

// address is where s listens on a network.
func (s *apiServer) address(network string) string {
	if network == "unix" {
		return s.unix
	}
	return s.tcp
}

// apiBench is the servers of the HTTP API that are measured, in the order in which they have their turns.
type apiBench struct {
	o       options
	dir     string
	agent   *agent // nil: there is none
	servers []*apiServer
	uid     int // of applications; 0: nobody but this process's user asks
	started []*process
}

func (b *apiBench) stop() {
	for _, p := range slices.Backward(b.started) {
		p.stop()
	}
}

// by is one of the servers; nil: there is none.
func (b *apiBench) by(name string) *apiServer {
	for _, s := range b.servers {
		if s.by == name {
			return s
		}
	}
	return nil
}

// sub makes a directory that other users get through.
func (b *apiBench) sub(name string) (string, error) {
	dir := filepath.Join(b.dir, name)
	return dir, errors.Join(os.Mkdir(dir, 0o711), os.Chmod(dir, 0o711)) // other users' sockets are below it
}

// start starts all servers.
func (b *apiBench) start(ctx context.Context) error {
	files, err := b.fromFiles(ctx, "files")
	if err != nil {
		return err
	}
	b.servers = append(b.servers, files)
	if b.o.agent == "" {
		fmt.Fprintln(os.Stderr, "api: no Consul (-agent): what is measured beside it is not measured")
	} else if err := b.startConsul(ctx); err != nil {
		return err
	}
	recorded := nothing{Bodies: map[string][]byte{}}
	if recorded.TCP, err = freeAddress(ctx); err != nil {
		return err
	}
	for _, q := range append(apiQuestions, askMay) {
		c, err := b.asked(ctx, files, "unix", q)
		if err != nil {
			return err
		}
		recorded.Bodies[q.path] = bytes.Clone(c.body)
		_ = c.Close()
	}
	nothing, err := b.nothing(ctx, "nothing", &recorded)
	if err != nil {
		return err
	}
	b.servers = append(b.servers, nothing)
	return b.right(ctx)
}

// nothing starts the server that does nothing. It is asked as the one from files is.
func (b *apiBench) nothing(ctx context.Context, name string, recorded *nothing) (*apiServer, error) {
	dir, err := b.sub(name)
	if err != nil {
		return nil, err
	}
	s, err := startNothing(ctx, dir, recorded)
	if err != nil {
		return nil, err
	}
	b.started = append(b.started, s.process)
	files := b.by(byFiles)
	s.domain, s.token, s.reader, s.applications = files.domain, files.token, files.reader, files.applications
	return s, nil
}

// startConsul starts the agent and a sallyport beside it.
func (b *apiBench) startConsul(ctx context.Context) error {
	dir, err := b.sub("consul")
	if err != nil {
		return err
	}
	socket := filepath.Join(dir, "http.sock")
	// A server on disk, as users have it: the one of development indents all answers. All limits are as users have them, but for that of
	// connections, of which a machine with thousands of applications has more.
	b.agent, err = launchAgent(ctx, b.o.agent, dir, map[string]any{
		"server": true, "bootstrap": true, "data_dir": filepath.Join(dir, "data"), "connect": map[string]any{"enabled": true},
		"addresses": map[string]any{"http": "127.0.0.1 unix://" + socket}, "unix_sockets": map[string]any{"mode": "0666"},
		"performance": map[string]any{"raft_multiplier": 1}, "limits": map[string]any{"http_max_conns_per_client": 10_000},
	})
	if err != nil {
		return err
	}
	b.started = append(b.started, b.agent.process)
	if err := b.agent.register(ctx, b.load()); err != nil {
		return err
	}
	consul := &apiServer{by: byConsul, process: b.agent.process, unix: socket, tcp: b.agent.http}
	c, err := b.asked(ctx, consul, "unix", apiQuestions[1])
	if err != nil {
		return err
	}
	defer c.Close()
	var roots struct{ TrustDomain string }
	if err := json.Unmarshal(c.body, &roots); err != nil {
		return err
	}
	consul.domain = roots.TrustDomain
	beside, err := b.beside(ctx, "beside", b.agent.http)
	if err != nil {
		return err
	}
	beside.domain = consul.domain
	b.servers = append(b.servers, beside, consul)
	return nil
}

// load is what the servers carry.
func (b *apiBench) load() load {
	l := apiLoad
	l.uid = b.uid
	return l
}

// fromFiles starts a sallyport on files.
func (b *apiBench) fromFiles(ctx context.Context, name string) (*apiServer, error) {
	dir, err := b.sub(name)
	if err != nil {
		return nil, err
	}
	catalog := filepath.Join(dir, "catalog")
	if err := os.Mkdir(catalog, 0o700); err != nil {
		return nil, err
	}
	if err := b.load().write(catalog); err != nil {
		return nil, err
	}
	s, err := b.serve(ctx, byFiles, dir, nil, "--catalog", catalog, "--trust-domain", benchDomain)
	if err != nil {
		return nil, err
	}
	s.domain = benchDomain
	token := func(r admin.ApplicationTokenRequest) string {
		t, failed := s.client.ApplicationToken(ctx, r)
		err = errors.Join(err, failed)
		return t.Token
	}
	s.token, s.reader = token(admin.ApplicationTokenRequest{Service: service(0)}), token(admin.ApplicationTokenRequest{Reader: true})
	for range waitCallers {
		s.applications = append(s.applications, token(admin.ApplicationTokenRequest{Service: service(0)}))
	}
	return s, err
}

// beside starts a sallyport beside the agent at an address. ACLs are off there, so a token says nothing: who asks, and whose leaf a process
// gets, is said by its user.
func (b *apiBench) beside(ctx context.Context, name, agent string) (*apiServer, error) {
	dir, err := b.sub(name)
	if err != nil {
		return nil, err
	}
	s, err := b.serve(ctx, byBeside, dir, []string{"CONSUL_HTTP_ADDR=" + agent}, "--consul")
	if err != nil {
		return nil, err
	}
	s.token, s.reader, s.uid = "bench", "bench", b.uid
	s.applications = []string{"bench"}
	return s, nil
}

func (b *apiBench) serve(ctx context.Context, by, dir string, env []string, args ...string) (*apiServer, error) {
	tcp, err := freeAddress(ctx)
	if err != nil {
		return nil, err
	}
	p, client, err := serve(ctx, b.o.sallyport, dir, b.load(), env, append(args, "--api-address", tcp)...)
	if err != nil {
		return nil, err
	}
	b.started = append(b.started, p)
	s := &apiServer{by: by, process: p, unix: admin.HTTPSocket(client.Dir()), tcp: tcp, workload: admin.WorkloadSocket(client.Dir()), client: client}
	return s, s.await(ctx)
}

func freeAddress(ctx context.Context) (string, error) {
	port, err := freePort(ctx)
	return fmt.Sprintf("127.0.0.1:%d", port), err
}

// right fails unless all that judge also deny.
func (b *apiBench) right(ctx context.Context) error {
	for _, s := range b.servers {
		if s.by == byNothing {
			continue
		}
		c, err := b.asked(ctx, s, "unix", askMayNot)
		if err != nil {
			return err
		}
		_ = c.Close()
	}
	return nil
}
