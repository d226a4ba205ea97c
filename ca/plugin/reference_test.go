package plugin

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/remote"
	"github.com/sallyport/sallyport/internal/testca"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

var domain = spiffeid.RequireTrustDomainFromString("mesh.example")

// reference is a plug-in that keeps the contract, unless it has a fault.
type reference struct {
	fault     string
	root, old *testca.Pair
	other     *testca.Pair // of another CA

	mu      sync.Mutex
	asked   []question
	headers []http.Header
	at      int // how many are being signed
	serial  int64
	seen    map[string]bool
}

func newReference(t testing.TB, fault string) *reference {
	t.Helper()
	authority := func(name string, end time.Time) *testca.Pair {
		return testca.Sign(t, &x509.Certificate{Subject: pkix.Name{CommonName: name}, IsCA: true, KeyUsage: x509.KeyUsageCertSign, NotAfter: end, SubjectKeyId: []byte(name)}, nil)
	}
	year := time.Now().Add(365 * 24 * time.Hour)
	return &reference{fault: fault, root: authority("root", year), old: authority("old", time.Now().Add(-time.Second)), other: authority("other", year), seen: map[string]bool{}}
}

// answers is what it says to a question.
func (r *reference) answers(text []byte) any {
	var q question
	if json.Unmarshal(text, &q) != nil {
		return refused("invalid", "no JSON")
	}
	if strings.Contains(string(text), "conformance_unknown_field") && r.fault == "strict" {
		return refused("invalid", "unknown field")
	}
	r.mu.Lock()
	r.asked = append(r.asked, q)
	r.mu.Unlock()
	if q.Version != version && r.fault != "any version" {
		return map[string]any{"error": map[string]any{"code": "unsupported_version", "versions": []int{1}}}
	}
	switch q.Op {
	case opDescribe:
		return r.describe()
	case opRoots:
		return r.roots()
	case opSign:
		return r.sign(q)
	}
	if r.fault == "any op" {
		return map[string]any{}
	}
	return refused("unsupported_op", q.Op)
}

func refused(code, message string) any {
	return map[string]any{"error": map[string]any{"code": code, "message": message, "retry_after_seconds": 7}}
}

func (r *reference) describe() any {
	d := map[string]any{"version": 1, "name": "reference", "signs": []string{"intermediate", "leaf"}, "concurrency": 4, "later": true}
	switch r.fault {
	case "no version":
		delete(d, "version")
	case "no kinds":
		d["signs"] = []string{}
	case "another kind":
		d["signs"] = []string{"intermediate", "server"}
	case "many at once":
		d["concurrency"] = 1000
	case "short max_ttl":
		d["max_ttl_seconds"] = map[string]int{"leaf": 1}
	case "key in describe":
		d["name"] = "-----BEGIN PRIVATE KEY-----"
	}
	return d
}

func (r *reference) roots() any {
	roots := []string{r.root.PEM()}
	a := map[string]any{}
	switch r.fault {
	case "expired root":
		roots = append(roots, r.old.PEM())
	case "no roots":
		roots = nil
	case "intermediate among the roots":
		roots = append(roots, pemOf(r.certificate(question{Kind: intermediate, URI: domain.IDString(), TTLSeconds: 3600}, &r.root.Key.PublicKey)))
	case "distrust of a listed root":
		a["distrust"] = []string{fingerprint(r.root.Cert)}
	case "junk in distrust":
		a["distrust"] = []string{"root"}
	case "refresh of a second":
		a["refresh_seconds"] = 1
	case "distrust":
		a["distrust"] = []string{fingerprint(r.other.Cert)}
		roots = append(roots, r.other.PEM())
	case "another root":
		roots = []string{r.other.PEM()}
	}
	a["roots"] = roots
	return a
}

func fingerprint(c *x509.Certificate) string {
	sum := sha256.Sum256(c.Raw)
	return hex.EncodeToString(sum[:])
}

func pemOf(c *x509.Certificate) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}))
}

// certificate signs.
func (r *reference) certificate(q question, public any) *x509.Certificate {
	r.mu.Lock()
	r.serial++
	serial := r.serial
	r.mu.Unlock()
	u, _ := url.Parse(q.URI)
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial), URIs: []*url.URL{u}, NotBefore: now.Add(-time.Duration(q.SkewSeconds) * time.Second), NotAfter: now.Add(time.Duration(q.TTLSeconds) * time.Second),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}, BasicConstraintsValid: true,
	}
	if q.Kind == intermediate {
		template.IsCA, template.MaxPathLenZero, template.KeyUsage, template.ExtKeyUsage = true, true, x509.KeyUsageCertSign|x509.KeyUsageCRLSign, nil
		template.Subject = pkix.Name{CommonName: fmt.Sprintf("intermediate %d", serial)}
	}
	parent := r.root
	switch r.fault {
	case "one serial number":
		template.SerialNumber = big.NewInt(1)
	case "longer life":
		template.NotAfter = template.NotAfter.Add(time.Hour)
	case "one life":
		template.NotAfter = now.Add(24 * time.Hour)
	case "not yet valid":
		template.NotBefore = now.Add(time.Hour)
	case "two URIs":
		template.URIs = append(template.URIs, &url.URL{Scheme: "spiffe", Host: "other.example"})
	case "a DNS name":
		template.DNSNames = []string{"mesh.example"}
	case "another CA":
		parent = r.other
	case "no subject":
		template.Subject = pkix.Name{}
	case "no CA":
		template.IsCA, template.MaxPathLenZero = false, false
	case "the root's name":
		template.Subject = r.root.Cert.Subject
	case "no keyCertSign":
		template.KeyUsage = x509.KeyUsageDigitalSignature
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent.Cert, public, parent.Key)
	if err != nil {
		panic(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		panic(err)
	}
	return cert
}

func (r *reference) sign(q question) any {
	r.mu.Lock()
	r.at++
	busy, again := r.at > 1, r.seen[q.ID]
	r.seen[q.ID] = true
	r.mu.Unlock()
	defer func() { r.mu.Lock(); r.at--; r.mu.Unlock() }()
	block, _ := pem.Decode([]byte(q.CSR))
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	switch {
	case err != nil && r.fault == "any request":
		csr = &x509.CertificateRequest{PublicKey: r.root.Key.Public()}
	case err != nil:
		return refused("invalid", "no request")
	case csr.CheckSignature() != nil && r.fault != "any signature":
		return refused("invalid", "its key has not signed it")
	case q.Kind != intermediate && q.Kind != leaf && r.fault != "any kind":
		return refused("denied", "no such kind")
	case r.fault == "one at a time":
		if time.Sleep(20 * time.Millisecond); busy {
			return refused("unavailable", "busy")
		}
	case r.fault == "once" && again:
		return refused("invalid", "it was asked before")
	case r.fault == "pending" && !again:
		return map[string]any{"error": map[string]any{"code": "pending", "retry_after_seconds": 1}}
	case strings.HasPrefix(r.fault, "says "):
		return refused(strings.TrimPrefix(r.fault, "says "), "because")
	}
	public := csr.PublicKey
	if r.fault == "another key" {
		key, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		public = key.Public()
	}
	chain := []string{pemOf(r.certificate(q, public))}
	switch r.fault {
	case "root in the chain":
		chain = append(chain, r.root.PEM())
	case "something in the chain":
		chain = append(chain, pemOf(r.certificate(question{Kind: intermediate, URI: domain.IDString(), TTLSeconds: 3600}, &r.other.Key.PublicKey)))
	case "key in the chain":
		chain = append(chain, "-----BEGIN EC PRIVATE KEY-----\nc2VjcmV0\n-----END EC PRIVATE KEY-----\n")
	case "junk in the chain":
		chain = append(chain, "junk")
	case "no chain":
		chain = nil
	}
	return map[string]any{"chain": chain}
}

// serve answers at a Unix socket.
func (r *reference) serve(t testing.TB) Config {
	t.Helper()
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		var text json.RawMessage
		_ = json.NewDecoder(req.Body).Decode(&text)
		r.mu.Lock()
		r.headers = append(r.headers, req.Header.Clone())
		r.mu.Unlock()
		switch r.fault {
		case "redirect":
			http.Redirect(w, req, "/elsewhere", http.StatusTemporaryRedirect)
			return
		case "status 500":
			w.Header().Set("Retry-After", "3600")
			w.WriteHeader(500)
			return
		case "status 403":
			w.WriteHeader(403)
			return
		case "key in a refusal":
			w.WriteHeader(403)
			fmt.Fprint(w, "-----BEGIN PRIVATE KEY-----\nc2VjcmV0")
			return
		case "no JSON":
			fmt.Fprint(w, "hello")
			return
		case "more than JSON":
			defer fmt.Fprint(w, "bye")
		case "large":
			defer fmt.Fprint(w, strings.Repeat(" ", maxAnswer))
		}
		_ = json.NewEncoder(w).Encode(r.answers(text))
	}))
	dir := t.TempDir()
	listener := listen(t, dir+"/s")
	s.Listener.Close()
	s.Listener = listener
	s.Start()
	t.Cleanup(s.Close)
	return Config{Name: "test", TrustDomain: domain, Server: remote.Config{URL: "unix://" + dir + "/s", Attempts: 1}}
}
