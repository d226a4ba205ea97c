package connect

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/connect/internal/apitest"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// named has a certificate have these URIs as its names, byte for byte.
func named(t *testing.T, uris ...string) func(*x509.Certificate) {
	t.Helper()
	var names []asn1.RawValue
	for _, uri := range uris {
		names = append(names, asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 6, Bytes: []byte(uri)})
	}
	value, err := asn1.Marshal(names)
	if err != nil {
		t.Fatal(err)
	}
	return func(c *x509.Certificate) {
		c.URIs = nil
		c.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Critical: true, Value: value}}
	}
}

func rsaKey(t *testing.T, bits int) crypto.Signer {
	t.Helper()
	k, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func ecKey(t *testing.T) crypto.Signer {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// TestCertificates shows certificates that are not quite those of who may be there: clients to ServerTLSConfig, and servers to Dial.
func TestCertificates(t *testing.T) {
	a := apitest.New(t)
	good, foreign := a.Signer(), apitest.NewRoot(t)
	const domain = "spiffe://" + apitest.Domain
	const unread = "TLS" // Go's TLS cannot read it
	type certificate struct {
		signer *apitest.Authority // nil: the API's
		key    crypto.Signer      // nil: of P-256
		uris   func(id string) []string
		change func(*x509.Certificate)
		self   bool   // it signs itself
		want   string // in the reason; empty: it is good, as far as it says itself
		dial   string // what Dial says instead
	}
	replaced := func(old, with string) func(string) []string {
		return func(id string) []string { return []string{strings.Replace(id, old, with, 1)} }
	}
	followed := func(by string) func(string) []string { return func(id string) []string { return []string{id + by} } }
	usage := func(set, not x509.KeyUsage) func(*x509.Certificate) {
		return func(c *x509.Certificate) { c.KeyUsage = c.KeyUsage&^not | set }
	}
	filled := func(n int) func(*x509.Certificate) {
		return func(c *x509.Certificate) {
			c.ExtraExtensions = append(c.ExtraExtensions, pkix.Extension{Id: asn1.ObjectIdentifier{1, 2, 3, 4}, Value: make([]byte, n)})
		}
	}
	tests := map[string]certificate{
		"good":              {},
		"RSA, 2,048 bits":   {key: rsaKey(t, 2048)},
		"a DNS name too":    {change: func(c *x509.Certificate) { c.DNSNames = []string{"web.example"} }},
		"a common name too": {change: func(c *x509.Certificate) { c.Subject = pkix.Name{CommonName: domain + "/ns/default/dc/dc1/svc/root"} }},
		"60 KB":             {change: filled(60_000)},

		"expired":               {change: func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Second) }, want: "expired"},
		"not valid yet":         {change: func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Hour) }, want: "not yet valid"},
		"of a foreign root":     {signer: foreign, want: "unknown authority"},
		"signs itself":          {self: true, want: "unknown authority"},
		"CA:TRUE":               {change: func(c *x509.Certificate) { c.IsCA = true }, want: "CA flag"},
		"CA:TRUE, signs itself": {self: true, change: func(c *x509.Certificate) { c.IsCA = true; c.KeyUsage |= x509.KeyUsageCertSign }, want: "CA flag"},
		"keyCertSign":           {change: usage(x509.KeyUsageCertSign, 0), want: "KeyCertSign"},
		"cRLSign":               {change: usage(x509.KeyUsageCRLSign, 0), want: "KeyCrlSign"},
		"no digitalSignature":   {change: usage(0, x509.KeyUsageDigitalSignature), want: "digitalSignature"},
		"no key usage":          {change: func(c *x509.Certificate) { c.KeyUsage = 0 }, want: "digitalSignature"},
		"no extended key usage": {change: func(c *x509.Certificate) { c.ExtKeyUsage = nil }, want: "not meant for this side"},
		"SHA-1":                 {change: func(c *x509.Certificate) { c.SignatureAlgorithm = x509.ECDSAWithSHA1 }, want: "insecure algorithm"},
		"RSA, 1,024 bits":       {key: rsaKey(t, 1024), want: "1024 bits"},
		"100 KB":                {change: filled(100_000), want: "bytes"},
		"300 KB":                {change: filled(300_000), want: unread},

		"another trust domain":         {uris: replaced(apitest.Domain, "other.consul"), want: "bundle"},
		"a trust domain in upper case": {uris: replaced(apitest.Domain, strings.ToUpper(apitest.Domain)), want: "trust domain"},
		"a dot after the trust domain": {uris: replaced(apitest.Domain, apitest.Domain+"."), want: unread},
		"a port":                       {uris: replaced(apitest.Domain, apitest.Domain+":1"), want: "trust domain"},
		"a user":                       {uris: replaced(apitest.Domain, "x@"+apitest.Domain), want: "trust domain"},
		"SPIFFE in upper case":         {uris: replaced("spiffe", "SPIFFE"), want: "spells its SPIFFE ID"},
		"https":                        {uris: replaced("spiffe", "https"), want: "scheme is missing"},
		"a query":                      {uris: followed("?x"), want: "characters are limited"},
		"a fragment":                   {uris: followed("#x"), want: "characters are limited"},
		"a slash after it":             {uris: followed("/"), want: "trailing slash"},
		"two slashes":                  {uris: replaced("/svc", "//svc"), want: "empty segments"},
		"dots":                         {uris: replaced("/svc/", "/svc/x/../"), want: "dot segments"},
		"%2f":                          {uris: replaced("/svc/", "/svc%2f"), want: "characters are limited"},
		"%77eb": {uris: func(id string) []string {
			i := strings.LastIndex(id, "/") + 1
			return []string{id[:i] + fmt.Sprintf("%%%x", id[i]) + id[i+1:]}
		}, want: "characters are limited"},
		"a blank":                       {uris: followed(" "), want: "characters are limited"},
		"a letter that looks the same":  {uris: replaced("/svc/", "/ѕvc/"), want: unread},
		"a NUL":                         {uris: followed("\x00.evil"), want: unread},
		"another datacenter":            {uris: replaced("/dc1/", "/dc9/"), want: "", dial: "another service"},
		"another namespace":             {uris: replaced("/default/", "/other/"), want: "", dial: "another service"},
		"a partition":                   {uris: replaced("/ns/", "/ap/default/ns/"), want: "not the ID of a service"},
		"the trust domain alone":        {uris: func(string) []string { return []string{domain} }, want: "not the ID of a service"},
		"an agent":                      {uris: func(string) []string { return []string{domain + "/agent/client/dc/dc1/id/node"} }, want: "not the ID of a service"},
		"2,049 bytes":                   {uris: func(id string) []string { return []string{id + strings.Repeat("x", 2049-len(id))} }, want: "2048 bytes"},
		"two names":                     {uris: func(id string) []string { return []string{id, domain + "/ns/default/dc/dc1/svc/evil"} }, want: "more than one URI"},
		"two names, the right one last": {uris: func(id string) []string { return []string{domain + "/ns/default/dc/dc1/svc/evil", id} }, want: "more than one URI"},
		"a name twice":                  {uris: func(id string) []string { return []string{id, id} }, want: "more than one URI"},
		"no name":                       {change: func(c *x509.Certificate) { c.URIs = nil }, want: "no URI"},
		"its ID as a DNS name":          {change: func(c *x509.Certificate) { c.DNSNames, c.URIs = []string{c.URIs[0].String()}, nil }, want: "no URI"},
		"its ID as a common name":       {change: func(c *x509.Certificate) { c.Subject, c.URIs = pkix.Name{CommonName: c.URIs[0].String()}, nil }, want: "no URI"},
	}
	make509 := func(t *testing.T, c certificate, id string) tls.Certificate {
		t.Helper()
		template := apitest.Template(t, id)
		if c.uris != nil {
			named(t, c.uris(id)...)(template)
		}
		if c.change != nil {
			c.change(template)
		}
		signer, key := c.signer, c.key
		if signer == nil {
			signer = good
		}
		if key == nil {
			key = ecKey(t)
		}
		if !c.self {
			return signer.Certificate(template, key)
		}
		der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
		if err != nil {
			t.Fatal(err)
		}
		return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
	}
	judged := make(chan error, 1)
	served := a.Serve()
	api := start(t, served, "api", Options{Metrics: Metrics{Judged: func(_ spiffeid.ID, err error, _ time.Duration) { judged <- err }}})
	web := start(t, served, "web", Options{})
	address := echo(t, api.ServerTLSConfig())
	says := func(err error, want string) bool {
		return (err == nil) == (want == "") && (err == nil || want == unread || strings.Contains(err.Error(), want))
	}
	for name, c := range tests {
		t.Run(name, func(t *testing.T) {
			conn, err := tls.Dial("tcp", address, &tls.Config{Certificates: []tls.Certificate{make509(t, c, apitest.ID("web"))}, InsecureSkipVerify: true})
			if err == nil {
				err = ping(conn)
				conn.Close()
			}
			select {
			case reason := <-judged:
				if (err == nil) != (c.want == "") || !says(reason, c.want) {
					t.Errorf("as a client: %v, because of %v, want %q", err, reason, c.want)
				}
			default:
				if err == nil || c.want != unread {
					t.Errorf("as a client: %v without a judgement, want %q", err, c.want)
				}
			}
			want := c.dial
			if want == "" {
				want = c.want
			}
			pair := make509(t, c, apitest.ID("api"))
			a.Register("api", echo(t, &tls.Config{Certificates: []tls.Certificate{pair}}))
			if err := reach(t, web, "api"); !says(err, want) {
				t.Errorf("as a server: %v, want %q", err, want)
			}
		})
	}
}
