package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/sallyport/sallyport/admin"
	bootstrap "github.com/sallyport/sallyport/envoy-bootstrap"
	"github.com/sallyport/sallyport/identity"
	"github.com/spf13/cobra"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// clientOptions are what all commands that ask a running control plane share.
type clientOptions struct {
	runtimeDir string // empty: the first of the usual directories with a control plane
}

// sidecarOptions are what `envoy` and `bootstrap` share: whose sidecar it is, and what its bootstrap says.
type sidecarOptions struct {
	sidecarFor, proxyID string
	dir                 string
	adminBind           string
	adminRemote         bool
	drainTime           time.Duration
	tokenTTL            time.Duration
	tokenFile           string
	wait                time.Duration
}

func (o *sidecarOptions) addFlags(c *cobra.Command, defaultTTL time.Duration, ttl string) {
	f := c.Flags()
	f.StringVar(&o.sidecarFor, "sidecar-for", "", "ID of the service instance that the sidecar is for")
	f.StringVar(&o.proxyID, "proxy-id", "", "ID of the sidecar's own registration, where a service has several")
	f.StringVarP(&o.dir, "output", "o", "", "directory of the bootstrap, the token and Envoy's admin socket (default: one of the proxy's own in the runtime directory)")
	f.StringVar(&o.adminBind, "admin-bind", "", "where Envoy's administration listens: unix:/full/path or ip:port (default: the socket admin.sock beside the bootstrap)")
	f.BoolVar(&o.adminRemote, "admin-allow-remote", false, "let --admin-bind be an address that other machines reach; Envoy asks nobody who they are")
	f.DurationVar(&o.drainTime, "drain-time", bootstrap.DefaultDrainTime, "how long connections may live on after their access was taken away, in whole seconds")
	f.DurationVar(&o.tokenTTL, "token-ttl", defaultTTL, ttl)
	f.StringVar(&o.tokenFile, "token-file", "", "beside Consul: file with the proxy's own ACL token (CONSUL_HTTP_TOKEN_FILE; or the token itself in CONSUL_HTTP_TOKEN)")
	f.DurationVar(&o.wait, "wait", 0, "how long to wait for a control plane that does not run yet, or does not know the proxy yet")
	c.MarkFlagsOneRequired("sidecar-for", "proxy-id")
	c.MarkFlagsMutuallyExclusive("sidecar-for", "proxy-id")
}

func (o *sidecarOptions) request() (admin.TokenRequest, error) {
	if o.tokenTTL < 0 {
		return admin.TokenRequest{}, fmt.Errorf("--token-ttl %s: a time to live is positive", o.tokenTTL)
	}
	if o.wait < 0 {
		return admin.TokenRequest{}, fmt.Errorf("--wait %s: a time to wait is positive", o.wait)
	}
	return admin.TokenRequest{SidecarFor: o.sidecarFor, ProxyID: o.proxyID, TTL: o.tokenTTL}, nil
}

// How soon a control plane that is waited for is asked again. It is on this machine, so asking costs little.
const askAgain, askAgainMax = 100 * time.Millisecond, time.Second

// token asks the control plane for the proxy's token and, as long as --wait says, again while that may help. waiting is told what is waited for.
func (o *sidecarOptions) token(ctx context.Context, runtimeDir string, r admin.TokenRequest, waiting func(error)) (*admin.Client, admin.TokenResponse, error) {
	end, said := time.Now().Add(o.wait), ""
	for pause := askAgain; ; pause = min(2*pause, askAgainMax) {
		client, err := admin.Find(runtimeDir)
		if err == nil {
			var answer admin.TokenResponse
			if answer, err = client.Token(ctx, r); err == nil {
				return client, answer, nil
			}
		}
		next := time.Now().Add(pause)
		switch {
		case o.wait == 0 || !admin.MayPass(err):
			return nil, admin.TokenResponse{}, err
		case next.After(end):
			return nil, admin.TokenResponse{}, fmt.Errorf("after %s: %w", o.wait, err)
		}
		if text := err.Error(); text != said {
			said = text
			waiting(err)
		}
		if !sleepUntil(ctx, next) {
			return nil, admin.TokenResponse{}, ctx.Err()
		}
	}
}

// complete puts the proxy's own token into r where it has one; the control plane makes it otherwise.
func (o *sidecarOptions) complete(r *admin.TokenResponse) (ownToken, error) {
	if !r.OwnToken {
		if o.tokenFile != "" {
			return ownToken{}, errOwnToken
		}
		return ownToken{}, nil
	}
	own := ownTokenFrom(o.tokenFile, os.Getenv)
	var err error
	r.Token, err = own.current()
	return own, err
}

// params is the bootstrap of the proxy that r describes, for an Envoy that finds its files in dir.
func (o *sidecarOptions) params(r admin.TokenResponse, dir string, envoy bootstrap.Version) (bootstrap.Params, error) {
	domain, err := spiffeid.TrustDomainFromString(r.TrustDomain)
	if err != nil {
		return bootstrap.Params{}, fmt.Errorf("answer of the control plane: trust domain: %w", err)
	}
	p := bootstrap.Params{
		ProxyID: r.ProxyID,
		Identity: identity.Service{
			TrustDomain: domain, Datacenter: r.Datacenter,
			Name: identity.Name{Partition: r.Partition, Namespace: r.Namespace, Service: r.Service},
		},
		XDSSocket:          r.XDSSocket,
		TokenFile:          tokenPath(dir),
		AdminRemote:        o.adminRemote,
		PrometheusBindAddr: r.PrometheusBindAddr,
		EnvoyVersion:       envoy,
		DrainTime:          o.drainTime,
	}
	switch path, isSocket := strings.CutPrefix(o.adminBind, "unix:"); {
	case o.adminBind == "":
		p.AdminSocket = adminPath(dir)
	case isSocket:
		p.AdminSocket = path
	default:
		p.AdminBind = o.adminBind
	}
	return p, nil
}

// useRemote turns p into the bootstrap of an Envoy that reaches the control plane at address.
func useRemote(p *bootstrap.Params, r admin.TokenResponse, address string) error {
	if r.XDSCA == "" || r.XDSURI == "" {
		return errors.New("--xds-address: the control plane has no endpoint for other machines (give `sallyport serve` an --xds-address)")
	}
	p.XDSSocket, p.XDSAddress, p.XDSCA, p.XDSURI = "", address, r.XDSCA, r.XDSURI
	return nil
}
