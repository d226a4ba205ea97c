package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/admin"
	"github.com/sallyport/sallyport/intention"
	"github.com/sallyport/sallyport/internal/testca"
	"github.com/sallyport/sallyport/revocation"
)

// authorizes asks the HTTP API whether api lets somebody with a certificate of web in, and why.
func authorizes(t *testing.T, made admin.ApplicationTokenResponse, uri string, cert *x509.Certificate) (bool, string) {
	t.Helper()
	c := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", made.Socket)
	}}}
	body, err := json.Marshal(map[string]string{"Target": "api", "ClientCertURI": uri, "ClientCertSerial": colonHex(cert.SerialNumber.Bytes())})
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://x/v1/agent/connect/authorize", bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-Consul-Token", made.Token)
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	var answer struct {
		Authorized bool
		Reason     string
	}
	if err != nil || json.Unmarshal(b, &answer) != nil {
		t.Fatalf("%s: %v: %s", resp.Status, err, b)
	}
	return answer.Authorized, answer.Reason
}

func TestRevokeCertificate(t *testing.T) {
	c, dir := startServe(t)
	made, err := c.ApplicationToken(t.Context(), admin.ApplicationTokenRequest{Service: "web"})
	if err != nil {
		t.Fatal(err)
	}
	toAPI, err := c.ApplicationToken(t.Context(), admin.ApplicationTokenRequest{Service: "api"})
	if err != nil {
		t.Fatal(err)
	}
	cert := applicationLeaf(t, made, "web")
	uri, serial := cert.URIs[0].String(), colonHex(cert.SerialNumber.Bytes())
	sum := sha256.Sum256(cert.Raw)
	file := filepath.Join(dir, "cat", "revoked.yaml")
	writeText(t, file, "# ours\nrevoked:\n- serial: \"5\" # of last year\n  until: \"2020-01-01T00:00:00Z\"\n")
	if ok, why := authorizes(t, toAPI, uri, cert); !ok {
		t.Fatalf("at first: %s", why)
	}

	out, err := command(t, "revoke", strings.ToUpper(serial[:12]), "--reason", "key stolen", "--runtime-dir", "rt", "--json")
	var done admin.RevocationResponse
	if err != nil || json.Unmarshal([]byte(out), &done) != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if len(done.What) != 1 || !done.Issued || done.Change == 0 || len(done.UsedBy) != 1 || done.UsedBy[0] != "token "+made.TokenID {
		t.Errorf("%+v", done)
	}
	if w := done.What[0]; w.ID != uri || w.Serial != serial || w.SHA256 != hex.EncodeToString(sum[:]) || !w.Until.Equal(cert.NotAfter) || !strings.Contains(w.By, "uid ") {
		t.Errorf("revoked is %+v", w)
	}
	if len(done.Services) != 1 || done.Services[0] != (admin.RevokedAt{Service: "api", Enforcement: "rbac", Live: "drain", Sidecars: 1}) {
		t.Errorf("refused by %+v", done.Services)
	}
	if ok, why := authorizes(t, toAPI, uri, cert); ok || !strings.Contains(why, "key stolen") {
		t.Errorf("revoked: authorized=%t: %s", ok, why)
	}
	next := applicationLeaf(t, made, "web")
	if next.Equal(cert) {
		t.Error("its holder has no new one")
	}
	if ok, why := authorizes(t, toAPI, uri, next); !ok {
		t.Errorf("the new one: %s", why)
	}
	if text := string(readAll(t, file)); !strings.HasPrefix(text, "# ours\n") || strings.Contains(text, "last year") {
		t.Errorf("the file is\n%s", text)
	}

	if out, err = command(t, "revoked", "--runtime-dir", "rt"); err != nil || !strings.Contains(out, fit(serial, 12)) || !strings.Contains(out, "key stolen") || !strings.Contains(out, "revoked.yaml:3") {
		t.Errorf("%v: %s", err, out)
	}
	pem := filepath.Join(dir, "stolen.der")
	if err := os.WriteFile(pem, cert.Raw, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err = command(t, "revoke", "--certificate", pem, "--runtime-dir", "rt"); err == nil || !strings.Contains(err.Error(), "is revoked already") {
		t.Errorf("twice: %v: %s", err, out)
	}
	if out, err = command(t, "unrevoke", "--certificate", pem, "--runtime-dir", "rt"); err != nil || !strings.Contains(out, "revoked no more: certificate "+serial) {
		t.Errorf("undone: %v: %s", err, out)
	}
	if ok, why := authorizes(t, toAPI, uri, cert); !ok {
		t.Errorf("undone: %s", why)
	}
	if out, err = command(t, "revoked", "--runtime-dir", "rt"); err != nil || !strings.Contains(out, "nothing is revoked") {
		t.Errorf("%v: %s", err, out)
	}
}

func TestRevokeIdentity(t *testing.T) {
	c, _ := startServe(t, "--trust-domain", "example.org")
	made, err := c.ApplicationToken(t.Context(), admin.ApplicationTokenRequest{Service: "web"})
	if err != nil {
		t.Fatal(err)
	}
	cert := applicationLeaf(t, made, "web")
	const web = "spiffe://example.org/ns/default/dc/dc1/svc/web"
	if out, err := command(t, "revoke", web, "--until", "1h", "--runtime-dir", "rt"); err != nil || !strings.Contains(out, "api: refused by 1 sidecar (rbac); live connections end") {
		t.Fatalf("%v: %s", err, out)
	}
	r, err := c.Check(t.Context(), "web", "api")
	if err != nil || r.Allowed || !strings.Contains(r.Reason, "revocation of "+web) || r.Origin != "revoked.yaml:3" || !strings.Contains(r.Remedy, "sallyport unrevoke "+web) {
		t.Errorf("%v: %+v", err, r)
	}
	if s, err := c.Status(t.Context()); err != nil || s.RevokedIdentities != 1 || s.RevokedCertificates != 0 {
		t.Errorf("%v: the status counts %d identities and %d certificates", err, s.RevokedIdentities, s.RevokedCertificates)
	}
	all, err := c.Revoked(t.Context())
	if err != nil || len(all.All) != 1 || time.Until(all.All[0].Until) > time.Hour || time.Until(all.All[0].Until) < 50*time.Minute {
		t.Errorf("%v: %+v", err, all)
	}
	// The leaf is nobody's, and is not renewed.
	out, err := command(t, "revoke", colonHex(cert.SerialNumber.Bytes()), "--runtime-dir", "rt")
	if err != nil || !strings.Contains(out, "the identity "+web+" is revoked, too") || strings.Contains(out, "new leaf") {
		t.Errorf("%v: %s", err, out)
	}
	if out, err := command(t, "unrevoke", web, "--runtime-dir", "rt"); err != nil || !strings.Contains(out, "api: let in again by 1 sidecar") {
		t.Errorf("%v: %s", err, out)
	}
	if out, err := command(t, "revoke", "spiffe://example.org/ns/default/dc/dc1/svc/wep", "--runtime-dir", "rt"); err != nil || !strings.Contains(strings.Join(strings.Fields(out), " "), `no service "wep" is registered: did you mean "web"?`) {
		t.Errorf("%v: %s", err, out)
	}
}

// TestRevokeRefuses: what cannot be meant is said, with what to do instead, and changes nothing.
func TestRevokeRefuses(t *testing.T) {
	c, dir := startServe(t, "--trust-domain", "example.org")
	made, err := c.ApplicationToken(t.Context(), admin.ApplicationTokenRequest{Service: "web"})
	if err != nil {
		t.Fatal(err)
	}
	cert := applicationLeaf(t, made, "web")
	serial := colonHex(cert.SerialNumber.Bytes())
	ended, _ := madeCertificate(t, 7, time.Now().Add(-time.Hour))
	old := filepath.Join(dir, "old.pem")
	writeText(t, old, string(ended))
	writeText(t, filepath.Join(dir, "ca.pem"), testca.Sign(t, &x509.Certificate{Subject: pkix.Name{CommonName: "root"}, IsCA: true, KeyUsage: x509.KeyUsageCertSign}, nil).PEM())
	writeText(t, filepath.Join(dir, "cat", "revoked.hcl"), "revoked = [{ spiffe_id = \"spiffe://example.org/ns/default/dc/dc1/svc/db\" }]\n")
	const digest = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	for _, c := range []struct{ args, want string }{
		{"revoke", "takes one of SERIAL, SPIFFE-ID"},
		{"revoke 01 --certificate x", "takes one of SERIAL, SPIFFE-ID"},
		{"revoke web", "spiffe://example.org/ns/default/dc/dc1/svc/web"},
		{"revoke 01:02:03", "of one that was issued elsewhere give the whole number"},
		{"revoke 01:02:03:04:05:06:07:08:09:10…", "`sallyport leaf list"},
		{"revoke 01:02:03:04:05:06:07:08:09:10:11:12:13:14:15:16:17:18:19:20:21", "20 bytes at most"},
		{"revoke --certificate " + filepath.Join(dir, "ca.pem"), "is a CA's, and revoke is for those of workloads"},
		{"revoke --sha256 0123456789", "no certificate that was issued here begins so"},
		{"revoke " + serial + " --sha256 " + digest, "one of the two that you gave is another's"},
		{"revoke spiffe://example.org/web", "no service's of the mesh"},
		{"revoke spiffe://Example.org/ns/default/dc/dc1/svc/web", "spiffe_id"},
		{"revoke spiffe://other.org/web", "trust domain other.org, of which nobody is let in"},
		{"revoke " + serial + " --until 2020-01-01T00:00:00Z", "over already"},
		{"revoke " + serial + " --until -1h", "over already"},
		{"revoke " + serial + " --until soon", "neither a time"},
		{"revoke --certificate " + old, "ended at"},
		{"revoke --certificate " + filepath.Join(dir, "cat", "mesh.hcl"), "is no certificate"},
		{"revoke spiffe://example.org/ns/default/dc/dc1/svc/db", "is revoked already, at revoked.hcl:1"},
		{"unrevoke spiffe://example.org/ns/default/dc/dc1/svc/db", "take it out there by hand"},
		{"unrevoke spiffe://example.org/ns/default/dc/dc1/svc/web", "is not revoked: `sallyport revoked"},
		{"unrevoke " + serial, "is not revoked: `sallyport revoked"},
	} {
		out, err := command(t, append(strings.Fields(c.args), "--runtime-dir", "rt")...)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q: %s", c.args, err, c.want, out)
		}
	}
	if out, err := command(t, "revoke", serial, "--reason", "a\nb", "--runtime-dir", "rt"); err == nil || !strings.Contains(err.Error(), "cannot be printed") {
		t.Errorf("%v: %s", err, out)
	}
	if _, err := os.Stat(filepath.Join(dir, "cat", "revoked.yaml")); err == nil {
		t.Error("something was written")
	}
	// The same in two files is one.
	writeText(t, filepath.Join(dir, "cat", "revoked.yaml"), "revoked:\n- serial: \"b00000000001\"\n- serial: \"b00000000002\"\n")
	writeText(t, filepath.Join(dir, "cat", "revoked.yml"), "revoked:\n- serial: \"b00000000001\"\n")
	if out, err := command(t, "unrevoke", "b0000000", "--runtime-dir", "rt"); err == nil || !strings.Contains(err.Error(), "are revoked that begin so") {
		t.Errorf("%v: %s", err, out)
	}
	if out, err := command(t, "unrevoke", "b00000000001", "--runtime-dir", "rt"); err != nil || strings.Contains(string(readAll(t, filepath.Join(dir, "cat", "revoked.yml"))), "serial") {
		t.Errorf("%v: %s", err, out)
	}
	// A mistake keeps what is in force, and is in the way of the next revocation.
	writeText(t, filepath.Join(dir, "cat", "revoked.yaml"), "revoked:\n- serial: 1x\n")
	if out, err := command(t, "revoke", serial, "--runtime-dir", "rt"); err == nil || !strings.Contains(err.Error(), "revoked.yaml:2") || !strings.Contains(err.Error(), "mend that first") {
		t.Errorf("%v: %s", err, out)
	}
}

// TestUnissued: of a certificate of another issuer it is said what is not refused.
func TestUnissued(t *testing.T) {
	c, _ := startServe(t, "--trust-domain", "example.org")
	const serial, digest = "01:02:03:04:05:06:07:08:09:10", "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	r, err := c.ChangeRevoked(t.Context(), admin.RevocationRequest{Serial: serial})
	if err != nil || r.Issued || len(r.Notes) != 1 || !strings.Contains(r.Notes[0], "ext_authz and authorize alone") || len(r.Services) != 0 {
		t.Errorf("%v: %+v", err, r)
	}
	// With its digest it is another one, which all refuse.
	r, err = c.ChangeRevoked(t.Context(), admin.RevocationRequest{Serial: serial, SHA256: digest})
	if err != nil || r.Issued || len(r.Notes) != 0 || len(r.Services) != 2 {
		t.Errorf("%v: %+v", err, r)
	}
	if _, err = c.ChangeRevoked(t.Context(), admin.RevocationRequest{Serial: serial, Undo: true}); err == nil || !strings.Contains(err.Error(), "2 are revoked") {
		t.Errorf("both are meant: %v", err)
	}
	if _, err = c.ChangeRevoked(t.Context(), admin.RevocationRequest{SHA256: digest, Undo: true}); err != nil {
		t.Error(err)
	}
	if _, err = c.ChangeRevoked(t.Context(), admin.RevocationRequest{Serial: "1020304", Undo: true}); err == nil {
		t.Error("seven digits are enough")
	}
	if r, err = c.ChangeRevoked(t.Context(), admin.RevocationRequest{Serial: "01020304", Undo: true}); err != nil || len(r.What) != 1 {
		t.Errorf("%v: %+v", err, r)
	}
	if all, err := c.Revoked(t.Context()); err != nil || len(all.All) != 0 {
		t.Errorf("%v: %+v", err, all)
	}
}

// TestWriteRevoked: the command writes what the control plane may not, as it said, and what somebody else wrote meanwhile stays.
func TestWriteRevoked(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	writeText(t, filepath.Join(dir, "web.hcl"), "# nothing\n")
	until := time.Now().Add(time.Hour).Truncate(time.Second).UTC()
	for i := range 3 {
		what := admin.Revocation{Serial: fmt.Sprintf("0%d:02", i+1), SHA256: strings.Repeat(strconv.Itoa(i), 64), Until: until, Reason: "stolen", By: "ann"}
		done := admin.RevocationResponse{Unwritten: dir, Why: "read-only", What: []admin.Revocation{what}}
		if err := writeRevoked(done, false); err != nil {
			t.Fatal(err)
		}
		if err := writeRevoked(done, false); err == nil || !strings.Contains(err.Error(), "already") {
			t.Errorf("twice: %v", err)
		}
	}
	gone := admin.RevocationResponse{Unwritten: dir, What: []admin.Revocation{{Serial: "02:02", SHA256: strings.Repeat("1", 64)}}}
	if err := writeRevoked(gone, true); err != nil {
		t.Fatal(err)
	}
	text := string(readAll(t, filepath.Join(dir, "revoked.yaml")))
	if strings.Count(text, "serial:") != 2 || !strings.Contains(text, `"102"`) || !strings.Contains(text, `"302"`) || !strings.Contains(text, "by: ann") {
		t.Errorf("the file is\n%s", text)
	}
}

// TestUnwritable: if nobody may write, the error says what to write where, as the file has it.
func TestUnwritable(t *testing.T) {
	t.Parallel()
	done := admin.RevocationResponse{Unwritten: "/etc/sallyport/catalog", Why: "read-only file system"}
	what := []intention.Revocation{{ID: "spiffe://example.org/ns/default/dc/dc1/svc/web", Reason: "stolen", Origin: "revoked.yaml:7"}}
	err := unwritable(done, what, false, revocation.ErrReadOnly)
	const entry = "list revoked of /etc/sallyport/catalog/revoked.yaml:\n- spiffe_id: spiffe://example.org/ns/default/dc/dc1/svc/web\n  reason: stolen"
	if !errors.Is(err, revocation.ErrReadOnly) || !strings.Contains(err.Error(), "read-only file system") || !strings.HasSuffix(err.Error(), entry) {
		t.Errorf("%v", err)
	}
	if err := unwritable(done, what, true, revocation.ErrReadOnly); !strings.HasPrefix(err.Error(), "nothing has changed") || !strings.HasSuffix(err.Error(), "at revoked.yaml:7 of /etc/sallyport/catalog") {
		t.Errorf("%v", err)
	}
	if err := writeRevoked(admin.RevocationResponse{Unwritten: t.TempDir()}, false); err == nil {
		t.Error("nothing is written")
	}
}

// TestSameNumber: a number of a list is found by its beginning, as it is printed or as it is written.
func TestSameNumber(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		serial, asked string
		want          bool
	}{
		{"102030405", "0102030405", true},
		{"102030405", "01020304", true},
		{"102030405", "10203040", true},
		{"102030405", "1020304", false},
		{"102030405", "20304050", false},
		{"8", "08", true},
		{"8", "8", true},
		{"80", "8", false},
	} {
		if got := sameNumber(c.serial, c.asked); got != c.want {
			t.Errorf("sameNumber(%q, %q) = %t", c.serial, c.asked, got)
		}
	}
	if !sameRevoked(intention.Revocation{Serial: "8"}, intention.Revocation{Serial: "8"}) || sameRevoked(intention.Revocation{Serial: "8"}, intention.Revocation{Serial: "8", SHA256: "1"}) {
		t.Error("a certificate whose digest is not known is another's than one whose digest is")
	}
}
