package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"

	alsv3 "github.com/envoyproxy/go-control-plane/envoy/service/accesslog/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/sallyport/sallyport/ca"
	"github.com/sallyport/sallyport/internal/admission"
	"github.com/sallyport/sallyport/xds"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
)

// serveRemote serves Envoys on other machines, over TLS, as soon as the trust domain is known that
// the endpoint's certificate is made for.
func (p *controlPlane) serveRemote(ctx context.Context, l net.Listener) (err error) {
	again := time.NewTicker(200 * time.Millisecond)
	defer again.Stop()
	td, ok := p.authority.trustDomain()
	for ; !ok; td, ok = p.authority.trustDomain() {
		select {
		case <-ctx.Done():
			return nil
		case <-again.C:
		}
	}
	e, err := ca.OpenEndpoint(ca.EndpointConfig{
		Dir: filepath.Join(p.cfg.Data, "endpoint"), TrustDomain: td, Keys: p.keys, Logger: p.log,
		Names: append(reachedAs(l.Addr(), p.cfg.XDSAddress), p.cfg.xdsNames()...),
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, e.Close()) }()
	p.remote.Set(e)
	return p.serveGRPC(ctx, l, credentials.NewTLS(e.TLSConfig()))
}

// reachedAs are the names and addresses by which clients may reach what listens at addr, as far as
// the machine knows them: what was configured, the machine's name, and, where it listens on all
// addresses, each of them but link-local ones.
func reachedAs(addr net.Addr, configured string) []string {
	var names []string
	add := func(name string) {
		if ca.CheckEndpointNames([]string{name}) == nil {
			names = append(names, name)
		}
	}
	host, _, _ := net.SplitHostPort(configured)
	tcp, ok := addr.(*net.TCPAddr)
	if net.ParseIP(host) == nil {
		add(host)
	}
	if host, err := os.Hostname(); err == nil {
		add(host)
	}
	if !ok || !tcp.IP.IsUnspecified() {
		if ok {
			add(tcp.IP.String())
			if tcp.IP.IsLoopback() {
				add("localhost")
			}
		}
		return names
	}
	add("localhost")
	// Without them the others hold, and Envoys go by none.
	addrs, _ := net.InterfaceAddrs()
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok && !n.IP.IsLinkLocalUnicast() {
			add(n.IP.String())
		}
	}
	return names
}

// stopTime bounds how long streams and calls are given to end; the process is to be gone within
// five seconds.
const stopTime = 3 * time.Second

// serveGRPC serves xDS, ext_authz and access logs on l until ctx ends. The streams of xDS are ended
// by xds.Server, with jitter; what is left is cut off.
func (p *controlPlane) serveGRPC(ctx context.Context, l net.Listener, creds credentials.TransportCredentials) error {
	gate := admission.New(admission.Config{Callers: p.callers.Authorizer, Refused: func(r admission.Refusal) { p.xds.Refused(r.Peer, r.Proxy, r.Method, r.Err) }})
	p.gates.add(gate)
	s := grpc.NewServer(slices.Concat(xds.ServerOptions(), gate.ServerOptions(creds))...)
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(s, p.xds)
	p.authz.Register(s) //nolint:contextcheck // each call brings its own
	alsv3.RegisterAccessLogServiceServer(s, p.observe)
	failed := make(chan error, 1)
	go func() { failed <- s.Serve(gate.Listen(l)) }()
	select {
	case err := <-failed:
		return fmt.Errorf("serving xDS on %s: %w", l.Addr(), err)
	case <-ctx.Done():
	}
	// Stopping tells all Envoys at once that the connection ends, so the streams end first: spread,
	// so that not all come back together.
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		<-p.streamsEnded
		s.GracefulStop()
	}()
	select {
	case <-stopped:
	case <-time.After(stopTime):
		s.Stop()
		<-stopped
	}
	// One that is stopped before it has begun to serve says so, which is no failure.
	if err := <-failed; !errors.Is(err, grpc.ErrServerStopped) {
		return err
	}
	return nil
}
