package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
)

// checkAPI refuses addresses that others can reach, unless they have TLS: the API hands out private keys.
func (c serveConfig) checkAPI() error {
	if c.APIAddress == "" {
		return unused("there is no --api-address that it would be about", []flagValue{
			{"--api-hosts", c.APIHosts, ""},
			{"--api-tls-cert", c.APITLSCert, ""},
			{"--api-tls-key", c.APITLSKey, ""},
			{"--api-without-acls", c.APIWithoutACLs, false},
		})
	}
	if (c.APITLSCert == "") != (c.APITLSKey == "") {
		return errors.New("--api-tls-cert, --api-tls-key: only one of them is there: give both, or none")
	}
	for _, name := range strings.FieldsFunc(c.APIHosts, ofList) {
		if _, err := netip.ParseAddr(name); err != nil && strings.ContainsAny(name, ":/*") { // it would be no request's
			return fmt.Errorf("--api-hosts: %q is no host name: write names as clients have them, each of them, without scheme and port: mesh.example", name)
		}
	}
	host, _, err := net.SplitHostPort(c.APIAddress)
	if err != nil {
		return nil //nolint:nilerr // said already
	}
	if ip, err := netip.ParseAddr(host); host != "localhost" && (err != nil || !ip.IsLoopback()) && c.APITLSCert == "" {
		return fmt.Errorf("--api-address: %q is no loopback address: the API hands out private keys, so other machines get to it over TLS alone: give it a certificate with --api-tls-cert and --api-tls-key, or take 127.0.0.1, [::1] or localhost", host)
	}
	return nil
}

// onLoopback reports whether only this machine gets to a listener: what a name like localhost means others may have a say in.
func onLoopback(a net.Addr) bool {
	t, ok := a.(*net.TCPAddr)
	return ok && t.IP.IsLoopback()
}

// apiHosts are the names by which --api-address may be asked beside those of the loopback: its own, and those that --api-hosts gives.
func (c serveConfig) apiHosts() []string {
	names := strings.FieldsFunc(strings.ToLower(c.APIHosts), ofList)
	if host, _, err := net.SplitHostPort(c.APIAddress); err == nil && host != "" {
		if ip, err := netip.ParseAddr(host); err != nil || !ip.IsUnspecified() {
			names = append(names, strings.ToLower(host))
		}
	}
	return names
}

// ofList reports whether r is between the names of a list.
func ofList(r rune) bool { return r == ',' || r == ' ' }
