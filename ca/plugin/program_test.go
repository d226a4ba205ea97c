package plugin

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sallyport/sallyport/ca"
)

func quoted(text string) string { b, _ := json.Marshal(text); return string(b) }

func hexOf(sum [32]byte) string { return hex.EncodeToString(sum[:]) }

// run runs a script for the question describe.
func run(t *testing.T, script string, timeout time.Duration, log *slog.Logger, env ...string) ([]byte, error) {
	t.Helper()
	cfg := Config{Name: "test", TrustDomain: domain, Command: []string{"sh", "-c", script, "plugin", "an argument"}, Env: env, Timeout: timeout, Logger: log}
	return newCA(t, cfg).ask(t.Context(), question{Version: version, Op: opDescribe, TrustDomain: "mesh.example"})
}

// TestSurroundings is what a program is run in.
func TestSurroundings(t *testing.T) {
	t.Setenv("VAULT_TOKEN", "secret")
	t.Setenv("TMPDIR", "/tmp")
	out, err := run(t, `cat; pwd; echo "$1"; ps -o pgid= -p $$ | tr -d ' '; echo $$; env | grep -v '^_=\|^PWD=\|^SHLVL=\|^OLDPWD=' | cut -d= -f1 | sort`, time.Minute, nil, "COLOR=blue")
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	if lines[0] != `{"version":1,"op":"describe","trust_domain":"mesh.example"}` || lines[1] != "/" || lines[2] != "an argument" || lines[3] != lines[4] {
		t.Errorf("%q", lines)
	}
	if got := strings.Join(lines[5:], " "); got != "COLOR HOME PATH SALLYPORT_PLUGIN_VERSION TMPDIR" {
		t.Errorf("environment: %s", got)
	}
}

func TestProgramFails(t *testing.T) {
	t.Parallel()
	for script, tt := range map[string]struct {
		kind error
		want string
	}{
		"exit 3":                        {ca.ErrUnavailable, "exit status 3"},
		"kill -9 $$":                    {ca.ErrUnavailable, "killed"},
		"echo '{}'; exit 1":             {ca.ErrUnavailable, "exit status 1"},
		"yes | head -c 2000000; exit 0": {ca.ErrInvalid, "more than 1048576 bytes"},
		"yes":                           {ca.ErrInvalid, "more than 1048576 bytes"},
		"sleep 100":                     {ca.ErrUnavailable, "no answer within 1s"},
		"sleep 100 & echo '{}'":         {ca.ErrUnavailable, "left a process behind"},
	} {
		t.Run(script, func(t *testing.T) {
			t.Parallel()
			start := time.Now()
			timeout := time.Second
			if errors.Is(tt.kind, ca.ErrInvalid) || strings.Contains(script, "&") {
				timeout = time.Minute
			}
			_, err := run(t, script, timeout, nil)
			if !errors.Is(err, tt.kind) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v, want %v: %q", err, tt.kind, tt.want)
			}
			if d := time.Since(start); d > 30*time.Second {
				t.Errorf("it took %s", d)
			}
		})
	}
	if _, err := newCA(t, Config{Name: "test", TrustDomain: domain, Command: []string{"/nowhere"}}).ask(t.Context(), question{}); !errors.Is(err, ca.ErrUnavailable) || !strings.Contains(err.Error(), "cannot be run") {
		t.Errorf("a program that is not there: %v", err)
	}
}

// TestNothingIsLeft: neither a program that ignores SIGTERM nor what it started outlives the question.
func TestNothingIsLeft(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	script := fmt.Sprintf(`trap "" TERM; sh -c 'trap "" TERM; echo $$ >%[1]s/child; while :; do sleep 1; done' & echo $$ >%[1]s/parent; while :; do sleep 1; done`, dir)
	c := newCA(t, Config{Name: "test", TrustDomain: domain, Command: []string{"sh", "-c", script}})
	ended := make(chan error, 1)
	go func() {
		_, err := c.ask(ctx, question{})
		ended <- err
	}()
	pids := map[string]int{}
	for deadline := time.Now().Add(20 * time.Second); len(pids) < 2 && time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		for _, name := range []string{"parent", "child"} {
			var pid int
			if b, err := os.ReadFile(filepath.Join(dir, name)); err == nil {
				if _, err := fmt.Sscan(string(b), &pid); err == nil {
					pids[name] = pid
				}
			}
		}
	}
	cancel()
	if err := <-ended; !errors.Is(err, ca.ErrUnavailable) || len(pids) < 2 {
		t.Fatalf("%v, %v", err, pids)
	}
	for name, pid := range pids {
		for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
			stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
			if syscall.Kill(pid, 0) != nil || err != nil || strings.Contains(string(stat), ") Z ") {
				break
			}
			if time.Now().After(deadline) {
				t.Errorf("the %s is still there: %s", name, stat)
				break
			}
		}
	}
}

// TestStderrOnceASecond: a program that writes a thousand lines, run a hundred times, does not fill the log.
func TestStderrOnceASecond(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		p := &program{log: slog.New(slog.NewTextHandler(&log, nil))}
		text := bytes.Repeat([]byte("x\n"), 1000)
		for range 100 {
			p.logStderr("sign", text)
		}
		if n := bytes.Count(log.Bytes(), []byte("\n")); n != 1 {
			t.Errorf("%d lines of 100 runs within a second, want one", n)
		}
		time.Sleep(time.Second)
		p.logStderr("sign", text)
		if lines := strings.Split(strings.TrimSpace(log.String()), "\n"); len(lines) != 2 || !strings.Contains(lines[len(lines)-1], "count=100") {
			t.Errorf("%d lines, the last %.50q: want two, with how many runs the second is about", len(lines), lines[len(lines)-1])
		}
	})
}

// TestStderr: 4 KiB of it are logged, and no private key.
func TestStderr(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	logger := slog.New(slog.NewTextHandler(&log, nil))
	if _, err := run(t, `echo hello >&2; head -c 2000000 /dev/zero | tr '\0' x >&2; echo '{}'`, time.Minute, logger); err != nil {
		t.Fatal(err)
	}
	if text := log.String(); !strings.Contains(text, "hello") || len(text) > 5000 {
		t.Errorf("%d bytes: %.200s", len(text), text)
	}
	log.Reset()
	if _, err := run(t, `printf -- '-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n' >&2; echo '{}'`, time.Minute, logger); err != nil {
		t.Fatal(err)
	}
	if text := log.String(); strings.Contains(text, "c2VjcmV0") || !strings.Contains(text, "take it for known") {
		t.Errorf("logged: %s", text)
	}
}
