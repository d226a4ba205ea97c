package ca

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// stored is what the files of a good state hold.
type stored struct{ root, intermediate *pair }

// goodState makes a state and returns it with its directory, which nobody has open.
func goodState(t testing.TB) (dir string, s stored) {
	t.Helper()
	dir = caDir(t)
	c := mustOpen(t, Config{Dir: dir, TrustDomain: trustDomain(t)})
	s = stored{c.authority.pairs[fingerprint(rootOf(c))], c.authority.intermediate.pair}
	mustClose(t, c)
	return dir, s
}

func encoded(t testing.TB, p profile, own *pair, others ...*x509.Certificate) []byte {
	t.Helper()
	b, err := encode(p, own, others)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestBrokenState: each kind of damage is an error that says what is wrong with which file and how
// to repair it, and changes nothing.
func TestBrokenState(t *testing.T) {
	const (
		td                 = "spiffe://" + testDomain
		rootRemedy         = ": restore it from a backup, or move DIR away to begin a new CA, which every proxy has to learn"
		intermediateRemedy = ": restore it from a backup or remove it; the root signs a new one at the next start"
	)
	root := func(change func(t *testing.T, data []byte) []byte) func(*testing.T, string, stored) {
		return func(t *testing.T, dir string, _ stored) {
			t.Helper()
			writeFile(t, change(t, readFile(t, dir, rootFile)), dir, rootFile)
		}
	}
	intermediate := func(change func(t *testing.T, data []byte) []byte) func(*testing.T, string, stored) {
		return func(t *testing.T, dir string, _ stored) {
			t.Helper()
			writeFile(t, change(t, readFile(t, dir, intermediateFile)), dir, intermediateFile)
		}
	}
	forgedRoot := func(uri string, mutate func(*x509.Certificate)) func(*testing.T, string, stored) {
		return func(t *testing.T, dir string, _ stored) {
			writeFile(t, encoded(t, rootProfile(), forge(t, rootProfile(), uri, nil, mutate)), dir, rootFile)
		}
	}
	otherRoot := func(uri string, mutate func(*x509.Certificate)) func(*testing.T, string, stored) {
		return func(t *testing.T, dir string, s stored) {
			writeFile(t, encoded(t, rootProfile(), s.root, forge(t, rootProfile(), uri, nil, mutate).cert), dir, rootFile)
		}
	}
	forgedIntermediate := func(uri string, mutate func(*x509.Certificate)) func(*testing.T, string, stored) {
		return func(t *testing.T, dir string, s stored) {
			writeFile(t, encoded(t, intermediateProfile(), forge(t, intermediateProfile(), uri, s.root, mutate)), dir, intermediateFile)
		}
	}
	replace := func(old, new string) func(*testing.T, []byte) []byte {
		return func(t *testing.T, data []byte) []byte {
			if !bytes.Contains(data, []byte(old)) {
				t.Fatalf("no %q in the file", old)
			}
			return bytes.Replace(data, []byte(old), []byte(new), 1)
		}
	}
	cut := func(n int) func(*testing.T, []byte) []byte {
		return func(_ *testing.T, data []byte) []byte { return data[:min(len(data), n)] }
	}

	for _, tt := range []struct {
		name   string
		damage func(t *testing.T, dir string, s stored)
		want   string // DIR stands for the directory
	}{
		{"root empty", root(cut(0)), "DIR/root.pem: is empty" + rootRemedy},
		{"root cut in the first line", root(cut(5)), "DIR/root.pem: does not begin as a file of the CA does" + rootRemedy},
		{"root cut after the first line", root(cut(len("sallyport CA root, format 1\n"))), "DIR/root.pem: is cut off" + rootRemedy},
		{"root cut in the certificate", root(cut(300)), "DIR/root.pem: is cut off" + rootRemedy},
		{"root without its last line", root(func(_ *testing.T, b []byte) []byte { return bytes.TrimSuffix(b, []byte(tail)) }), "DIR/root.pem: is cut off" + rootRemedy},
		{"root without its last byte", root(func(_ *testing.T, b []byte) []byte { return b[:len(b)-1] }), "DIR/root.pem: is cut off" + rootRemedy},
		{"root is something else", root(func(*testing.T, []byte) []byte { return []byte("PK\x03\x04 something else") }), "DIR/root.pem: does not begin as a file of the CA does" + rootRemedy},
		{"root of zeros", root(func(_ *testing.T, b []byte) []byte { return make([]byte, len(b)) }), "DIR/root.pem: does not begin as a file of the CA does" + rootRemedy},
		{"root of a newer format", root(replace("format 1", "format 2")), "DIR/root.pem: has format 2 of a newer sallyport, want 1" + rootRemedy},
		{"root of an older format", root(replace("format 1", "format 0")), "DIR/root.pem: has format 0, want 1" + rootRemedy},
		{"root of a format with a sign", root(replace("format 1", "format +1")), "DIR/root.pem: is not as sallyport wrote it" + rootRemedy},
		{"root with other line ends", root(func(_ *testing.T, b []byte) []byte { return bytes.ReplaceAll(b, []byte("\n"), []byte("\r\n")) }), "DIR/root.pem: does not begin as a file of the CA does" + rootRemedy},
		{"root with a note", root(replace("-----BEGIN PRIVATE KEY", "a note\n-----BEGIN PRIVATE KEY")), "DIR/root.pem: is not as sallyport wrote it" + rootRemedy},
		{"root with something behind it", root(func(_ *testing.T, b []byte) []byte { return append(b, 'x') }), "DIR/root.pem: is cut off" + rootRemedy},
		{"root's key broken", root(replace("BEGIN PRIVATE KEY-----\n", "BEGIN PRIVATE KEY-----\nAAAA")), "DIR/root.pem: its private key cannot be read" + rootRemedy},
		{"root's key invisible", root(replace("-----BEGIN PRIVATE KEY", "----BEGIN PRIVATE KEY")), "DIR/root.pem: does not hold a certificate and its private key" + rootRemedy},
		{"root's key of another kind", root(replace("PRIVATE KEY", "EC PRIVATE KEY")), "DIR/root.pem: does not hold a certificate and its private key" + rootRemedy},
		{"root's blocks exchanged", root(func(t *testing.T, b []byte) []byte {
			_, rest := pem.Decode(b)
			key, _ := pem.Decode(rest)
			return append([]byte("sallyport CA root, format 1\n"), append(pem.EncodeToMemory(key), tail...)...)
		}), `DIR/root.pem: its PEM block number 1 is a "PRIVATE KEY", which does not belong there` + rootRemedy},
		{"root's key not ECDSA", func(t *testing.T, dir string, s stored) {
			key, err := rsa.GenerateKey(rand.Reader, 2048)
			if err != nil {
				t.Fatal(err)
			}
			der, err := x509.MarshalPKCS8PrivateKey(key)
			if err != nil {
				t.Fatal(err)
			}
			b := []byte("sallyport CA root, format 1\n")
			b = append(b, pem.EncodeToMemory(&pem.Block{Type: certificateBlock, Bytes: s.root.cert.Raw})...)
			b = append(b, pem.EncodeToMemory(&pem.Block{Type: keyBlock, Bytes: der})...)
			writeFile(t, append(b, tail...), dir, rootFile)
		}, "DIR/root.pem: its private key is not an ECDSA key" + rootRemedy},
		{"intermediate in the root's place", func(t *testing.T, dir string, _ stored) {
			writeFile(t, readFile(t, dir, intermediateFile), dir, rootFile)
		}, "DIR/root.pem: is the file of the intermediate, want that of the root" + rootRemedy},
		{"root's key another one", func(t *testing.T, dir string, s stored) {
			writeFile(t, encoded(t, rootProfile(), &pair{s.root.cert, s.intermediate.key}), dir, rootFile)
		}, "DIR/root.pem: root certificate: the private key belongs to another certificate" + rootRemedy},
		{"root gone", func(t *testing.T, dir string, _ stored) {
			if err := os.Remove(filepath.Join(dir, rootFile)); err != nil {
				t.Fatal(err)
			}
		}, "DIR/root.pem: is missing, but intermediate.pem is there, so there was a CA" + rootRemedy},
		{"root expired", forgedRoot(td, func(c *x509.Certificate) {
			c.NotBefore, c.NotAfter = time.Unix(0, 0), time.Unix(3600, 0)
		}), "DIR/root.pem: root certificate: expired at 1970-01-01T01:00:00Z: if the clock is right, move DIR away to begin a new CA, which every proxy has to learn"},
		{"root of the future", forgedRoot(td, func(c *x509.Certificate) {
			c.NotBefore, c.NotAfter = time.Unix(1<<33, 0), time.Unix(1<<33+3600, 0)
		}), "DIR/root.pem: root certificate: valid only from 2242-03-16T12:56:32Z on: if the clock is right, move DIR away to begin a new CA, which every proxy has to learn"},
		{
			"root with two trust domains", forgedRoot(td, func(c *x509.Certificate) { c.URIs = append(c.URIs, c.URIs[0]) }),
			"DIR/root.pem: its certificate has 2 URI SANs, want one, the trust domain" + rootRemedy,
		},
		{
			"root is a service's", forgedRoot(td+"/ns/default/dc/dc1/svc/web", nil),
			`DIR/root.pem: its certificate is for "spiffe://` + testDomain + `/ns/default/dc/dc1/svc/web", which is not a trust domain` + rootRemedy,
		},
		{
			"root is no CA", forgedRoot(td, func(c *x509.Certificate) { c.IsCA = false; c.MaxPathLen = -1; c.KeyUsage = 0 }),
			"DIR/root.pem: root certificate: basic constraints say CA:false, want CA:true" + rootRemedy,
		},
		{"root signed by another", func(t *testing.T, dir string, _ stored) {
			writeFile(t, encoded(t, rootProfile(), forge(t, rootProfile(), td, forge(t, rootProfile(), td, nil, nil), func(c *x509.Certificate) { c.Subject.CommonName = "me" })), dir, rootFile)
		}, `DIR/root.pem: root certificate: not signed by "CN=me"` + rootRemedy},
		{
			"other root of another mesh", otherRoot("spiffe://evil.example", nil),
			`DIR/root.pem: the other root number 1: root certificate: it is for "spiffe://evil.example", want "` + td + `"` + rootRemedy,
		},
		{
			"other root is no CA", otherRoot(td, func(c *x509.Certificate) { c.IsCA = false; c.MaxPathLen = -1; c.KeyUsage = 0 }),
			"DIR/root.pem: the other root number 1: root certificate: basic constraints say CA:false, want CA:true" + rootRemedy,
		},
		{"other root broken", func(t *testing.T, dir string, s stored) {
			data := encoded(t, rootProfile(), s.root, forge(t, rootProfile(), td, nil, nil).cert)
			i := bytes.LastIndex(data, []byte("-----BEGIN"))
			writeFile(t, append(data[:i:i], bytes.Replace(data[i:], []byte("MII"), []byte("AAA"), 1)...), dir, rootFile)
		}, "DIR/root.pem: its certificate number 2 cannot be read: x509: malformed certificate" + rootRemedy},
		{"other root invisible", func(t *testing.T, dir string, s stored) {
			data := encoded(t, rootProfile(), s.root, forge(t, rootProfile(), td, nil, nil).cert)
			i := bytes.LastIndex(data, []byte("-----BEGIN"))
			writeFile(t, append(data[:i:i], bytes.Replace(data[i:], []byte("-----BEGIN"), []byte("----+BEGIN"), 1)...), dir, rootFile)
		}, "DIR/root.pem: is not as sallyport wrote it" + rootRemedy},
		{
			"root too large", root(func(*testing.T, []byte) []byte { return make([]byte, maxFile+1) }),
			"DIR/root.pem: has 1048577 bytes, which no file of the CA has: restore it from a backup",
		},

		{"intermediate empty", intermediate(cut(0)), "DIR/intermediate.pem: is empty" + intermediateRemedy},
		{"intermediate cut", intermediate(cut(300)), "DIR/intermediate.pem: is cut off" + intermediateRemedy},
		{"intermediate of a newer format", intermediate(replace("format 1", "format 99")), "DIR/intermediate.pem: has format 99 of a newer sallyport, want 1" + intermediateRemedy},
		{"root in the intermediate's place", func(t *testing.T, dir string, _ stored) {
			writeFile(t, readFile(t, dir, rootFile), dir, intermediateFile)
		}, "DIR/intermediate.pem: is the file of the root, want that of the intermediate" + intermediateRemedy},
		{"intermediate's key another one", func(t *testing.T, dir string, s stored) {
			writeFile(t, encoded(t, intermediateProfile(), &pair{s.intermediate.cert, s.root.key}), dir, intermediateFile)
		}, "DIR/intermediate.pem: intermediate certificate: the private key belongs to another certificate" + intermediateRemedy},
		{"intermediate of another root", func(t *testing.T, dir string, s stored) {
			_, foreign := goodState(t)
			writeFile(t, encoded(t, intermediateProfile(), foreign.intermediate), dir, intermediateFile)
		}, "DIR/intermediate.pem: intermediate certificate: "},
		{
			"intermediate of another trust domain", forgedIntermediate("spiffe://evil.example", nil),
			`DIR/intermediate.pem: intermediate certificate: it is for "spiffe://evil.example", want "` + td + `"` + intermediateRemedy,
		},
		{
			"intermediate that may sign intermediates", forgedIntermediate(td, func(c *x509.Certificate) { c.MaxPathLen, c.MaxPathLenZero = 1, false }),
			"DIR/intermediate.pem: intermediate certificate: path length 1, want 0" + intermediateRemedy,
		},
		{"two intermediates", func(t *testing.T, dir string, s stored) {
			writeFile(t, encoded(t, intermediateProfile(), s.intermediate, s.intermediate.cert), dir, intermediateFile)
		}, "DIR/intermediate.pem: holds more than one certificate" + intermediateRemedy},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir, s := goodState(t)
			tt.damage(t, dir, s)
			before := snapshotOf(t, dir)
			for range 2 { // the second try finds what the first has left
				c, err := Open(Config{Dir: dir})
				if err == nil {
					mustClose(t, c)
					t.Fatal("Open() took it")
				}
				want := strings.ReplaceAll(tt.want, "DIR", dir)
				if got := err.Error(); got != want && (!strings.HasSuffix(want, ": ") || !strings.HasPrefix(got, want)) {
					t.Errorf("Open() error\n%s, want\n%s", got, want)
				}
			}
			if after := snapshotOf(t, dir); after != before {
				t.Errorf("the directory was changed: from %s to %s", before, after)
			}
		})
	}
}

// snapshotOf is all that is in a directory, as text.
func snapshotOf(t testing.TB, dir string) string {
	t.Helper()
	var b strings.Builder
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		fmt.Fprintf(&b, "%s=%x ", e.Name(), readFile(t, dir, e.Name()))
	}
	return b.String()
}

// TestStateThatMends: what is not whole but loses nothing is taken.
func TestStateThatMends(t *testing.T) {
	td := "spiffe://" + testDomain
	for _, tt := range []struct {
		name  string
		setup func(t *testing.T, dir string, s stored)
		roots int
	}{
		{"nothing", func(*testing.T, string, stored) {}, 1},
		{"intermediate gone", func(t *testing.T, dir string, _ stored) {
			if err := os.Remove(filepath.Join(dir, intermediateFile)); err != nil {
				t.Fatal(err)
			}
		}, 1},
		{"intermediate expired", func(t *testing.T, dir string, s stored) {
			old := forge(t, intermediateProfile(), td, s.root, func(c *x509.Certificate) {
				c.NotBefore, c.NotAfter = time.Unix(0, 0), time.Unix(3600, 0)
			})
			writeFile(t, encoded(t, intermediateProfile(), old), dir, intermediateFile)
		}, 1},
		{"remains of writes", func(t *testing.T, dir string, _ stored) {
			writeFile(t, []byte("half"), dir, rootFile+tmpSuffix)
			writeFile(t, nil, dir, intermediateFile+tmpSuffix)
		}, 1},
		{"two more roots", func(t *testing.T, dir string, s stored) {
			writeFile(t, encoded(t, rootProfile(), s.root, forge(t, rootProfile(), td, nil, nil).cert, forge(t, rootProfile(), td, nil, nil).cert), dir, rootFile)
		}, 3},
		{"one more root, expired", func(t *testing.T, dir string, s stored) {
			old := forge(t, rootProfile(), td, nil, func(c *x509.Certificate) { c.NotBefore, c.NotAfter = time.Unix(0, 0), time.Unix(3600, 0) })
			writeFile(t, encoded(t, rootProfile(), s.root, old.cert), dir, rootFile)
		}, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir, s := goodState(t)
			tt.setup(t, dir, s)
			root := string(readFile(t, dir, rootFile))
			c := mustOpen(t, Config{Dir: dir})
			defer mustClose(t, c)
			if !rootOf(c).Equal(s.root.cert) || len(c.authority.trusted()) != tt.roots {
				t.Errorf("%d roots, want %d, the first of which stayed", len(c.authority.trusted()), tt.roots)
			}
			if string(readFile(t, dir, rootFile)) != root {
				t.Error("the root's file was changed")
			}
			if entries, err := os.ReadDir(dir); err != nil || len(entries) != 2 {
				t.Errorf("files %v, %v, want two", entries, err)
			}
			svid := oneLeaf(t, c, "web")
			pool := x509.NewCertPool()
			pool.AddCert(s.root.cert)
			chain := x509.NewCertPool()
			chain.AddCert(svid.Certificates[1])
			if _, err := svid.Certificates[0].Verify(x509.VerifyOptions{Roots: pool, Intermediates: chain}); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestCheck: check finds each property that is not as it should be. What the CA must never sign is
// among it.
// TestMissing: a CA that has to be there is not made anew, and one that is there needs no reason.
func TestMissing(t *testing.T) {
	cfg := Config{Dir: caDir(t), TrustDomain: trustDomain(t), Missing: errors.New("it was there")}
	if _, err := Open(cfg); err == nil || !strings.Contains(err.Error(), "root.pem: is missing: it was there") {
		t.Errorf("Open = %v, want why a CA has to be there", err)
	}
	if entries, err := os.ReadDir(cfg.Dir); err != nil || len(entries) > 0 {
		t.Errorf("it left %v, %v", entries, err)
	}
	cfg.Missing = nil
	mustClose(t, mustOpen(t, cfg))
	cfg.Missing = errors.New("it was there")
	mustClose(t, mustOpen(t, cfg))
}

func TestCheck(t *testing.T) {
	const uri = "spiffe://" + testDomain + "/ns/default/dc/dc1/svc/web"
	signer := forge(t, intermediateProfile(), "spiffe://"+testDomain, forge(t, rootProfile(), "spiffe://"+testDomain, nil, nil), nil)
	other := forge(t, intermediateProfile(), "spiffe://"+testDomain, forge(t, rootProfile(), "spiffe://"+testDomain, nil, nil), nil)
	second := &url.URL{Scheme: "spiffe", Host: testDomain, Path: "/ns/default/dc/dc1/svc/db"}
	for _, tt := range []struct {
		name   string
		mutate func(*x509.Certificate)
		want   string
	}{
		{"good", nil, ""},
		{"no URI", func(c *x509.Certificate) { c.URIs = nil; c.DNSNames = []string{"web"} }, "0 URI SANs, want one"},
		{"two URIs", func(c *x509.Certificate) { c.URIs = append(c.URIs, second) }, "2 URI SANs, want one"},
		{"two URIs, the other first", func(c *x509.Certificate) { c.URIs = []*url.URL{second, c.URIs[0]} }, "2 URI SANs, want one"},
		{"another service's", func(c *x509.Certificate) { c.URIs = []*url.URL{second} }, `it is for "spiffe://` + testDomain + `/ns/default/dc/dc1/svc/db", want "` + uri + `"`},
		{"DNS", func(c *x509.Certificate) { c.DNSNames = []string{"web"} }, "it has SANs beside the URI, or lacks some that it is to have"},
		{"IP", func(c *x509.Certificate) { c.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)} }, "it has SANs beside the URI, or lacks some that it is to have"},
		{"email", func(c *x509.Certificate) { c.EmailAddresses = []string{"a@b.example"} }, "it has SANs beside the URI, or lacks some that it is to have"},
		{"CA", func(c *x509.Certificate) { c.IsCA = true }, "basic constraints say CA:true, want CA:false"},
		{"signs certificates", func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCertSign }, "key usage 100001, want 1"},
		{"no digitalSignature", func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyAgreement }, "key usage 10000, want 1"},
		{"client only", func(c *x509.Certificate) { c.ExtKeyUsage = c.ExtKeyUsage[1:] }, "extended key usages [clientAuth], want [serverAuth clientAuth]"},
		{"any use", func(c *x509.Certificate) { c.ExtKeyUsage = append(c.ExtKeyUsage, x509.ExtKeyUsageAny) }, "extended key usages [serverAuth clientAuth anyExtendedKeyUsage], want [serverAuth clientAuth]"},
		{"subject", func(c *x509.Certificate) { c.Subject.CommonName = uri }, `its subject is "CN=` + uri + `": a CA has one, others have none`},
		{"outlives its signer", func(c *x509.Certificate) { c.NotAfter = c.NotAfter.Add(time.Hour) }, "it outlives its signer"},
		{"SHA-512", func(c *x509.Certificate) { c.SignatureAlgorithm = x509.ECDSAWithSHA512 }, "signed with ECDSA-SHA512, want ECDSA-SHA256"},
		{"long serial number", func(c *x509.Certificate) { c.SerialNumber = new(big.Int).Lsh(big.NewInt(1), 159) }, "its serial number is not one of 159 bits"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			leaf := forge(t, leafProfile(), uri, signer, tt.mutate)
			err := check(leafProfile(), leaf.cert, uri, leaf.key.Public(), signer.cert)
			if want := "leaf certificate: " + tt.want; tt.want == "" && err != nil || tt.want != "" && (err == nil || err.Error() != want) {
				t.Errorf("check() = %v, want %s", err, want)
			}
		})
	}

	leaf := forge(t, leafProfile(), uri, signer, nil)
	if err := check(leafProfile(), leaf.cert, uri, other.key.Public(), signer.cert); err == nil || err.Error() != "leaf certificate: the private key belongs to another certificate" {
		t.Errorf("check() with another key = %v", err)
	}
	if err := check(leafProfile(), leaf.cert, uri, nil, other.cert); err == nil || !strings.HasPrefix(err.Error(), "leaf certificate: not signed by ") && err.Error() != "leaf certificate: it outlives its signer" {
		t.Errorf("check() with another signer = %v", err)
	}
	for _, curve := range []elliptic.Curve{elliptic.P224(), elliptic.P384()} {
		key, err := ecdsa.GenerateKey(curve, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		checkKey(t, leaf.cert, key.Public(), signer, uri)
	}
	weak, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	checkKey(t, leaf.cert, weak.Public(), signer, uri)
}

// checkKey demands that check refuses a certificate like the template with another kind of key, unless it is a leaf for a request.
func checkKey(t *testing.T, template *x509.Certificate, public any, signer *pair, uri string) {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, signer.cert, public, signer.key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	p := leafProfile()
	p.key = nil
	if err := check(p, cert, uri, public, signer.cert); err == nil || err.Error() != "leaf certificate: its key is not an ECDSA key on P-256" {
		t.Errorf("check() with a key of type %T = %v", public, err)
	}
}

// TestAccess: a state that others can read or replace is refused.
func TestAccess(t *testing.T) {
	for _, tt := range []struct {
		name  string
		spoil func(dir string) error
		want  string
	}{
		{
			"directory open to all", func(dir string) error { return os.Chmod(dir, 0o755) },
			"DIR: mode 0755 lets others at the private keys of the CA: chmod 0700 DIR, and take the keys for known if others could read them",
		},
		{
			"directory open to the group", func(dir string) error { return os.Chmod(dir, 0o710) },
			"DIR: mode 0710 lets others at the private keys of the CA: chmod 0700 DIR, and take the keys for known if others could read them",
		},
		{
			"root open to all", func(dir string) error { return os.Chmod(filepath.Join(dir, rootFile), 0o644) },
			"DIR/root.pem: mode 0644 lets others at the private keys of the CA: chmod 0600 DIR/root.pem, and take the keys for known if others could read them",
		},
		{
			"intermediate writable by the group", func(dir string) error { return os.Chmod(filepath.Join(dir, intermediateFile), 0o620) },
			"DIR/intermediate.pem: mode 0620 lets others at the private keys of the CA: chmod 0600 DIR/intermediate.pem, and take the keys for known if others could read them",
		},
		{
			"root closed to all", func(dir string) error { return os.Chmod(filepath.Join(dir, rootFile), 0) },
			"DIR/root.pem: mode 0000 does not let its owner read it: chmod 0600 DIR/root.pem",
		},
		{"root is a link", func(dir string) error {
			return errors.Join(os.Rename(filepath.Join(dir, rootFile), filepath.Join(dir, "elsewhere")), os.Symlink("elsewhere", filepath.Join(dir, rootFile)))
		}, "DIR/root.pem: is a symbolic link: put the file itself there"},
		{"root is a link to nothing", func(dir string) error {
			return errors.Join(os.Remove(filepath.Join(dir, rootFile)), os.Symlink("nothing", filepath.Join(dir, rootFile)))
		}, "DIR/root.pem: is a symbolic link: put the file itself there"},
		{"intermediate is a directory", func(dir string) error {
			return errors.Join(os.Remove(filepath.Join(dir, intermediateFile)), os.Mkdir(filepath.Join(dir, intermediateFile), 0o700))
		}, "DIR/intermediate.pem: is a directory, want a file: move it away"},
		{"directory is a link", func(dir string) error {
			return errors.Join(os.Rename(dir, dir+"-real"), os.Symlink(dir+"-real", dir))
		}, "DIR: is a symbolic link, whose target others may choose: name the directory itself"},
		{"directory is a file", func(dir string) error {
			return errors.Join(os.RemoveAll(dir), os.WriteFile(dir, nil, 0o600))
		}, "directory of the CA: mkdir DIR: not a directory"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir, _ := goodState(t)
			if err := tt.spoil(dir); err != nil {
				t.Fatal(err)
			}
			c, err := Open(Config{Dir: dir})
			if err == nil {
				mustClose(t, c)
				t.Fatal("Open() took it")
			}
			if want := strings.ReplaceAll(tt.want, "DIR", dir); err.Error() != want {
				t.Errorf("Open() error\n%s, want\n%s", err, want)
			}
		})
	}
}

// TestCheckAccess is what TestAccess cannot set up as every user: owners and odd kinds of files.
func TestCheckAccess(t *testing.T) {
	for _, tt := range []struct {
		name      string
		mode      fs.FileMode
		most      fs.FileMode
		owner, us int
		want      string
	}{
		{"directory", fs.ModeDir | 0o700, dirMode, 1000, 1000, ""},
		{"file", 0o600, fileMode, 0, 0, ""},
		{"read-only file", 0o400, fileMode, 0, 0, ""},
		{"read-only directory", fs.ModeDir | 0o500, dirMode, 0, 0, ""},
		{"another's directory", fs.ModeDir | 0o700, dirMode, 1000, 0, "P: belongs to user 1000, and sallyport runs as user 0: chown 0 P, if you trust what is in it"},
		{"root's file", 0o600, fileMode, 0, 1000, "P: belongs to user 0, and sallyport runs as user 1000: chown 1000 P, if you trust what is in it"},
		{"nobody's file", 0o600, fileMode, -1, 1000, "P: belongs to user -1, and sallyport runs as user 1000: chown 1000 P, if you trust what is in it"},
		{"pipe", fs.ModeNamedPipe | 0o600, fileMode, 0, 0, "P: is not a regular file: move it away"},
		{"socket", fs.ModeSocket | 0o600, fileMode, 0, 0, "P: is not a regular file: move it away"},
		{"device", fs.ModeDevice | 0o600, fileMode, 0, 0, "P: is not a regular file: move it away"},
		{"file for a directory", 0o600, dirMode, 0, 0, "P: is not a directory: move it away or name another"},
		{"execute", 0o700, fileMode, 0, 0, "P: mode 0700 lets others at the private keys of the CA: chmod 0600 P, and take the keys for known if others could read them"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := checkAccess("P", tt.mode, tt.most, tt.owner, tt.us)
			if got := fmt.Sprint(err); tt.want == "" && err != nil || tt.want != "" && got != tt.want {
				t.Errorf("checkAccess() = %v, want %s", err, tt.want)
			}
		})
	}
}
