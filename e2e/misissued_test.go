//go:build e2e

package e2e

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/internal/meshtest"
)

// TestMisissuedCertificates: what comes of certificates that the mesh's CA has signed and never should have, as docs/adr/0011-misissued-certificates.md
// says it, on the oldest Envoy and the newest.
func TestMisissuedCertificates(t *testing.T) {
	t.Parallel()
	for _, envoy := range []string{meshtest.Version, "1.36.4"} {
		t.Run(envoy, func(t *testing.T) {
			t.Parallel()
			m := meshtest.New(t, meshtest.Config{Sallyport: sallyport, Envoy: envoy})
			mail, site := serveEcho(t, banner), serveHTTP(t, "hello")
			m.Add(meshtest.Service{Name: "mail", Local: mail, Config: []string{"server_first = true"}})
			m.Add(meshtest.Service{Name: "open", Local: mail})
			m.Add(meshtest.Service{Name: "site", Protocol: "http", Local: site})
			m.Add(meshtest.Service{Name: "asked", Protocol: "http", Local: site, Config: []string{`intention_enforcement = "both"`}})
			for _, s := range []string{"mail", "site", "asked"} {
				m.Intend(s, meshtest.Intentions{"web": "allow"})
			}
			m.Intend("open", meshtest.Intentions{"*": "allow", "bad": "deny"})
			m.Serve()
			m.Sidecars("mail", "open", "site", "asked")
			ca := m.Authority()
			web, bad := m.URI("web"), m.URI("bad")
			usage := func(u x509.KeyUsage) func(*x509.Certificate) {
				return func(c *x509.Certificate) { c.KeyUsage |= u }
			}
			long := m.URI(strings.Repeat("n", 2049-len(m.URI(""))))
			sub := ca.Under(t, ca.Issue(t, meshtest.LeafSpec{URIs: []string{bad}, CommonName: "bad", CA: true}))
			nameless := ca.Under(t, ca.Issue(t, meshtest.LeafSpec{URIs: []string{bad}, CA: true}))
			const (
				in      = "in"
				heard   = "hears the first words" // and nothing more, and what it says is not heard
				refused = "refused"
				denied  = "403"
			)
			// Envoy 1.36 does not count the nameless one for the path length, and a chain may be as long, for the replacement of a root.
			byNameless := [4]string{refused, refused, refused, refused}
			if envoy == "1.36.4" {
				byNameless = [4]string{in, in, in, in}
			}
			tcp := func(s string, cert *tls.Certificate) string {
				client := meshtest.Client{Certificate: cert}
				spoke := false
				if conn, err := client.Dial(m.Public(s)); err == nil {
					spoke = meshtest.Exchange(conn, "", len(banner)).Body != ""
					conn.Close()
				}
				echoed := len(client.Echo(m.Public(s), strings.Repeat("x", len(banner)+1)).Body) > len(banner)
				switch {
				case spoke && echoed:
					return in
				case spoke:
					return heard
				case !echoed:
					return refused
				}
				return "is heard and hears nothing"
			}
			get := func(s string, cert *tls.Certificate) string {
				a := meshtest.Client{Certificate: cert}.Get(m.Public(s), "/")
				switch {
				case a.Allowed():
					return in
				case a.Status == 403:
					return denied
				case a.Denied():
					return refused
				}
				return a.String()
			}
			for _, c := range []struct {
				name string
				cert *tls.Certificate
				// A tcp service that lets web in, one that lets all but bad in, an http service that lets web in, and one that asks, too.
				want [4]string
			}{
				{"web's", ca.Issue(t, meshtest.LeafSpec{URIs: []string{web}}), [4]string{in, in, in, in}},
				{"bad's", ca.Issue(t, meshtest.LeafSpec{URIs: []string{bad}}), [4]string{refused, refused, denied, denied}},
				{"web and bad", ca.Issue(t, meshtest.LeafSpec{URIs: []string{web, bad}}), [4]string{heard, heard, denied, denied}},
				{"bad and web", ca.Issue(t, meshtest.LeafSpec{URIs: []string{bad, web}}), [4]string{heard, heard, denied, denied}},
				{"web and a DNS name", ca.Issue(t, meshtest.LeafSpec{URIs: []string{web}, DNS: []string{"web.example"}}), [4]string{in, in, in, in}},
				{"CA:TRUE", ca.Issue(t, meshtest.LeafSpec{URIs: []string{web}, CA: true}), [4]string{in, in, in, denied}},
				{"keyCertSign", ca.Issue(t, meshtest.LeafSpec{URIs: []string{web}, Change: usage(x509.KeyUsageCertSign)}), [4]string{in, in, in, denied}},
				{"cRLSign", ca.Issue(t, meshtest.LeafSpec{URIs: []string{web}, Change: usage(x509.KeyUsageCRLSign)}), [4]string{in, in, in, denied}},
				{"signed with one of CA:TRUE", sub.Issue(t, meshtest.LeafSpec{URIs: []string{web}}), [4]string{refused, refused, refused, refused}},
				{"signed with a nameless one", nameless.Issue(t, meshtest.LeafSpec{URIs: []string{web}}), byNameless},
				{"SHA-1", ca.Issue(t, meshtest.LeafSpec{URIs: []string{web}, Change: func(c *x509.Certificate) { c.SignatureAlgorithm = x509.ECDSAWithSHA1 }}), [4]string{in, in, in, denied}},
				{"RSA, 1,024 bits", ca.Issue(t, meshtest.LeafSpec{URIs: []string{web}, Bits: 1024}), [4]string{in, in, in, denied}},
				{"RSA, 2,048 bits", ca.Issue(t, meshtest.LeafSpec{URIs: []string{web}, Bits: 2048}), [4]string{in, in, in, in}},
				{"of a server alone", ca.Issue(t, meshtest.LeafSpec{URIs: []string{web}, Change: func(c *x509.Certificate) { c.ExtKeyUsage = c.ExtKeyUsage[1:] }}), [4]string{refused, refused, refused, refused}},
				{"an ID of 2,049 bytes", ca.Issue(t, meshtest.LeafSpec{URIs: []string{long}}), [4]string{refused, in, denied, denied}},
			} {
				got := [4]string{tcp("mail", c.cert), tcp("open", c.cert), get("site", c.cert), get("asked", c.cert)}
				if got != c.want {
					t.Errorf("certificate %s: %q, want %q", c.name, got, c.want)
				}
			}
		})
	}
}

// TestMisissuedServer: a server's certificate with several names, one of which is right, is believed: Envoy asks whether one fits. No sidecar is given
// such a certificate; who has got it elsewhere, and is in the catalog, is the service.
func TestMisissuedServer(t *testing.T) {
	t.Parallel()
	for _, envoy := range []string{meshtest.Version, "1.36.4"} {
		t.Run(envoy, func(t *testing.T) {
			t.Parallel()
			m := meshtest.New(t, meshtest.Config{Sallyport: sallyport, Envoy: envoy})
			m.Add(meshtest.Service{Name: "api", Protocol: "http"})
			m.Add(meshtest.Service{Name: "web", Upstreams: []string{"api"}})
			m.Serve()
			m.Sidecar("web")
			ca := m.Authority()
			under := func(name string) *tls.Certificate {
				signs := ca.Under(t, ca.Issue(t, meshtest.LeafSpec{URIs: []string{m.URI("bad")}, CommonName: name, CA: true}))
				return signs.Issue(t, meshtest.LeafSpec{URIs: []string{m.URI("api")}})
			}
			for _, c := range []struct {
				name string
				cert *tls.Certificate
				want bool
			}{
				{"signed with one of CA:TRUE", under("bad"), false},
				// To a client the length of chains cannot be told; Envoy 1.36 does not count one that has signed itself by its looks.
				{"signed with a nameless one", under(""), envoy == "1.36.4"},
				{"bad and api", ca.Issue(t, meshtest.LeafSpec{URIs: []string{m.URI("bad"), m.URI("api")}}), true},
			} {
				server := serveTLS(t, c.cert, "http")
				m.Add(meshtest.Service{Name: "api", Protocol: "http", Port: server.port})
				ask := func() meshtest.Answer { return meshtest.GetPlain("http://" + m.Upstream("web", "api") + "/") }
				meshtest.Await(t, "a server whose certificate is "+c.name, func() error {
					a := ask()
					if server.accepted.Load() == 0 {
						return errors.New("not dialled yet")
					}
					if c.want != a.Allowed() || !c.want && a.Status != 503 {
						return fmt.Errorf("%v, want that it is believed: %v", a, c.want)
					}
					return nil
				})
			}
		})
	}
}
