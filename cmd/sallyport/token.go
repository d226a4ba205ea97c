package main

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"

	"github.com/sallyport/sallyport/admin"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/internal/admission"
	"github.com/sallyport/sallyport/token"
	"github.com/spf13/cobra"
)

func newTokenCommand(o *clientOptions) *cobra.Command {
	group := &cobra.Command{Use: "token", Short: "Tokens of proxies and applications", Args: subcommand, RunE: help}
	var proxy, applications string
	var asJSON bool
	revoke := &cobra.Command{
		Use:   "revoke {TOKEN-ID | --proxy PROXY | --applications SERVICE}",
		Short: "Have a token, or all of a proxy or of a service's applications, be taken no more",
		Long: `Revoke takes a token out of use at once and over restarts, as when somebody else may have it: streams that it opened end within a second,
and it opens no new ones. Its ID is in "sallyport status PROXY --json", and in the log line "token issued". With --proxy (a service, an
instance or the ID of a proxy) it is every token of the proxy that was made until now.

A sidecar under "sallyport envoy" gets a new token by itself, so nothing else need be done for it; for an Envoy that somebody else starts
run "sallyport bootstrap" again. Who is to get no new one either is taken out of the catalog.

With --applications it is every token that "sallyport token create" made for the service until now.`,
		Example: `  sallyport token revoke HD6MIW64VAWHKPUFYPYU7BZFJF
  sallyport token revoke --proxy web
  sallyport token revoke --applications api`,
		Args: between(0, "TOKEN-ID"),
		RunE: func(c *cobra.Command, args []string) error {
			r := admin.RevokeRequest{Proxy: proxy, Applications: applications}
			if len(args) == 1 {
				r.TokenID = tokenID(args[0])
			}
			if !oneOf(r.TokenID, r.Proxy, r.Applications) {
				return fmt.Errorf("%s takes the ID of a token, or --proxy for all of a proxy, or --applications for all of a service's: see `%s --help`", c.CommandPath(), c.CommandPath())
			}
			client, err := o.find()
			if err != nil {
				return err
			}
			done, err := client.Revoke(c.Context(), r)
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(c, done)
			}
			what := "the token " + done.TokenID
			switch {
			case r.Applications != "":
				_, err := fmt.Fprintf(c.OutOrStdout(), "revoked all tokens of applications of %s\n", done.Applications)
				return err
			case r.Proxy != "":
				what = "all tokens of " + done.ProxyID
			}
			if done.Unknown {
				return fmt.Errorf("the catalog has no proxy %q, whose tokens are revoked all the same: is that its ID? `sallyport status` lists them", done.ProxyID)
			}
			_, err = fmt.Fprintf(c.OutOrStdout(), "revoked %s; %s ended\n", what, count(done.Streams, "stream"))
			return err
		},
	}
	revoke.Flags().StringVar(&proxy, "proxy", "", "revoke all tokens of this proxy")
	revoke.Flags().StringVar(&applications, "applications", "", "revoke all tokens of applications of this service")
	revoke.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	_ = revoke.RegisterFlagCompletionFunc("proxy", completing(o, 1, proxyNames))
	group.AddCommand(newTokenCreateCommand(o), revoke)
	return group
}

// oneOf reports whether exactly one of the texts is not empty.
func oneOf(texts ...string) bool {
	n := 0
	for _, t := range texts {
		if t != "" {
			n++
		}
	}
	return n == 1
}

// tokenID is the ID that was given, or that of the token that was given in its place.
func tokenID(arg string) string {
	parts := strings.Split(arg, ".")
	if len(parts) != 3 {
		return arg
	}
	var claims struct {
		ID string `json:"jti"`
	}
	b, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil || json.Unmarshal(b, &claims) != nil {
		return arg
	}
	return claims.ID
}

// gates are those of the listeners for Envoys.
type gates struct {
	mu  sync.Mutex
	all []*admission.Gate
}

func (g *gates) add(gate *admission.Gate) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.all = append(g.all, gate)
}

// rejudge ends the streams whose tokens are not good any more, and returns how many those were.
func (g *gates) rejudge() (ended int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, gate := range g.all {
		ended += gate.Rejudge()
	}
	return ended
}

// revoke has tokens be taken no more. Who may have the tokens of a proxy may revoke them; a single
// one does not say whose it is.
func (p *controlPlane) revoke(peer admin.Peer, r admin.RevokeRequest) (out admin.RevokeResponse, err error) {
	issuer := p.callers.issuer
	switch {
	case !oneOf(r.TokenID, r.Proxy, r.Applications):
		return out, errors.New("exactly one of a token's ID, a proxy and a service says what to revoke")
	case issuer == nil:
		return out, errors.New("beside Consul, tokens are Consul's: `consul acl token delete` revokes one")
	}
	plane := peer.UID == 0 || peer.UID == os.Geteuid()
	if r.Applications != "" {
		if !plane {
			return out, fmt.Errorf("revoking tokens of applications: %w to uid %d, but to root and uid %d", admin.ErrForbidden, peer.UID, os.Geteuid())
		}
		out.Applications = r.Applications
		return out, issuer.RevokeApplications(token.Application{Service: identity.NewName(r.Applications)})
	}
	if r.TokenID != "" {
		if !plane {
			return out, fmt.Errorf("revoking a token by its ID: %w to uid %d, but to root and uid %d: revoke all of the proxy with --proxy", admin.ErrForbidden, peer.UID, os.Geteuid())
		}
		out.TokenID = r.TokenID
		err = issuer.Revoke(r.TokenID)
		out.Streams = p.gates.rejudge()
		return out, err
	}
	out.ProxyID, out.Unknown = r.Proxy, true
	if v, ok := p.store.Views.Load(); ok {
		switch found := matching(v.Proxies(), r.Proxy, namedProxy); {
		case len(found) > 1:
			return out, fmt.Errorf("%q has %s: choose one by its ID: %s", r.Proxy, count(len(found), "proxy"), candidates(found, namedProxy))
		case len(found) == 1:
			out.ProxyID, out.Unknown = string(found[0].ID), false
			plane = plane || mayRun(peer, found[0])
		}
	}
	if !plane {
		return out, fmt.Errorf("revoking the tokens of %s: %w to uid %d, but to root, uid %d and the proxy's sallyport_uid", out.ProxyID, admin.ErrForbidden, peer.UID, os.Geteuid())
	}
	err = issuer.RevokeAll(identity.ProxyID(out.ProxyID))
	out.Streams = p.gates.rejudge()
	return out, err
}
