package consul

import (
	"context"
	"testing"
	"time"

	"github.com/sallyport/sallyport/catalog"
)

// The proxies of a node count as served when what they need is known, or was waited for.
func TestSettled(t *testing.T) {
	bubble(t, nil, func(t *testing.T, f *fake, a *Agent) {
		f.mesh()
		f.refuse("/v1/health/connect/api", 500)
		running(t, a)
		after(4 * time.Second)
		if a.Status().Settled {
			t.Error("settled while a proxy waits")
		}
		after(2 * time.Second)
		if !a.Status().Settled {
			t.Error("not settled though the waiting is over")
		}
	})
	bubble(t, nil, func(t *testing.T, f *fake, a *Agent) {
		f.mesh()
		p := &published{}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() {
			ended <- a.Run(ctx, func(c catalog.Contents) {
				if p.publish(c); a.Status().Settled && ids(c) != "api-1-sidecar-proxy, web-sidecar-proxy api" {
					t.Errorf("settled with the proxies %q", ids(c))
				}
			})
		}()
		after(time.Second)
		if !a.Status().Settled {
			t.Error("not settled though everything is known")
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}
