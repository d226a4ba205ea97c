package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/admin"
)

// applicationLeaf asks the HTTP API for a leaf, as an application does.
func applicationLeaf(t *testing.T, made admin.ApplicationTokenResponse, service string) *x509.Certificate {
	t.Helper()
	return askForLeaf(t, made, http.MethodGet, "/v1/agent/connect/ca/leaf/"+service, nil)
}

// askForLeaf asks the HTTP API a question that is answered with a leaf.
func askForLeaf(t *testing.T, made admin.ApplicationTokenResponse, method, path string, body []byte) *x509.Certificate {
	t.Helper()
	c := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", made.Socket)
	}}}
	var resp *http.Response
	var b []byte
	for end := time.Now().Add(awaitDeadline); ; time.Sleep(10 * time.Millisecond) {
		req, err := http.NewRequestWithContext(t.Context(), method, "http://x"+path, bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("X-Consul-Token", made.Token)
		if resp, err = c.Do(req); err != nil {
			t.Fatal(err)
		}
		if b, err = io.ReadAll(resp.Body); err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusServiceUnavailable || time.Now().After(end) { // the catalog is read before the roots
			break
		}
	}
	var leaf struct{ CertPEM string }
	if json.Unmarshal(b, &leaf) != nil {
		t.Fatalf("%s: %s", resp.Status, b)
	}
	block, _ := pem.Decode([]byte(leaf.CertPEM))
	if block == nil {
		t.Fatalf("no certificate in %q", leaf.CertPEM)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// TestLeafListOfRequest: a leaf for an application's own key is in the record like any other.
func TestLeafListOfRequest(t *testing.T) {
	c, dir := startServe(t)
	made, err := c.ApplicationToken(t.Context(), admin.ApplicationTokenRequest{Service: "web"})
	if err != nil {
		t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		t.Fatal(err)
	}
	cert := askForLeaf(t, made, http.MethodPost, "/v1/sallyport/leaf/web", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
	if !key.PublicKey.Equal(cert.PublicKey) {
		t.Error("the leaf has another key")
	}
	path := filepath.Join(dir, "leaf.der")
	if err := os.WriteFile(path, cert.Raw, 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := command(t, "leaf", "list", "--runtime-dir", "rt", "--file", path, "--json")
	var got []admin.Leaf
	if err != nil || json.Unmarshal([]byte(out), &got) != nil || len(got) != 1 || got[0].Caller != "token "+made.TokenID || got[0].Serial != colonHex(cert.SerialNumber.Bytes()) {
		t.Errorf("%v: %s", err, out)
	}
}

// TestSVIDOfOwnKey: the control plane signs what `svid write --own-key` sends, and knows whose leaf it is.
func TestSVIDOfOwnKey(t *testing.T) {
	c, dir := startServe(t)
	made, err := c.ApplicationToken(t.Context(), admin.ApplicationTokenRequest{Service: "web"})
	if err != nil {
		t.Fatal(err)
	}
	_ = applicationLeaf(t, made, "web") // the roots are there
	out, token := filepath.Join(dir, "mesh"), filepath.Join(dir, "token")
	if err := os.WriteFile(token, []byte(made.Token), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := command(t, "svid", "write", "web", "--out", out, "--api", "unix://"+made.Socket, "--token-file", token, "--own-key", "--once"); err != nil {
		t.Fatal(err)
	}
	pair, err := tls.LoadX509KeyPair(filepath.Join(out, "current", "svid.pem"), filepath.Join(out, "current", "key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	text, err := command(t, "leaf", "list", "--runtime-dir", "rt", "--file", filepath.Join(out, "current", "svid.pem"), "--json")
	var got []admin.Leaf
	if err != nil || json.Unmarshal([]byte(text), &got) != nil || len(got) != 1 || got[0].Serial != colonHex(pair.Leaf.SerialNumber.Bytes()) || got[0].InUse {
		t.Errorf("%v: %s", err, text)
	}
}

// TestLeafList finds whose a certificate is, by all that is known of it, and rotates it.
func TestLeafList(t *testing.T) {
	c, dir := startServe(t)
	made, err := c.ApplicationToken(t.Context(), admin.ApplicationTokenRequest{Service: "web"})
	if err != nil {
		t.Fatal(err)
	}
	cert := applicationLeaf(t, made, "web")
	sum := sha256.Sum256(cert.Raw)
	digest, serial := hex.EncodeToString(sum[:]), colonHex(cert.SerialNumber.Bytes())
	inPEM, inDER := filepath.Join(dir, "leaf.pem"), filepath.Join(dir, "leaf.der")
	text := append([]byte("subject=\n"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})...)
	for path, b := range map[string][]byte{inPEM: text, inDER: cert.Raw, "empty": nil, "key": []byte("-----BEGIN X-----\n-----END X-----\n"), "root": readAll(t, filepath.Join(dir, "data", "ca", "root.pem"))} {
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	list := func(args ...string) (string, error) {
		return command(t, append([]string{"leaf", "list", "--runtime-dir", "rt"}, args...)...)
	}
	for _, args := range [][]string{
		nil,
		{"web"},
		{"token " + made.TokenID},
		{"--serial", serial},
		{"--serial", strings.ToUpper(strings.ReplaceAll(serial, ":", ""))},
		{"--serial", serial[:11] + "…"},
		{"--sha256", digest},
		{"--sha256", digest[:8]},
		{"--file", inPEM},
		{"--file", inDER},
	} {
		out, err := list(append(args, "--json")...)
		var got []admin.Leaf
		if err != nil || json.Unmarshal([]byte(out), &got) != nil || len(got) != 1 {
			t.Errorf("%q: %v, %s", args, err, out)
			continue
		}
		l := got[0]
		if l.Service != "web" || l.ID != cert.URIs[0].String() || l.Caller != "token "+made.TokenID || l.Serial != serial || l.SHA256 != digest ||
			!l.Ends.Equal(cert.NotAfter) || time.Since(l.Issued) > time.Minute || !l.InUse || len(l.UsedBy) != 1 || l.UsedBy[0] != l.Caller {
			t.Errorf("%q: %+v", args, l)
		}
		if out, err = list(args...); err != nil || !strings.Contains(out, "token "+made.TokenID) || !strings.Contains(out, digest[:8]) || !strings.Contains(out, "the caller") {
			t.Errorf("%q: %v, %s", args, err, out)
		}
	}
	for _, tt := range []struct{ args, want string }{
		{"api", "no leaf that has not ended"},
		{"--serial 01:02", "no leaf that has not ended"},
		{"--serial :", "has no digit"},
		{"--serial 12345678901234567890x", "is not a number in hexadecimal"},
		{"--sha256 " + digest[:7], "no leaf that has not ended"},
		{"--file nosuch.pem", "nosuch.pem: no such file"},
		{"--file empty", "empty: is no certificate"},
		{"--file key", "key: has no certificate"},
		{"--file root", "spiffe://"}, // whose it is stands in the file
		{"web --serial 01", "takes one of"},
		{"--serial 01 --sha256 01", "takes one of"},
	} {
		if out, err := list(strings.Fields(tt.args)...); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q; %s", tt.args, err, tt.want, out)
		}
	}

	// A new one is another record, and the old one is in nobody's use.
	if _, err := c.Rotate(t.Context(), "web"); err != nil {
		t.Fatal(err)
	}
	next := applicationLeaf(t, made, "web")
	all, err := c.Leafs(t.Context(), admin.LeafQuery{Name: "web"})
	if err != nil || len(all) != 2 || next.Equal(cert) {
		t.Fatalf("%+v, %v, and the leaf is another one: %t", all, err, !next.Equal(cert))
	}
	for _, l := range all {
		if l.InUse == (l.SHA256 == digest) {
			t.Errorf("the first leaf is %s; %+v", digest, l)
		}
	}
	for end := time.Now().Add(awaitDeadline); ; time.Sleep(10 * time.Millisecond) {
		b, err := os.ReadFile(filepath.Join(dir, "data", "issued-leafs"))
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // it is made when the disk has time
			t.Fatal(err)
		}
		if bytes.Contains(b, []byte("PRIVATE")) || bytes.Contains(b, []byte(made.Token)) {
			t.Errorf("the record has what is secret: %s", b)
		}
		if bytes.Count(b, []byte("\n")) == 2 {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("the file has:\n%s", b)
		}
	}
}

func readAll(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
