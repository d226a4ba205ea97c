package workload

import (
	"context"
	"crypto/x509"
	"net/url"
	"path/filepath"
	"testing"

	"github.com/sallyport/sallyport/acceptance"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/internal/testca"
	"github.com/sallyport/sallyport/sds"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// TestWhoEndsAStream: a client that ends its stream at once has what it wanted; one that is cut off as the server stops may have read nothing.
func TestWhoEndsAStream(t *testing.T) {
	root := testca.Sign(t, &x509.Certificate{IsCA: true, KeyUsage: x509.KeyUsageCertSign}, nil)
	leaf := testca.Sign(t, &x509.Certificate{URIs: []*url.URL{{Scheme: "spiffe", Host: "mesh.test", Path: "/svc/job"}}}, root)
	roots := sds.NewRoots(spiffeid.RequireTrustDomainFromString("mesh.test"), "root", []sds.Root{{ID: "root", Certificate: root.Cert}})
	record, err := acceptance.Open(acceptance.Config{File: filepath.Join(t.TempDir(), "accepted"), Roots: func() (*sds.Roots, bool) { return roots, true }})
	if err != nil {
		t.Fatal(err)
	}
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	for name, stops := range map[string]bool{"uid 1": false, "uid 2": true} {
		s := &Server{acceptance: record, closing: make(chan struct{})}
		if stops {
			close(s.closing)
		}
		stream := record.Open(identity.Caller{Application: name})
		stream.Sent(roots, []*sds.SVID{{Certificates: []*x509.Certificate{leaf.Cert}, PrivateKey: leaf.Key}})
		h := handing{server: s, stream: stream}
		h.close(ended, nil)
	}
	if got := record.Untold([]*x509.Certificate{root.Cert}); len(got) != 1 || got[0].Name != "uid 2" {
		t.Errorf("%+v, want uid 2 alone", got)
	}
}
