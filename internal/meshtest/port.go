package meshtest

import (
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
)

// Ports are taken from [firstPort, lastPort]: below the ports that systems hand out for outgoing
// connections (one of those would be in use now and then when an Envoy wants to bind) and beside
// those that Consul and its sidecars have by default.
const (
	firstPort = 10000
	lastPort  = 19999
)

// Ports hands out TCP ports that nobody listens on. The zero value is ready for use, by several
// goroutines.
type Ports struct {
	mu   sync.Mutex
	next int
}

// Next returns a port on which nobody listens, on any address of this machine, and that was not
// handed out before.
func (p *Ports) Next() (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	const n = lastPort - firstPort + 1
	if p.next == 0 {
		// Anywhere, so that two test processes at one time seldom meet.
		p.next = firstPort + rand.IntN(n)
	}
	for range n {
		port := p.next
		if p.next++; p.next > lastPort {
			p.next = firstPort
		}
		if free(port) {
			return port, nil
		}
	}
	return 0, fmt.Errorf("no free port in %d-%d", firstPort, lastPort)
}

func free(port int) bool {
	for _, host := range []string{"", "127.0.0.1", "::1"} {
		l, err := net.Listen("tcp", net.JoinHostPort(host, strconv.Itoa(port)))
		if err != nil {
			if host == "::1" && !HasIPv6() {
				continue
			}
			return false
		}
		l.Close()
	}
	return true
}

// HasIPv6 reports whether this machine has an IPv6 loopback address.
func HasIPv6() bool {
	l, err := net.Listen("tcp6", "[::1]:0")
	if err != nil {
		return false
	}
	l.Close()
	return true
}
