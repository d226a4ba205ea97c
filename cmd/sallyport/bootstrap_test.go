package main

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/admin"
	"github.com/sallyport/sallyport/sidecar"
)

func TestBootstrapCommand(t *testing.T) {
	_, dir := startServe(t)
	for args, want := range map[string][]string{
		"--sidecar-for web -o web --drain-time 5s": {
			"of web-sidecar-proxy (service web) to " + dir + "/web\n", "in 30 days: run this command again",
			"\n  envoy --config-path " + dir + "/web/bootstrap.json --drain-time-s 5 --drain-strategy immediate --disable-hot-restart\n",
		},
		"--proxy-id web-sidecar-proxy -o web --envoy-version 1.40.0 --token-ttl 1h --target-dir /etc/envoy": {
			"Copy both to /etc/envoy,", ", in 1h", "--config-path /etc/envoy/bootstrap.json",
		},
		"--sidecar-for web --xds-address cp:1":     {"no endpoint for other machines: give"},
		"--sidecar-for web --envoy-version new":    {"--envoy-version: "},
		"--sidecar-for web --target-dir etc":       {`--target-dir "etc": expected a full path`},
		"--sidecar-for nobody --wait 300ms":        {"waiting: a sidecar for", "after 300ms: "},
		"--sidecar-for web --admin-bind 0.0.0.0:1": {"--admin-allow-remote"},
		"--sidecar-for web --token-file x":         {"--token-file: this control plane makes the tokens itself"},
		"--sidecar-for web more":                   {"takes no arguments"},
	} {
		out, err := command(t, append([]string{"bootstrap", "--runtime-dir", filepath.Join(dir, "rt")}, strings.Fields(args)...)...)
		if err != nil {
			out += err.Error()
		}
		for _, w := range want {
			if !strings.Contains(out, w) {
				t.Errorf("bootstrap %s: %s, want %q", args, out, w)
			}
		}
	}
}

func TestDescribe(t *testing.T) {
	var out strings.Builder
	now := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	s := sidecar.Sidecar{
		Dir: "/d", Args: []string{"--config-path", "/d/it's.json", "--drain-time-s", "30"},
		Proxy: admin.TokenResponse{ProxyID: "web-sidecar-proxy", Service: "web", Token: "secret", Expires: now.Add(90 * time.Minute)},
	}
	if err := describe(&out, &s, "/d/", now); err != nil {
		t.Fatal(err)
	}
	const want = `Wrote bootstrap.json and token.json of web-sidecar-proxy (service web) to /d
The token ends at 2026-11-01T01:30:00Z, in 1h30m0s: run this command again before that
Start Envoy with all of these flags:

  envoy --config-path '/d/it'\''s.json' --drain-time-s 30
`
	if got := out.String(); got != want {
		t.Errorf("describe:\n%s\nwant\n%s", got, want)
	}
}
