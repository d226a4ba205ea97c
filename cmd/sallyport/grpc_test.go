package main

import (
	"net"
	"os"
	"slices"
	"strings"
	"testing"
)

func TestReachedAs(t *testing.T) {
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	for configured, want := range map[string]struct {
		addr string
		want []string
	}{
		"10.0.0.5:8502":   {"10.0.0.5", []string{host, "10.0.0.5"}},
		"127.0.0.1:8502":  {"127.0.0.1", []string{host, "127.0.0.1", "localhost"}},
		"cp.example:8502": {"10.0.0.5", []string{"cp.example", host, "10.0.0.5"}},
		":8502":           {"::", []string{host, "localhost", "127.0.0.1"}},
		"0.0.0.0:8502":    {"0.0.0.0", []string{host, "localhost", "127.0.0.1"}},
	} {
		got := reachedAs(&net.TCPAddr{IP: net.ParseIP(want.addr), Port: 8502}, configured)
		if !slices.Equal(got[:min(len(got), len(want.want))], want.want) || strings.Contains(strings.Join(got, " "), "fe80") {
			t.Errorf("reachedAs(%s, %s) = %v, want %v first", want.addr, configured, got, want.want)
		}
	}
}

func TestNamesOfTheEndpoint(t *testing.T) {
	for names, want := range map[string]string{
		"a.example,10.0.0.1": "", "a.example, b.example": "", "a/b": `--xds-names: "a/b" is neither`,
	} {
		c := serveConfig{Catalog: t.TempDir(), Data: t.TempDir(), XDSAddress: ":8502", XDSNames: names, TokenTTL: defaultTokenTTL, LeafTTL: defaultTokenTTL, Datacenter: "dc1", DefaultIntentionPolicy: "deny", IntentionEnforcement: "rbac"}
		if err := c.check(); (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", names, err, want)
		}
	}
	c := serveConfig{Catalog: t.TempDir(), Data: t.TempDir(), XDSNames: "a", TokenTTL: defaultTokenTTL, LeafTTL: defaultTokenTTL, Datacenter: "dc1", DefaultIntentionPolicy: "deny", IntentionEnforcement: "rbac"}
	if err := c.check(); err == nil || !strings.Contains(err.Error(), "there is no --xds-address") {
		t.Errorf("names without an address: %v", err)
	}
}
