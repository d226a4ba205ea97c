// Package sidecar gives a proxy what its Envoy starts with, and runs that Envoy: it asks the
// control plane on this machine for the proxy's token, writes token and bootstrap, keeps a second
// sidecar of the proxy away, starts Envoy, passes signals on to it and keeps the token fresh.
package sidecar

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/sallyport/sallyport/admin"
	bootstrap "github.com/sallyport/sallyport/envoy-bootstrap"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/internal/atomicfile"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// Config says whose sidecar it is and what its bootstrap says. Errors call what is wrong in it by
// the flags of `sallyport envoy` and `sallyport bootstrap`.
type Config struct {
	// RuntimeDir is the control plane's; empty: the first of the usual ones that has a control
	// plane.
	RuntimeDir string
	// RuntimeOwners are the users, besides root and this process's own, whose RuntimeDir is trusted.
	RuntimeOwners []int
	// SidecarFor is the ID of the service's instance, ProxyID that of the proxy. One of them is
	// set.
	SidecarFor, ProxyID string
	// Dir is where the files are written; empty: in a directory of the proxy's own in RuntimeDir.
	Dir string
	// AdminBind is where Envoy's administration listens, unix:/full/path or ip:port; empty: at a
	// socket beside the bootstrap. AdminRemote lets it be an address that other machines reach.
	AdminBind   string
	AdminRemote bool
	// Network names the network namespace that Envoy runs in; empty: that of this process, if it
	// starts Envoy itself, else it is not known.
	Network string
	// DrainTime is how long connections may outlive their access, in whole seconds.
	DrainTime time.Duration
	// TokenTTL is the life of the proxy's tokens; 0: what the control plane is configured to.
	TokenTTL time.Duration
	// TokenFile holds the proxy's own ACL token, beside Consul; empty: Consul's variables say it.
	TokenFile string
	// Wait bounds the wait for a control plane that does not run yet, or does not know the proxy
	// yet; 0: there is none. Waiting is required with it, and is told what is waited for, each
	// reason once in a row.
	Wait    time.Duration
	Waiting func(error)
}

// Target is an Envoy that somebody else starts. The zero value is one of any version, on this
// machine, that finds its files where they are written.
type Target struct {
	// Version is Envoy's; zero: any that is supported.
	Version bootstrap.Version
	// XDSAddress is host:port of the control plane's TLS endpoint; empty: its socket.
	XDSAddress string
	// Dir is where Envoy finds the files; empty: where they are written.
	Dir string
}

// Sidecar is one whose files have been written.
type Sidecar struct {
	// Dir is the directory of the files.
	Dir string
	// Proxy is the control plane's answer. Its Token is the one that was written.
	Proxy admin.TokenResponse
	// Args are the arguments that Envoy has to be started with.
	Args []string
	// Refused is why the control plane would not serve the proxy with the token of its own that was
	// written; nil: it would, or that is not known.
	Refused error

	client *admin.Client
	own    aclToken
	lock   *os.File // keeps a second sidecar out of Dir
	params bootstrap.Params
}

// Write writes the bootstrap and the token of an Envoy that somebody else starts. It blocks until
// the control plane has answered. No sidecar of the proxy may be running from the directory.
func Write(ctx context.Context, c Config, t Target) (*Sidecar, error) {
	s, err := open(ctx, c, t)
	if err != nil {
		return nil, err
	}
	return s, s.lock.Close()
}

// Anonymous reports whether the proxy has no token: it is whoever Consul's anonymous token is.
func (s *Sidecar) Anonymous() bool { return s.Proxy.OwnToken && s.Proxy.Token == anonymous }

func open(ctx context.Context, c Config, t Target) (*Sidecar, error) {
	s := &Sidecar{}
	var err error
	if s.client, s.Proxy, err = c.request(ctx); err != nil {
		return nil, err
	}
	if s.own, err = c.complete(&s.Proxy); err != nil {
		return nil, err
	}
	if s.Refused, err = c.judge(ctx, s.client, s.Proxy, t.XDSAddress != ""); err != nil {
		return nil, err
	}
	if s.Dir, err = c.directory(s.client.Dir(), s.Proxy.ProxyID); err != nil {
		return nil, err
	}
	if s.lock, err = claim(s.Dir, s.Proxy.ProxyID); err != nil {
		return nil, err
	}
	if err := s.write(c, t); err != nil {
		return nil, errors.Join(err, s.lock.Close())
	}
	return s, nil
}

// How soon a control plane that is waited for is asked again. It is on this machine, so asking
// costs little.
const askAgain, askAgainMax = 100 * time.Millisecond, time.Second

// request asks the control plane for the proxy's token and, as long as Wait says, again while that
// may help.
func (c Config) request(ctx context.Context) (client *admin.Client, answer admin.TokenResponse, err error) {
	switch {
	case c.TokenTTL < 0:
		return nil, answer, fmt.Errorf("--token-ttl %s: a time to live is positive", c.TokenTTL)
	case c.Wait < 0:
		return nil, answer, fmt.Errorf("--wait %s: a time to wait is positive", c.Wait)
	}
	r := admin.TokenRequest{SidecarFor: c.SidecarFor, ProxyID: c.ProxyID, TTL: c.TokenTTL}
	err = c.patiently(ctx, admin.MayPass, func() (err error) {
		if client, err = admin.Find(c.RuntimeDir, c.RuntimeOwners...); err == nil {
			answer, err = client.Token(ctx, r)
		}
		return err
	})
	return client, answer, err
}

// patiently has ask ask, and as long as Wait says again while what it answers may pass.
func (c Config) patiently(ctx context.Context, mayPass func(error) bool, ask func() error) error {
	end, reported := time.Now().Add(c.Wait), ""
	for pause := askAgain; ; pause = min(2*pause, askAgainMax) {
		err := ask()
		next := time.Now().Add(pause)
		switch {
		case err == nil || c.Wait == 0 || !mayPass(err):
			return err
		case next.After(end):
			return fmt.Errorf("after %s: %w", c.Wait, err)
		}
		if text := err.Error(); text != reported {
			reported = text
			c.Waiting(err)
		}
		if !sleepUntil(ctx, next) {
			return ctx.Err()
		}
	}
}

// judge asks whether the proxy would be served with its own token, if it has one: Envoy would go on
// trying with a wrong one for ever. What is not known now, as while Consul's agent is away, is left
// for Envoy to find out. A token that was made just now may not be known everywhere yet, so Wait is
// for that, too.
func (c Config) judge(ctx context.Context, client *admin.Client, p admin.TokenResponse, remote bool) (refused, err error) {
	if !p.OwnToken {
		return nil, nil
	}
	isRefusal := func(err error) bool { return errors.Is(err, admin.ErrForbidden) }
	r := admin.JudgeRequest{ProxyID: p.ProxyID, Token: p.Token, Remote: remote}
	err = c.patiently(ctx, isRefusal, func() error { return client.Judge(ctx, r) })
	if isRefusal(err) {
		return fmt.Errorf("%w: give the right one with --token-file, CONSUL_HTTP_TOKEN_FILE or CONSUL_HTTP_TOKEN", err), nil
	}
	return nil, ctx.Err()
}

// complete puts the proxy's own token into r where it has one; the control plane makes it
// otherwise.
func (c Config) complete(r *admin.TokenResponse) (own aclToken, err error) {
	switch {
	case r.OwnToken:
		own = findACLToken(c.TokenFile, os.Getenv)
		r.Token, err = own.current()
	case c.TokenFile != "":
		err = errors.New("--token-file: this control plane makes the tokens itself: leave it out")
	}
	return own, err
}

// write writes the files.
func (s *Sidecar) write(c Config, t Target) error {
	r, dir := s.Proxy, filepath.Clean(cmp.Or(t.Dir, s.Dir))
	domain, err := spiffeid.TrustDomainFromString(r.TrustDomain)
	if err != nil {
		return fmt.Errorf("answer of the control plane: trust domain: %w", err)
	}
	s.params = bootstrap.Params{
		ProxyID: r.ProxyID,
		Identity: identity.Service{
			TrustDomain: domain, Datacenter: r.Datacenter,
			Name: identity.Name{Partition: r.Partition, Namespace: r.Namespace, Service: r.Service},
		},
		XDSSocket:          r.XDSSocket,
		TokenFile:          tokenPath(dir),
		AdminRemote:        c.AdminRemote,
		Network:            c.Network,
		PrometheusBindAddr: r.PrometheusBindAddr,
		StatsTags:          r.StatsTags,
		EnvoyVersion:       t.Version,
		DrainTime:          c.DrainTime,
	}
	p := &s.params
	switch path, isSocket := strings.CutPrefix(c.AdminBind, "unix:"); {
	case c.AdminBind == "":
		p.AdminSocket = adminPath(dir)
	case isSocket:
		p.AdminSocket = path
	default:
		p.AdminBind = c.AdminBind
	}
	if t.XDSAddress != "" {
		if r.XDSCA == "" || r.XDSURI == "" {
			return errors.New("--xds-address: the control plane has no endpoint for other machines: give `sallyport serve` an --xds-address")
		}
		p.XDSSocket, p.XDSAddress, p.XDSCA, p.XDSURI = "", t.XDSAddress, r.XDSCA, r.XDSURI
	}
	b, err := bootstrap.Build(*p)
	if errors.Is(err, bootstrap.ErrAdminRemote) {
		err = fmt.Errorf("%w: --admin-allow-remote", err)
	}
	if err != nil {
		return err
	}
	content, err := bootstrap.JSON(b)
	if err != nil {
		return err
	}
	if err := s.writeToken(r.Token); err != nil {
		return err
	}
	s.Args = bootstrap.Args(*p, bootstrapPath(dir))
	return admin.WithRemedy(atomicfile.Replace(bootstrapPath(s.Dir), content), "-o")
}

// writeToken replaces the token. A running Envoy sends the new one with its next request to the
// control plane.
func (s *Sidecar) writeToken(token string) error {
	content, err := bootstrap.TokenFile(token)
	if err != nil {
		return fmt.Errorf("answer of the control plane: %w", err)
	}
	return admin.WithRemedy(atomicfile.Replace(tokenPath(s.Dir), content), "-o")
}
