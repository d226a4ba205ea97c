package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestEnvoyFlags(t *testing.T) {
	for args, want := range map[string]string{
		"":                                 "whose sidecar?",
		"--sidecar-for web --proxy-id web": "one of them says whose sidecar it is",
		"--sidecar-for web --concurrency":  "unknown flag: --concurrency",
		"--sidecar-for web extra":          `unexpected argument "extra"`,
		"--sidecar-for web extra -- -l x":  `unexpected argument "extra"`,
	} {
		c := newEnvoyCommand(&clientOptions{runtimeDir: t.TempDir()})
		c.SilenceUsage, c.SilenceErrors = true, true
		c.SetArgs(strings.Fields(args))
		if err := c.ExecuteContext(t.Context()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("envoy %s: %v, want %q", args, err, want)
		}
	}
}

// TestEnvoyStatus: Envoy's exit status is the command's own, and what stands after -- is Envoy's.
func TestEnvoyStatus(t *testing.T) {
	_, dir := startServe(t)
	envoy := filepath.Join(dir, "envoy")
	const script = "#!/bin/sh\ncase \"$*\" in\n--version) echo 'envoy  version: 0/1.40.0/Clean/RELEASE/BoringSSL';;\n*\" --concurrency 2\") exit 7;;\nesac\n"
	if err := os.WriteFile(envoy, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	_, err := command(t, "envoy", "--runtime-dir", "rt", "--sidecar-for", "web", "--envoy-binary", envoy, "--", "--concurrency", "2")
	if status, ok := errors.AsType[exitError](err); !ok || status != 7 {
		t.Errorf("envoy: %v, want Envoy's exit status 7", err)
	}
}
