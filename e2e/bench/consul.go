package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"path/filepath"
	"time"

	"github.com/sallyport/sallyport/admin"
	"github.com/sallyport/sallyport/internal/meshtest"
	"golang.org/x/sync/errgroup"
)

// agent is a Consul agent that is its own server, as in development, with the load registered.
type agent struct {
	process *process
	http    string // host:port
	grpc    string
	client  http.Client
	changes int
}

// startAgent starts a Consul agent as in development, without ACLs, and registers the load.
func startAgent(ctx context.Context, binary, dir string, l load) (*agent, error) {
	// All limits are as users have them, those of connections among them.
	a, err := launchAgent(ctx, binary, dir, nil, "-dev")
	if err != nil {
		return nil, err
	}
	if err := a.register(ctx, l); err != nil {
		a.process.stop()
		return nil, err
	}
	return a, nil
}

// launchAgent starts a Consul agent that is its own server, without ACLs, with the default intention policy deny, and with more settings.
func launchAgent(ctx context.Context, binary, dir string, more map[string]any, args ...string) (*agent, error) {
	ports := map[string]int{"https": -1, "dns": -1, "grpc_tls": -1, "serf_wan": -1}
	for _, name := range []string{"http", "grpc", "server", "serf_lan"} {
		port, err := freePort(ctx)
		if err != nil {
			return nil, err
		}
		ports[name] = port
	}
	settings := map[string]any{
		"ports": ports, "bind_addr": "127.0.0.1", "node_name": "bench", "log_level": "error", "default_intention_policy": "deny",
		"disable_update_check": true,
	}
	maps.Copy(settings, more)
	config := filepath.Join(dir, "agent.json")
	if err := writeJSON(config, settings); err != nil {
		return nil, err
	}
	a := &agent{
		http: fmt.Sprintf("127.0.0.1:%d", ports["http"]), grpc: fmt.Sprintf("127.0.0.1:%d", ports["grpc"]),
		client: http.Client{Timeout: time.Minute, Transport: &http.Transport{MaxIdleConnsPerHost: 8}},
	}
	args = append([]string{"agent", "-config-file", config}, args...)
	var err error
	if a.process, err = launch("consul", filepath.Join(dir, "consul.log"), meshtest.Environ(), binary, args...); err != nil {
		return nil, err
	}
	err = a.process.Await(ctx, time.Minute, "ready", func() error {
		if err := a.call(ctx, http.MethodGet, "/v1/connect/ca/roots", nil); err != nil {
			return err
		}
		return a.call(ctx, http.MethodGet, "/v1/catalog/node/bench", nil)
	})
	if err != nil {
		a.process.stop()
		return nil, err
	}
	return a, nil
}

func (a *agent) register(ctx context.Context, l load) error {
	for _, e := range l.entries()[:1] { // the protocol, before there is anything to make again for it
		if err := a.call(ctx, http.MethodPut, "/v1/config", e); err != nil {
			return err
		}
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(4)
	for _, e := range l.entries()[1:] {
		g.Go(func() error { return a.call(ctx, http.MethodPut, "/v1/config", e) })
	}
	for _, d := range l.services() {
		// Nobody listens at the sidecars' ports; their health is their service's, which has no checks.
		d.Connect.SidecarService.Check = &check{AliasService: d.ID}
		g.Go(func() error { return a.call(ctx, http.MethodPut, "/v1/agent/service/register", d) })
	}
	return g.Wait()
}

func (a *agent) call(ctx context.Context, method, path string, body any) error {
	b, err := json.Marshal(body)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://"+a.http+path, bytes.NewReader(b))
	if err != nil {
		return err
	}
	resp, err := a.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s %s: %s: %.200s", method, path, resp.Status, answer)
	}
	return err
}

// consulPlane is Consul's own control plane.
func consulPlane(a *agent, l load) *plane {
	return &plane{
		name: byConsul, network: "tcp", address: a.grpc, control: a.process,
		repeat: 1, changes: a.changesOf(l),
	}
}

// besidePlane is sallyport, or the one that it is compared with, beside the agent, to which it
// speaks through what notes the answers.
func besidePlane(
	ctx context.Context, o options, by, dir string, l load, a *agent, between *answers,
) (*plane, error) {
	env := []string{"CONSUL_HTTP_ADDR=" + between.server.Addr}
	s, client, err := serve(ctx, o.binary(by), dir, l, env, "--consul")
	if err != nil {
		return nil, err
	}
	p := &plane{
		name: by, network: "unix", address: admin.XDSSocket(client.Dir()), control: s, beside: a.process,
		repeat: 3, changes: a.changesOf(l), answers: between,
	}
	if by == byThis {
		p.profiles = newProfiler(o.profiles, admin.Socket(client.Dir()))
	}
	return p, nil
}

// changesOf are the changes that are made in Consul, the same for all.
func (a *agent) changesOf(l load) []change {
	put := func(path string, body func(n int) (any, error)) func(context.Context) (time.Time, error) {
		return func(ctx context.Context) (time.Time, error) {
			a.changes++
			b, err := body(a.changes)
			if err != nil {
				return time.Time{}, err
			}
			at := time.Now()
			return at, a.call(ctx, http.MethodPut, path, b)
		}
	}
	endpoint := put("/v1/catalog/register", func(n int) (any, error) {
		address := address(60_000 + n)
		id := fmt.Sprintf("hub-0-%d", n)
		return map[string]any{
			"Node": id, "Address": address, "SkipNodeUpdate": false,
			"Service": map[string]any{
				"Kind": "connect-proxy", "ID": id + "-sidecar-proxy", "Service": "hub-0-sidecar-proxy", "Address": address, "Port": sidecarPort,
				"Proxy": map[string]any{"DestinationServiceName": "hub-0", "DestinationServiceID": id},
			},
		}, nil
	})
	intention := put("/v1/config", func(n int) (any, error) { return wildcard(n), nil })
	root := put("/v1/connect/ca/configuration", func(int) (any, error) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, err
		}
		der, err := x509.MarshalECPrivateKey(key)
		if err != nil {
			return nil, err
		}
		text := pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der})
		return map[string]any{"Provider": "consul", "Config": map[string]any{"PrivateKey": string(text), "LeafCertTTL": "72h", "IntermediateCertTTL": "8760h"}}, nil
	})
	return []change{
		{name: oneEndpoint, make: endpoint, told: l.dialling(), answer: "/v1/health/connect/hub-0"},
		{name: wildcardIntention, make: intention, told: l.sidecars, answer: "/v1/connect/intentions"},
		{name: rootChange, make: root, told: l.sidecars, slow: true, once: true},
	}
}

func freePort(ctx context.Context) (int, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	addr, ok := l.Addr().(*net.TCPAddr)
	if err := l.Close(); err != nil || !ok {
		return 0, errors.Join(err, fmt.Errorf("listening at %s", l.Addr()))
	}
	return addr.Port, nil
}
