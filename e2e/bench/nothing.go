package main

import (
	"context"
	"encoding/gob"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/sallyport/sallyport/internal/meshtest"
	workloadpb "github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
)

const byNothing = "the server that does nothing"

// nothing is what net/http, and grpc-go, take by themselves: a server that decodes the body of a POST, sets four headers and answers
// what was recorded. In SVID it has the first message of FetchX509SVID. It is recorded with gob.
type nothing struct {
	Bodies map[string][]byte // by path and query
	SVID   []byte
	TCP    string // host:port; empty: the sockets alone

	mu      sync.Mutex
	number  uint64
	changed chan struct{}
}

// waitPath is where requests wait for SIGUSR1.
const waitPath = "/wait"

func (n *nothing) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodPost {
		var in struct{ Target, ClientCertURI, ClientCertSerial string }
		if json.NewDecoder(r.Body).Decode(&in) != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
	}
	h := w.Header()
	body, ok := n.Bodies[r.URL.RequestURI()]
	if !ok {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	if r.URL.Path == waitPath {
		number, ok := n.wait(r)
		if !ok {
			return
		}
		h["X-Consul-Index"] = []string{strconv.FormatUint(number, 10)}
	}
	h["Vary"] = []string{"Accept-Encoding"}
	h["X-Consul-Default-Acl-Policy"] = []string{"deny"}
	h["X-Consul-Knownleader"] = []string{"true"}
	h["Content-Type"] = []string{"application/json"}
	h["Content-Length"] = []string{strconv.Itoa(len(body))}
	_, _ = w.Write(body)
}

// wait waits for the next SIGUSR1, of which it returns the number. It is false if the client went.
func (n *nothing) wait(r *http.Request) (uint64, bool) {
	n.mu.Lock()
	changed := n.changed
	n.mu.Unlock()
	timer := time.NewTimer(5 * time.Minute)
	defer timer.Stop()
	select {
	case <-changed:
	case <-timer.C:
	case <-r.Context().Done():
		return 0, false
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.number, true
}

// wake ends all waits at each signal, until ctx ends.
func (n *nothing) wake(ctx context.Context, signals <-chan os.Signal) {
	for {
		select {
		case <-signals:
			n.mu.Lock()
			n.number++
			close(n.changed)
			n.changed = make(chan struct{})
			n.mu.Unlock()
		case <-ctx.Done():
			return
		}
	}
}

// svids is the Workload API that sends one message, whoever asks.
type svids struct {
	workloadpb.UnimplementedSpiffeWorkloadAPIServer
	message *workloadpb.X509SVIDResponse
}

func (s svids) FetchX509SVID(_ *workloadpb.X509SVIDRequest, stream grpc.ServerStreamingServer[workloadpb.X509SVIDResponse]) error {
	if err := stream.Send(s.message); err != nil {
		return err
	}
	<-stream.Context().Done()
	return nil
}

// serveNothing is the server of what is recorded in dir, until ctx ends.
func serveNothing(ctx context.Context, dir string) error {
	f, err := os.Open(filepath.Join(dir, "recorded"))
	if err != nil {
		return err
	}
	defer f.Close()
	n := &nothing{number: 1, changed: make(chan struct{})}
	if err := gob.NewDecoder(f).Decode(n); err != nil {
		return err
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGUSR1)
	var s svids
	s.message = &workloadpb.X509SVIDResponse{}
	if err := proto.Unmarshal(n.SVID, s.message); err != nil {
		return err
	}
	workload := grpc.NewServer()
	workloadpb.RegisterSpiffeWorkloadAPIServer(workload, s)
	api := &http.Server{Handler: n, ReadHeaderTimeout: 10 * time.Second}
	g, ctx := errgroup.WithContext(ctx)
	serve := func(network, address string, serve func(net.Listener) error) {
		g.Go(func() error {
			l, err := (&net.ListenConfig{}).Listen(ctx, network, address)
			if err == nil && network == "unix" {
				err = os.Chmod(address, 0o666) // other users ask, as they do sallyport
			}
			if err != nil {
				return err
			}
			return serve(l)
		})
	}
	serve("unix", filepath.Join(dir, "http.sock"), api.Serve)
	serve("unix", filepath.Join(dir, "workload.sock"), workload.Serve)
	if n.TCP != "" {
		serve("tcp", n.TCP, api.Serve)
	}
	g.Go(func() error {
		n.wake(ctx, signals)
		workload.Stop()
		return api.Close()
	})
	if err := g.Wait(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// startNothing starts the server that does nothing in a process of its own.
func startNothing(ctx context.Context, dir string, n *nothing) (*apiServer, error) {
	f, err := os.Create(filepath.Join(dir, "recorded"))
	if err != nil {
		return nil, err
	}
	if err := errors.Join(gob.NewEncoder(f).Encode(n), f.Close()); err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	p, err := launch(byNothing, filepath.Join(dir, "nothing.log"), meshtest.Environ(), self, "-serve-nothing", dir)
	if err != nil {
		return nil, err
	}
	s := &apiServer{by: byNothing, process: p, unix: filepath.Join(dir, "http.sock"), tcp: n.TCP, workload: filepath.Join(dir, "workload.sock")}
	if err := s.await(ctx); err != nil {
		p.stop()
		return nil, err
	}
	return s, nil
}
