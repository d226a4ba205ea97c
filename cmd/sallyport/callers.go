package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/sallyport/sallyport/admin"
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/token"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

// recheckInterval is how often a stream's ACL token is looked at again. With the half minute for
// which agents remember tokens, one that was deleted loses its streams within a minute.
const recheckInterval = 20 * time.Second

// callers is who knows the callers of streams and calls: by tokens that the control plane issues,
// or by Consul's ACL tokens.
type callers struct {
	token.Authorizer
	// recheck is how often the streams' callers are authorized again; 0: only when a stream opens.
	recheck time.Duration
	// issuer makes the proxies' tokens; nil: they bring tokens of their own.
	issuer *token.Issuer
	// withoutACLs, of such proxies, reports whether they need none.
	withoutACLs func() bool
}

func (p *controlPlane) openTokens() error {
	td, _ := p.authority.trustDomain()
	path := filepath.Join(p.cfg.Data, "token.key")
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) && hadCA(p.cfg.Data) != nil {
		p.log.Warn("token key is missing, a new one is made: every proxy needs a new token", "file", path)
	}
	issuer, err := token.Open(token.Config{
		File: path, Keys: p.keys, TrustDomain: td, RevokedFile: filepath.Join(p.cfg.Data, "revoked-tokens.json"),
	})
	if err != nil {
		return err
	}
	p.callers = callers{Authorizer: token.Authorizer{Authority: issuer}, issuer: issuer}
	return nil
}

// proxyOf finds the proxy that a request for a token names.
func proxyOf(v *catalog.View, r admin.TokenRequest) (*catalog.Proxy, error) {
	switch {
	case (r.SidecarFor == "") == (r.ProxyID == ""):
		return nil, errors.New("exactly one of --sidecar-for and --proxy-id says which proxy")
	case r.ProxyID != "":
		if w := v.Proxy(identity.ProxyID(r.ProxyID)); w != nil {
			return w.Proxy, nil
		}
		return nil, fmt.Errorf("proxy %q: %w in the catalog%s", r.ProxyID, admin.ErrUnknown, nearest(v.Proxies(), r.ProxyID, namedProxy))
	}
	found := matching(v.Proxies(), r.SidecarFor, namedProxy)
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		if v.Service(identity.NewName(r.SidecarFor)) != nil {
			return nil, fmt.Errorf("a sidecar for the service %q: %w in the catalog, where the service has none: add `connect { sidecar_service {} }` to its definition", r.SidecarFor, admin.ErrUnknown)
		}
		return nil, fmt.Errorf("a sidecar for the service instance %q: %w in the catalog%s", r.SidecarFor, admin.ErrUnknown, nearest(v.Proxies(), r.SidecarFor, namedProxy))
	default:
		return nil, fmt.Errorf("%q has %s: choose one with --proxy-id: %s", r.SidecarFor, count(len(found), "proxy"), candidates(found, namedProxy))
	}
}

// listenersOf are what the Envoy of a proxy binds.
func listenersOf(pr *catalog.Proxy) []admin.Listener {
	port := func(n uint16) string { return strconv.Itoa(int(n)) }
	var out []admin.Listener
	if pr.Inbound.Closed == "" {
		out = append(out, admin.Listener{Name: "public_listener", Address: net.JoinHostPort(pr.Inbound.Address, port(pr.Inbound.Port)), Origin: pr.Origin})
	}
	for _, u := range pr.Upstreams {
		l := admin.Listener{Name: "upstream " + u.Name(), Socket: u.BindSocket, Origin: u.Origin}
		if u.BindSocket == "" {
			l.Address = net.JoinHostPort(u.BindAddress, port(u.BindPort))
		}
		out = append(out, l)
	}
	for _, e := range pr.Exposed {
		out = append(out, admin.Listener{Name: "exposed path " + e.Path, Address: net.JoinHostPort(pr.Inbound.Address, port(e.ListenerPort)), Origin: e.Origin})
	}
	return out
}

// mayRun reports whether the sidecar of a proxy may be run by the user of a process.
func mayRun(who admin.Peer, pr *catalog.Proxy) bool {
	return who.UID == 0 || who.UID == os.Geteuid() || who.UID == pr.Bootstrap.UID
}

func (p *controlPlane) token(who admin.Peer, r admin.TokenRequest) (admin.TokenResponse, error) {
	v, ok := p.store.Views.Load()
	if !ok {
		return admin.TokenResponse{}, fmt.Errorf("%w: the catalog has not been read: %s", admin.ErrNotYet, strings.Join(p.notReady(), "; "))
	}
	pr, err := proxyOf(v, r)
	if err != nil {
		return admin.TokenResponse{}, err
	}
	if !mayRun(who, pr) {
		return admin.TokenResponse{}, fmt.Errorf("the token of %s: %w to uid %d, but to root, uid %d and the proxy's sallyport_uid (%s)", pr.ID, admin.ErrForbidden, who.UID, os.Geteuid(), pr.Origin)
	}
	if pr.Refused != "" {
		return admin.TokenResponse{}, fmt.Errorf("%w: %s: %s (%s)", admin.ErrNotYet, pr.ID, pr.Refused, pr.Origin)
	}
	ttl := cmp.Or(r.TTL, p.cfg.TokenTTL)
	if ttl < 0 || ttl > token.MaxLife {
		return admin.TokenResponse{}, fmt.Errorf("a token's life of %v is not between 0 and %v", ttl, token.MaxLife)
	}
	out := admin.TokenResponse{
		ProxyID: string(pr.ID), Service: pr.Service.Service, Namespace: pr.Service.Namespace, Partition: pr.Service.Partition,
		Datacenter: v.Mesh().Datacenter, TrustDomain: v.Mesh().TrustDomain.Name(), Origin: pr.Origin,
		XDSSocket: admin.XDSSocket(p.cfg.RuntimeDir), PrometheusBindAddr: pr.Bootstrap.PrometheusBindAddr, Listeners: listenersOf(pr),
	}
	if tags := pr.Bootstrap.StatsTags; tags != "" {
		out.StatsTags = strings.Split(tags, "\n")
	}
	if e, ok := p.remote.Load(); !ok && p.cfg.XDSAddress != "" {
		return admin.TokenResponse{}, fmt.Errorf("%w: the endpoint at %s has no certificate", admin.ErrNotYet, p.cfg.XDSAddress)
	} else if ok {
		out.XDSAddress, out.XDSCA, out.XDSURI = p.cfg.XDSAddress, string(e.RootsPEM()), e.URI()
	}
	if p.callers.issuer == nil {
		out.OwnToken, out.ACLsOff = true, p.callers.withoutACLs()
		return out, nil
	}
	m, err := p.callers.issuer.Mint(token.Subject{Proxy: pr.ID, Service: pr.Service, UID: pr.Bootstrap.UID}, ttl)
	out.Token, out.TokenID, out.Expires = m.Text, m.ID, m.Expires
	return out, err
}

// judge says whether a stream of the proxy would be let in with a token of its own.
func (p *controlPlane) judge(ctx context.Context, who admin.Peer, r admin.JudgeRequest) error {
	v, ok := p.store.Views.Load()
	if !ok {
		return fmt.Errorf("%w: the catalog has not been read", admin.ErrNotYet)
	}
	pr, err := proxyOf(v, admin.TokenRequest{ProxyID: r.ProxyID})
	if err != nil {
		return err
	}
	if !mayRun(who, pr) { // it would be an oracle for tokens
		return fmt.Errorf("judging tokens of %s: %w to uid %d", pr.ID, admin.ErrForbidden, who.UID)
	}
	if !r.Remote {
		ctx = peer.NewContext(ctx, &peer.Peer{Addr: &net.UnixAddr{Net: "unix"}})
	}
	_, err = p.callers.Authority.Stream(ctx, r.Token, pr.ID)
	switch refused := status.Convert(err); refused.Code() {
	case codes.OK:
		return nil
	case codes.Unauthenticated, codes.PermissionDenied:
		return fmt.Errorf("the token of %s: %w: %s", pr.ID, admin.ErrForbidden, refused.Message())
	default:
		return fmt.Errorf("the token of %s: %w: %s", pr.ID, admin.ErrNotYet, refused.Message())
	}
}
