package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/internal/meshtest"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
)

// The load of ext_authz: what one busy sidecar asks, in rounds that the two servers take turns in, as what else the machine does is
// the larger part of what single calls take.
const (
	checkRate   = 1000
	checkRounds = 12
	checkRound  = time.Second
)

// answerOK is a server that answers each check with OK and looks at nothing: what the transport costs. It serves until it is killed.
type answerOK struct {
	authv3.UnimplementedAuthorizationServer
}

func (answerOK) Check(context.Context, *authv3.CheckRequest) (*authv3.CheckResponse, error) {
	return &authv3.CheckResponse{Status: &status.Status{Code: int32(codes.OK)}}, nil
}

func serveOK(socket string) error {
	l, err := net.Listen("unix", socket) //nolint:noctx // it lives as long as the process
	if err != nil {
		return err
	}
	s := grpc.NewServer()
	authv3.RegisterAuthorizationServer(s, answerOK{})
	return s.Serve(l)
}

// measureChecks compares sallyport's ext_authz with the server that does not look.
func measureChecks(ctx context.Context, o options, dir string) ([]row, error) {
	l := load{sidecars: 100, upstreams: 2, protocol: "http"}
	p, err := filesPlane(ctx, o, dir, l)
	if err != nil {
		return nil, err
	}
	defer p.control.stop()
	socket := filepath.Join(dir, "ok.sock")
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	blind, err := launch("the server that does not look", filepath.Join(dir, "ok.log"), meshtest.Environ(), self, "-answer-ok", socket)
	if err != nil {
		return nil, err
	}
	defer blind.stop()
	token, err := p.token(ctx, proxyID(0))
	if err != nil {
		return nil, err
	}
	ask, err := checkRequest(service(1), service(0))
	if err != nil {
		return nil, err
	}
	ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token,
		identity.ProxyHeader, proxyID(0), identity.DestinationHeader, service(0))
	var took [2][]time.Duration
	var clients [2]authv3.AuthorizationClient
	for i, s := range []string{p.address, socket} {
		conn, err := grpc.NewClient("unix://"+s, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			return nil, err
		}
		defer conn.Close()
		clients[i] = authv3.NewAuthorizationClient(conn)
		if _, err := checks(ctx, clients[i], ask, grpc.WaitForReady(true)); err != nil { // warm
			return nil, err
		}
	}
	profiled := p.profiles.phase(ctx, l, "checks")
	for n := range 2 * checkRounds {
		d, err := checks(ctx, clients[n%2], ask)
		if err != nil {
			return nil, fmt.Errorf("ext_authz: %w", err)
		}
		took[n%2] = append(took[n%2], d...)
	}
	if err := profiled(); err != nil {
		return nil, err
	}
	for i := range took {
		slices.Sort(took[i])
	}
	at := func(i, p int) time.Duration { return percentile(took[i], p) }
	ratio := func(p int) float64 { return float64(at(0, p)) / float64(at(1, p)) }
	var g goal
	g.look(fmt.Sprintf("p50 ≤ 1.1 × (%.2f)", ratio(50)), ratio(50) > 1.1)
	g.look(fmt.Sprintf("p99 ≤ 1.1 × (%.2f)", ratio(99)), ratio(99) > 1.1)
	o.line(benchmarkLine("Check/by=sallyport", nanos(at(0, 50), "ns/op"), nanos(at(0, 99), "p99-ns/op")),
		benchmarkLine("Check/by=blind", nanos(at(1, 50), "ns/op"), nanos(at(1, 99), "p99-ns/op")))
	return []row{{
		work: fmt.Sprintf("ext_authz Check, %d rps", checkRate),
		measured: fmt.Sprintf("p50 %d, p99 %d µs; the server that does not look: p50 %d, p99 %d µs",
			at(0, 50).Microseconds(), at(0, 99).Microseconds(), at(1, 50).Microseconds(), at(1, 99).Microseconds()),
		target: g.String(),
	}}, nil
}

// checks asks for one round and returns how long each answer took.
func checks(ctx context.Context, c authv3.AuthorizationClient, q *authv3.CheckRequest, opts ...grpc.CallOption) ([]time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second+checkRound)
	defer cancel()
	return openLoop(checkRate, checkRound, func() error {
		r, err := c.Check(ctx, q, opts...)
		if err == nil && codes.Code(r.GetStatus().GetCode()) != codes.OK {
			err = fmt.Errorf("denied: %v", r.GetStatus())
		}
		return err
	})
}

// openLoop calls f so often per second, each time whatever became of the one before, and returns how long each took.
func openLoop(rate int, d time.Duration, f func() error) ([]time.Duration, error) {
	n := int(d * time.Duration(rate) / time.Second)
	took, failed := make([]time.Duration, n), make([]error, n)
	var all sync.WaitGroup
	begin := time.Now()
	for i := range n {
		time.Sleep(time.Until(begin.Add(time.Duration(i) * time.Second / time.Duration(rate))))
		start := time.Now()
		all.Go(func() {
			failed[i] = f()
			took[i] = time.Since(start)
		})
	}
	all.Wait()
	return took, errors.Join(failed...)
}

// checkRequest is what an Envoy asks for a request of source to destination.
func checkRequest(source, destination string) (*authv3.CheckRequest, error) {
	uri := func(s string) string { return "spiffe://" + benchDomain + "/ns/default/dc/dc1/svc/" + s }
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	u, err := url.Parse(uri(source))
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), URIs: []*url.URL{u}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	certificate := url.PathEscape(string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	return &authv3.CheckRequest{Attributes: &authv3.AttributeContext{
		Source:            &authv3.AttributeContext_Peer{Principal: uri(source), Certificate: certificate},
		Destination:       &authv3.AttributeContext_Peer{Principal: uri(destination)},
		Request:           &authv3.AttributeContext_Request{Http: &authv3.AttributeContext_HttpRequest{Method: "GET", Path: "/", Host: destination}},
		ContextExtensions: map[string]string{identity.DestinationExtension: destination},
	}}, nil
}
