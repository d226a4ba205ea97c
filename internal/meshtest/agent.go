package meshtest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// ConsulVersion is the Consul that e2e/consul/go.mod pins.
const ConsulVersion = "1.19.2"

// Agent is how an agent of Consul is configured: a server, on this machine alone. It needs a Dir
// and the ports.
type Agent struct {
	// Dir holds its data and its configuration.
	Dir string
	// Node is its name; empty: "node".
	Node string
	// HTTP, GRPC, RPC and Serf are its ports. A GRPC of 0 is none.
	HTTP, GRPC, RPC, Serf int
	// Expose is the port at which the check of a proxy is exposed, if there is one that exposes its
	// checks. 0: Consul's own.
	Expose int
	// HTTPS is the port of its API over TLS; 0: none. More has to say with which certificates.
	HTTPS int
	// More is configuration beside that.
	More map[string]any
	// Servers is how many servers its cluster has, 0 for one; Join are the Serf ports of the
	// others.
	Servers int
	Join    []int
	// Datacenter is its datacenter; empty: "dc1". Primary is the one of several datacenters that
	// has the CA and the configuration entries; empty: there are no others. WAN is the port by
	// which they are joined, and JoinWAN those of servers in others.
	Datacenter, Primary string
	WAN                 int
	JoinWAN             []int
	// Default is its default_intention_policy; empty: "deny", unless there are ACLs, whose default
	// is to deny anyway.
	Default string
	// Management is the secret of its management token: with one it has ACLs, whose default is to
	// deny.
	Management string
}

// Write writes the configuration and returns its file.
func (a Agent) Write() (string, error) {
	ports := map[string]int{"http": a.HTTP, "grpc": -1, "grpc_tls": -1, "dns": -1, "https": -1, "server": a.RPC, "serf_lan": a.Serf, "serf_wan": -1}
	if a.GRPC != 0 {
		ports["grpc"] = a.GRPC
	}
	if a.HTTPS != 0 {
		ports["https"] = a.HTTPS
	}
	if a.Expose != 0 {
		// The agent takes the first of the range.
		ports["expose_min_port"], ports["expose_max_port"] = a.Expose, a.Expose+1
	}
	if a.Primary != "" {
		ports["serf_wan"] = a.WAN
	}
	c := map[string]any{
		"server": true, "bootstrap_expect": max(a.Servers, 1), "node_name": a.node(), "datacenter": or(a.Datacenter, "dc1"), "data_dir": filepath.Join(a.Dir, "data"),
		"bind_addr": "127.0.0.1", "client_addr": "127.0.0.1", "ports": ports, "connect": map[string]any{"enabled": true},
		"performance": map[string]any{"raft_multiplier": 1}, "disable_update_check": true, "disable_keyring_file": true, "log_level": "DEBUG",
		// It is to go the way that it would if it was lost, not to say goodbye.
		"leave_on_terminate": false, "skip_leave_on_interrupt": true,
	}
	switch {
	case a.Default != "":
		c["default_intention_policy"] = a.Default
	case a.Management == "":
		c["default_intention_policy"] = "deny"
	}
	if a.Management != "" {
		c["acl"] = map[string]any{
			"enabled": true, "default_policy": "deny",
			"tokens": map[string]any{"initial_management": a.Management, "agent": a.Management},
		}
	}
	if join := addresses(a.Join); len(join) > 0 {
		c["retry_join"], c["retry_interval"] = join, "1s"
	}
	if a.Primary != "" {
		c["primary_datacenter"] = a.Primary
	}
	if join := addresses(a.JoinWAN); len(join) > 0 {
		c["retry_join_wan"], c["retry_interval_wan"] = join, "1s"
	}
	maps.Copy(c, a.More)
	b, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		return "", err
	}
	file := filepath.Join(a.Dir, "agent.json")
	return file, os.WriteFile(file, b, 0o600)
}

func addresses(ports []int) (out []string) {
	for _, p := range ports {
		out = append(out, fmt.Sprintf("127.0.0.1:%d", p))
	}
	return out
}

func (a Agent) node() string {
	if a.Node == "" {
		return "node"
	}
	return a.Node
}

// API is the HTTP API of a Consul agent.
type API struct {
	// Addr is the agent's: "127.0.0.1:8500". Token is the secret of the token that is used; empty:
	// none is.
	Addr, Token string
}

// Do calls the API: with the JSON of in, if that is not nil, and the answer into out, if that is
// not nil.
func (a API) Do(method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequest(method, "http://"+a.Addr+path, body)
	if err != nil {
		return err
	}
	if a.Token != "" {
		req.Header.Set("X-Consul-Token", a.Token)
	}
	c := http.Client{Timeout: 10 * time.Second}
	resp, err := c.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	switch {
	case err != nil:
		return err
	case resp.StatusCode != http.StatusOK:
		return fmt.Errorf("%s %s: %s %.300s", method, path, resp.Status, answer)
	case out == nil:
		return nil
	}
	if err := json.Unmarshal(answer, out); err != nil {
		return fmt.Errorf("%s %s: %w", method, path, err)
	}
	return nil
}

// Ready is nil when the agent has a leader and a CA.
func (a API) Ready() error {
	var leader string
	if err := a.Do(http.MethodGet, "/v1/status/leader", nil, &leader); err != nil {
		return err
	}
	if leader == "" {
		return errors.New("no leader")
	}
	var roots struct{ ActiveRootID string }
	if err := a.Do(http.MethodGet, "/v1/agent/connect/ca/roots", nil, &roots); err != nil {
		return err
	}
	if roots.ActiveRootID == "" {
		return errors.New("no CA root")
	}
	return nil
}

// ConsulEnviron is the environment of a `consul` command, and of a `sallyport` beside it, that is
// to use this agent.
func (a API) ConsulEnviron() []string {
	env := append(Environ(), "CONSUL_HTTP_ADDR="+a.Addr)
	if a.Token != "" {
		env = append(env, "CONSUL_HTTP_TOKEN="+a.Token)
	}
	return env
}

// registration is the service as Consul's agent takes it.
func (s Service) registration(ports upstreamPorts) map[string]any {
	host, local, localPort := or(s.Host, "127.0.0.1"), "127.0.0.1", 1
	if s.Local != nil {
		local, localPort = s.Local.Host(), s.Local.Port()
	}
	proxy := map[string]any{"LocalServiceAddress": local, "LocalServicePort": localPort}
	var upstreams []map[string]any
	for _, u := range s.Upstreams {
		name, datacenter, _ := strings.Cut(u, "?dc=")
		upstreams = append(upstreams, map[string]any{"DestinationName": name, "Datacenter": datacenter, "LocalBindAddress": or(s.UpstreamHost, "127.0.0.1"), "LocalBindPort": ports[u]})
	}
	if upstreams != nil {
		proxy["Upstreams"] = upstreams
	}
	config := map[string]any{}
	for _, c := range s.Config {
		key, value, _ := strings.Cut(c, "=")
		var v any
		if json.Unmarshal([]byte(value), &v) != nil {
			v = strings.TrimSpace(value)
		}
		config[strings.TrimSpace(key)] = v
	}
	proxy["Config"] = config
	sidecar := map[string]any{
		"Address": host, "Port": s.Port, "Proxy": proxy,
		"Checks": []map[string]any{ListeningCheck(host, s.Port, or(s.CheckInterval, "10s"))},
	}
	if s.WAN != "" {
		sidecar["TaggedAddresses"] = map[string]any{"wan": map[string]any{"Address": s.WAN, "Port": s.Port}}
	}
	return map[string]any{"ID": s.Name, "Name": s.Name, "Address": host, "Port": localPort, "Connect": map[string]any{"SidecarService": sidecar}}
}

// ListeningCheck is Consul's own check of a sidecar but for its beginning: that one is critical until
// the agent has looked, up to 10 s later, and has told its servers, which may take it half a minute.
func ListeningCheck(host string, port int, interval string) map[string]any {
	return map[string]any{
		"Name": "Connect Sidecar Listening", "TCP": fmt.Sprintf("%s:%d", host, port),
		"Interval": interval, "Status": "passing",
	}
}

func or(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

// entry is the intentions as Consul's configuration entry.
func (i Intentions) entry(destination string) map[string]any {
	var sources []map[string]any
	for n, action := range i {
		name, peer, _ := strings.Cut(n, "@")
		s := map[string]any{"Name": name, "Action": action}
		if peer != "" {
			s["Peer"] = peer
		}
		sources = append(sources, s)
	}
	return map[string]any{"Kind": "service-intentions", "Name": destination, "Sources": sources}
}
