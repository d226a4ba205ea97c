package sidecar

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/sallyport/sallyport/admin"
	bootstrap "github.com/sallyport/sallyport/envoy-bootstrap"
	"github.com/sallyport/sallyport/internal/sockettable"
)

// probeListeners looks whether an Envoy can have the addresses that it will be told to listen on.
// Envoy itself would share a port with another Envoy without a word, each getting some of the
// connections, and take the path of a Unix socket away from whoever listens there. The error joins
// what is wrong with each.
func probeListeners(ctx context.Context, listeners []admin.Listener) error {
	var errs []error
	for _, l := range listeners {
		var err error
		if l.Socket != "" {
			err = probeSocket(ctx, l.Socket)
		} else {
			err = probePort(ctx, l.Address)
		}
		if err == nil {
			continue
		}
		_, taken := errors.AsType[*inUse](err)
		switch {
		case taken:
			err = fmt.Errorf("%w: end that, or %s", err, another(l))
		case l.Origin != "":
			err = fmt.Errorf("%w (%s)", err, l.Origin)
		}
		errs = append(errs, fmt.Errorf("listener %s: %w", l.Name, err))
	}
	return errors.Join(errs...)
}

// bootstrapListeners are the addresses that an Envoy with this bootstrap binds by itself.
func bootstrapListeners(p bootstrap.Params) []admin.Listener {
	var out []admin.Listener
	if p.AdminBind != "" {
		address := strings.Replace(p.AdminBind, "localhost:", "127.0.0.1:", 1) // as the bootstrap says
		out = append(out, admin.Listener{Name: "admin", Address: address, Origin: "--admin-bind"})
	}
	if p.PrometheusBindAddr != "" {
		out = append(out, admin.Listener{Name: "metrics", Address: p.PrometheusBindAddr, Origin: "envoy_prometheus_bind_addr"})
	}
	return out
}

func probePort(ctx context.Context, address string) error {
	network := "tcp"
	addr, err := netip.ParseAddrPort(address)
	if err == nil && addr.Addr().Is6() {
		network = "tcp6" // alone, as Envoy binds it: whoever has the port on IPv4 is not in its way
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, network, address)
	switch {
	case err == nil:
		return l.Close()
	case errors.Is(err, syscall.EADDRINUSE):
		return &inUse{address, sockettable.PortHolder(addr)}
	case errors.Is(err, syscall.EACCES):
		return fmt.Errorf("%s: this user may not listen there: choose a port above 1023, or give Envoy CAP_NET_BIND_SERVICE", address)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return fmt.Errorf("%s: not an address of this machine", address)
	}
	return err
}

func probeSocket(ctx context.Context, path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Stat(filepath.Dir(path)); err != nil {
			return fmt.Errorf("socket %s: the directory is not there: create it, so that Envoy's user may write to it", path)
		}
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("%s is in the way and not a socket: move it", path)
	}
	conn, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "unix", path)
	if err != nil {
		return nil //nolint:nilerr // nobody answers: the socket was left over, and Envoy replaces it
	}
	if err := conn.Close(); err != nil {
		return err
	}
	return &inUse{path, sockettable.SocketHolder(path)}
}

// inUse is that somebody else has an address. holder is who, if that could be found out.
type inUse struct{ address, holder string }

func (u *inUse) Error() string {
	return u.address + " is in use by " + cmp.Or(u.holder, "another process")
}

// another is what gives a listener another address.
func another(l admin.Listener) string {
	what := "port"
	if l.Socket != "" {
		what = "path"
	}
	if l.Origin == "" {
		return "choose another " + what
	}
	return "choose another " + what + " (" + l.Origin + ")"
}
