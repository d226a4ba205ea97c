package bootstrap

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/sallyport/sallyport/internal/unixsocket"
)

// ErrAdminRemote marks an AdminBind that is not a loopback address, without AdminRemote.
var ErrAdminRemote = errors.New("not a loopback address: Envoy's administration asks nobody who they are, so other machines must be let in explicitly")

// check returns every mistake in p, whose defaults are in place.
func (p Params) check() error {
	errs := []error{
		checkText("proxy ID", p.ProxyID, 512),
		p.checkIdentity(),
		p.checkXDS(),
		p.checkAdmin(),
		checkPath("token file", p.TokenFile),
	}
	if filepath.Ext(p.TokenFile) != ".json" { // Envoy tells the format by the extension
		errs = append(errs, fmt.Errorf("token file %q: the name must end in .json", p.TokenFile))
	}
	if p.PrometheusBindAddr != "" {
		if _, err := parseBind(p.PrometheusBindAddr); err != nil {
			errs = append(errs, fmt.Errorf("envoy_prometheus_bind_addr %q: %w", p.PrometheusBindAddr, err))
		}
	}
	if p.Network != "" {
		errs = append(errs, checkText("network namespace", p.Network, 256))
	}
	if v := p.EnvoyVersion; v != (Version{}) && !v.Supported() {
		errs = append(errs, fmt.Errorf("envoy %s is too old: %s is the oldest that is supported", v, Minimum()))
	}
	if p.MaxConnections < 0 {
		errs = append(errs, fmt.Errorf("%d connections: a limit is positive", p.MaxConnections))
	}
	if p.RegexSize < 100 || p.RegexSize > 1<<20 {
		errs = append(errs, fmt.Errorf("regular expressions of size %d: expected 100 to %d", p.RegexSize, 1<<20))
	}
	if p.DrainTime < time.Second || p.DrainTime > 24*time.Hour || p.DrainTime%time.Second != 0 {
		errs = append(errs, fmt.Errorf("drain time %s: expected whole seconds, 1s to 24h", p.DrainTime))
	}
	return errors.Join(errs...)
}

func (p Params) checkIdentity() error {
	if err := p.Identity.Check(); err != nil {
		return fmt.Errorf("service: %w", err)
	}
	return nil
}

func (p Params) checkXDS() error {
	switch {
	case p.XDSSocket != "" && p.XDSAddress != "":
		return errors.New("both a socket and an address of the control plane: exactly one is needed")
	case p.XDSSocket != "":
		return checkSocket("xDS socket", p.XDSSocket)
	case p.XDSAddress == "":
		return errors.New("neither a socket nor an address of the control plane: exactly one is needed")
	}
	if _, _, err := splitHostPort(p.XDSAddress); err != nil {
		return fmt.Errorf("xDS address %q: %w", p.XDSAddress, err)
	}
	if err := checkPEM(p.XDSCA); err != nil {
		return fmt.Errorf("xDS address %s: CA: %w", p.XDSAddress, err)
	}
	if err := checkText("URI of the control plane", p.XDSURI, 2048); err != nil {
		return err
	}
	if !strings.HasPrefix(p.XDSURI, "spiffe://") {
		return fmt.Errorf("URI of the control plane %q: expected a SPIFFE ID", p.XDSURI)
	}
	return nil
}

func (p Params) checkAdmin() error {
	switch {
	case p.AdminSocket != "" && p.AdminBind != "":
		return errors.New("both a socket and an address for Envoy's administration: exactly one is needed")
	case p.AdminSocket != "":
		return checkSocket("admin socket", p.AdminSocket)
	case p.AdminBind == "":
		return errors.New("neither a socket nor an address for Envoy's administration: exactly one is needed")
	}
	addr, err := parseBind(p.AdminBind)
	if err != nil {
		return fmt.Errorf("admin address %q: %w", p.AdminBind, err)
	}
	if !p.AdminRemote && !addr.Addr().IsLoopback() {
		return fmt.Errorf("admin address %q: %w", p.AdminBind, ErrAdminRemote)
	}
	return nil
}

// parseBind reads ip:port or localhost:port.
func parseBind(s string) (netip.AddrPort, error) {
	if port, ok := strings.CutPrefix(s, "localhost:"); ok {
		s = "127.0.0.1:" + port
	}
	addr, err := netip.ParseAddrPort(s)
	if err != nil || addr.Port() == 0 || addr.Addr().Zone() != "" {
		return netip.AddrPort{}, errors.New("expected an IP address and a port, as in 127.0.0.1:19000 or [::1]:19000")
	}
	return addr, nil
}

// splitHostPort reads host:port, where host is an IP address or a DNS name.
func splitHostPort(s string) (host string, port uint16, err error) {
	bad := errors.New("expected host:port, as in cp.example.com:8502")
	host, text, err := net.SplitHostPort(s)
	if err != nil {
		return "", 0, bad
	}
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil || n == 0 {
		return "", 0, bad
	}
	if addr, err := netip.ParseAddr(host); err == nil && addr.Zone() == "" {
		return host, uint16(n), nil
	}
	if len(host) > 253 {
		return "", 0, bad
	}
	for label := range strings.SplitSeq(host, ".") {
		if label == "" || len(label) > 63 || strings.Trim(label, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_") != "" {
			return "", 0, bad
		}
	}
	return host, uint16(n), nil
}

func checkText(what, s string, limit int) error {
	switch {
	case s == "":
		return fmt.Errorf("%s: is empty", what)
	case len(s) > limit:
		return fmt.Errorf("%s %.40q…: longer than %d bytes", what, s, limit)
	case !utf8.ValidString(s):
		return fmt.Errorf("%s %q: not UTF-8", what, s)
	case strings.ContainsFunc(s, unicode.IsControl):
		return fmt.Errorf("%s %q: holds a control character", what, s)
	}
	return nil
}

func checkPath(what, path string) error {
	if err := checkText(what, path, 4095); err != nil {
		return err
	}
	if !filepath.IsAbs(path) || filepath.Clean(path) != path {
		return fmt.Errorf("%s %q: expected a full path without . or .. in it", what, path)
	}
	return nil
}

func checkSocket(what, path string) error {
	if err := checkPath(what, path); err != nil {
		return err
	}
	if n := len(path); n > unixsocket.MaxPath {
		return fmt.Errorf("%s %q: %d bytes are too long for a socket, of which this system takes %d: use a shorter runtime directory", what, path, n, unixsocket.MaxPath)
	}
	return nil
}

func checkPEM(text string) error {
	rest := []byte(text)
	n := 0
	for {
		var block *pem.Block
		block, rest = pem.Decode(rest)
		if block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return fmt.Errorf("a PEM block %q where only certificates belong", block.Type)
		}
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			return fmt.Errorf("certificate %d: %w", n+1, err)
		}
		n++
	}
	if n == 0 || len(bytes.TrimSpace(rest)) > 0 {
		return errors.New("expected one or more certificates in PEM and nothing else")
	}
	return nil
}
