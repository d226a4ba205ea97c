package bundle_test

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/bundle"
	"github.com/sallyport/sallyport/internal/testca"
	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var tdB = spiffeid.RequireTrustDomainFromString("td-b.example")

// root makes a CA's certificate of td; times are the template's NotBefore and NotAfter.
func root(t testing.TB, td string, times ...time.Time) *testca.Pair {
	t.Helper()
	host, path, _ := strings.Cut(td, "/")
	if path != "" {
		path = "/" + path
	}
	template := &x509.Certificate{Subject: pkix.Name{CommonName: "root of " + td}, IsCA: true, KeyUsage: x509.KeyUsageCertSign, URIs: []*url.URL{{Scheme: "spiffe", Host: host, Path: path}}}
	if len(times) == 2 {
		template.NotBefore, template.NotAfter = times[0], times[1]
	}
	return testca.Sign(t, template, nil)
}

// leaf makes a leaf of id.
func leaf(t testing.TB, id string, by *testca.Pair) *testca.Pair {
	t.Helper()
	u, err := url.Parse(id)
	if err != nil {
		t.Fatal(err)
	}
	return testca.Sign(t, &x509.Certificate{
		URIs: []*url.URL{u}, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, by)
}

// document is a SPIFFE document as go-spiffe makes it. Negative: no sequence.
func document(t testing.TB, sequence int, roots ...*testca.Pair) []byte {
	t.Helper()
	b := spiffebundle.New(tdB)
	for _, r := range roots {
		b.AddX509Authority(r.Cert)
	}
	if sequence >= 0 {
		b.SetSequenceNumber(uint64(sequence))
	}
	b.SetRefreshHint(time.Minute)
	text, err := b.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestParse(t *testing.T) {
	a, b := root(t, "td-b.example"), root(t, "td-b.example")
	server := leaf(t, "spiffe://td-b.example/x", a)
	many := make([]*testca.Pair, bundle.MaxAuthorities+1)
	for i := range many {
		many[i] = root(t, "td-b.example")
	}
	long := testca.Sign(t, &x509.Certificate{Subject: pkix.Name{CommonName: strings.Repeat("x", 8<<10)}, IsCA: true, KeyUsage: x509.KeyUsageCertSign}, nil)
	symmetric := strings.Replace(string(document(t, 1, a)), `"keys":[`, `"keys":[{"use":"jwt-svid","kid":"x","kty":"oct","k":"c2VjcmV0"},`, 1)
	for name, tt := range map[string]struct {
		text  string
		roots int
		want  string // of the error; empty: none
	}{
		"one":                    {text: string(document(t, 1, a)), roots: 1},
		"two, no sequence":       {text: string(document(t, -1, a, b)), roots: 2},
		"PEM":                    {text: "\n" + a.PEM() + b.PEM() + "\n", roots: 2},
		"a key for another use":  {text: strings.Replace(string(document(t, 1, a)), `"keys":[`, `"keys":[{"use":"sig","kty":"oct","k":"c2VjcmV0"},`, 1), roots: 1},
		"no keys":                {text: `{"keys":[]}`, want: "no certificate is in it"},
		"keys null":              {text: `{"keys":null}`, want: "no authorities found"},
		"no object":              {text: `[]`, want: "neither a SPIFFE document"},
		"nothing":                {text: " \n", want: "nothing is in it"},
		"junk":                   {text: `{"keys":[{]}`, want: "no SPIFFE bundle"},
		"a leaf":                 {text: string(document(t, 1, a, server)), want: "is not a CA's"},
		"a leaf in PEM":          {text: a.PEM() + server.PEM(), want: "is not a CA's"},
		"another trust domain":   {text: string(document(t, 1, a, root(t, "td-c.example"))), want: "is this the bundle of another trust domain?"},
		"an identity of it":      {text: string(document(t, 1, root(t, "td-b.example/x"))), want: "is this the bundle of another trust domain?"},
		"no trust domain at all": {text: string(document(t, 1, testca.Sign(t, &x509.Certificate{IsCA: true, KeyUsage: x509.KeyUsageCertSign}, nil))), roots: 1},
		"too many":               {text: string(document(t, 1, many...)), want: "33 certificates, 32 at most"},
		"a long certificate":     {text: string(document(t, 1, a, long)), want: "bytes, 8192 at most"},
		"a secret":               {text: symmetric, want: "no public key"},
		"a private key in PEM":   {text: a.PEM() + "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", want: `is a "PRIVATE KEY", want certificates alone`},
		"PEM and more":           {text: a.PEM() + "and more", want: "neither a SPIFFE document"},
		"too long":               {text: strings.Repeat("x", bundle.MaxDocument+1), want: "more than 1048576 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			d, err := bundle.Parse(tdB, []byte(tt.text))
			if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("%v, want %q", err, tt.want)
			}
			if err == nil && len(d.Authorities()) != tt.roots {
				t.Errorf("%d certificates, want %d", len(d.Authorities()), tt.roots)
			}
		})
	}
}

// TestRefreshHint: nobody can have us ask without a pause, or never.
func TestRefreshHint(t *testing.T) {
	a := root(t, "td-b.example")
	for said, want := range map[string]time.Duration{
		"": 5 * time.Minute, "0": 10 * time.Second, "-1": 10 * time.Second, "1": 10 * time.Second, "60": time.Minute, "3600": time.Hour, "86400": time.Hour,
		"9223372036854775807": 10 * time.Second,
	} {
		text := fmt.Sprintf(`{"keys":[{"use":"x509-svid",%s]`, strings.TrimPrefix(jwk(t, a), "{"))
		if said != "" {
			text += `,"spiffe_refresh_hint":` + said
		}
		d, err := bundle.Parse(tdB, []byte(text+"}"))
		if err != nil {
			t.Fatal(err)
		}
		if d.RefreshHint() != want {
			t.Errorf("%q: %s, want %s", said, d.RefreshHint(), want)
		}
	}
}

// jwk is a certificate as a key of a JWK set.
func jwk(t *testing.T, p *testca.Pair) string {
	t.Helper()
	point, err := p.Key.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	half := func(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }
	text, err := json.Marshal(map[string]any{"kty": "EC", "crv": "P-256", "x": half(point[1:33]), "y": half(point[33:]), "x5c": [][]byte{p.Cert.Raw}})
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// FuzzParse: whatever comes, there is an error or a bundle that can be written and read again, within the bounds, of CAs alone.
func FuzzParse(f *testing.F) {
	a := root(f, "td-b.example")
	for _, seed := range [][]byte{document(f, 3, a), []byte(a.PEM()), []byte(`{"keys":[]}`), []byte(`{"keys":[{"use":"x509-svid","x5c":[""]}],"spiffe_sequence":-1}`)} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		d, err := bundle.Parse(tdB, text)
		if err != nil {
			return
		}
		if n := len(d.Authorities()); n == 0 || n > bundle.MaxAuthorities || d.RefreshHint() < bundle.MinRefreshHint || d.RefreshHint() > bundle.MaxRefreshHint {
			t.Fatalf("%d certificates, hint %s", n, d.RefreshHint())
		}
		for _, c := range d.Authorities() {
			if !c.IsCA {
				t.Fatal("not a CA's")
			}
		}
		again, err := d.JSON()
		if err != nil {
			t.Fatal(err)
		}
		back, err := bundle.Parse(tdB, again)
		if err != nil {
			t.Fatalf("%v: %s", err, again)
		}
		second, err := back.JSON()
		if err != nil || string(second) != string(again) {
			t.Errorf("%v: %s, then %s", err, again, second)
		}
	})
}

func TestDefinition(t *testing.T) {
	const file = "/etc/td/b.yaml"
	for text, want := range map[string]string{
		"{'trust_domain': 'td-b.example', 'bundle': 'b.pem'}": "",
		"trust_domain: td-b.example\nbundle: b.pem\n":         "",

		"trust_domain: td-b.example\nendpoint:\n  url: https://b.example:8443/x?y\n  profile: https_web\n  ca_file: ca.pem\n":                                       "",
		"trust_domain: td-b.example\nbundle: b.pem\nendpoint: {url: 'https://b.example', profile: https_spiffe, spiffe_id: 'spiffe://td-b.example/spire/server'}\n": "",
		"":                  file + ": nothing is in it",
		"trust_domain: [\n": file + ":1: did not find expected node content",
		"trust_domain: td-b.example\nbundel: b.pem\n":                                                                                   file + ":2: key bundel: the keys are trust_domain, bundle and endpoint",
		"trust_domain: td-b.example\nendpoint:\n  address: x\n":                                                                         file + ":3: key address: the keys of endpoint are url, profile, spiffe_id and ca_file",
		"trust_domain: TD-B\nbundle: b.pem\n":                                                                                           file + ":1: trust_domain \"TD-B\"",
		"bundle: b.pem\n":                                                                                                               file + ": trust_domain is missing",
		"trust_domain: td-b.example\n":                                                                                                  file + ":1: neither bundle nor endpoint",
		"trust_domain: td-b.example\n---\ntrust_domain: c.example":                                                                      file + ": more than one document",
		"trust_domain: td-b.example\nendpoint:\n  url: http://b.example\n  profile: https_web\n":                                        file + ":3: url: it is not https://",
		"trust_domain: td-b.example\nendpoint:\n  url: https://u:hunter2@b.example\n  profile: https_web\n":                             file + ":3: url: a user name",
		"trust_domain: td-b.example\nendpoint:\n  url: https://b.example\n":                                                             file + ": profile \"\" is neither",
		"trust_domain: td-b.example\nendpoint:\n  url: https://b.example\n  profile: https_spiffe\n":                                    file + ": spiffe_id \"\"",
		"trust_domain: td-b.example\nendpoint:\n  url: https://b.example\n  profile: https_web\n  spiffe_id: spiffe://td-b.example/x\n": file + ":5: spiffe_id is for",
		"trust_domain: " + strings.Repeat("a", 241) + "\nbundle: b\n":                                                                   file + ":1: trust_domain has more than 240 bytes",
	} {
		_, err := bundle.ParseDefinition(file, []byte(text))
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
		if err != nil && strings.Contains(err.Error(), "hunter2") {
			t.Errorf("a password is in %v", err)
		}
	}
}

func caTemplate() *x509.Certificate {
	return &x509.Certificate{Subject: pkix.Name{CommonName: "CA"}, IsCA: true, KeyUsage: x509.KeyUsageCertSign}
}

func serverTemplate() *x509.Certificate {
	return &x509.Certificate{IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
}
