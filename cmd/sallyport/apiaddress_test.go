package main

import (
	"net"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestAPIAddress: other machines get to the API over TLS alone.
func TestAPIAddress(t *testing.T) {
	for _, tc := range []struct {
		name, want string // want is part of the error; empty: there is none
		cfg        serveConfig
		hosts      []string
	}{
		{name: "none"},
		{name: "loopback", cfg: serveConfig{APIAddress: "127.0.0.1:8500"}, hosts: []string{"127.0.0.1"}},
		{name: "loopback of IPv6", cfg: serveConfig{APIAddress: "[::1]:8500"}, hosts: []string{"::1"}},
		{name: "localhost", cfg: serveConfig{APIAddress: "localhost:8500", APIHosts: "Mesh.example, b"}, hosts: []string{"mesh.example", "b", "localhost"}},
		{name: "another address", cfg: serveConfig{APIAddress: "10.0.0.1:8501"}, want: "over TLS alone: give it a certificate", hosts: []string{"10.0.0.1"}},
		{name: "all addresses", cfg: serveConfig{APIAddress: ":8501"}, want: "over TLS alone"},
		{name: "a name", cfg: serveConfig{APIAddress: "mesh.example:8501"}, want: "over TLS alone", hosts: []string{"mesh.example"}},
		{name: "a name that looks like the loopback", cfg: serveConfig{APIAddress: "127.0.0.1.example:8501"}, want: "over TLS alone", hosts: []string{"127.0.0.1.example"}},
		{name: "with TLS", cfg: serveConfig{APIAddress: "10.0.0.1:8501", APITLSCert: "c", APITLSKey: "k"}, hosts: []string{"10.0.0.1"}},
		{name: "all, with TLS", cfg: serveConfig{APIAddress: "0.0.0.0:8501", APITLSCert: "c", APITLSKey: "k", APIHosts: "10.0.0.1"}, hosts: []string{"10.0.0.1"}},
		{name: "a certificate without its key", cfg: serveConfig{APIAddress: "10.0.0.1:8501", APITLSCert: "c"}, want: "give both", hosts: []string{"10.0.0.1"}},
		{name: "a key without its certificate", cfg: serveConfig{APIAddress: "127.0.0.1:8501", APITLSKey: "k"}, want: "give both", hosts: []string{"127.0.0.1"}},
		{name: "a host with a port", cfg: serveConfig{APIAddress: "127.0.0.1:1", APIHosts: "a,mesh.example:8501"}, want: `--api-hosts: "mesh.example:8501" is no host name`, hosts: []string{"a", "mesh.example:8501", "127.0.0.1"}},
		{name: "any host", cfg: serveConfig{APIAddress: "127.0.0.1:1", APIHosts: "*.example"}, want: `--api-hosts: "*.example" is no host name`, hosts: []string{"*.example", "127.0.0.1"}},
		{name: "an address as a host", cfg: serveConfig{APIAddress: "127.0.0.1:1", APIHosts: "fd00::1"}, hosts: []string{"fd00::1", "127.0.0.1"}},
		{name: "hosts of nothing", cfg: serveConfig{APIHosts: "a"}, want: "--api-hosts: there is no --api-address", hosts: []string{"a"}},
		{name: "a certificate of nothing", cfg: serveConfig{APITLSCert: "c", APITLSKey: "k"}, want: "--api-tls-cert: there is no --api-address"},
		{name: "leafs of nothing", cfg: serveConfig{APIWithoutACLs: true}, want: "--api-without-acls: there is no --api-address"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if err := tc.cfg.checkAPI(); (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v, want %q in it", err, tc.want)
			}
			if diff := cmp.Diff(append([]string{}, tc.hosts...), append([]string{}, tc.cfg.apiHosts()...)); diff != "" {
				t.Errorf("hosts: -want +got:\n%s", diff)
			}
		})
	}
}

// TestOnLoopback: a name is what it means on this machine.
func TestOnLoopback(t *testing.T) {
	for address, want := range map[string]bool{"127.0.0.1": true, "127.9.0.1": true, "::1": true, "::ffff:127.0.0.1": true, "192.0.2.1": false, "0.0.0.0": false, "::": false} {
		if got := onLoopback(&net.TCPAddr{IP: net.ParseIP(address)}); got != want {
			t.Errorf("%s: %t", address, got)
		}
	}
	if onLoopback(&net.UnixAddr{}) {
		t.Error("a socket is no address of the loopback")
	}
}
