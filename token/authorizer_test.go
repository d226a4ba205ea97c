package token_test

import (
	"crypto/ed25519"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/token"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

func TestStream(t *testing.T) {
	i, _ := open(t)
	web, db := mint(t, i, "web", time.Hour), mint(t, i, "db", time.Hour)
	tests := map[string]struct {
		headers []string
		named   []string // in the metadata
		node    identity.ProxyID
		code    codes.Code
	}{
		"no node":              {headers: []string{"Bearer " + web}}, // for the xDS server to refuse
		"node that agrees":     {headers: []string{"Bearer " + web}, node: "web"},
		"named too":            {headers: []string{"Bearer " + web}, node: "web", named: []string{"web"}},
		"named otherwise":      {headers: []string{"Bearer " + web}, node: "web", named: []string{"db"}, code: codes.PermissionDenied},
		"named twice":          {headers: []string{"Bearer " + web}, node: "web", named: []string{"web", "web"}, code: codes.Unauthenticated},
		"lower case":           {headers: []string{"bearer " + web}},
		"upper case":           {headers: []string{"BEARER " + web}},
		"node of another":      {headers: []string{"Bearer " + web}, node: "db", code: codes.PermissionDenied},
		"node in other case":   {headers: []string{"Bearer " + web}, node: "Web", code: codes.PermissionDenied},
		"node with a space":    {headers: []string{"Bearer " + web}, node: "web ", code: codes.PermissionDenied},
		"node that is long":    {headers: []string{"Bearer " + web}, node: identity.ProxyID(strings.Repeat("x", 1<<20)), code: codes.PermissionDenied},
		"no header":            {code: codes.Unauthenticated},
		"empty header":         {headers: []string{""}, code: codes.Unauthenticated},
		"two headers":          {headers: []string{"Bearer " + web, "Bearer " + web}, code: codes.Unauthenticated},
		"two proxies":          {headers: []string{"Bearer " + web, "Bearer " + db}, code: codes.Unauthenticated},
		"two in one":           {headers: []string{"Bearer " + web + ", Bearer " + db}, code: codes.Unauthenticated},
		"scheme alone":         {headers: []string{"Bearer"}, code: codes.Unauthenticated},
		"scheme and a space":   {headers: []string{"Bearer "}, code: codes.Unauthenticated},
		"no scheme":            {headers: []string{web}, code: codes.Unauthenticated},
		"another scheme":       {headers: []string{"Basic " + web}, code: codes.Unauthenticated},
		"two spaces":           {headers: []string{"Bearer  " + web}, code: codes.Unauthenticated},
		"tab":                  {headers: []string{"Bearer\t" + web}, code: codes.Unauthenticated},
		"cut":                  {headers: []string{"Bearer " + web[:len(web)-1]}, code: codes.Unauthenticated},
		"not a token":          {headers: []string{"Bearer secretsecretsecret"}, code: codes.Unauthenticated},
		"foreign and its node": {headers: []string{"Bearer " + db}, node: "web", code: codes.PermissionDenied},
		"very long":            {headers: []string{"Bearer " + strings.Repeat("x", 9<<10)}, code: codes.Unauthenticated},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			ctx := metadata.NewIncomingContext(t.Context(), metadata.MD{"authorization": test.headers, identity.ProxyHeader: test.named})
			caller, err := token.Authorizer{Authority: i}.Stream(ctx, test.node)
			if status.Code(err) != test.code {
				t.Fatalf("Stream: %v, want %s", err, test.code)
			}
			if err == nil && (caller.Proxy != "web" || caller.Service != (identity.Name{}) || caller.Token != "" || !caller.Proof.Bound()) {
				t.Errorf("Stream = %#v", caller)
			}
			if err != nil {
				if caller != (identity.Caller{}) {
					t.Errorf("Stream = %#v and %v", caller, err)
				}
				if len(err.Error()) > 300 {
					t.Errorf("Stream: an error of %d bytes", len(err.Error()))
				}
				for _, h := range test.headers {
					if len(h) > 20 {
						quotes(t, name, h, err)
					}
				}
			}
		})
	}
	if _, err := (token.Authorizer{Authority: i}).Stream(t.Context(), "web"); status.Code(err) != codes.Unauthenticated {
		t.Errorf("Stream without metadata: %v", err)
	}
}

func TestCall(t *testing.T) {
	i, _ := open(t)
	odd := identity.ProxyID("wéb! 100% /+")
	authorization := "Bearer " + mint(t, i, odd, time.Hour)
	header := odd.Header()
	if strings.ContainsFunc(header, func(c rune) bool { return c <= ' ' || c > '~' || c == '%' }) {
		t.Errorf("%q is nothing for a header in Envoy's configuration", header)
	}
	tests := map[string]struct {
		proxy, service []string
		code           codes.Code
	}{
		"both":              {proxy: []string{header}, service: []string{"web"}},
		"no proxy":          {service: []string{"web"}}, // an old listener
		"another proxy":     {proxy: []string{"db"}, service: []string{"web"}, code: codes.PermissionDenied},
		"an empty proxy":    {proxy: []string{""}, service: []string{"web"}, code: codes.Unauthenticated},
		"a garbled proxy":   {proxy: []string{"!zz"}, service: []string{"web"}, code: codes.Unauthenticated},
		"two proxies":       {proxy: []string{header, header}, service: []string{"web"}, code: codes.Unauthenticated},
		"no service":        {proxy: []string{header}, code: codes.Unauthenticated},
		"an empty service":  {proxy: []string{header}, service: []string{""}, code: codes.Unauthenticated},
		"every service":     {proxy: []string{header}, service: []string{"*"}, code: codes.Unauthenticated},
		"two services":      {proxy: []string{header}, service: []string{"web", "web"}, code: codes.Unauthenticated},
		"a long form of it": {proxy: []string{header}, service: []string{"default/default/web"}, code: codes.Unauthenticated},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			ctx := metadata.NewIncomingContext(t.Context(), metadata.MD{
				"authorization": {authorization}, identity.ProxyHeader: test.proxy, identity.DestinationHeader: test.service,
			})
			caller, err := token.Authorizer{Authority: i}.Call(ctx)
			want := identity.Caller{}
			if test.code == codes.OK {
				want = identity.Caller{Proxy: odd, Service: identity.NewName("web")}
			}
			caller.Proof = identity.Proof{}
			if status.Code(err) != test.code || caller != want {
				t.Errorf("Call = %+v, %v; want %+v and %s", caller, err, want, test.code)
			}
		})
	}
}

func TestStreamExpired(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i, _ := open(t)
		ctx := metadata.NewIncomingContext(t.Context(), metadata.Pairs("authorization", "Bearer "+mint(t, i, "web", time.Second)))
		a := token.Authorizer{Authority: i}
		if _, err := a.Stream(ctx, "web"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Second)
		_, err := a.Stream(ctx, "web")
		if status.Code(err) != codes.Unauthenticated || !strings.Contains(err.Error(), "expired") || !strings.Contains(err.Error(), "sallyport envoy") {
			t.Errorf("Stream with an expired token: %v", err)
		}
	})
}

// socket is the AuthInfo of a connection over a Unix socket of a process of that user.
type socket int

func (s socket) AuthType() string     { return "socket" }
func (s socket) PeerUID() (int, bool) { return int(s), s >= 0 }

// TestBearer: on the Unix socket a token that is bound to a user is good for that one's processes,
// root's and the control plane's own.
func TestBearer(t *testing.T) {
	i, file := open(t)
	key := readKey(t, file)
	now := time.Now().Unix()
	old := compact(t, map[string]any{"alg": "EdDSA", "typ": "JWT"}, map[string]any{
		"iss": "spiffe://" + trustDomain.Name() + "/sallyport", "aud": token.Audience, "sub": "web", "nbf": now - 60, "exp": now + 3600,
	}, func(s string) []byte { return ed25519.Sign(key, []byte(s)) })
	own := os.Geteuid()
	const remote = -1
	for _, test := range []struct {
		bound int
		peer  int
		want  bool
	}{
		{1000, 1000, true},
		{1000, 0, true},
		{1000, own, true},
		{1000, 1001, false},
		{1000, 65534, false},
		{1000, remote, true},
		{0, 1000, false},
		{0, 0, true},
		{-1, 1000, true},
		{-1, 0, true},
		{-1, remote, true},
	} {
		m, err := i.Mint(token.Subject{Proxy: "web", Service: identity.NewName("web"), UID: test.bound}, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		for text, want := range map[string]bool{m.Text: test.want, old: true} {
			ctx := metadata.NewIncomingContext(t.Context(), metadata.Pairs("authorization", "Bearer "+text))
			ctx = peer.NewContext(ctx, &peer.Peer{AuthInfo: socket(test.peer)})
			_, err := token.Authorizer{Authority: i}.Stream(ctx, "web")
			if (err == nil) != want || err != nil && status.Code(err) != codes.PermissionDenied {
				t.Errorf("bound to %d (old: %t), from %d: %v, want %t", test.bound, text == old, test.peer, err, want)
			}
		}
	}
}
