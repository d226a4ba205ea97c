package ca

import (
	"bytes"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"os"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/testca"
)

// FuzzState damages one file of a good state: a byte is flipped, the rest cut off, something put in
// between. Open never panics and never makes a new CA of it: it fails, or the root is the one that
// was there.
func FuzzState(f *testing.F) {
	dir, good := goodState(f)
	files := [2]string{rootFile, intermediateFile}
	var content [2][]byte
	for i, name := range files {
		content[i] = readFile(f, dir, name)
	}
	f.Add(false, uint16(0), byte(0), uint16(0xffff), []byte(nil))         // whole
	f.Add(false, uint16(0), byte(0), uint16(0), []byte(nil))              // empty
	f.Add(true, uint16(0), byte(0), uint16(0), []byte(nil))               //
	f.Add(false, uint16(26), byte(3), uint16(0xffff), []byte(nil))        // format
	f.Add(false, uint16(100), byte(1), uint16(0xffff), []byte(nil))       // in the certificate
	f.Add(true, uint16(900), byte(0x20), uint16(0xffff), []byte(nil))     // in the key
	f.Add(false, uint16(0), byte(0), uint16(700), []byte("\nend\n"))      // cut and ended
	f.Add(true, uint16(0), byte(0), uint16(28), []byte("-----BEGIN X--")) // something else
	f.Fuzz(func(t *testing.T, second bool, at uint16, flip byte, cut uint16, insert []byte) {
		which := 0
		if second {
			which = 1
		}
		data := bytes.Clone(content[which])
		data[int(at)%len(data)] ^= flip
		i := min(int(cut), len(data))
		damaged := append(append(data[:i:i], insert...), data[i:]...)
		if len(insert) == 0 {
			damaged = data[:i]
		}
		for i, name := range files {
			writeFile(t, content[i], dir, name)
		}
		writeFile(t, damaged, dir, files[which])

		c, err := Open(Config{Dir: dir})
		if err != nil {
			if got := readFile(t, dir, files[which]); !bytes.Equal(got, damaged) {
				t.Errorf("Open() failed (%v) and changed the file", err)
			}
			return
		}
		defer mustClose(t, c)
		if !rootOf(c).Equal(good.root.cert) || len(c.authority.trusted()) != 1 {
			t.Error("Open() made another CA")
		}
		if !bytes.Equal(damaged, content[which]) {
			t.Errorf("Open() took a damaged file:\n%s", damaged)
		}
		if entries, err := os.ReadDir(dir); err != nil || len(entries) != 2 {
			t.Errorf("files %v, %v", entries, err)
		}
	})
}

// FuzzRequest sends DER as a certificate request. Whatever it is, the answer is an error that is the sender's, or a leaf like all others.
func FuzzRequest(f *testing.F) {
	key := onCurve(f, elliptic.P256())
	for _, template := range []x509.CertificateRequest{
		{},
		{URIs: testca.URIs(f, webURI)},
		{DNSNames: []string{"db"}},
		{ExtraExtensions: testca.Extension(f, basicConstraints, struct{ CA bool }{true})},
		{ExtraExtensions: testca.Extension(f, keyUsage, []byte{4})},
		{ExtraExtensions: testca.Extension(f, extendedKeyUsage, []byte{1})},
	} {
		block, _ := pem.Decode(requestOf(f, key, &template))
		f.Add(block.Bytes)
	}
	c := mustOpen(f, Config{Dir: caDir(f), TrustDomain: trustDomain(f), LeafTTL: time.Hour})
	f.Cleanup(func() { mustClose(f, c) })
	issuer, web := issuerOf(f, c), service(c.TrustDomain(), "web")
	f.Fuzz(func(t *testing.T, der []byte) {
		chain, err := issuer.SignRequest(t.Context(), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}), web)
		if err != nil {
			if !errors.Is(err, ErrRequest) {
				t.Error(err)
			}
			return
		}
		if err := check(leafProfile(), chain[0], webURI, nil, chain[1]); err != nil {
			t.Error(err)
		}
	})
}
