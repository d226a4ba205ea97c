package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"log/slog"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// madeCertificate is a certificate of 127.0.0.1 that signs itself, and its key, in PEM.
func madeCertificate(t *testing.T, serial int64, ends time.Time) (cert, key []byte) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(serial), NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: ends}
	der, err := x509.CreateCertificate(rand.Reader, template, template, k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	b, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: b})
}

// TestCertificateFiles: a new pair is used at once, half of one and a bad one are not.
func TestCertificateFiles(t *testing.T) {
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	later := time.Now().Add(time.Hour)
	put := func(path string, b []byte) {
		t.Helper()
		tmp := path + ".tmp"
		later = later.Add(time.Second)
		for _, err := range []error{os.WriteFile(tmp, b, 0o600), os.Chtimes(tmp, later, later), os.Rename(tmp, path)} {
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	c1, k1 := madeCertificate(t, 1, time.Now().Add(time.Hour))
	c2, k2 := madeCertificate(t, 2, time.Now().Add(time.Hour))
	put(cert, c1)
	put(key, k1)
	var log bytes.Buffer
	c, err := openCertificate(cert, key, slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	want := func(serial int64, lines int, what string) {
		t.Helper()
		for range 2 {
			c.checked = time.Time{}
			if got, err := c.certificate(nil); err != nil || got.Leaf.SerialNumber.Int64() != serial {
				t.Fatalf("%s: %v, %v, want certificate %d", what, got, err, serial)
			}
		}
		if n := strings.Count(log.String(), "\n"); n != lines {
			t.Fatalf("%s: %d lines, want %d:\n%s", what, n, lines, log.String())
		}
	}
	want(1, 0, "at first")
	put(cert, c2)
	want(1, 1, "half of the next")
	put(key, k2)
	want(2, 2, "the next")
	put(key, []byte("junk"))
	want(2, 3, "junk")
	if err := os.Remove(key); err != nil {
		t.Fatal(err)
	}
	want(2, 4, "no key")
	put(key, k2)
	want(2, 5, "the key again")
	if err := os.Chmod(key, 0o644); err != nil {
		t.Fatal(err)
	}
	want(2, 6, "a key for all")
	if err := os.Chmod(key, 0o640); err != nil {
		t.Fatal(err)
	}
	want(2, 7, "a key for few")

	ended, ofEnded := madeCertificate(t, 3, time.Now().Add(-time.Hour))
	for name, tt := range map[string]struct {
		prepare func()
		want    string
	}{
		"ended":         {func() { put(cert, ended); put(key, ofEnded) }, "ended at"},
		"no key":        {func() { put(cert, c1); put(key, c1) }, "key.pem"},
		"another's key": {func() { put(cert, c1); put(key, k2) }, "does not match"},
		"a pipe":        {func() { put(cert, c1); _ = os.Remove(key); _ = os.Mkdir(key, 0o700) }, "not a regular file"},
	} {
		t.Run(name, func(t *testing.T) {
			_ = os.Remove(key)
			tt.prepare()
			if _, err := openCertificate(cert, key, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want %q", err, tt.want)
			}
		})
	}
}
