package sidecar

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// awaitDeadline bounds waits for what happens at once on a machine at rest.
const awaitDeadline = 20 * time.Second

// awaitTrue calls f until it returns true.
func awaitTrue(t *testing.T, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(awaitDeadline); !f(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not within %s", what, awaitDeadline)
		}
	}
}

// fakeEnvoy is a program that stands in for Envoy: it answers --version, and writes its pid to the
// file pid in dir when its body, a piece of shell, is about to run.
func fakeEnvoy(t *testing.T, dir, version, body string) string {
	t.Helper()
	path := filepath.Join(dir, "envoy")
	script := "#!/bin/sh\n" +
		`if [ "$1" = --version ]; then echo "envoy  version: 0123456789abcdef0123456789abcdef01234567/` + version + `/Clean/RELEASE/BoringSSL"; exit; fi` + "\n" +
		"dir=" + `'` + dir + `'` + "\n" + strings.ReplaceAll(body, "READY", `echo $$ >"$dir/pid.new"; mv "$dir/pid.new" "$dir/pid"`) + "\n"
	if err := os.WriteFile(path, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

// fakePID waits for a fake Envoy to be ready.
func fakePID(t *testing.T, dir string) int {
	t.Helper()
	var pid int
	awaitTrue(t, "the fake Envoy", func() bool {
		b, err := os.ReadFile(filepath.Join(dir, "pid"))
		if err != nil {
			return false
		}
		pid, err = strconv.Atoi(strings.TrimSpace(string(b)))
		return err == nil
	})
	return pid
}

// running reports whether a process is there and not a zombie.
func running(pid int) bool {
	if syscall.Kill(pid, 0) != nil {
		return false
	}
	stat, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	return err != nil || !strings.Contains(string(stat), ") Z ")
}

const waitForSignal = "READY\nwhile :; do sleep 0.02; done"

func TestSupervisor(t *testing.T) {
	tests := []struct {
		name string
		body string
		// act is done once the fake is ready.
		act  func(pid int, signals chan<- os.Signal, cancel func())
		want int
		log  string
	}{
		{name: "ends by itself", body: "exit 7", want: 7, log: "envoy has ended"},
		{name: "ends by itself with 0", body: "exit 0", want: 0, log: "envoy has ended"},
		{
			name: "SIGTERM", body: `trap 'exit 3' TERM; ` + waitForSignal, want: 3, log: "envoy has ended",
			act: func(_ int, signals chan<- os.Signal, _ func()) { signals <- syscall.SIGTERM },
		},
		{
			name: "SIGTERM, ends well", body: `trap 'exit 0' TERM; ` + waitForSignal, want: 0,
			act: func(_ int, signals chan<- os.Signal, _ func()) { signals <- syscall.SIGTERM },
		},
		{
			name: "SIGINT", body: `trap 'exit 4' INT; ` + waitForSignal, want: 4, log: "envoy has ended",
			act: func(_ int, signals chan<- os.Signal, _ func()) { signals <- syscall.SIGINT },
		},
		{
			name: "the context ends", body: `trap 'exit 5' TERM; ` + waitForSignal, want: 5, log: "envoy has ended",
			act: func(_ int, _ chan<- os.Signal, cancel func()) { cancel() },
		},
		{
			name: "SIGHUP goes nowhere, SIGUSR1 on", body: `trap 'exit 1' HUP; trap 'exit 6' USR1; ` + waitForSignal, want: 6, log: "envoy has ended",
			act: func(_ int, signals chan<- os.Signal, _ func()) { signals <- syscall.SIGHUP; signals <- syscall.SIGUSR1 },
		},
		{
			name: "killed", body: waitForSignal, want: 137, log: "envoy has ended",
			act: func(pid int, _ chan<- os.Signal, _ func()) { _ = syscall.Kill(pid, syscall.SIGKILL) },
		},
		{
			name: "does not want to end", body: `trap '' TERM; ` + waitForSignal, want: 137, log: "killing it",
			act: func(_ int, signals chan<- os.Signal, _ func()) { signals <- syscall.SIGTERM },
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			var log, out bytes.Buffer
			s := supervisor{
				log: slog.New(slog.NewTextHandler(&log, nil)), path: fakeEnvoy(t, dir, "1.40.0", `echo "$@"`+"\n"+tt.body), args: []string{"--a", "b c"},
				stdout: &out, stderr: &out, grace: awaitDeadline,
			}
			if tt.log == "killing it" {
				s.grace = 100 * time.Millisecond
			}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			signals := make(chan os.Signal, 2)
			type result struct {
				status int
				err    error
			}
			ended := make(chan result, 1)
			go func() {
				status, err := s.run(ctx, signals)
				ended <- result{status, err}
			}()
			if tt.act != nil {
				tt.act(fakePID(t, dir), signals, cancel)
			}
			select {
			case r := <-ended:
				if r.err != nil || r.status != tt.want {
					t.Errorf("run = %d, %v, want %d", r.status, r.err, tt.want)
				}
			case <-time.After(awaitDeadline):
				t.Fatal("run does not return")
			}
			if tt.log == "" && log.Len() > 0 || !strings.Contains(log.String(), tt.log) {
				t.Errorf("log %q, want %q", log.String(), tt.log)
			}
			if got := out.String(); got != "--a b c\n" {
				t.Errorf("output %q, want what Envoy printed", got)
			}
		})
	}
}

func TestSupervisorStartFails(t *testing.T) {
	_, err := supervisor{log: slog.New(slog.DiscardHandler), path: filepath.Join(t.TempDir(), "nothing")}.run(t.Context(), nil)
	if err == nil || !strings.Contains(err.Error(), "nothing") {
		t.Errorf("error %v, want one that names the file", err)
	}
}
