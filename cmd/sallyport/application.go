package main

import (
	"cmp"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"strconv"
	"sync"

	"github.com/sallyport/sallyport/admin"
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/xds"
)

// applications are those that do not answer their sidecars, as these say. The zero value has none.
type applications struct {
	mu      sync.Mutex
	byProxy map[string]admin.Application // by proxy
}

// note takes what a sidecar says. What becomes otherwise is logged.
func (s *applications) note(v *catalog.View, peer admin.Peer, a admin.Application, log *slog.Logger) error {
	w := (*catalog.ProxyView)(nil)
	if v != nil {
		w = v.Proxy(identity.ProxyID(a.ProxyID))
	}
	switch {
	case w == nil:
		return fmt.Errorf("proxy %.100q: %w in the catalog", a.ProxyID, admin.ErrUnknown)
	case !mayRun(peer, w.Proxy):
		return fmt.Errorf("the application of %s: %w to uid %d", a.ProxyID, admin.ErrForbidden, peer.UID)
	}
	a.Address, a.Origin = applicationAddress(w.Proxy), cmp.Or(w.Proxy.Inbound.LocalOrigin, w.Proxy.Origin)
	log = log.With("proxy", a.ProxyID, "service", w.Proxy.Service, "addr", a.Address, "origin", a.Origin)
	s.mu.Lock()
	defer s.mu.Unlock()
	_, known := s.byProxy[a.ProxyID]
	if a.Answers {
		delete(s.byProxy, a.ProxyID)
		if known {
			log.Info("the application answers again")
		}
		return nil
	}
	if s.byProxy == nil {
		s.byProxy = map[string]admin.Application{}
	}
	s.byProxy[a.ProxyID] = a
	if !known {
		log.Warn("the application does not answer its sidecar: start it, or correct the service's port")
	}
	return nil
}

// silent are the applications that do not answer, of the proxies that are connected. Of others
// nothing is known any more.
func (s *applications) silent(proxies []xds.ProxyStatus) map[string]admin.Application {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.byProxy) == 0 {
		return nil
	}
	out := map[string]admin.Application{}
	for _, p := range proxies {
		if a, ok := s.byProxy[string(p.ID)]; ok && p.Connected {
			out[string(p.ID)] = a
		}
	}
	s.byProxy = maps.Clone(out)
	return out
}

// applicationAddress is where a proxy looks for its application.
func applicationAddress(p *catalog.Proxy) string {
	if p.Inbound.LocalSocket != "" {
		return p.Inbound.LocalSocket
	}
	return net.JoinHostPort(p.Inbound.LocalAddress, strconv.Itoa(int(p.Inbound.LocalPort)))
}
