package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"github.com/sallyport/sallyport/catalog"
)

// load is what a control plane has to carry: services with one sidecar each, every one of which dials the same number of others.
type load struct {
	sidecars, upstreams int
	protocol            string
	// users is how many sidecars dial the service whose endpoints change; 0: all.
	users int
	// others are services that no sidecar of the load dials, and none of theirs comes.
	others int
	// wildcards are intentions for all destinations that are there from the beginning.
	wildcards int
	// uid is the user whose processes are service(0); 0: nobody's.
	uid int
}

func (l load) String() string { return fmt.Sprintf("%d × %d %s", l.sidecars, l.upstreams, l.protocol) }

// slug is l in a benchmark's name.
func (l load) slug() string { return fmt.Sprintf("%dx%d-%s", l.sidecars, l.upstreams, l.protocol) }

// hubs is how many services there are of which each sidecar dials one; the others that it dials are of a pool.
func (l load) hubs() int {
	if l.users == 0 {
		return 1
	}
	return (l.sidecars + l.users - 1) / l.users
}

// dialling is how many sidecars dial the service whose endpoints change.
func (l load) dialling() int {
	if l.users == 0 {
		return l.sidecars
	}
	return l.users
}

func (l load) pool() int { return max(l.upstreams-1, l.sidecars/10) }

func (l load) hub(i int) string {
	if l.users == 0 {
		return "hub-0"
	}
	return fmt.Sprintf("hub-%d", i/l.users)
}

// definition is a service in Consul's format, which the files and the agent's API share.
type definition struct {
	Name, ID string
	Address  string
	Port     int
	Meta     map[string]string `json:",omitempty"`
	Connect  *connect          `json:",omitempty"`
}

type connect struct{ SidecarService sidecarService }

type sidecarService struct {
	Port  int
	Check *check `json:",omitempty"`
	Proxy *proxy `json:",omitempty"`
}

type check struct{ AliasService string }

type proxy struct{ Upstreams []upstream }

type upstream struct {
	DestinationName  string
	LocalBindAddress string
	LocalBindPort    int
}

// entry is a config entry.
type entry struct {
	Kind     string
	Name     string
	Protocol string            `json:",omitempty"`
	Config   map[string]string `json:",omitempty"`
	Sources  []source          `json:",omitempty"`
}

type source struct{ Name, Action string }

const (
	servicePort  = 8080
	sidecarPort  = 20000
	upstreamPort = 9000
)

// define is the n-th service; each has addresses of its own, as on machines of their own, so that the ports are the same.
func define(n int, name string, upstreams ...string) definition {
	n++
	d := definition{Name: name, ID: name, Address: address(n), Port: servicePort, Connect: &connect{SidecarService: sidecarService{Port: sidecarPort}}}
	for i, u := range upstreams {
		if d.Connect.SidecarService.Proxy == nil {
			d.Connect.SidecarService.Proxy = &proxy{}
		}
		p := d.Connect.SidecarService.Proxy
		p.Upstreams = append(p.Upstreams, upstream{DestinationName: u, LocalBindAddress: fmt.Sprintf("127.%d.%d.%d", 1+n>>16, n>>8&255, n&255), LocalBindPort: upstreamPort + i})
	}
	return d
}

// address is where the n-th service is dialled.
func address(n int) string { return fmt.Sprintf("10.%d.%d.%d", n>>16, n>>8&255, n&255) }

// services are all of the load, first those that are only dialled.
func (l load) services() (all []definition) {
	add := func(name string, upstreams ...string) {
		all = append(all, define(len(all), name, upstreams...))
	}
	for i := range l.hubs() {
		add(fmt.Sprintf("hub-%d", i))
	}
	for i := range l.pool() {
		add(fmt.Sprintf("pool-%d", i))
	}
	for i := range l.sidecars {
		upstreams := []string{l.hub(i)}
		for k := range l.upstreams - 1 {
			upstreams = append(upstreams, fmt.Sprintf("pool-%d", (i+k)%l.pool()))
		}
		add(service(i), upstreams...)
		if i == 0 && l.uid > 0 {
			all[len(all)-1].Meta = map[string]string{catalog.MetaSelectors: fmt.Sprintf("unix:uid:%d", l.uid)}
		}
	}
	for i := range l.others {
		add(fmt.Sprintf("other-%d", i))
	}
	return all
}

func service(i int) string { return fmt.Sprintf("web-%d", i) }

func proxyID(i int) string { return service(i) + "-sidecar-proxy" }

// entries are the protocol of all services and one intention for each.
func (l load) entries() []entry {
	all := []entry{{Kind: "proxy-defaults", Name: "global", Config: map[string]string{"protocol": l.protocol}}}
	for i := range l.sidecars {
		all = append(all, entry{Kind: "service-intentions", Name: service(i), Sources: []source{{service((i + 1) % l.sidecars), "allow"}}})
	}
	return all
}

// wildcardFile is where the intentions for all destinations are.
const wildcardFile = "wildcard.json"

// wildcard are n intentions for all destinations. One more takes nothing from anybody.
func wildcard(n int) entry {
	e := entry{Kind: "service-intentions", Name: "*"}
	for i := range n {
		e.Sources = append(e.Sources, source{fmt.Sprintf("operator-%d", i), "allow"})
	}
	return e
}

// perFile is how many services, or config entries, are in a file.
const perFile = 100

// entriesFile is the n-th file of config entries.
func entriesFile(n int) string { return fmt.Sprintf("entries-%03d.json", n) }

// write puts the load into a directory of definitions.
func (l load) write(dir string) error {
	services := l.services()
	for n := 0; n*perFile < len(services); n++ {
		some := services[n*perFile : min((n+1)*perFile, len(services))]
		if err := writeJSON(filepath.Join(dir, fmt.Sprintf("services-%03d.json", n)), map[string]any{"Services": some}); err != nil {
			return err
		}
	}
	if l.wildcards > 0 {
		if err := writeJSON(filepath.Join(dir, wildcardFile), wildcard(l.wildcards)); err != nil {
			return err
		}
	}
	entries := l.entries()
	for n := 0; n*perFile < len(entries); n++ {
		some := entries[n*perFile : min((n+1)*perFile, len(entries))]
		if err := writeJSON(filepath.Join(dir, entriesFile(n)), map[string]any{"config_entries": map[string]any{"bootstrap": some}}); err != nil {
			return err
		}
	}
	return nil
}

// readJSON reads a file that writeJSON wrote.
func readJSON(path string, v any) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	return json.Unmarshal(b, v)
}

// writeJSON replaces a file as a whole.
func writeJSON(path string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	tmp := filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".tmp")
	if err := os.WriteFile(tmp, b, 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}
