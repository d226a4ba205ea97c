package keys_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/internal/testca"
	"github.com/sallyport/sallyport/jwks/keys"
)

// Two keys of Ed25519.
const (
	first  = `{"keys":[{"kty":"OKP","kid":"a","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}`
	second = `{"keys":[{"kty":"OKP","kid":"b","crv":"Ed25519","x":"PUAXw-hDiVqStwqnTRt-vJyYLM8uxJaMwM1V8Sr0Zgw"}]}`
)

// provider is a server that says what a test wants.
type provider struct {
	says  atomic.Value
	asked atomic.Int64
	ca    string
	*httptest.Server
}

func newProvider(t *testing.T) *provider {
	t.Helper()
	p := &provider{}
	p.says.Store(first)
	ca := testca.Sign(t, &x509.Certificate{Subject: pkix.Name{CommonName: "ca"}, IsCA: true, KeyUsage: x509.KeyUsageCertSign}, nil)
	leaf := testca.Sign(t, &x509.Certificate{
		Subject: pkix.Name{CommonName: "idp"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, ca)
	p.ca = ca.PEM()
	p.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.asked.Add(1)
		if r.URL.RequestURI() != "/keys?tenant=1" {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		_, _ = io.WriteString(w, p.says.Load().(string)) //nolint:forcetypeassert // it is a string
	}))
	p.Config.ErrorLog = log.New(io.Discard, "", 0)
	p.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{leaf.Cert.Raw}, PrivateKey: leaf.Key}}}
	p.StartTLS()
	t.Cleanup(p.Close)
	return p
}

func (p *provider) source() catalog.KeySource {
	return catalog.KeySource{URI: p.URL + "/keys?tenant=1", CA: p.ca, Period: 20 * time.Millisecond, Timeout: time.Second}
}

// run runs a Store until the test, or what is returned, ends it.
func run(t *testing.T, cfg keys.Config, want ...catalog.KeySource) (s *keys.Store, stop func()) {
	t.Helper()
	s, err := keys.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	s.Want(want)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	ended := false
	stop = func() {
		if !ended {
			ended = true
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
	}
	t.Cleanup(stop)
	return s, stop
}

// await waits until the keys of a source have a text in them; "-": there are none.
func await(t *testing.T, s *keys.Store, at catalog.KeySource, part string) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for {
		all, _ := s.Keys().Load()
		text := all[at]
		if part != "-" && strings.Contains(text, part) || part == "-" && text == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("no %s in %q; %+v", part, text, s.Status())
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func problem(t *testing.T, s *keys.Store, part string) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for {
		status := s.Status()
		if len(status) == 1 && (part == "" && status[0].Problem == "" || part != "" && strings.Contains(status[0].Problem, part)) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%+v, want %q", status, part)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// TestStore: a new key is there after a period; what is of no use, and a server that is away, take none; nor does a restart meanwhile.
func TestStore(t *testing.T) {
	p := newProvider(t)
	registry := prometheus.NewRegistry()
	cfg := keys.Config{Data: filepath.Join(t.TempDir(), "jwks"), Registerer: registry}
	s, stop := run(t, cfg, p.source())
	await(t, s, p.source(), `"a"`)
	problem(t, s, "")
	if status := s.Status()[0]; status.Confirmed.IsZero() || strings.Contains(status.Source, "tenant") || len(status.Keys) != 1 || status.Keys[0] != "a" {
		t.Errorf("%+v", status)
	}
	if n := testutil.CollectAndCount(registry); n != 3 {
		t.Errorf("%d metrics", n)
	}
	p.says.Store(second)
	await(t, s, p.source(), `"b"`)
	for _, useless := range []string{"", "{}", `{"keys":[]}`, `{"keys":[{"kty":"oct","k":"AA"}]}`, strings.Repeat(" ", 2<<20)} {
		p.says.Store(useless)
		asked := p.asked.Load()
		for p.asked.Load() < asked+2 {
			time.Sleep(time.Millisecond)
		}
		await(t, s, p.source(), `"b"`)
	}
	problem(t, s, "more than 1048576 bytes")
	p.says.Store(second)
	problem(t, s, "")
	p.Close()
	problem(t, s, "refused")
	await(t, s, p.source(), `"b"`)
	stop()

	cfg.Registerer = nil
	again, stop := run(t, cfg, p.source())
	await(t, again, p.source(), `"b"`)
	problem(t, again, "refused")
	// The keys of a server that is verified otherwise are not its.
	other := p.source()
	other.CA = ""
	again.Want([]catalog.KeySource{other})
	await(t, again, other, "-")
	stop()
	if left, err := os.ReadDir(cfg.Data); err != nil || len(left) != 0 {
		t.Errorf("kept: %v, %v", left, err)
	}
}

// TestDamaged: what is kept and cannot be read is not used, and asked for anew.
func TestDamaged(t *testing.T) {
	p := newProvider(t)
	cfg := keys.Config{Data: t.TempDir()}
	s, stop := run(t, cfg, p.source())
	await(t, s, p.source(), `"a"`)
	stop()
	files, err := filepath.Glob(filepath.Join(cfg.Data, "*.json"))
	if err != nil || len(files) != 1 {
		t.Fatal(files, err)
	}
	if info, err := os.Stat(files[0]); err != nil || info.Mode().Perm()&0o077 != 0 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	for _, text := range []string{"", "{", `{"keys":{"keys":[]}}`, `{"source":{"URI":"https://other/"},"keys":` + second + `}`} {
		if err := os.WriteFile(files[0], []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		s, stop := run(t, cfg)
		stop() // nothing is asked from now on
		s.Want([]catalog.KeySource{p.source()})
		await(t, s, p.source(), "-")
	}
	s, _ = run(t, cfg, p.source())
	await(t, s, p.source(), `"a"`)
}

// TestReach: this machine is not asked unless it may be, be it by its name or by a redirect.
func TestReach(t *testing.T) {
	for address, want := range map[string]bool{
		"127.0.0.1": false, "127.8.8.8": false, "::1": false, "0.0.0.0": false, "::": false, "169.254.169.254": false, "fe80::1": false, "224.0.0.1": false,
		"10.0.0.1": true, "192.0.2.1": true, "2001:db8::1": true,
	} {
		if err := keys.OtherMachines(netip.MustParseAddr(address)); (err == nil) != want {
			t.Errorf("%s: %v", address, err)
		}
	}
	own, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range own {
		a, _ := netip.AddrFromSlice(o.(*net.IPNet).IP) //nolint:forcetypeassert // that is what there are
		if keys.OtherMachines(a.Unmap()) == nil {
			t.Errorf("%s is this machine's", a)
		}
	}
	p := newProvider(t)
	byName := p.source()
	byName.URI = strings.Replace(byName.URI, "127.0.0.1", "localhost", 1)
	for _, at := range []catalog.KeySource{p.source(), byName} {
		s, stop := run(t, keys.Config{Data: t.TempDir(), Reach: keys.OtherMachines}, at)
		problem(t, s, "is this machine's")
		await(t, s, at, "-")
		stop()
	}
	if n := p.asked.Load(); n > 0 {
		t.Errorf("asked %d times", n)
	}
}

// TestFile: keys in a file are read again, and those that came last are used while it cannot be.
func TestFile(t *testing.T) {
	at := catalog.KeySource{File: filepath.Join(t.TempDir(), "keys.json")}
	if err := os.WriteFile(at.File, []byte(first), 0o600); err != nil {
		t.Fatal(err)
	}
	s, stop := run(t, keys.Config{Data: t.TempDir()}, at)
	await(t, s, at, `"a"`)
	if err := os.Remove(at.File); err != nil {
		t.Fatal(err)
	}
	problem(t, s, "no such file")
	await(t, s, at, `"a"`)
	stop()
}
