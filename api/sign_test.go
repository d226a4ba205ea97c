package api

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/sallyport/sallyport/identity"
)

// requestPEM is a certificate request for a new key.
func requestPEM(t *testing.T) (string, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})), key
}

// TestSign: a leaf for a key that stays where it is, to who would get one with a key.
func TestSign(t *testing.T) {
	r := start(t)
	request, key := requestPEM(t)
	object, err := json.Marshal(map[string]string{"CSR": request})
	if err != nil {
		t.Fatal(err)
	}
	const path = "/v1/sallyport/leaf/api"
	for _, body := range []string{request, string(object)} {
		a := r.ask(t, "POST", path, "api", body)
		var got leafAnswer
		if err := json.Unmarshal([]byte(a.body), &got); err != nil || a.code != 200 {
			t.Fatalf("%d %s", a.code, a.body)
		}
		if strings.Contains(a.body, "PrivateKey") || strings.Contains(a.body, "Index") || a.header.Get("X-Consul-Index") != "" {
			t.Errorf("the answer has what is not there: %s %v", a.body, a.header)
		}
		block, rest := pem.Decode([]byte(got.CertPEM))
		leaf, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		if !key.PublicKey.Equal(leaf.PublicKey) || len(rest) == 0 || got.SerialNumber != colonHex(leaf.SerialNumber.Bytes()) || got.ServiceURI != leaf.URIs[0].String() {
			t.Errorf("%+v", got)
		}
	}
	if diff := cmp.Diff([]identity.Caller{{Application: "api"}, {Application: "api"}}, r.signedFor); diff != "" {
		t.Errorf("recorded: %s", diff)
	}
	for _, tc := range []struct {
		method, path, token, body string
		code                      int
		want                      string
	}{
		{"GET", path, "api", "", 405, "method GET not allowed"},
		{"POST", path, "", request, 403, "Permission denied"},
		{"POST", path, "bogus", request, 403, "ACL not found"},
		{"POST", path, "web", request, 403, "Permission denied"},
		{"POST", path, "reader", request, 403, "Permission denied"},
		{"POST", "/v1/sallyport/leaf/API", "API", request, 404, "letter case"},
		{"POST", "/v1/sallyport/leaf/nosuch", "nosuch", request, 404, "not registered"},
		{"POST", "/v1/sallyport/leaf/", "api", request, 500, "URI must be"},
		{"POST", "/v1/sallyport/leaf/api/x", "api", request, 500, "SPIFFE ID is not in the expected format"},
		{"POST", path, "api", "", 400, "PEM"},
		{"POST", path, "api", "junk", 400, "PEM"},
		{"POST", path, "api", `{"CSR":1}`, 400, "CSR: a number"},
		{"POST", path, "api", `{"CSR":"x","Key":"y"}`, 400, `unknown field "Key"`},
		{"POST", path, "api", `{"CSR":"x"} {`, 400, "something follows"},
		{"POST", path, "api", request + strings.Repeat(" ", 1<<20), 400, "too large"},
	} {
		if a := r.ask(t, tc.method, tc.path, tc.token, tc.body); a.code != tc.code || !strings.Contains(a.body, tc.want) {
			t.Errorf("%s %s as %q = %d %q, want %d %q", tc.method, tc.path, tc.token, a.code, a.body, tc.code, tc.want)
		}
	}
	now := time.Now()
	for r.signings.take("api", now) <= 0 {
	}
	if a := r.ask(t, "POST", path, "api", request); a.code != 429 || a.header.Get("Retry-After") == "" {
		t.Errorf("after %d leafs: %d %s %v", burst, a.code, a.body, a.header)
	}
	if a := r.ask(t, "POST", "/v1/sallyport/leaf/web", "web", request); a.code != 200 {
		t.Errorf("another caller: %d %s", a.code, a.body)
	}
	r.config.Sign = nil
	if a := r.ask(t, "POST", path, "api", request); a.code != 501 || !strings.Contains(a.body, "GET /v1/agent/connect/ca/leaf/api") {
		t.Errorf("where nobody signs: %d %s", a.code, a.body)
	}
}

// TestSignings: a caller has its burst, then one for each refill, and all of it again after a while.
func TestSignings(t *testing.T) {
	var s signings
	s.init()
	now := time.Now()
	took := func() (n int) {
		for s.take("a", now) <= 0 {
			n++
		}
		return n
	}
	for _, step := range []struct {
		after time.Duration
		want  int
	}{{0, burst}, {0, 0}, {refill - 1, 0}, {1, 1}, {3 * refill, 3}, {burst * refill, burst}} {
		now = now.Add(step.after)
		s.forget(now)
		if n := took(); n != step.want {
			t.Errorf("%v later: %d leafs, want %d", step.after, n, step.want)
		}
	}
	if s.take("b", now) > 0 {
		t.Error("another caller has to wait")
	}
	s.forget(now.Add(burst*refill + 1))
	if len(s.had) > 0 {
		t.Errorf("kept: %v", s.had)
	}
}
