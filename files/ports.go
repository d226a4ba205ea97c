package files

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"

	"github.com/sallyport/sallyport/internal/atomicfile"
)

// The range that sidecars' ports are chosen from (Consul, ports.sidecar_min_port and sidecar_max_port).
const (
	minSidecarPort = 21000
	maxSidecarPort = 21255
)

// choosePorts gives a port to each sidecar that has none, and returns what is to be remembered of that: a port that was
// chosen once stays, also while its sidecar is away. Ports that the directory names anywhere are not chosen.
func (a *assembly) choosePorts(remembered map[string]uint16) map[string]uint16 {
	named := a.namedPorts()
	type place struct {
		host string
		port uint16
	}
	used := map[place]bool{}
	next := map[string]uint16{}
	var open []*sidecar
	for _, s := range a.sidecars { // sorted, so the outcome does not depend on the files' order
		if s.port.Set {
			continue
		}
		port, ok := remembered[s.id]
		if !ok || port < minSidecarPort || port > maxSidecarPort || named[port] || used[place{s.host, port}] {
			open = append(open, s)
			continue
		}
		used[place{s.host, port}] = true
		next[s.id] = port
	}
	kept := map[uint16]bool{} // for sidecars that are away
	present := map[string]bool{}
	for _, s := range a.sidecars {
		present[s.id] = true
	}
	for id, port := range remembered {
		if !present[id] {
			next[id] = port
			kept[port] = true
		}
	}
	choose := func(s *sidecar) bool {
		for port := uint16(minSidecarPort); port <= maxSidecarPort; port++ {
			if !named[port] && !kept[port] && !used[place{s.host, port}] {
				used[place{s.host, port}] = true
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
			a.problem(s.at, "no port is left for %s between %d and %d on %s: give it a port", s.id, minSidecarPort, maxSidecarPort, s.host)
		}
	}
	for _, s := range a.sidecars {
		if !s.port.Set {
			s.port.Value = next[s.id] // set stays false; at stays empty
		}
	}
	return next
}

// namedPorts are all ports that the directory names, whatever for.
func (a *assembly) namedPorts() map[uint16]bool {
	named := map[uint16]bool{}
	for _, s := range a.directory.services {
		named[s.port.Value] = true
	}
	for _, s := range a.sidecars {
		named[s.port.Value] = true
		named[s.localPort.Value] = true
		named[s.settings.BindPort.Value] = true
		if s.settings.Prometheus.Set {
			named[s.settings.Prometheus.Value.Port()] = true
		}
		for _, u := range s.upstreams {
			named[u.BindPort] = true
		}
		for _, e := range s.exposed {
			named[e.ListenerPort], named[e.LocalPort] = true, true
		}
	}
	return named
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
