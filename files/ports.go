package files

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"

	"github.com/sallyport/sallyport/internal/atomicfile"
)

// The range that sidecars' ports are chosen from (Consul, ports.sidecar_min_port and
// sidecar_max_port).
const (
	minSidecarPort = 21000
	maxSidecarPort = 21255
)

// namedPorts are those of the range that the directory names, whatever for.
type namedPorts [maxSidecarPort - minSidecarPort + 1]bool

func (n *namedPorts) add(port uint16) {
	if port >= minSidecarPort && port <= maxSidecarPort {
		n[port-minSidecarPort] = true
	}
}

func (a *assembly) namedPorts() (n namedPorts) {
	for _, names := range [][]*name{a.sorted, a.created} {
		for _, name := range names {
			for _, s := range name.instances {
				n.add(s.port.Value)
			}
		}
	}
	for _, s := range a.sidecars {
		for _, port := range s.named {
			n.add(port)
		}
	}
	return n
}

// namePorts notes the ports that s names.
func (s *sidecar) namePorts() {
	all := []uint16{s.port.Value, s.localPort.Value, s.settings.BindPort.Value, s.settings.Prometheus.Value.Port()}
	for i := range s.upstreams {
		all = append(all, s.upstreams[i].BindPort)
	}
	for _, e := range s.exposed {
		all = append(all, e.ListenerPort, e.LocalPort)
	}
	s.named = slices.DeleteFunc(all, func(p uint16) bool { return p < minSidecarPort || p > maxSidecarPort })
}

// samePort reports whether a port that was chosen for s can be that of o.
func (s *sidecar) samePort(o *sidecar) bool {
	return s.id == o.id && s.host == o.host && s.port.Set == o.port.Set
}

// choosePorts chooses a port for each sidecar that names none: a port that was chosen once stays,
// also while its sidecar is away. Ports that the directory names anywhere are not chosen. A sidecar
// that is given another port than before is made again.
func (a *assembly) choosePorts(remembered map[string]uint16) {
	used := map[hostPort]bool{}
	next := map[string]uint16{}
	free := func(host string, port uint16) bool {
		return !a.named[port-minSidecarPort] && !used[hostPort{host, port}]
	}
	var open []*sidecar
	present := make(map[string]bool, len(a.sidecars))
	for _, s := range a.sidecars { // sorted, so the outcome does not depend on the files' order
		present[s.id] = true
		if s.port.Set {
			continue
		}
		port, ok := remembered[s.id]
		if !ok || port < minSidecarPort || port > maxSidecarPort || !free(s.host, port) {
			open = append(open, s)
			continue
		}
		used[hostPort{s.host, port}] = true
		next[s.id] = port
	}
	kept := map[uint16]bool{} // for sidecars that are away
	for id, port := range remembered {
		if !present[id] {
			next[id] = port
			kept[port] = true
		}
	}
	choose := func(s *sidecar) bool {
		for port := uint16(minSidecarPort); port <= maxSidecarPort; port++ {
			if !kept[port] && free(s.host, port) {
				used[hostPort{s.host, port}] = true
				next[s.id] = port
				return true
			}
		}
		return false
	}
	for _, s := range open {
		if choose(s) {
			continue
		}
		// None is left: those who are away lose theirs.
		clear(kept)
		maps.DeleteFunc(next, func(id string, _ uint16) bool { return !present[id] })
		if !choose(s) {
			a.problem(s.at,
				"no port is left for %s between %d and %d on %s: give it a port",
				s.id, minSidecarPort, maxSidecarPort, s.host)
		}
	}
	for i, s := range a.sidecars {
		if s.published != nil && !s.port.Set && s.chosen != next[s.id] {
			a.listeners.remove(s)
			s = a.sidecar(s.proxy)
			s.of.endpoints, s.chosen, a.sidecars[i] = nil, next[s.id], s
		}
	}
	a.ports, a.newPorts = next, !maps.Equal(next, remembered)
}

// portsFile is the form of the file in which ports are remembered.
type portsFile struct {
	Version int               `json:"version"`
	Ports   map[string]uint16 `json:"ports"` // by the proxy's ID
}

const portsVersion = 1

// readPorts returns the ports that a file remembers; none if it is not there or path is empty.
func readPorts(path string) (map[string]uint16, error) {
	if path == "" {
		return nil, nil
	}
	src, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("ports file: %w", err)
	}
	var f portsFile
	if err := json.Unmarshal(src, &f); err != nil {
		return nil, fmt.Errorf("ports file %s: %w: remove it to have the sidecars' ports chosen again", path, err)
	}
	if f.Version != portsVersion {
		return nil, fmt.Errorf("ports file %s: version %d, and %d is known: remove it to have the sidecars' ports chosen again", path, f.Version, portsVersion)
	}
	return f.Ports, nil
}

// writePorts replaces the file.
func writePorts(path string, ports map[string]uint16) error {
	src, err := json.MarshalIndent(portsFile{Version: portsVersion, Ports: ports}, "", "  ")
	if err == nil {
		err = atomicfile.Replace(path, append(src, '\n'))
	}
	if err != nil {
		return fmt.Errorf("ports file %s: %w", path, err)
	}
	return nil
}
