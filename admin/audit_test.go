package admin_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sallyport/sallyport/admin"
)

// buffer is a bytes.Buffer for several goroutines.
type buffer struct {
	mu sync.Mutex
	bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Buffer.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Buffer.String()
}

// TestAudit: the log says who asked for what, and no secrets.
func TestAudit(t *testing.T) {
	var out buffer
	client := serveLogging(t, slog.New(slog.NewTextHandler(&out, nil)), admin.API{
		Rotate: func(service string) (r admin.RotateResponse, err error) {
			if service != "web" {
				err = errors.New("no such service")
			}
			return r, err
		},
		Token: func(_ admin.Peer, r admin.TokenRequest) (admin.TokenResponse, error) {
			if r.SidecarFor == "db" {
				return admin.TokenResponse{}, admin.ErrForbidden
			}
			return admin.TokenResponse{Token: "secret", TokenID: "id-1", ProxyID: "web-sidecar-proxy", Expires: time.Unix(0, 0).UTC()}, nil
		},
		Revoke: func(admin.Peer, admin.RevokeRequest) (admin.RevokeResponse, error) {
			return admin.RevokeResponse{TokenID: "id-1", ProxyID: "web-sidecar-proxy", Streams: 2}, nil
		},
		Reload: func() {},
	})
	_, _ = client.Token(t.Context(), admin.TokenRequest{SidecarFor: "web"})
	_, _ = client.Token(t.Context(), admin.TokenRequest{SidecarFor: "db"})
	_, _ = client.Revoke(t.Context(), admin.RevokeRequest{TokenID: "id-1"})
	_, _ = client.Rotate(t.Context(), "web")
	_, _ = client.Rotate(t.Context(), "db")
	raw(t, client, "POST", "/v1/reload", "")
	log := out.String()
	who := fmt.Sprintf(" audit=admin uid=%d pid=%d", os.Getuid(), os.Getpid())
	for _, want := range []string{
		`level=INFO msg="token issued"` + who + ` proxy=web-sidecar-proxy sidecar_for=web token_id=id-1 expires=1970-01-01T00:00:00.000Z`,
		`level=WARN msg="token refused"` + who + ` sidecar_for=db err="not allowed"`,
		`level=INFO msg="tokens revoked"` + who + ` proxy=web-sidecar-proxy count=2`,
		`level=INFO msg="leaf rotated"` + who + ` service=web`,
		`level=WARN msg="leaf not rotated"` + who + ` service=db err="no such service"`,
		`level=INFO msg="catalog read again"` + who,
	} {
		if strings.Count(log, want) != 1 {
			t.Errorf("not once in the log: %s", want)
		}
	}
	if strings.Contains(log, "secret") || strings.Count(log, "\n") != 6 {
		t.Errorf("log:\n%s", log)
	}
}
