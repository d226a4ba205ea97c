package plugin

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/remote"
)

// examples is where those of the page are.
const examples = "../../docs/certificates/plug-in"

// opensslCA makes a CA as the page says, in a directory that is uid's.
func opensslCA(t *testing.T, uid int) string {
	t.Helper()
	page, err := os.ReadFile(examples + ".md")
	if err != nil {
		t.Fatal(err)
	}
	_, text, ok := strings.Cut(string(page), "```\nmkdir -p mesh-ca")
	script, _, okToo := strings.Cut(text, "sallyport ca conformance")
	if !ok || !okToo {
		t.Fatal("the page does not say how to make a CA")
	}
	dir, err := os.MkdirTemp("", "plugin") // as another user cannot come to t.TempDir
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if out, err := exec.CommandContext(t.Context(), "sh", "-euc", "cd "+dir+"; mkdir -p mesh-ca"+script).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	programs, err := filepath.Glob(examples + "/*")
	if err != nil || len(programs) != 3 {
		t.Fatalf("%v: %q", err, programs)
	}
	for _, p := range programs {
		text, err := os.ReadFile(p)
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, filepath.Base(p)), text, 0o755)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := filepath.Walk(dir, func(path string, _ os.FileInfo, _ error) error { return os.Chown(path, uid, -1) }); err != nil {
		t.Fatal(err)
	}
	return dir
}

// conforms fails the test unless all checks are passed, of a plug-in that signs both kinds.
func conforms(t *testing.T, cfg Config) {
	t.Helper()
	conformsIn(t, cfg, 45)
}

// conformsIn is conforms of a plug-in of which so many things are asked.
func conformsIn(t *testing.T, cfg Config, checks int) {
	t.Helper()
	cfg.Name, cfg.TrustDomain = "test", domain
	n := 0
	err := Conform(t.Context(), cfg, func(c Check) {
		n++
		if c.Err != nil {
			t.Errorf("%s: %v", c.Name, c.Err)
		}
	})
	if err != nil || n != checks {
		t.Errorf("%d checks, %v", n, err)
	}
}

// TestOpenSSL is the first example of the page.
func TestOpenSSL(t *testing.T) {
	t.Parallel()
	dir := opensslCA(t, os.Getuid())
	conforms(t, Config{Command: []string{dir + "/openssl.sh"}, Env: []string{"CA_DIR=" + dir + "/mesh-ca"}})
}

// TestAtSocket is the same behind a socket, as another user where this one may become that: who may not, tries it as itself.
func TestAtSocket(t *testing.T) {
	t.Parallel()
	atSocket(t, "openssl.sh", "")
}

// atSocket tries a program of the page at a socket. path is what is on its PATH first.
func atSocket(t *testing.T, name, path string) {
	t.Helper()
	uid := os.Getuid()
	attributes := &syscall.SysProcAttr{}
	if uid == 0 {
		uid = 65534
		attributes.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(uid)}
	}
	dir := opensslCA(t, uid)
	ctx, cancel := context.WithCancel(t.Context())
	python := "/usr/bin/python3" // one of another place may be for one user
	if _, err := os.Stat(python); err != nil {
		python = "python3"
	}
	cmd := exec.CommandContext(ctx, python, dir+"/at-socket.py", dir+"/s", dir+"/"+name)
	cmd.Dir, cmd.SysProcAttr = dir, attributes
	cmd.Env = []string{"PATH=" + path + ":/usr/bin:" + os.Getenv("PATH"), "CA_DIR=" + dir + "/mesh-ca"}
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		if _ = cmd.Wait(); t.Failed() {
			t.Log(out.String())
		}
	})
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if info, err := os.Stat(dir + "/s"); err == nil && info.Mode().Perm() == 0o666 {
			break
		}
	}
	conforms(t, Config{Server: remote.Config{URL: "unix://" + dir + "/s", UIDs: []int{uid}}})
	other := newCA(t, Config{Name: "test", TrustDomain: domain, Server: remote.Config{URL: "unix://" + dir + "/s", UIDs: []int{uid + 1}}})
	if _, err := other.Sign(t.Context(), request(t, false)); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("user %d's", uid)) {
		t.Errorf("another user's plug-in is asked: %v", err)
	}
}
