package ca

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/hex"
	"fmt"
	"log/slog"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/sds"
	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

func TestConfigErrors(t *testing.T) {
	for _, tt := range []struct {
		name string
		cfg  Config
		want string
	}{
		{"no directory", Config{}, "no directory for the CA: name one"},
		{"leaf too short", Config{Dir: "x", LeafTTL: 59 * time.Second}, "leaf TTL 59s: at least 1m0s"},
		{"leaf negative", Config{Dir: "x", LeafTTL: -time.Hour}, "leaf TTL -1h0m0s: at least 1m0s"},
		{"leaf too long", Config{Dir: "x", LeafTTL: 31 * time.Minute, IntermediateTTL: time.Hour}, "leaf TTL 31m0s: at most half of the intermediate's, which is 1h0m0s"},
		{"intermediate too long", Config{Dir: "x", LeafTTL: time.Minute, IntermediateTTL: time.Hour, RootTTL: time.Hour}, "intermediate TTL 1h0m0s: must be below the root's, which is 1h0m0s"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := Open(tt.cfg); err == nil || err.Error() != tt.want {
				t.Errorf("Open() error %q, want %q", err, tt.want)
			}
		})
	}
}

func TestTrustDomain(t *testing.T) {
	dir := caDir(t)
	c := mustOpen(t, Config{Dir: dir})
	td := c.TrustDomain()
	if !regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}\.consul$`).MatchString(td.Name()) {
		t.Errorf("TrustDomain() = %s, want <uuid>.consul", td)
	}
	root := rootOf(c)
	mustClose(t, c)

	c = mustOpen(t, Config{Dir: dir})
	if c.TrustDomain() != td || !rootOf(c).Equal(root) {
		t.Errorf("after reopening: trust domain %s, want %s, and the same root", c.TrustDomain(), td)
	}
	mustClose(t, c)

	c = mustOpen(t, Config{Dir: dir, TrustDomain: td})
	mustClose(t, c)

	want := fmt.Sprintf("%s/root.pem: this CA is of the trust domain %s, configured is %s: configure that of the CA, or choose an empty directory for a new CA", dir, td, testDomain)
	if _, err := Open(Config{Dir: dir, TrustDomain: trustDomain(t)}); err == nil || err.Error() != want {
		t.Errorf("Open() with another trust domain: error %q, want %q", err, want)
	}

	c = mustOpen(t, Config{Dir: caDir(t), TrustDomain: trustDomain(t)})
	defer mustClose(t, c)
	if c.TrustDomain() != trustDomain(t) {
		t.Errorf("TrustDomain() = %s, want the configured %s", c.TrustDomain(), testDomain)
	}
}

func TestFilesOnDisk(t *testing.T) {
	dir := caDir(t)
	c := mustOpen(t, Config{Dir: dir})
	defer mustClose(t, c)
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, fmt.Sprintf("%s %04o", e.Name(), info.Mode().Perm()))
	}
	if want := "intermediate.pem 0600,root.pem 0600"; strings.Join(got, ",") != want {
		t.Errorf("files %v, want %s", got, want)
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("directory %v, %v, want mode 0700", info.Mode(), err)
	}
}

// TestCertificates looks at each property of what is signed, apart from check.
func TestCertificates(t *testing.T) {
	c := mustOpen(t, Config{Dir: caDir(t), TrustDomain: trustDomain(t), LeafTTL: time.Hour})
	defer mustClose(t, c)
	svid := oneLeaf(t, c, "web")
	if len(svid.Certificates) != 2 || len(c.authority.trusted()) != 1 {
		t.Fatalf("a chain of %d and %d roots, want 2 and 1", len(svid.Certificates), len(c.authority.trusted()))
	}
	root, intermediate, leaf := rootOf(c), svid.Certificates[1], svid.Certificates[0]
	const caUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	for _, tt := range []struct {
		name   string
		cert   *x509.Certificate
		signer *x509.Certificate
		uri    string
		ca     bool
		usage  x509.KeyUsage
		eku    []x509.ExtKeyUsage
		life   time.Duration
	}{
		{"root", root, root, "spiffe://" + testDomain, true, caUsage, nil, defaultRootTTL},
		{"intermediate", intermediate, root, "spiffe://" + testDomain, true, caUsage, nil, DefaultIntermediateTTL},
		{"leaf", leaf, intermediate, "spiffe://" + testDomain + "/ns/default/dc/dc1/svc/web", false, x509.KeyUsageDigitalSignature, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}, time.Hour},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cert := tt.cert
			if err := cert.CheckSignatureFrom(tt.signer); err != nil {
				t.Error(err)
			}
			if key, ok := cert.PublicKey.(*ecdsa.PublicKey); !ok || key.Curve != elliptic.P256() || cert.SignatureAlgorithm != x509.ECDSAWithSHA256 {
				t.Errorf("key %T, signature %s, want ECDSA P-256 and SHA-256", cert.PublicKey, cert.SignatureAlgorithm)
			}
			if bits := cert.SerialNumber.BitLen(); cert.SerialNumber.Sign() <= 0 || bits > 159 || bits < 100 {
				t.Errorf("serial number of %d bits, want about 159", bits)
			}
			if len(cert.URIs) != 1 || cert.URIs[0].String() != tt.uri || len(cert.DNSNames)+len(cert.IPAddresses)+len(cert.EmailAddresses) != 0 {
				t.Errorf("SANs %v %v %v %v, want %s alone", cert.URIs, cert.DNSNames, cert.IPAddresses, cert.EmailAddresses, tt.uri)
			}
			if !cert.BasicConstraintsValid || cert.IsCA != tt.ca || cert.KeyUsage != tt.usage || fmt.Sprint(cert.ExtKeyUsage) != fmt.Sprint(tt.eku) {
				t.Errorf("CA:%t, usage %b %v", cert.IsCA, cert.KeyUsage, cert.ExtKeyUsage)
			}
			// Who signs may have been made while the clock was ahead.
			before := map[bool]time.Duration{false: time.Minute, true: 24 * time.Hour}[tt.ca]
			if life := cert.NotAfter.Sub(cert.NotBefore); life != tt.life+before {
				t.Errorf("valid for %s, want %s and %s before", life, tt.life, before)
			}
			if age := time.Since(cert.NotBefore); age < before || age > before+time.Minute {
				t.Errorf("valid since %s, want %s", age, before)
			}
			san := asn1.ObjectIdentifier{2, 5, 29, 17}
			for _, e := range cert.Extensions {
				if e.Id.Equal(san) && e.Critical == tt.ca {
					t.Errorf("subject alternative name critical: %t; RFC 5280 demands it where the subject is empty", e.Critical)
				}
			}
			if empty := cert.Subject.String() == ""; empty == tt.ca {
				t.Errorf("subject %q", cert.Subject)
			}
		})
	}
	if root.MaxPathLen != -1 || intermediate.MaxPathLen != 0 || !intermediate.MaxPathLenZero {
		t.Errorf("path lengths %d and %d, want none and 0", root.MaxPathLen, intermediate.MaxPathLen)
	}
	if !leaf.PublicKey.(*ecdsa.PublicKey).Equal(svid.PrivateKey.Public()) {
		t.Error("the key of the SVID is not the certificate's")
	}
	if intermediate.Subject.String() == root.Subject.String() {
		t.Error("root and intermediate have the same name")
	}
	if _, _, err := x509svid.Verify(svid.Certificates, bundleOf(c)); err != nil {
		t.Error(err)
	}
}

func bundleOf(c *CA) *x509bundle.Bundle {
	return x509bundle.FromX509Authorities(c.TrustDomain(), c.authority.trusted())
}

func TestSerialsDiffer(t *testing.T) {
	seen := make(map[string]bool)
	for range 1000 {
		n, err := newSerial()
		if err != nil {
			t.Fatal(err)
		}
		if seen[n.String()] {
			t.Fatalf("serial number %s came twice", n)
		}
		seen[n.String()] = true
	}
}

// TestRefusals: what the CA must not certify.
func TestRefusals(t *testing.T) {
	c := mustOpen(t, Config{Dir: caDir(t), TrustDomain: trustDomain(t)})
	defer mustClose(t, c)
	issuer, td := issuerOf(t, c), c.TrustDomain()
	foreign := spiffeid.RequireTrustDomainFromString("evil.example")
	with := func(change func(*identity.Service)) identity.Service {
		s := service(td, "web")
		change(&s)
		return s
	}
	const invalid = "not a SPIFFE path segment"
	for _, tt := range []struct {
		name string
		id   identity.Service
		want string
	}{
		{"zero", identity.Service{}, "no trust domain"},
		{"foreign trust domain", service(foreign, "web"), "leaf for spiffe://evil.example/ns/default/dc/dc1/svc/web: this CA is of the trust domain " + testDomain},
		{"no trust domain", service(spiffeid.TrustDomain{}, "web"), "no trust domain"},
		{"no service", service(td, ""), invalid},
		{"wildcard", service(td, "*"), invalid},
		{"two segments", service(td, "web/svc/db"), invalid},
		{"dots", service(td, ".."), invalid},
		{"percent", service(td, "web%2fdb"), invalid},
		{"NUL", service(td, "web\x00"), invalid},
		{"homoglyph", service(td, "wеb"), invalid},
		{"comma", service(td, "web,db"), invalid},
		{"no datacenter", with(func(s *identity.Service) { s.Datacenter = "" }), invalid},
		{"bad datacenter", with(func(s *identity.Service) { s.Datacenter = "dc1/svc/db" }), invalid},
		{"no namespace", with(func(s *identity.Service) { s.Namespace = "" }), invalid},
		{"too long", service(td, strings.Repeat("a", 2000)), "a SPIFFE ID has 2048 bytes at most"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			err := issuer.WatchSVID(ctx, identity.Caller{}, tt.id, func(*sds.SVID) { t.Error("a leaf was handed out") })
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("WatchSVID() error %q, want it to contain %q", err, tt.want)
			}
		})
	}
	if n := testutil.ToFloat64(issuer.issued); n != 0 {
		t.Errorf("%v leafs signed, want none", n)
	}
}

func TestMetrics(t *testing.T) {
	registry := prometheus.NewRegistry()
	dir := caDir(t)
	for range 2 { // Close makes room for the next on the same registry
		c := mustOpen(t, Config{Dir: dir, Registerer: registry})
		intermediate := oneLeaf(t, c, "web").Certificates[1]
		want := fmt.Sprintf(`
# HELP sallyport_ca_intermediate_expiry_timestamp_seconds When the intermediate that signs leafs ends, as Unix time; 0: there is none. It is replaced at half its life.
# TYPE sallyport_ca_intermediate_expiry_timestamp_seconds gauge
sallyport_ca_intermediate_expiry_timestamp_seconds %d
# HELP sallyport_ca_problem 1 while `+"`sallyport ca status`"+` names a problem, such as a CA that does not sign or a root that nears its end.
# TYPE sallyport_ca_problem gauge
sallyport_ca_problem 0
# HELP sallyport_ca_root_expiry_timestamp_seconds When the root under which leafs are signed ends, as Unix time; 0: it is not known yet.
# TYPE sallyport_ca_root_expiry_timestamp_seconds gauge
sallyport_ca_root_expiry_timestamp_seconds %d
# HELP sallyport_ca_rotation_phase How far the replacement of the root has come: 0 none is replaced, 1 prepare, 2 activate, 3 retire.
# TYPE sallyport_ca_rotation_phase gauge
sallyport_ca_rotation_phase 0
# HELP sallyport_ca_rotation_waiting Holders of leafs for whom the replacement of the root waits.
# TYPE sallyport_ca_rotation_waiting gauge
sallyport_ca_rotation_waiting 0
`, intermediate.NotAfter.Unix(), rootOf(c).NotAfter.Unix())
		if err := testutil.GatherAndCompare(registry, strings.NewReader(want)); err != nil {
			t.Error(err)
		}
		if _, err := Open(Config{Dir: caDir(t), Registerer: registry}); err == nil || !strings.Contains(err.Error(), "metrics of the CA: ") {
			t.Errorf("a second CA on the same registry: error %v", err)
		}
		mustClose(t, c)
	}
	c := mustOpen(t, Config{Dir: dir})
	defer mustClose(t, c)
	cfg := IssuerConfig{Provider: c, TrustDomain: c.TrustDomain(), TTL: time.Hour, Registerer: registry}
	issuer, err := NewIssuer(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := issuer.issue(t.Context(), service(c.TrustDomain(), "web").ID()); err != nil {
		t.Fatal(err)
	}
	if err := testutil.GatherAndCompare(registry, strings.NewReader(`
# HELP sallyport_ca_leafs_issued_total Leaf certificates that were signed, by the built-in CA or by the provider in its place.
# TYPE sallyport_ca_leafs_issued_total counter
sallyport_ca_leafs_issued_total 1
# HELP sallyport_ca_leafs_waiting Leaf certificates that are due and wait for their turn: as many are made at once as there are processors, or 8 where another CA signs each.
# TYPE sallyport_ca_leafs_waiting gauge
sallyport_ca_leafs_waiting 0
`)); err != nil {
		t.Error(err)
	}
	if _, err := NewIssuer(cfg); err == nil || !strings.HasPrefix(err.Error(), "metrics of the CA: ") {
		t.Errorf("a second issuer on the same registry: error %v", err)
	}
}

func TestRoots(t *testing.T) {
	c := mustOpen(t, Config{Dir: caDir(t)})
	defer mustClose(t, c)
	ctx, cancel := context.WithCancel(t.Context())
	var got *sds.Roots
	if err := issuerOf(t, c).WatchRoots(ctx, func(r *sds.Roots) { got = r; cancel() }); err != nil {
		t.Fatal(err)
	}
	root, sum := rootOf(c), sha256.Sum256(rootOf(c).Raw)
	active, ok := got.Active()
	if !ok || active.Certificate != root || active.ID != hex.EncodeToString(sum[:]) || strings.Count(got.PEM(), "BEGIN") != 1 {
		t.Errorf("active root %s, %t of\n%swant the root of %s", active.ID, ok, got.PEM(), c.TrustDomain())
	}
}

// TestNothingPrintsKeys prints all there is in all ways, and looks for the keys.
func TestNothingPrintsKeys(t *testing.T) {
	var log bytes.Buffer
	var mu sync.Mutex
	logger := slog.New(slog.NewJSONHandler(lockedWriter{&mu, &log}, &slog.HandlerOptions{Level: slog.LevelDebug}))
	c := mustOpen(t, Config{Dir: caDir(t), TrustDomain: trustDomain(t), Logger: logger})
	defer mustClose(t, c)
	e, err := OpenEndpoint(EndpointConfig{Dir: caDir(t), TrustDomain: trustDomain(t), Logger: logger})
	if err != nil {
		t.Fatal(err)
	}
	defer mustClose(t, e)
	svid := oneLeaf(t, c, "web")
	text := slog.New(slog.NewTextHandler(lockedWriter{&mu, &log}, nil))
	for _, v := range []any{c, e, svid, issuerOf(t, c), struct {
		C *CA
		E *Endpoint
	}{c, e}} {
		for _, format := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x"} {
			fmt.Fprintf(&log, format+"\n", v)
		}
		logger.Info("x", "file", v)
		text.Info("x", "file", v)
	}
	out := log.String()
	for _, key := range []*ecdsa.PrivateKey{c.authority.pairs[fingerprint(rootOf(c))].key, c.authority.intermediate.key, svid.PrivateKey.(*ecdsa.PrivateKey), e.authority.pairs[e.authority.rec.Active].key} {
		raw, err := key.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		for _, secret := range []string{"PRIVATE KEY", hex.EncodeToString(raw), fmt.Sprint(raw), key.D.String()} { //nolint:staticcheck // D is what %v of a key prints
			if strings.Contains(out, secret) {
				t.Errorf("a private key was printed:\n%s", out)
			}
		}
	}
	if !strings.Contains(out, svid.String()) {
		t.Errorf("nothing was printed at all:\n%s", out)
	}
}

type lockedWriter struct {
	mu *sync.Mutex
	w  *bytes.Buffer
}

func (l lockedWriter) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(p)
}
