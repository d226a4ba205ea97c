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
	"strings"
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

// checked is a server that is asked, and how long its answers took in each round.
type checked struct {
	client authv3.AuthorizationClient
	token  string
	rounds [][]time.Duration // sorted
}

func newChecked(socket, token string) (*checked, *grpc.ClientConn, error) {
	plain := grpc.WithTransportCredentials(insecure.NewCredentials())
	conn, err := grpc.NewClient("unix://"+socket, plain)
	if err != nil {
		return nil, nil, err
	}
	return &checked{client: authv3.NewAuthorizationClient(conn), token: token}, conn, nil
}

// round asks for one round, and keeps how long that took unless it is to warm.
func (c *checked) round(ctx context.Context, ask *authv3.CheckRequest, warm bool) error {
	ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+c.token,
		identity.ProxyHeader, proxyID(0), identity.DestinationHeader, service(0))
	d, err := checks(ctx, c.client, ask, grpc.WaitForReady(warm))
	if err == nil && !warm {
		slices.Sort(d)
		c.rounds = append(c.rounds, d)
	}
	return err
}

// of are a percentile of each round.
func (c *checked) of(p int) (d []time.Duration) {
	for _, r := range c.rounds {
		d = append(d, percentile(r, p))
	}
	return d
}

// measureChecks compares sallyport's ext_authz, and base's, with the server that does not look.
func measureChecks(ctx context.Context, o options, dir string) ([]row, error) {
	l := load{sidecars: 100, upstreams: 2, protocol: "http"}
	all := map[string]*checked{}
	var planes []*plane
	for _, by := range o.planes() {
		sub := filepath.Join(dir, by)
		if err := os.Mkdir(sub, 0o700); err != nil {
			return nil, err
		}
		p, err := filesPlane(ctx, o, by, sub, l)
		if err != nil {
			return nil, err
		}
		defer p.control.stop()
		token, err := p.token(ctx, proxyID(0))
		if err != nil {
			return nil, err
		}
		c, conn, err := newChecked(p.address, token)
		if err != nil {
			return nil, err
		}
		defer conn.Close()
		all[by] = c
		planes = append(planes, p)
	}
	socket := filepath.Join(dir, "ok.sock")
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	const byBlind = "the server that does not look"
	log := filepath.Join(dir, "ok.log")
	process, err := launch(byBlind, log, meshtest.Environ(), self, "-answer-ok", socket)
	if err != nil {
		return nil, err
	}
	defer process.stop()
	// A token too, as all are to read as much.
	c, conn, err := newChecked(socket, all[byThis].token)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	all[byBlind] = c
	ask, err := checkRequest(service(1), service(0))
	if err != nil {
		return nil, err
	}
	var profiled func() error
	turns := append(o.planes(), byBlind)
	for n := range checkRounds + 1 {
		for i := range turns {
			by := turns[(i+n)%len(turns)] // none is always the first, or after the same one
			if err := all[by].round(ctx, ask, n == 0); err != nil {
				return nil, fmt.Errorf("ext_authz of %s: %w", by, err)
			}
		}
		if n == 0 {
			profiled = planes[0].profiles.phase(ctx, l, "checks")
		}
	}
	for by, c := range all {
		o.line(benchmarkLine("Check/by="+strings.ReplaceAll(by, " ", "-"),
			nanos(median(c.of(50)), "ns/op"), nanos(median(c.of(99)), "p99-ns/op")))
	}
	return checkRows(all[byThis], all[byBase], all[byBlind]), profiled()
}

// checkRows compares; base may be nil.
func checkRows(own, base, blind *checked) []row {
	work := fmt.Sprintf("ext_authz Check at %d rps, %d rounds: ", checkRate, len(own.rounds))
	micros := func(d time.Duration) string { return fmt.Sprintf("%d µs", d.Microseconds()) }
	add := func(p int) row {
		r := row{work: fmt.Sprintf("%sp%d", work, p), value: micros(median(own.of(p)))}
		if base != nil {
			r.base, r.ratio = micros(median(base.of(p))), times(share(own.of(p), base.of(p)))
		}
		other := blind.of(p)
		r.beside = fmt.Sprintf("the server that does not look: %s, %s to %s: %s", micros(median(other)),
			micros(slices.Min(other)), micros(slices.Max(other)), times(share(own.of(p), other)))
		return r
	}
	p50, p99 := add(50), add(99)
	p50.target, p50.verdict = "≤ 1.1 × the other's", verdict(share(own.of(50), blind.of(50)) <= 1.1)
	p99.target = "within the other's spread"
	p99.verdict = verdict(median(own.of(99)) <= slices.Max(blind.of(99)))
	return []row{p50, p99}
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
