package certpath

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/json"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/envoytest"
)

// tlv is a part of a certificate, shorter than 64 KiB.
func tlv(identifier byte, parts ...[]byte) []byte {
	content := bytes.Join(parts, nil)
	length := []byte{0x82, byte(len(content) >> 8), byte(len(content))}
	switch {
	case len(content) < 0x80:
		length = length[2:]
	case len(content) < 0x100:
		length = []byte{0x81, length[2]}
	}
	return slices.Concat([]byte{identifier}, length, content)
}

// The parts of a certificate's body.
const (
	bodyVersion = iota
	_
	bodyAlgorithm
	bodyIssuer
	bodyValidity
	bodySubject
	bodyKey
	bodyExtensions
)

// rootOf is a self-signed certificate with other parts than x509 makes; nil if Go does not read it.
func rootOf(t *testing.T, edit func(body [][]byte) [][]byte) *x509.Certificate {
	t.Helper()
	p := &pki{t: t, now: time.Now()}
	plain := p.by("root1", "root1")
	body, ok := partsOf(plain.RawTBSCertificate)
	if !ok {
		t.Fatal("no parts")
	}
	tbs := tlv(aSequence, edit(body)...)
	sum := sha256.Sum256(tbs)
	signature, err := ecdsa.SignASN1(rand.Reader, p.key("root1").(*ecdsa.PrivateKey), sum[:])
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(tlv(aSequence, tbs, body[bodyAlgorithm], tlv(oneBits, []byte{0}, signature)))
	if err != nil {
		return nil
	}
	return c
}

// put is an edit of one part.
func put(part int, with []byte) func([][]byte) [][]byte {
	return func(body [][]byte) [][]byte {
		body[part] = with
		return body
	}
}

// called is an edit of the name; of an attribute's parts the first is its type.
func called(attribute ...[]byte) func([][]byte) [][]byte {
	return func(body [][]byte) [][]byte {
		set := tlv(0x31)
		if len(attribute) > 0 {
			set = tlv(0x31, tlv(aSequence, attribute...))
		}
		body[bodyIssuer] = tlv(aSequence, set)
		body[bodySubject] = body[bodyIssuer]
		return body
	}
}

// lasting is an edit of the validity, to dates of one form.
func lasting(identifier byte, from, until string) func([][]byte) [][]byte {
	return put(bodyValidity, tlv(aSequence, tlv(identifier, []byte(from)), tlv(identifier, []byte(until))))
}

// TestReadable: certificates that Go reads, by each of which Envoy refuses a whole secret, are in no bundle.
func TestReadable(t *testing.T) {
	commonName, null := []byte{oneOID, 3, 0x55, 4, 3}, []byte{asn1.TagNull, 0}
	isCA := tlv(oneOctets, tlv(aSequence, []byte{oneBool, 1, 0xff}))
	constraints := []byte{oneOID, 3, 0x55, 0x1d, 0x13}
	extended := func(extension ...[]byte) []byte {
		return tlv(aExtensions, tlv(aSequence, tlv(aSequence, extension...)))
	}
	const utc, generalized = 0x17, 0x18
	last := func(part []byte) func([][]byte) [][]byte {
		return func(body [][]byte) [][]byte { return append(body, part) }
	}
	key := func(t *testing.T) [][]byte {
		parts, _ := partsOf((&pki{t: t, now: time.Now()}).by("root1", "root1").RawSubjectPublicKeyInfo)
		return parts
	}(t)
	tests := []struct {
		name string
		edit func([][]byte) [][]byte
		want string // of the error; empty: none
	}{
		{"as x509 makes it", func(body [][]byte) [][]byte { return body }, ""},
		{"a flag that is the default", put(bodyExtensions, extended(constraints, []byte{oneBool, 1, 0}, isCA)), ""},
		{"dates of four digits", lasting(generalized, "20260101000000Z", "20680101000000Z"), ""},
		{"an empty name", called(commonName, tlv(asn1.TagUTF8String)), ""},
		{"of private use", called(commonName, tlv(asn1.TagUTF8String, []byte("\ue000\U0010fffd"))), ""},
		{"no character", called(commonName, tlv(asn1.TagUTF8String, []byte("a\uffff"))), "U+FFFF"},
		{"no character of another plane", called(commonName, tlv(asn1.TagUTF8String, []byte("\U0001fffe"))), "U+1FFFE"},
		{"no character in the middle", called(commonName, tlv(asn1.TagUTF8String, []byte("\ufdd0"))), "U+FDD0"},
		{"more in a name", called(commonName, tlv(asn1.TagUTF8String, []byte("a")), null), "not a type and a text"},
		{"nothing in a part of a name", called(), "a part of its name is empty"},
		{"no seconds", lasting(utc, "2601010000Z", "4901010000Z"), "not one to the second"},
		{"of another time zone", lasting(generalized, "20260101000000+0100", "20680101000000+0100"), "not one to the second"},
		{"three dates", put(bodyValidity, tlv(aSequence, tlv(utc, []byte("260101000000Z")), tlv(utc, []byte("490101000000Z")), null)), "not two dates"},
		{"a unique identifier", func(body [][]byte) [][]byte { return slices.Insert(body, bodyExtensions, []byte{0x81, 0}) }, "version 3"},
		{"more after all", last(null), "version 3"},
		{"extensions twice", last(extended(constraints, isCA)), "version 3"},
		{"more after the extensions", put(bodyExtensions, tlv(aExtensions, tlv(aSequence, tlv(aSequence, constraints, isCA)), null)), "follows"},
		{"more in an extension", put(bodyExtensions, extended(constraints, []byte{oneBool, 1, 0xff}, isCA, null)), "an extension"},
		{"more in one that is not critical", put(bodyExtensions, extended(constraints, isCA, null)), "an extension"},
		{"more after the key", put(bodyKey, tlv(aSequence, key[0], key[1], null)), "its key"},
	}
	good, bad := []*x509.Certificate{}, map[string]*x509.Certificate{}
	for _, tt := range tests {
		c := rootOf(t, tt.edit)
		if c == nil {
			t.Errorf("%s: Go does not read it", tt.name) // which is well, and then it need not be here
			continue
		}
		bundle, left := Bundle([]*x509.Certificate{c}, true, time.Now())
		switch {
		case tt.want == "" && len(bundle) != 1:
			t.Errorf("%s: left out: %s", tt.name, left[0].Reason)
		case tt.want == "":
			good = append(good, c)
		case len(bundle) != 0:
			t.Errorf("%s: taken", tt.name)
		case !strings.HasPrefix(left[0].Reason, "proxies cannot read it: ") || !strings.Contains(left[0].Reason, tt.want):
			t.Errorf("%s: %s, want %q", tt.name, left[0].Reason, tt.want)
		}
		if tt.want != "" {
			bad[tt.name] = c
		}
	}
	for _, version := range []string{envoytest.Oldest, envoytest.Newest} {
		t.Run(version, func(t *testing.T) {
			binary := envoytest.Binary(t, version)
			if text := refusal(t, binary, good); text != "" {
				t.Errorf("Envoy refuses what is taken: %s", text)
			}
			for name, c := range bad {
				if version == envoytest.Oldest && name == "nothing in a part of a name" {
					continue // that one reads it
				}
				if text := refusal(t, binary, []*x509.Certificate{c}); !strings.Contains(text, "Failed to load trusted CA certificate") {
					t.Errorf("%s: Envoy takes it: %s", name, text)
				}
			}
		})
	}
}

// refusal is what an Envoy has against a bundle; empty: nothing.
func refusal(t *testing.T, binary string, bundle []*x509.Certificate) string {
	t.Helper()
	dir := t.TempDir()
	listener := echoing(t, &pki{t: t, now: time.Now()}, "/tmp/unused", rootsOf(bundle, true))
	text, err := json.Marshal(object{"static_resources": object{"listeners": []any{listener}}})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "bootstrap.json")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), binary, "--mode", "validate", "--config-path", file, "--log-level", "critical").CombinedOutput()
	if err == nil {
		return ""
	}
	return string(out)
}

// TestBundleOfLargeKeys: nothing is verified with a key that somebody else has made so large that it would take minutes.
func TestBundleOfLargeKeys(t *testing.T) {
	const bits = 1 << 20
	n := new(big.Int).Lsh(big.NewInt(1), bits-1)
	der, err := x509.MarshalPKIXPublicKey(&rsa.PublicKey{N: n.SetBit(n, 0, 1), E: 1<<31 - 1})
	if err != nil {
		t.Fatal(err)
	}
	key, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		t.Fatal(err)
	}
	c := *(&pki{t: t}).by("root1", "root1")
	c.PublicKey, c.SignatureAlgorithm, c.Signature = key, x509.SHA256WithRSA, make([]byte, bits/8)
	start := time.Now()
	bundle, left := Bundle([]*x509.Certificate{&c}, true, verifyTime)
	if len(bundle) != 0 || len(left) != 1 || !strings.HasPrefix(left[0].Reason, "its RSA key has 1048576 bits") {
		t.Errorf("%v, left out: %v", bundle, left)
	}
	if d := time.Since(start); d > 5*time.Second {
		t.Errorf("it took %s", d)
	}
}
