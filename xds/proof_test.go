package xds

import (
	"context"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/identity"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// TestBoundToken: a stream whose token was made for what the proxy was before ends before anything of
// what it is now is sent.
func TestBoundToken(t *testing.T) {
	redefine := func(m *mesh, change func(*catalog.Proxy)) {
		m.contents.Proxies = slices.Clone(m.contents.Proxies)
		change(&m.contents.Proxies[0])
		m.publish()
	}
	for name, change := range map[string]func(*catalog.Proxy){
		"another service": func(p *catalog.Proxy) { p.Service = identity.NewName("api") },
		"another user":    func(p *catalog.Proxy) { p.Bootstrap.UID = 1001 },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				proof := identity.Proof{ID: "ABC", Expires: time.Now().Add(time.Hour).Unix(), Service: identity.NewName("web")}
				cfg := patient()
				cfg.Authorize = func(ctx context.Context, node identity.ProxyID) (identity.Caller, error) {
					c, err := byMetadata{}.Stream(ctx, node)
					c.Proof = proof
					return c, err
				}
				m := start(t, cfg)
				twoServices(m)
				held := m.stream("web")
				held.configure()
				s, _ := m.server.Proxy(proxyID("web"))
				if got := s.Streams[0].Token; got == nil || got.ID != "ABC" || got.Unbound || !got.Expires.Equal(time.Unix(proof.Expires, 0)) || len(s.Warnings) > 0 {
					t.Errorf("the status of its token is %+v, warnings %q", got, s.Warnings)
				}
				redefine(m, change)
				time.Sleep(time.Second)
				refused(t, held)
				fresh := m.stream("web")
				fresh.subscribe(secrets, "leaf/web", "leaf/api")
				refused(t, fresh)
				if s, _ := m.server.Proxy(proxyID("web")); s.LastRejection == nil || !strings.Contains(s.LastRejection.Reason, "the token was made when") {
					t.Errorf("the status says %+v", s.LastRejection)
				}
				// With a token of what it is now, and with one of a release before.
				p := m.contents.Proxies[0]
				for _, unbound := range []bool{false, true} {
					if proof = (identity.Proof{ID: "DEF", Expires: proof.Expires}); !unbound {
						proof.Service, proof.UID = p.Service, p.Bootstrap.UID
					}
					c := m.stream("web")
					c.subscribe(secrets, "roots")
					c.accept("secret roots")
					s, _ := m.server.Proxy(proxyID("web"))
					if got := s.Streams[0].Token; got == nil || got.Unbound != unbound || unbound != strings.Contains(strings.Join(s.Warnings, " "), "bound it to neither") {
						t.Errorf("the status of its token is %+v, warnings %q", got, s.Warnings)
					}
					c.s.Close()
					synctest.Wait()
				}
			})
		})
	}
}

// refused is that a stream ends before anything is sent.
func refused(t *testing.T, c *talk) {
	t.Helper()
	synctest.Wait()
	r, err := c.s.Next(time.Nanosecond)
	if status.Code(err) != codes.PermissionDenied {
		t.Errorf("got %q, %v; want the stream refused", describe(r), err)
	}
}
