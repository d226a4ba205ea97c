package token_test

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"github.com/sallyport/sallyport/sds"
	"github.com/sallyport/sallyport/token"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

func TestAuthorize(t *testing.T) {
	i, _ := open(t)
	web, db := mint(t, i, "web", time.Hour), mint(t, i, "db", time.Hour)
	tests := map[string]struct {
		headers []string
		node    *corev3.Node
		code    codes.Code
	}{
		"no node":              {headers: []string{"Bearer " + web}},
		"node without an id":   {headers: []string{"Bearer " + web}, node: &corev3.Node{Cluster: "x"}},
		"node that agrees":     {headers: []string{"Bearer " + web}, node: &corev3.Node{Id: "web"}},
		"lower case":           {headers: []string{"bearer " + web}},
		"upper case":           {headers: []string{"BEARER " + web}},
		"node of another":      {headers: []string{"Bearer " + web}, node: &corev3.Node{Id: "db"}, code: codes.PermissionDenied},
		"node in other case":   {headers: []string{"Bearer " + web}, node: &corev3.Node{Id: "Web"}, code: codes.PermissionDenied},
		"node with a space":    {headers: []string{"Bearer " + web}, node: &corev3.Node{Id: "web "}, code: codes.PermissionDenied},
		"node that is long":    {headers: []string{"Bearer " + web}, node: &corev3.Node{Id: strings.Repeat("x", 1<<20)}, code: codes.PermissionDenied},
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
		"foreign and its node": {headers: []string{"Bearer " + db}, node: &corev3.Node{Id: "web"}, code: codes.PermissionDenied},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			ctx := metadata.NewIncomingContext(t.Context(), metadata.MD{"authorization": test.headers})
			caller, err := token.Authorizer{Issuer: i}.Authorize(ctx, test.node)
			if status.Code(err) != test.code {
				t.Fatalf("Authorize: %v, want %s", err, test.code)
			}
			if err == nil && caller != (sds.Caller{Proxy: "web"}) {
				t.Errorf("Authorize = %#v", caller)
			}
			if err != nil {
				if caller != (sds.Caller{}) {
					t.Errorf("Authorize = %#v and %v", caller, err)
				}
				if len(err.Error()) > 300 {
					t.Errorf("Authorize: an error of %d bytes", len(err.Error()))
				}
				for _, h := range test.headers {
					if len(h) > 20 {
						quotes(t, name, h, err)
					}
				}
			}
		})
	}
	if _, err := (token.Authorizer{Issuer: i}).Authorize(t.Context(), nil); status.Code(err) != codes.Unauthenticated {
		t.Errorf("Authorize without metadata: %v", err)
	}
	ctx := metadata.NewIncomingContext(t.Context(), metadata.Pairs("authorization", "Bearer "+web))
	if _, err := (token.Authorizer{}).Authorize(ctx, nil); status.Code(err) != codes.Unauthenticated {
		t.Errorf("Authorize without an issuer: %v", err)
	}
}

func TestAuthorizeExpired(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i, _ := open(t)
		ctx := metadata.NewIncomingContext(t.Context(), metadata.Pairs("authorization", "Bearer "+mint(t, i, "web", time.Second)))
		a := token.Authorizer{Issuer: i}
		if _, err := a.Authorize(ctx, nil); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Second)
		_, err := a.Authorize(ctx, nil)
		if status.Code(err) != codes.Unauthenticated || !strings.Contains(err.Error(), "expired") || !strings.Contains(err.Error(), "sallyport envoy") {
			t.Errorf("Authorize with an expired token: %v", err)
		}
	})
}
