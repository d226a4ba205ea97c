package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/user"
	"strconv"
	"strings"
	"syscall"

	"github.com/sallyport/sallyport/admin"
	"github.com/sallyport/sallyport/claim"
	"github.com/sallyport/sallyport/internal/sockettable"
)

// listeners are the sockets of a control plane.
type listeners struct {
	admin, xds, workload, remote, metrics, http, httpTCP, bundle net.Listener
	// httpTLS is what httpTCP is served with; nil: as it is.
	httpTLS *tls.Config
	// bundleTLS is what bundle is served with; nil: with a leaf of the mesh.
	bundleTLS *tls.Config
}

func (l listeners) close() {
	for _, c := range []net.Listener{l.admin, l.xds, l.workload, l.remote, l.metrics, l.http, l.httpTCP, l.bundle} {
		if c != nil {
			_ = c.Close()
		}
	}
}

func listen(ctx context.Context, cfg serveConfig, log *slog.Logger) (l listeners, err error) {
	defer func() {
		if err != nil {
			l.close()
		}
	}()
	gid, mode := -1, os.FileMode(0o600)
	if name := cfg.AdminGroup; name != "" {
		g, err := user.LookupGroup(name)
		if err == nil {
			gid, err = strconv.Atoi(g.Gid)
		}
		if err != nil {
			return l, fmt.Errorf("--admin-group: %w: make that group, or name another", err)
		}
		mode = 0o660
	}
	if err := admin.MakeDir(cfg.RuntimeDir); err != nil {
		return l, err
	}
	if gid != -1 {
		if err := admin.LetThrough(cfg.RuntimeDir); err != nil {
			return l, err
		}
	}
	if l.admin, err = admin.Listen(admin.Socket(cfg.RuntimeDir), mode, gid); err != nil {
		return l, groupError(cfg.AdminGroup, err)
	}
	// Envoys of any user connect; what lets them in is their token.
	if l.xds, err = admin.Listen(admin.XDSSocket(cfg.RuntimeDir), 0o666, -1); err != nil {
		return l, err
	}
	// The kernel says which processes ask there.
	if l.workload, err = admin.Listen(admin.WorkloadSocket(cfg.RuntimeDir), 0o666, -1); err != nil {
		return l, err
	}
	// Applications of any user connect; what lets them in is a token, or a service that names them.
	if l.http, err = admin.Listen(admin.HTTPSocket(cfg.RuntimeDir), 0o666, -1); err != nil {
		return l, err
	}
	var lc net.ListenConfig
	if a := cfg.APIAddress; a != "" {
		if cfg.APITLSCert != "" {
			c, err := openCertificate(cfg.APITLSCert, cfg.APITLSKey, log)
			if err != nil {
				return l, fmt.Errorf("--api-tls-cert, --api-tls-key: %w", err)
			}
			l.httpTLS = c.tlsConfig()
		}
		if l.httpTCP, err = lc.Listen(ctx, "tcp", a); err != nil {
			return l, fmt.Errorf("--api-address: %w: where a Consul agent has that address, choose another, and set CONSUL_HTTP_ADDR for clients", err)
		}
		if l.httpTLS == nil && !onLoopback(l.httpTCP.Addr()) {
			return l, fmt.Errorf("--api-address: %s means %s on this machine, which is no loopback address: name the address, or give the API a certificate with --api-tls-cert and --api-tls-key", a, l.httpTCP.Addr())
		}
	}
	if err := l.listenBundle(ctx, cfg, log); err != nil {
		return l, err
	}
	if a := cfg.XDSAddress; a != "" {
		if l.remote, err = lc.Listen(ctx, "tcp", a); err != nil {
			return l, fmt.Errorf("--xds-address: %w: choose an address of this machine whose port is free", byWhom(err, a))
		}
	}
	if a := cfg.MetricsBind; a != "" {
		if l.metrics, err = lc.Listen(ctx, "tcp", a); err != nil {
			return l, fmt.Errorf(`--metrics-bind: %w: several meshes on one machine need an address each, or "" to serve metrics on the admin socket alone`, byWhom(err, a))
		}
	}
	return l, nil
}

// byWhom adds to the error of listening on an address who has it, as far as that is known.
func byWhom(err error, address string) error {
	if !errors.Is(err, syscall.EADDRINUSE) {
		return err
	}
	a, rerr := net.ResolveTCPAddr("tcp", address)
	if rerr != nil {
		return err
	}
	addr := a.AddrPort()
	if !addr.Addr().IsValid() {
		addr = netip.AddrPortFrom(netip.IPv6Unspecified(), addr.Port())
	}
	if holder := sockettable.PortHolder(addr); holder != "" {
		return fmt.Errorf("%w, by %s", err, holder)
	}
	return err
}

// groupError says how to mend that the socket could not be given to the group.
func groupError(group string, err error) error {
	if group == "" || !errors.Is(err, fs.ErrPermission) {
		return err
	}
	return fmt.Errorf("--admin-group: %w: uid %d may not give the socket to the group %s: make that user a member of the group and start anew, or run as root", err, os.Geteuid(), group)
}

// ownAddresses are those of the control plane that a registration might name. A name in place of an
// IP address stands for all that it may mean.
func (c serveConfig) ownAddresses() (out []claim.Address) {
	for _, a := range []struct{ flag, address string }{{"--xds-address", c.XDSAddress}, {"--metrics-bind", c.MetricsBind}, {"--api-address", c.APIAddress}, {"--bundle-address", c.BundleAddress}} {
		host, port, err := net.SplitHostPort(a.address)
		n, perr := strconv.ParseUint(port, 10, 16)
		if err != nil || perr != nil || n == 0 {
			continue
		}
		ips := []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()}
		if ip, err := netip.ParseAddr(host); err == nil && !ip.IsUnspecified() {
			ips = []netip.Addr{ip.Unmap()}
		}
		for _, ip := range ips {
			out = append(out, claim.Address{What: "sallyport's own " + a.flag, IP: ip, Port: uint16(n)})
		}
	}
	return out
}

// claims is what registrations are judged by.
func (c serveConfig) claims() claim.Config {
	return claim.Config{Own: c.ownAddresses(), Paths: c.socketPaths(), Lenient: !c.Consul}
}

// packagedOutput is where the packaged unit has its sidecars' tokens and admin sockets.
const packagedOutput = "/run/sallyport-envoy"

// socketPaths are those that registrations may name.
func (c serveConfig) socketPaths() claim.Paths {
	return claim.Paths{
		Allowed: strings.FieldsFunc(c.SocketDirs, func(r rune) bool { return r == ',' }),
		Own:     []string{c.RuntimeDir, c.Data, c.Catalog, packagedOutput},
	}
}
