package main

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/sallyport/sallyport/admin"
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/identity"
)

// proxyOf finds the proxy that a request for a token names.
func proxyOf(v *catalog.View, r admin.TokenRequest) (*catalog.Proxy, error) {
	switch {
	case (r.SidecarFor == "") == (r.ProxyID == ""):
		return nil, errors.New("exactly one of --sidecar-for and --proxy-id says which proxy")
	case r.ProxyID != "":
		if w := v.Proxy(identity.ProxyID(r.ProxyID)); w != nil {
			return w.Proxy, nil
		}
		return nil, fmt.Errorf("proxy %q: %w in the catalog (`sallyport status` lists the proxies)", r.ProxyID, admin.ErrUnknown)
	}
	var found []*catalog.Proxy
	for pr := range v.Proxies() {
		if pr.Instance == r.SidecarFor {
			found = append(found, pr)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return nil, fmt.Errorf("a sidecar for the service instance %q: %w in the catalog (give the service's ID; `sallyport status` lists the proxies)", r.SidecarFor, admin.ErrUnknown)
	default:
		return nil, fmt.Errorf("the service instance %q has %d proxies: choose one with --proxy-id", r.SidecarFor, len(found))
	}
}

// listenersOf are what the Envoy of a proxy binds.
func listenersOf(pr *catalog.Proxy) []admin.Listener {
	port := func(n uint16) string { return strconv.Itoa(int(n)) }
	out := []admin.Listener{{Name: "public_listener", Address: net.JoinHostPort(pr.Inbound.Address, port(pr.Inbound.Port)), Origin: pr.Origin}}
	for _, u := range pr.Upstreams {
		l := admin.Listener{Name: "upstream " + u.Name(), Socket: u.BindSocket, Origin: u.Origin}
		if u.BindSocket == "" {
			l.Address = net.JoinHostPort(u.BindAddress, port(u.BindPort))
		}
		out = append(out, l)
	}
	for _, e := range pr.Exposed {
		out = append(out, admin.Listener{Name: "exposed path " + e.Path, Address: net.JoinHostPort(pr.Inbound.Address, port(e.ListenerPort)), Origin: e.Origin})
	}
	return out
}

func (p *controlPlane) token(peer admin.Peer, r admin.TokenRequest) (admin.TokenResponse, error) {
	v, ok := p.store.Views.Load()
	if !ok {
		return admin.TokenResponse{}, fmt.Errorf("%w: the catalog has not been read: %s", admin.ErrNotYet, strings.Join(p.reasons(), "; "))
	}
	pr, err := proxyOf(v, r)
	if err != nil {
		return admin.TokenResponse{}, err
	}
	if peer.UID != 0 && peer.UID != os.Geteuid() && peer.UID != pr.Bootstrap.UID {
		return admin.TokenResponse{}, fmt.Errorf("the token of %s: %w to uid %d (root, uid %d and the proxy's own sallyport_uid are; %s)", pr.ID, admin.ErrForbidden, peer.UID, os.Geteuid(), pr.Origin)
	}
	ttl := r.TTL
	if ttl == 0 {
		ttl = p.cfg.TokenTTL
	}
	if ttl < 0 || ttl > maxTokenTTL {
		return admin.TokenResponse{}, fmt.Errorf("a token's life of %v is not between 0 and %v", ttl, maxTokenTTL)
	}
	out := admin.TokenResponse{
		ProxyID: string(pr.ID), Service: pr.Service.Service, Namespace: pr.Service.Namespace, Partition: pr.Service.Partition,
		Datacenter: v.Mesh().Datacenter, TrustDomain: v.Mesh().TrustDomain.Name(), Origin: pr.Origin,
		XDSSocket: admin.XDSSocket(p.cfg.RuntimeDir), PrometheusBindAddr: pr.Bootstrap.PrometheusBindAddr, Listeners: listenersOf(pr),
	}
	if e, ok := p.remote.Load(); !ok && p.cfg.XDSAddress != "" {
		return admin.TokenResponse{}, fmt.Errorf("%w: the endpoint at %s has no certificate", admin.ErrNotYet, p.cfg.XDSAddress)
	} else if ok {
		out.XDSAddress, out.XDSCA, out.XDSURI = p.cfg.XDSAddress, string(e.RootsPEM()), e.URI()
	}
	if p.mint == nil {
		out.OwnToken = true
		return out, nil
	}
	out.Token, out.Expires, err = p.mint(pr.ID, ttl)
	return out, err
}

func (p *controlPlane) rotateLeaf(service string) error {
	if p.mint == nil {
		return errors.New("consul's agent renews leafs, and has no call for doing so early (a root rotation does it: consul connect ca set-config)")
	}
	name := identity.NewName(service)
	err := p.secrets.Rotate(name)
	if err == nil {
		return nil
	}
	known := false
	for _, pr := range p.xds.Status() {
		if pr.Service == name.String() {
			if pr.Connected {
				return err
			}
			known = true
		}
	}
	if !known {
		return fmt.Errorf("a proxy of the service %q: %w in the catalog (`sallyport status` lists the proxies)", service, admin.ErrUnknown)
	}
	return fmt.Errorf("%w: none of its sidecars is connected, and only those that are have leafs (`sallyport status` lists them)", err)
}

// maxTokenTTL bounds the life of tokens for Envoys that somebody else starts, which nobody renews.
const maxTokenTTL = 366 * 24 * time.Hour

func (p *controlPlane) api() admin.API {
	return admin.API{
		Status: p.describe,
		Change: p.xds.Change,
		Check: func(source, destination string) (admin.CheckResponse, error) {
			v, _ := p.store.Views.Load()
			return checkIntention(v, source, destination)
		},
		Rotate:  p.rotateLeaf,
		Token:   p.token,
		Reload:  p.reload,
		Metrics: promhttp.HandlerFor(p.metrics, promhttp.HandlerOpts{}),
		Health:  http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") }),
		Ready: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			reasons := p.reasons()
			if len(reasons) > 0 {
				w.WriteHeader(http.StatusServiceUnavailable)
			}
			for _, r := range reasons {
				fmt.Fprintln(w, r)
			}
			if len(reasons) == 0 {
				fmt.Fprintln(w, "ready")
			}
		}),
	}
}

// reasons says why nobody can be served yet, or not for long.
func (p *controlPlane) reasons() []string {
	out := p.notReady()
	if _, ok := p.store.Views.Load(); !ok {
		out = append(out, "no valid catalog was read yet")
		out = append(out, p.status().Problems...)
	}
	if _, ok := p.secrets.Roots(); !ok {
		out = append(out, "the trust bundle is not there yet")
	}
	return out
}

func (p *controlPlane) describe() admin.Status {
	s := admin.Status{
		Version: versionText(), PID: os.Getpid(), Started: p.started, Catalog: p.status(), NotReady: p.reasons(), Unrecorded: p.xds.Unrecorded(), Proxies: p.xds.Status(),
	}
	if td, ok := p.trustDomain(); ok {
		s.TrustDomain = td.Name()
	}
	if v, ok := p.store.Views.Load(); ok {
		s.Datacenter = v.Mesh().Datacenter
		for range v.Services() {
			s.Catalog.Services++
		}
		s.Catalog.Intentions = v.IntentionCount()
		s.Change, s.ChangeSeen = v.Change().Number, v.Change().Seen
	}
	return s
}
