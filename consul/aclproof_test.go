package consul

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/identity"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// TestProofOfNewACLs: that ACLs were off, so that everybody might, is no proof of who asks once they are on.
func TestProofOfNewACLs(t *testing.T) {
	bubble(t, nil, func(t *testing.T, f *fake, a *Agent) {
		f.mesh()
		l := &acls{off: true, rights: map[string]string{"web-token": "web"}}
		f.hook("/v1/internal/acl/authorize", l.serve)
		running(t, a)
		after(10 * time.Second)
		web := identity.NewName("web")
		for _, token := range []string{"", "bogus"} {
			if err := a.MayWrite(t.Context(), token, web, true); status.Code(err) != codes.PermissionDenied || !strings.Contains(err.Error(), "sallyport_selectors") {
				t.Errorf("ACLs are off, token %q: %v", token, err)
			}
		}
		f.kill()
		after(500 * time.Millisecond)
		l.mu.Lock()
		l.off = false
		l.mu.Unlock()
		f.revive()
		after(3 * time.Second)                                                   // less than a verdict lasts
		_ = a.MayWrite(t.Context(), "web-token", identity.NewName("api"), false) // notices
		if err := a.MayWrite(t.Context(), "bogus", web, true); err == nil {
			t.Error("a token that Consul does not know is a proof")
		}
		after(6 * time.Second)
		if err := a.MayWrite(t.Context(), "web-token", web, true); err != nil {
			t.Error(err)
		}
		if err := a.MayWrite(t.Context(), "bogus", web, true); status.Code(err) != codes.Unauthenticated {
			t.Errorf("ACLs are on: %v", err)
		}
	})
}

// TestVerdictsAreBounded where ACLs are off, and so for all tokens that somebody invents.
func TestVerdictsAreBounded(t *testing.T) {
	bubble(t, nil, func(t *testing.T, f *fake, a *Agent) {
		f.mesh()
		l := &acls{off: true}
		f.hook("/v1/internal/acl/authorize", l.serve)
		running(t, a)
		after(10 * time.Second)
		ask := func(token string) {
			if err := a.MayWrite(t.Context(), token, identity.NewName("web"), false); err != nil {
				t.Fatal(err)
			}
		}
		ask("first")
		began := time.Now()
		for i := range 2 * mostACLEntries {
			ask(fmt.Sprint("invented-", i))
		}
		if n := len(a.acl.by); n > mostACLEntries {
			t.Errorf("%d verdicts are kept after %v, %d at most", n, time.Since(began), mostACLEntries)
		}
		f.kill()
		after(500 * time.Millisecond)
		ask("first")
	})
}
