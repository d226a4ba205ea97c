//go:build e2e && linux

package e2e

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	secretv3 "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	"github.com/sallyport/sallyport/internal/meshtest"
	workloadpb "github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"google.golang.org/grpc/metadata"
)

// Users of TestLeafList, both of which api names.
const firstUID, secondUID = 12421, 12422

// listedLeaf is one of `sallyport leaf list --json`.
type listedLeaf struct {
	Service, ID, Caller, Serial, SHA256 string
	Ends                                time.Time
	InUse                               bool `json:"in_use"`
}

// TestLeafList: whichever interface a leaf is had by, it is in the list with its holder until it ends, and each holder has one of its own.
func TestLeafList(t *testing.T) {
	t.Parallel()
	needRoot(t)
	m := meshtest.New(t, meshtest.Config{Sallyport: sallyport, Prober: true})
	m.Add(meshtest.Service{Name: "web", Local: serveEcho(t, "")})
	m.Write("api.hcl", fmt.Sprintf(`
services { name = "api" id = "api-1" port = 8443 connect { native = true } meta { sallyport_selectors = "unix:uid:%d" } }
services { name = "api" id = "api-2" port = 8444 connect { native = true } meta { sallyport_selectors = "unix:uid:%d" } }
services { name = "db" port = 8445 connect { native = true } meta { sallyport_selectors = "unix:uid:%d" } }
`, firstUID, secondUID, secondUID))
	m.Serve()
	m.LaunchSidecar("web").AwaitReady()
	k := &keyRig{t: t, m: m}
	dir := t.TempDir()
	tokens := map[string]string{}
	for _, name := range []string{"one", "two", "files"} {
		tokens[name] = strings.TrimSpace(m.MustRun("token", "create", "api"))
		tokenFile(t, filepath.Join(dir, name), tokens[name])
	}
	byHTTP := func(c keyCaller, service string) *x509.Certificate {
		t.Helper()
		tr := &http.Transport{DisableKeepAlives: true, DialContext: func(context.Context, string, string) (net.Conn, error) { return k.dial(c, "http.sock") }}
		b, err := get(t.Context(), tr, "http://localhost/v1/agent/connect/ca/leaf/"+service, c.token)
		if err != nil {
			t.Fatal(err)
		}
		var leaf struct{ CertPEM string }
		body, _, _ := strings.Cut(string(b), "\n2")
		if err := json.Unmarshal([]byte(body), &leaf); err != nil {
			t.Fatalf("%v: %.200s", err, b)
		}
		return firstCertificate(t, []byte(leaf.CertPEM))
	}
	byWorkloadAPI := func(uid int) (all []*x509.Certificate) {
		t.Helper()
		conn, err := k.grpc(keyCaller{uid: uid}, "workload.sock")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		stream, err := workloadpb.NewSpiffeWorkloadAPIClient(conn).FetchX509SVID(metadata.AppendToOutgoingContext(t.Context(), "workload.spiffe.io", "true"), &workloadpb.X509SVIDRequest{})
		if err != nil {
			t.Fatal(err)
		}
		r, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range r.GetSvids() {
			chain, err := x509.ParseCertificates(s.GetX509Svid())
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, chain[0])
		}
		return all
	}
	bySDS := func(uid int, name string) *x509.Certificate {
		t.Helper()
		conn, err := k.grpc(keyCaller{uid: uid}, "workload.sock")
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		r, err := secretv3.NewSecretDiscoveryServiceClient(conn).FetchSecrets(t.Context(), &discoveryv3.DiscoveryRequest{TypeUrl: secretType, ResourceNames: []string{name}})
		if err != nil || len(r.GetResources()) != 1 {
			t.Fatalf("%v, %v", r, err)
		}
		value := string(r.GetResources()[0].GetValue())
		return firstCertificate(t, []byte(value[max(0, strings.Index(value, "-----BEGIN CERTIFICATE")):]))
	}
	bySvidWrite := func() *x509.Certificate {
		t.Helper()
		out := filepath.Join(dir, "out")
		if r := m.Run("svid", "write", "api", "--once", "--out", out, "--token-file", filepath.Join(dir, "files")); r.Exit != 0 {
			t.Fatal(r.Stderr)
		}
		b, err := os.ReadFile(filepath.Join(out, "current", "svid.pem"))
		if err != nil {
			t.Fatal(err)
		}
		return firstCertificate(t, b)
	}

	first, second := byWorkloadAPI(firstUID), byWorkloadAPI(secondUID)
	if len(first) != 1 || len(second) != 2 {
		t.Fatalf("%d and %d identities, want api, and api and db", len(first), len(second))
	}
	held := []struct {
		how, service, caller string
		cert                 *x509.Certificate
	}{
		{"HTTP with a token", "api", "token ", byHTTP(keyCaller{uid: firstUID, token: tokens["one"]}, "api")},
		{"HTTP with another token", "api", "token ", byHTTP(keyCaller{uid: firstUID, token: tokens["two"]}, "api")},
		{"svid write", "api", "token ", bySvidWrite()},
		{"the Workload API", "api", fmt.Sprintf("uid %d", firstUID), first[0]},
		{"the Workload API, of another user", "api", fmt.Sprintf("uid %d", secondUID), second[0]},
		{"the Workload API, another service", "db", fmt.Sprintf("uid %d", secondUID), second[1]},
		{"HTTP by a process", "api", fmt.Sprintf("uid %d", firstUID), byHTTP(keyCaller{uid: firstUID}, "api")},
		{"SDS", "api", fmt.Sprintf("uid %d", firstUID), bySDS(firstUID, "leaf/api")},
		{"SDS, another service", "db", fmt.Sprintf("uid %d", secondUID), bySDS(secondUID, "leaf/db")},
	}
	list := func() (all []listedLeaf) {
		t.Helper()
		if err := json.Unmarshal([]byte(m.MustRun("leaf", "list", "--json")), &all); err != nil {
			t.Fatal(err)
		}
		return all
	}
	// listed holds that all that were given are in the list, each with its holder.
	listed := func(when string, inUse bool) {
		t.Helper()
		all := list()
		for _, h := range held {
			sum := sha256.Sum256(h.cert.Raw)
			i := slices.IndexFunc(all, func(l listedLeaf) bool { return l.SHA256 == hex.EncodeToString(sum[:]) })
			if i < 0 {
				t.Errorf("%s: the leaf of %s is not in the list", when, h.how)
				continue
			}
			l := all[i]
			if l.Service != h.service || l.ID != h.cert.URIs[0].String() || !strings.HasPrefix(l.Caller, h.caller) || !l.Ends.Equal(h.cert.NotAfter) || l.InUse != inUse ||
				strings.ReplaceAll(l.Serial, ":", "") != hex.EncodeToString(h.cert.SerialNumber.Bytes()) {
				t.Errorf("%s: the leaf of %s is listed as %+v", when, h.how, l)
			}
		}
		if !slices.ContainsFunc(all, func(l listedLeaf) bool { return l.Service == "web" && l.Caller == "proxy web-sidecar-proxy" }) {
			t.Errorf("%s: the leaf of the sidecar is not in the list", when)
		}
	}
	listed("at first", true)

	// One leaf of a service and a holder, and no other holder has it.
	holders := map[string]string{}
	for _, l := range list() {
		if l.InUse {
			if other, ok := holders[l.Service+" "+l.Caller]; ok && other != l.SHA256 {
				t.Errorf("%s has two leafs of %s", l.Caller, l.Service)
			}
			holders[l.Service+" "+l.Caller] = l.SHA256
		}
	}
	certificates := map[string]string{}
	for holder, sum := range holders {
		if other, ok := certificates[sum]; ok {
			t.Errorf("%s and %s share a leaf", holder, other)
		}
		certificates[sum] = holder
	}
	if len(holders) != 7 {
		t.Errorf("%d leafs in use, want 7: %v", len(holders), holders)
	}
	if again := byHTTP(keyCaller{uid: firstUID, token: tokens["one"]}, "api"); !again.Equal(held[0].cert) {
		t.Error("who asks again gets another leaf")
	}

	// They are listed until they end: after a new one was given, and after a restart.
	for _, service := range []string{"api", "db"} {
		m.MustRun("leaf", "rotate", service)
	}
	meshtest.Await(t, "the old ones are not in use", func() error {
		for _, l := range list() {
			if sum := certificates[l.SHA256]; l.InUse && sum != "" && l.Service != "web" {
				return fmt.Errorf("%+v", l)
			}
		}
		return nil
	})
	listed("after new ones", false)
	m.StopServe()
	m.Serve()
	listed("after a restart", false)
	figure(t, "holders=%d leafs_listed=%d", len(holders), len(list()))
}

// firstCertificate is the first of some PEM.
func firstCertificate(t *testing.T, b []byte) *x509.Certificate {
	t.Helper()
	block, _ := pem.Decode(b)
	if block == nil {
		t.Fatalf("no certificate in %.100q", b)
	}
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return c
}
