//go:build e2e && linux

package e2e

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	secretv3 "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	"github.com/sallyport/sallyport/internal/meshtest"
	workloadpb "github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"
)

// keyCaller is a process and what it brings.
type keyCaller struct {
	uid       int
	token     string // empty: none
	forwarded bool   // through a socket for all, the connections of which root passes on
}

// keyRig is where keys are asked for: a control plane with all its sockets, and sockets that root forwards.
type keyRig struct {
	t         *testing.T
	m         *meshtest.Mesh
	address   string // of the HTTP API over TCP
	forwarded string // the directory of the sockets that root forwards
	envoy     int    // the port of the administration of an Envoy that has the key of api
	// known are the keys that somebody was given, as DER.
	known [][]byte
}

// forward has root pass on what comes to sockets of the same names that all may connect to, as Nomad does for its tasks.
func (k *keyRig) forward() {
	k.t.Helper()
	for _, name := range []string{"http.sock", "workload.sock", "xds.sock", "admin.sock"} {
		path := filepath.Join(k.forwarded, name)
		l, err := net.Listen("unix", path)
		if err != nil {
			k.t.Fatal(err)
		}
		k.t.Cleanup(func() { _ = l.Close() })
		if err := os.Chmod(path, 0o777); err != nil {
			k.t.Fatal(err)
		}
		go passOn(l, filepath.Join(k.m.Runtime, name))
	}
}

func (k *keyRig) dial(c keyCaller, socket string) (net.Conn, error) {
	if c.forwarded {
		return dialAs(c.uid, filepath.Join(k.forwarded, socket))
	}
	return dialAs(c.uid, filepath.Join(k.m.Runtime, socket))
}

// keyWays are the interfaces: each asks for the leaf of api, and returns what came, with the keys that were in it.
var keyWays = map[string]func(k *keyRig, ctx context.Context, c keyCaller) (came string, keys [][]byte, err error){
	"HTTP": func(k *keyRig, ctx context.Context, c keyCaller) (string, [][]byte, error) {
		return k.http(ctx, c, func(context.Context, string, string) (net.Conn, error) { return k.dial(c, "http.sock") })
	},
	// A certificate for a key of one's own is as good as a key.
	"a certificate request": func(k *keyRig, ctx context.Context, c keyCaller) (string, [][]byte, error) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return "", nil, err
		}
		der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
		if err != nil {
			return "", nil, err
		}
		request := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
		tr := &http.Transport{DisableKeepAlives: true, DialContext: func(context.Context, string, string) (net.Conn, error) { return k.dial(c, "http.sock") }}
		b, err := send(ctx, tr, http.MethodPost, "http://localhost/v1/sallyport/leaf/api", c.token, request)
		return string(b), slices.Repeat([][]byte{nil}, bytes.Count(b, []byte("BEGIN CERTIFICATE"))), err
	},
	"HTTP over TCP": func(k *keyRig, ctx context.Context, c keyCaller) (string, [][]byte, error) {
		return k.http(ctx, c, func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", k.address)
		})
	},
	"Workload API": func(k *keyRig, ctx context.Context, c keyCaller) (string, [][]byte, error) {
		conn, err := k.grpc(c, "workload.sock")
		if err != nil {
			return "", nil, err
		}
		defer conn.Close()
		stream, err := workloadpb.NewSpiffeWorkloadAPIClient(conn).FetchX509SVID(metadata.AppendToOutgoingContext(ctx, "workload.spiffe.io", "true"), &workloadpb.X509SVIDRequest{})
		if err != nil {
			return "", nil, err
		}
		r, err := stream.Recv()
		var keys [][]byte
		for _, s := range r.GetSvids() {
			keys = append(keys, s.GetX509SvidKey())
		}
		return r.String(), keys, err
	},
	"JWT-SVIDs": func(k *keyRig, ctx context.Context, c keyCaller) (string, [][]byte, error) {
		conn, err := k.grpc(c, "workload.sock")
		if err != nil {
			return "", nil, err
		}
		defer conn.Close()
		r, err := workloadpb.NewSpiffeWorkloadAPIClient(conn).FetchJWTSVID(metadata.AppendToOutgoingContext(ctx, "workload.spiffe.io", "true"), &workloadpb.JWTSVIDRequest{Audience: []string{"x"}})
		var tokens [][]byte
		for _, s := range r.GetSvids() {
			tokens = append(tokens, []byte(s.GetSvid()))
		}
		return r.String(), tokens, err
	},
	"SDS": func(k *keyRig, ctx context.Context, c keyCaller) (string, [][]byte, error) {
		return k.sds(ctx, c, []string{"leaf/api"})
	},
	"SDS, all": func(k *keyRig, ctx context.Context, c keyCaller) (string, [][]byte, error) { return k.sds(ctx, c, nil) },
	"SDS, once": func(k *keyRig, ctx context.Context, c keyCaller) (string, [][]byte, error) {
		conn, err := k.grpc(c, "workload.sock")
		if err != nil {
			return "", nil, err
		}
		defer conn.Close()
		r, err := secretv3.NewSecretDiscoveryServiceClient(conn).FetchSecrets(ctx, &discoveryv3.DiscoveryRequest{TypeUrl: secretType, ResourceNames: []string{"default"}})
		return keysIn(r.String(), r.GetResources(), err)
	},
	"SDS, delta": func(k *keyRig, ctx context.Context, c keyCaller) (string, [][]byte, error) {
		conn, err := k.grpc(c, "workload.sock")
		if err != nil {
			return "", nil, err
		}
		defer conn.Close()
		stream, err := secretv3.NewSecretDiscoveryServiceClient(conn).DeltaSecrets(ctx)
		if err == nil {
			err = stream.Send(&discoveryv3.DeltaDiscoveryRequest{Node: &corev3.Node{Id: "x"}, TypeUrl: secretType, ResourceNamesSubscribe: []string{"leaf/api"}})
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return "", nil, err
		}
		r, err := stream.Recv()
		var all []*anypb.Any
		for _, res := range r.GetResources() {
			all = append(all, res.GetResource())
		}
		return keysIn(r.String(), all, err)
	},
	"xDS": func(k *keyRig, ctx context.Context, c keyCaller) (string, [][]byte, error) {
		conn, err := k.grpc(c, "xds.sock")
		if err != nil {
			return "", nil, err
		}
		defer conn.Close()
		var came string
		var keys int
		for _, node := range []string{"api", "web-sidecar-proxy"} {
			f, err := subscribeOn(conn, subscription{c.token, node, secretType, []string{"leaf/api"}}, silence)
			if err != nil {
				return "", nil, err
			}
			came, keys = came+f.String(), keys+f.Keys
		}
		return came, make([][]byte, keys), nil
	},
	"admin": func(k *keyRig, ctx context.Context, c keyCaller) (string, [][]byte, error) {
		tr := &http.Transport{DisableKeepAlives: true, DialContext: func(context.Context, string, string) (net.Conn, error) { return k.dial(c, "admin.sock") }}
		var came strings.Builder
		for _, path := range adminPages {
			b, err := get(ctx, tr, "http://sallyport"+path, c.token)
			if err != nil {
				return came.String(), nil, err
			}
			came.Write(b)
		}
		return came.String(), nil, nil
	},
}

// refusedBy reports whether a caller was told that it may not have a key, and did not only fail to ask.
func refusedBy(way, came string, err error) bool {
	switch way {
	case "a certificate request":
		return strings.HasSuffix(came, "\n403 Forbidden") || strings.HasSuffix(came, "\n501 Not Implemented") // Consul makes all keys itself
	case "HTTP", "HTTP over TCP":
		return strings.HasSuffix(came, "\n403 Forbidden")
	case "xDS":
		return err == nil
	}
	if way != "admin" {
		return slices.Contains([]codes.Code{codes.PermissionDenied, codes.InvalidArgument, codes.Unimplemented}, status.Code(err))
	}
	return err == nil || errors.Is(err, os.ErrPermission) || strings.Contains(err.Error(), "EOF") || errors.Is(err, syscall.ECONNRESET) // of a forwarder that may not connect, too
}

// adminPages are what the admin socket answers to GET.
var adminPages = []string{
	"/v1/status", "/v1/proxy?id=web-sidecar-proxy", "/v1/instance?id=api", "/v1/intention/list", "/v1/intention/check?source=web&destination=api", "/v1/leaf/list",
	"/metrics", "/readyz", "/healthz", "/", "/debug/pprof/goroutine?debug=2", "/debug/pprof/heap?debug=1", "/debug/pprof/allocs?debug=1", "/debug/pprof/heap",
}

// get is the body of an answer, and its status in a last line.
func get(ctx context.Context, tr *http.Transport, url, token string) ([]byte, error) {
	return send(ctx, tr, http.MethodGet, url, token, nil)
}

// send is get with another method and a body.
func send(ctx context.Context, tr *http.Transport, method, url, token string, body []byte) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	if token != "" {
		req.Header.Set("X-Consul-Token", token)
	}
	r, err := tr.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	return fmt.Appendf(b, "\n%s", r.Status), err
}

func (k *keyRig) http(ctx context.Context, c keyCaller, dial func(context.Context, string, string) (net.Conn, error)) (string, [][]byte, error) {
	b, err := get(ctx, &http.Transport{DisableKeepAlives: true, DialContext: dial}, "http://localhost/v1/agent/connect/ca/leaf/api", c.token)
	if err != nil {
		return "", nil, err
	}
	var leaf struct{ PrivateKeyPEM string }
	body, _, _ := bytes.Cut(b, []byte("\n"))
	if json.Unmarshal(body, &leaf) == nil && leaf.PrivateKeyPEM != "" {
		block, _ := pem.Decode([]byte(leaf.PrivateKeyPEM))
		if block == nil {
			return "", nil, errors.New("no PEM")
		}
		return string(b), [][]byte{block.Bytes}, nil
	}
	return string(b), nil, nil
}

// sds asks for secrets with a stream.
func (k *keyRig) sds(ctx context.Context, c keyCaller, names []string) (string, [][]byte, error) {
	conn, err := k.grpc(c, "workload.sock")
	if err != nil {
		return "", nil, err
	}
	defer conn.Close()
	stream, err := secretv3.NewSecretDiscoveryServiceClient(conn).StreamSecrets(ctx)
	if err == nil {
		err = stream.Send(&discoveryv3.DiscoveryRequest{Node: &corev3.Node{Id: "x"}, TypeUrl: secretType, ResourceNames: names})
	}
	if err != nil && !errors.Is(err, io.EOF) {
		return "", nil, err
	}
	r, err := stream.Recv()
	return keysIn(r.String(), r.GetResources(), err)
}

// grpc connects as a caller to one of the sockets that speak gRPC.
func (k *keyRig) grpc(c keyCaller, socket string) (*grpc.ClientConn, error) {
	return grpc.NewClient("passthrough:x", grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) {
		return k.dial(c, socket)
	}))
}

// keysIn are the keys among resources.
func keysIn[R interface{ GetValue() []byte }](text string, all []R, err error) (string, [][]byte, error) {
	var keys [][]byte
	for _, r := range all {
		rest := r.GetValue()
		for {
			i := bytes.Index(rest, []byte("-----BEGIN "))
			if i < 0 {
				break
			}
			block, more := pem.Decode(rest[i:])
			if block == nil {
				break
			}
			if rest = more; strings.HasSuffix(block.Type, "PRIVATE KEY") {
				keys = append(keys, block.Bytes)
			}
		}
	}
	return text, keys, err
}

// inSight are spellings of the keys that were given, and words that are near every key. Nothing that people look at has one of them.
func (k *keyRig) inSight() [][]byte {
	k.t.Helper()
	out := [][]byte{[]byte("PRIVATE KEY-----")}
	seen := map[string]bool{}
	for _, der := range k.known {
		key, err := x509.ParseECPrivateKey(der)
		if err != nil {
			other, err := x509.ParsePKCS8PrivateKey(der)
			if err != nil {
				k.t.Fatal(err)
			}
			key, _ = other.(*ecdsa.PrivateKey)
		}
		secret, err := key.Bytes()
		if err != nil || seen[string(secret)] {
			continue
		}
		seen[string(secret)] = true
		out = append(out, secret, []byte(hex.EncodeToString(secret)), []byte(strings.ToUpper(hex.EncodeToString(secret))))
		for from := range 3 { // as base64 has it, wherever it begins
			out = append(out, []byte(base64.RawStdEncoding.EncodeToString(secret[from:from+27])))
		}
	}
	if len(seen) == 0 {
		k.t.Fatal("nobody was given a key")
	}
	return out
}
