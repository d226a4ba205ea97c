package files

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"time"

	"github.com/sallyport/sallyport/internal/atomicfile"
)

// The range that sidecars' ports are chosen from (Consul, ports.sidecar_min_port and
// sidecar_max_port).
const (
	minSidecarPort = 21000
	maxSidecarPort = 21255
)

// hostPort is a port of a machine.
type hostPort struct {
	host string
	port uint16
}

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
	for i := range s.foreign {
		all = append(all, s.foreign[i].BindPort)
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
				s.id, minSidecarPort, maxSidecarPort, cmp.Or(s.host, "loopback"))
		}
	}
	for i, s := range a.sidecars {
		if s.published != nil && !s.port.Set && s.chosen != next[s.id] {
			a.disclaim(s)
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

// lastWrite bounds how long the end of Run waits for the disk.
const lastWrite = 5 * time.Second

// rememberPorts begins to write the ports that take chooses, the newest of them, beside what it
// publishes: a disk that stalls holds up no revocation. The function that it returns ends that when
// the last ones are written, or the disk takes too long.
//
// So a crash may come before the ports are on the disk. The next start then chooses again for those
// sidecars that had no port before, or whose port was given to somebody by name since. They may get
// each other's: their listeners move, and callers learn of it as of any new endpoint. Until they
// have, they reach nobody or a sidecar that is not whom they expect, with which the handshake fails.
// All others keep their ports.
func (s *Source) rememberPorts() (end func()) {
	if s.config.PortsFile == "" {
		return func() {}
	}
	ports, done := make(chan map[string]uint16, 1), make(chan struct{})
	s.ports = ports
	go func() {
		defer close(done)
		for newest := range ports {
			s.wrote(s.write(s.config.PortsFile, newest))
		}
	}()
	return func() {
		close(ports)
		select {
		case <-done:
		case <-time.After(lastWrite):
			s.config.Logger.Error("sidecar ports not remembered",
				"err", fmt.Errorf("ports file %s: the disk did not take it in %s", s.config.PortsFile, lastWrite))
		}
	}
}

// wrote takes in how a write ended. After an error the ports hold all the same; a restart chooses
// the same ones unless sidecars are added meanwhile.
func (s *Source) wrote(err error) {
	var unwritten *Problem
	if err != nil {
		s.config.Logger.Error("sidecar ports not remembered", "err", err)
		unwritten = &Problem{File: s.config.PortsFile, Text: "sidecar ports are not remembered: " + err.Error()}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.unwritten = unwritten
}
