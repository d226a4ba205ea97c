package consul

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sallyport/sallyport/identity"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

// acls answer /v1/internal/acl/authorize as an agent with ACLs does. rights are services by token.
type acls struct {
	mu     sync.Mutex
	rights map[string]string
	off    bool
	asked  int
}

func (l *acls) set(token, services string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if services == "" {
		delete(l.rights, token)
		return
	}
	l.rights[token] = services
}

func (l *acls) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.asked
}

func (l *acls) serve(w http.ResponseWriter, r *http.Request) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if token := r.Header.Get("X-Consul-Token"); token != "" && token != anonymous { // what everybody may is asked now and then
		l.asked++
	}
	if l.off {
		w.WriteHeader(http.StatusUnauthorized)
		_, _ = io.WriteString(w, "ACL support disabled")
		return true
	}
	services, ok := l.rights[r.Header.Get("X-Consul-Token")]
	if !ok {
		w.WriteHeader(http.StatusForbidden)
		_, _ = io.WriteString(w, "ACL not found")
		return true
	}
	var list []map[string]any
	if err := json.NewDecoder(r.Body).Decode(&list); err != nil || r.Method != http.MethodPost {
		w.WriteHeader(http.StatusBadRequest)
		return true
	}
	for _, q := range list {
		q["Allow"] = q["Resource"] == "service" && q["Access"] == "write" && strings.Contains(services, fmt.Sprint(q["Segment"]))
	}
	b, _ := json.Marshal(list)
	_, _ = w.Write(b)
	return true
}

func incoming() context.Context {
	return peer.NewContext(context.Background(), &peer.Peer{Addr: &net.UnixAddr{Name: "xds.sock"}})
}

// stream and call are what the gRPC server asks about a stream and a call with the token.
func stream(a *Agent, token, id string) (identity.Caller, error) {
	return a.Stream(incoming(), token, identity.ProxyID(id))
}

func call(a *Agent, token, proxy, service string) (identity.Caller, error) {
	return a.Call(incoming(), token, identity.ProxyID(proxy), identity.NewName(service))
}

func TestAuthorize(t *testing.T) {
	for name, c := range map[string]struct {
		token   string
		proxy   string // of a call: empty, it is not named
		service string // empty: it is a stream
		off     bool
		code    codes.Code
		text    string
	}{
		"its own":             {token: "web-token", proxy: "web-sidecar-proxy"},
		"another's":           {token: "api-token", proxy: "web-sidecar-proxy", code: codes.PermissionDenied, text: `no service:write on "web"`},
		"nobody's":            {token: "old-token", proxy: "web-sidecar-proxy", code: codes.Unauthenticated, text: "ACL not found"},
		"none":                {proxy: "web-sidecar-proxy", code: codes.PermissionDenied, text: `no service:write on "web"`},
		"none, ACLs off":      {proxy: "web-sidecar-proxy", off: true},
		"any, ACLs off":       {token: "x", proxy: "web-sidecar-proxy", off: true},
		"a header of its own": {token: "a\r\nX-Consul-Token: root", proxy: "web-sidecar-proxy", code: codes.Unauthenticated, text: "none of Consul's"},
		"a space":             {token: " web-token", proxy: "web-sidecar-proxy", code: codes.Unauthenticated, text: "none of Consul's"},
		"no such proxy":       {token: "web-token", proxy: "web", code: codes.NotFound, text: `no connect-proxy with the ID "web"`},
		"a gateway":           {token: "root-token", proxy: "gw", code: codes.NotFound},
		"no node.id":          {token: "web-token", code: codes.NotFound},

		"call":                      {token: "api-token", proxy: "api-1-sidecar-proxy", service: "api"},
		"call of another's":         {token: "web-token", proxy: "api-1-sidecar-proxy", service: "api", code: codes.PermissionDenied},
		"call of a wrong service":   {token: "root-token", proxy: "api-1-sidecar-proxy", service: "web", code: codes.NotFound, text: `of the service "web"`},
		"call of no such proxy":     {token: "root-token", proxy: "api", service: "api", code: codes.NotFound},
		"call of nobody":            {token: "api-token", service: "api"},
		"call of nobody, another's": {token: "api-token", service: "web", code: codes.PermissionDenied},
		"call of nobody, nobody's":  {token: "api-token", service: "db", code: codes.NotFound},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, nil, func(t *testing.T, f *fake, a *Agent) {
				f.mesh()
				l := &acls{rights: map[string]string{"web-token": "web", "api-token": "api", "anonymous": "nothing", "root-token": "web api gw"}, off: c.off}
				f.hook("/v1/internal/acl/authorize", l.serve)
				running(t, a)
				after(time.Second)
				caller, err := stream(a, c.token, c.proxy)
				want := identity.Caller{Proxy: identity.ProxyID(c.proxy), Token: c.token}
				if c.service != "" {
					caller, err = call(a, c.token, c.proxy, c.service)
					want.Service = identity.NewName(c.service)
				}
				if err == nil && caller != want {
					t.Errorf("caller %q, want %q", caller, want)
				}
				if status.Code(err) != c.code || c.text != "" && !strings.Contains(err.Error(), c.text) {
					t.Errorf("error %v, want %s with %q", err, c.code, c.text)
				}
				if err != nil && c.token != "" && strings.Contains(err.Error(), c.token) {
					t.Errorf("the token is in %v", err)
				}
				for _, r := range f.of("/v1/internal/acl/authorize") {
					if r.token == "own-token" || r.token == "" {
						t.Errorf("asked with the token %q", r.token)
					}
				}
			})
		})
	}
}

func TestAuthorizeAgain(t *testing.T) {
	bubble(t, nil, func(t *testing.T, f *fake, a *Agent) {
		f.mesh()
		l := &acls{rights: map[string]string{"web-token": "web", "api-token": "api"}}
		f.hook("/v1/internal/acl/authorize", l.serve)
		running(t, a)
		if _, err := stream(a, "web-token", "web-sidecar-proxy"); status.Code(err) != codes.Unavailable {
			t.Errorf("before the agent has answered: %v", err)
		}
		after(time.Second)
		web := func() error {
			_, err := stream(a, "web-token", "web-sidecar-proxy")
			return err
		}
		api := func() error {
			_, err := call(a, "api-token", "api-1-sidecar-proxy", "api")
			return err
		}
		// Many ask, and the agent is asked once.
		var all sync.WaitGroup
		for range 50 {
			all.Go(func() {
				if err := web(); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		if l.count() != 1 {
			t.Errorf("the agent was asked %d times", l.count())
		}
		for range 50 {
			if err := api(); err != nil {
				t.Error(err)
			}
			after(time.Second)
		}
		if l.count() != 2 {
			t.Errorf("the agent was asked %d times for one minute of calls", l.count())
		}
		// A token that is deleted is noticed within seconds where streams are authorized again, and others are not touched.
		if err := web(); err != nil {
			t.Fatal(err)
		}
		l.set("web-token", "")
		after(6 * time.Second)
		if err := web(); status.Code(err) != codes.Unauthenticated {
			t.Errorf("after the token was deleted: %v", err)
		}
		if err := api(); err != nil {
			t.Errorf("the other one: %v", err)
		}
		// One that loses its right is noticed too; ext_authz takes up to a minute alone.
		l.set("api-token", "nothing")
		after(61 * time.Second)
		if err := api(); status.Code(err) != codes.PermissionDenied {
			t.Errorf("after the right was lost: %v", err)
		}
		// A right that is given is noticed as soon.
		l.set("web-token", "web")
		after(6 * time.Second)
		if err := web(); err != nil {
			t.Errorf("after the token is back: %v", err)
		}
		// As long as the agent is away the last verdict holds, whatever it was, and nobody waits.
		f.kill()
		after(10 * time.Minute)
		before := time.Now()
		if err := web(); err != nil {
			t.Errorf("while the agent is away: %v", err)
		}
		if err := api(); status.Code(err) != codes.PermissionDenied {
			t.Errorf("while the agent is away: %v", err)
		}
		if d := time.Since(before); d > 0 {
			t.Errorf("it took %s", d)
		}
		if _, err := stream(a, "new-token", "web-sidecar-proxy"); status.Code(err) != codes.Unavailable {
			t.Errorf("a new token while the agent is away: %v", err)
		}
	})
}

// Where ACLs are off one answer is for all, for a few seconds; and not if the agent was away since: it may have been started anew, with ACLs.
func TestAuthorizeWithoutACLs(t *testing.T) {
	bubble(t, nil, func(t *testing.T, f *fake, a *Agent) {
		f.mesh()
		l := &acls{off: true, rights: map[string]string{"web-token": "web"}}
		f.hook("/v1/internal/acl/authorize", l.serve)
		running(t, a)
		after(10 * time.Second) // it has been asked what everybody may
		ask := func(token string) error {
			_, err := stream(a, token, "web-sidecar-proxy")
			return err
		}
		for range 2 {
			before := l.count()
			var all sync.WaitGroup
			for i := range 50 {
				all.Go(func() {
					if err := ask(fmt.Sprintf("token-%d", i)); err != nil {
						t.Error(err)
					}
				})
			}
			all.Wait()
			if n := l.count() - before; n != 1 {
				t.Errorf("the agent was asked %d times", n)
			}
			after(6 * time.Second)
		}
		if err := ask("web-token"); err != nil {
			t.Error(err)
		}
		f.kill()
		after(500 * time.Millisecond)
		if err := ask("token-1"); err != nil {
			t.Errorf("while the agent is away: %v", err)
		}
		if err := ask("new-token"); status.Code(err) != codes.Unavailable {
			t.Errorf("a new one while the agent is away: %v", err)
		}
		l.mu.Lock()
		l.off = false
		l.mu.Unlock()
		f.revive()
		after(3 * time.Second) // less than a verdict lasts
		if err := ask("another"); status.Code(err) != codes.Unauthenticated {
			t.Errorf("with ACLs: %v", err)
		}
		if err := ask("web-token"); err != nil {
			t.Errorf("with ACLs: %v", err)
		}
		after(3 * time.Second)
		if err := ask("token-1"); status.Code(err) != codes.Unauthenticated {
			t.Errorf("with ACLs, after its verdict: %v", err)
		}
	})
}

// An agent that hangs, fails or talks nonsense does not change what is known, and does not let a new one in.
func TestAuthorizeTrouble(t *testing.T) {
	for name, hook := range map[string]func(http.ResponseWriter, *http.Request) bool{
		"hangs": func(_ http.ResponseWriter, r *http.Request) bool {
			_, _ = io.Copy(io.Discard, r.Body) // as long as it is not read the server does not notice that the client is gone
			<-r.Context().Done()
			return true
		},
		"500":      func(w http.ResponseWriter, _ *http.Request) bool { w.WriteHeader(500); return true },
		"401":      func(w http.ResponseWriter, _ *http.Request) bool { w.WriteHeader(401); return true },
		"null":     func(w http.ResponseWriter, _ *http.Request) bool { _, _ = io.WriteString(w, "null"); return true },
		"nonsense": func(w http.ResponseWriter, _ *http.Request) bool { _, _ = io.WriteString(w, "<html>"); return true },
		"of another": func(w http.ResponseWriter, _ *http.Request) bool {
			_, _ = io.WriteString(w, `[{"Resource":"service","Segment":"db","Access":"write","Allow":true}]`)
			return true
		},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, nil, func(t *testing.T, f *fake, a *Agent) {
				f.mesh()
				l := &acls{rights: map[string]string{"web-token": "web"}}
				f.hook("/v1/internal/acl/authorize", l.serve)
				running(t, a)
				after(time.Second)
				ask := func(token string) error {
					_, err := stream(a, token, "web-sidecar-proxy")
					return err
				}
				if err := ask("web-token"); err != nil {
					t.Fatal(err)
				}
				f.hook("/v1/internal/acl/authorize", hook)
				after(10 * time.Second)
				before := time.Now()
				if err := ask("web-token"); err != nil {
					t.Errorf("known: %v", err)
				}
				if err := ask("new-token"); status.Code(err) != codes.Unavailable {
					t.Errorf("new: %v", err)
				}
				if d := time.Since(before); d > 5*time.Second {
					t.Errorf("it took %s", d)
				}
			})
		})
	}
}

// Where ACLs are off no token says who calls: from another machine nobody is let in, unless that is wanted.
func TestAuthorizeRemoteWithoutACLs(t *testing.T) {
	for name, c := range map[string]struct {
		addr    net.Addr
		acls    bool
		allowed bool   // by the configuration
		open    bool   // everybody may write web
		token   string // empty: web's, "-": none
		want    codes.Code
	}{
		"this machine":          {addr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 5}, want: codes.OK},
		"this machine, IPv6":    {addr: &net.TCPAddr{IP: net.IPv6loopback, Port: 5}, want: codes.OK},
		"another one":           {addr: &net.TCPAddr{IP: net.IPv4(10, 0, 0, 9), Port: 5}, want: codes.PermissionDenied},
		"another one, allowed":  {addr: &net.TCPAddr{IP: net.IPv4(10, 0, 0, 9), Port: 5}, allowed: true, want: codes.OK},
		"another one with ACLs": {addr: &net.TCPAddr{IP: net.IPv4(10, 0, 0, 9), Port: 5}, acls: true, want: codes.OK},
		"nobody knows":          {want: codes.PermissionDenied},
		// With default_policy "allow" Consul lets everybody do everything.
		"this machine, no token":             {addr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 5}, acls: true, open: true, token: "-", want: codes.OK},
		"another one, no token":              {addr: &net.TCPAddr{IP: net.IPv4(10, 0, 0, 9), Port: 5}, acls: true, open: true, token: "-", want: codes.PermissionDenied},
		"another one, the anonymous token":   {addr: &net.TCPAddr{IP: net.IPv4(10, 0, 0, 9), Port: 5}, acls: true, open: true, token: "anonymous", want: codes.PermissionDenied},
		"another one, a token of its own":    {addr: &net.TCPAddr{IP: net.IPv4(10, 0, 0, 9), Port: 5}, acls: true, open: true, want: codes.OK},
		"another one, no token, but allowed": {addr: &net.TCPAddr{IP: net.IPv4(10, 0, 0, 9), Port: 5}, acls: true, open: true, token: "-", allowed: true, want: codes.OK},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(cfg *Config) { cfg.RemoteWithoutACLs = c.allowed }, func(t *testing.T, f *fake, a *Agent) {
				f.mesh()
				l := &acls{rights: map[string]string{"web-token": "web"}, off: !c.acls}
				token := strings.TrimPrefix(cmp.Or(c.token, "web-token"), "-")
				if c.open {
					l.rights[""], l.rights["anonymous"] = "web", "web"
				}
				f.hook("/v1/internal/acl/authorize", l.serve)
				running(t, a)
				after(3 * time.Second)
				ctx := peer.NewContext(t.Context(), &peer.Peer{Addr: c.addr})
				_, err := a.Stream(ctx, token, "web-sidecar-proxy")
				if status.Code(err) != c.want {
					t.Errorf("Stream = %v, want %s", err, c.want)
				}
				if said := strings.Contains(problems(a), "the anonymous token has service:write on web"); said != c.open {
					t.Errorf("problems: %s", problems(a))
				}
				if said := strings.Contains(problems(a), "ACLs: they are off"); said == c.acls {
					t.Errorf("problems: %s", problems(a))
				}
			})
		})
	}
}
