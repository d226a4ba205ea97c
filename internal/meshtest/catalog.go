package meshtest

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Service is a service with one instance and its sidecar, as a test describes it. WriteService
// turns it into a definition in Consul's format.
type Service struct {
	Name string
	// Protocol is tcp (also if empty), http, http2 or grpc.
	Protocol string
	// Local is where the application listens. Nil: nowhere; the service only dials others.
	Local *Server
	// Host is the address of the sidecar, 127.0.0.1 if empty; Port its port, given out if zero.
	Host string
	Port int
	// WAN is the address at which other datacenters of Consul dial the sidecar; empty: Host, too.
	WAN string
	// Upstreams are the services it dials; their ports are given out. Beside Consul "api?dc=dc2" is
	// the one of another datacenter.
	Upstreams []string
	// UpstreamHost is the address where its application dials them, 127.0.0.1 if empty.
	UpstreamHost string
	// Config are further keys of the proxy's config: `intention_enforcement = "both"`.
	Config []string
	// CheckInterval is how often Consul looks whether the sidecar listens, "10s" if empty. Files
	// have no checks.
	CheckInterval string
}

// ports of a service's upstreams, by name; kept over rewrites of the definition.
type upstreamPorts map[string]int

func (s Service) hcl(ports upstreamPorts) string {
	var b strings.Builder
	host := s.Host
	if host == "" {
		host = "127.0.0.1"
	}
	bind := s.UpstreamHost
	if bind == "" {
		bind = "127.0.0.1"
	}
	local := "127.0.0.1"
	localPort := 1 // a service without an application: nobody listens there
	if s.Local != nil {
		local, localPort = s.Local.Host(), s.Local.Port()
	}
	fmt.Fprintf(&b, "service {\n  name    = %q\n  id      = %q\n  address = %q\n  port    = %d\n", s.Name, s.Name, host, localPort)
	fmt.Fprintf(&b, "  connect {\n    sidecar_service {\n      port    = %d\n      address = %q\n", s.Port, host)
	fmt.Fprintf(&b, "      proxy {\n        local_service_address = %q\n        local_service_port    = %d\n", local, localPort)
	if len(s.Config) > 0 {
		b.WriteString("        config {\n")
		for _, c := range s.Config {
			fmt.Fprintf(&b, "          %s\n", c)
		}
		b.WriteString("        }\n")
	}
	if len(s.Upstreams) > 0 {
		b.WriteString("        upstreams = [\n")
		for _, u := range s.Upstreams {
			fmt.Fprintf(&b, "          { destination_name = %q, local_bind_address = %q, local_bind_port = %d },\n", u, bind, ports[u])
		}
		b.WriteString("        ]\n")
	}
	b.WriteString("      }\n    }\n  }\n}\n")
	return b.String()
}

// Intentions are the sources of one destination and what is said of them: {"web": "allow", "*":
// "deny"}.
type Intentions map[string]string

func (i Intentions) hcl(destination string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "Kind = \"service-intentions\"\nName = %q\nSources = [\n", destination)
	names := make([]string, 0, len(i))
	for n := range i {
		names = append(names, n)
	}
	slices.Sort(names)
	for _, n := range names {
		source, peer, _ := strings.Cut(n, "@")
		if peer != "" {
			peer = fmt.Sprintf(", Peer = %q", peer)
		}
		fmt.Fprintf(&b, "  { Name = %q%s, Action = %q },\n", source, peer, i[n])
	}
	b.WriteString("]\n")
	return b.String()
}

func protocolHCL(service, protocol string) string {
	return fmt.Sprintf("Kind = \"service-defaults\"\nName = %q\nProtocol = %q\n", service, protocol)
}

// replaceFile writes a file so that no reader ever sees half of it.
func replaceFile(path, text string) error {
	// The new file is not named like a definition, so that it is none before it is whole.
	tmp := filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".tmp")
	if err := os.WriteFile(tmp, []byte(text), 0o644); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}
