//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/sallyport/sallyport/internal/meshtest"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// Type URLs of what an Envoy subscribes to.
const (
	secretType  = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"
	clusterType = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
)

// dialXDS connects to a control plane's socket for Envoys.
func dialXDS(socket string) (*grpc.ClientConn, error) {
	return grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64<<20)))
}

// subscription is what somebody who is no Envoy asks the control plane for.
type subscription struct {
	Token, Node string // empty: none
	TypeURL     string
	Names       []string
}

// fetched is what came of a subscription.
type fetched struct {
	// Resources are the names of what came; Keys is how many private keys were in it.
	Resources []string
	Keys      int
	// Err is how the stream ended; nil if it did not.
	Err error
}

func (f fetched) String() string {
	return fmt.Sprintf("%d resources %v with %d private keys, err %v", len(f.Resources), f.Resources, f.Keys, f.Err)
}

// subscribe opens a stream, sends one request and collects what comes until d is over or the stream ends.
func subscribe(socket string, s subscription, d time.Duration) (fetched, error) {
	conn, err := dialXDS(socket)
	if err != nil {
		return fetched{}, err
	}
	defer conn.Close()
	return subscribeOn(conn, s, d)
}

// subscribeTLS is subscribe at the endpoint for other machines.
func subscribeTLS(addr string, s subscription, d time.Duration) (fetched, error) {
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13})))
	if err != nil {
		return fetched{}, err
	}
	defer conn.Close()
	return subscribeOn(conn, s, d)
}

func subscribeOn(conn *grpc.ClientConn, s subscription, d time.Duration) (f fetched, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	if s.Token != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+s.Token)
	}
	stream, err := discoveryv3.NewAggregatedDiscoveryServiceClient(conn).DeltaAggregatedResources(ctx)
	if err != nil {
		return fetched{Err: err}, nil
	}
	req := &discoveryv3.DeltaDiscoveryRequest{Node: &corev3.Node{Id: s.Node, Cluster: "web", UserAgentName: "envoy"}, TypeUrl: s.TypeURL, ResourceNamesSubscribe: s.Names}
	if err := stream.Send(req); err != nil {
		_, err = stream.Recv()
		return fetched{Err: err}, nil
	}
	for {
		resp, err := stream.Recv()
		if err != nil {
			if ctx.Err() == nil && status.Code(err) != codes.DeadlineExceeded { // that of ctx: the server may see it first
				f.Err = err
			}
			return f, nil
		}
		for _, r := range resp.Resources {
			f.Resources = append(f.Resources, r.Name)
			f.Keys += bytes.Count(r.GetResource().GetValue(), []byte("PRIVATE KEY-----")) / 2
		}
	}
}

// bootstrapped is what `sallyport bootstrap` made of a proxy.
type bootstrapped struct {
	dir, output string
	node        string // node.id
	token       string
}

// makeBootstrap makes a bootstrap and a token, as for an Envoy that somebody else starts.
func makeBootstrap(t *testing.T, m *meshtest.Mesh, service string, args ...string) bootstrapped {
	t.Helper()
	b := bootstrapped{dir: filepath.Join(t.TempDir(), "boot")}
	b.output = m.MustRun(append([]string{"bootstrap", "--sidecar-for", service, "-o", b.dir}, args...)...)
	var config struct {
		Node struct {
			ID string `json:"id"`
		} `json:"node"`
	}
	readJSON(t, filepath.Join(b.dir, "bootstrap.json"), &config)
	var secret struct {
		Resources []struct {
			Secret struct {
				Secret struct {
					Inline string `json:"inline_string"`
				} `json:"secret"`
			} `json:"generic_secret"`
		} `json:"resources"`
	}
	readJSON(t, filepath.Join(b.dir, "token.json"), &secret)
	if len(secret.Resources) != 1 {
		t.Fatalf("token.json holds %d resources, want one", len(secret.Resources))
	}
	var ok bool
	if b.token, ok = strings.CutPrefix(secret.Resources[0].Secret.Secret.Inline, "Bearer "); !ok || b.token == "" {
		t.Fatal("token.json holds no bearer token where Envoy looks for it")
	}
	b.node = config.Node.ID
	return b
}

func readJSON(t *testing.T, path string, v any) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(b, v)
	}
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
}

func writeFile(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// errNothing says that a subscription brought nothing, where something was wanted.
var errNothing = errors.New("no secret came")
