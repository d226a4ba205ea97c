package xds

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sallyport/sallyport/identity"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// fickle is byMetadata until it is told otherwise.
type fickle struct {
	mu    sync.Mutex
	err   error
	other identity.Caller // if not zero, who the caller is found to be
	asked int
}

func (f *fickle) say(err error, other identity.Caller) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.err, f.other = err, other
}

func (f *fickle) Stream(ctx context.Context, node identity.ProxyID) (identity.Caller, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked++
	if f.err != nil || f.other != (identity.Caller{}) {
		return f.other, f.err
	}
	return byMetadata{}.Stream(ctx, node)
}

func TestCallersAreAuthorizedAgain(t *testing.T) {
	for name, tt := range map[string]struct {
		err   error
		other identity.Caller
		code  codes.Code // OK: the stream goes on
	}{
		"deleted":         {err: status.Error(codes.Unauthenticated, "no such token"), code: codes.Unauthenticated},
		"lost its rights": {err: status.Error(codes.PermissionDenied, "no service:write"), code: codes.PermissionDenied},
		"proxy is gone":   {err: status.Error(codes.NotFound, "no such proxy"), code: codes.NotFound},
		"another's now":   {other: identity.Caller{Proxy: proxyID("api")}, code: codes.PermissionDenied},
		"out of reach":    {err: status.Error(codes.Unavailable, "the agent is away")},
		"unchanged":       {},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := &fickle{}
				cfg := patient()
				cfg.Recheck, cfg.Authorize = 20*time.Second, f.Stream
				m := start(t, cfg)
				twoServices(m)
				c := m.stream("web")
				c.subscribe(secrets, "roots")
				c.accept("secret roots")
				f.say(tt.err, tt.other)
				time.Sleep(21 * time.Second)
				if tt.code != codes.OK {
					c.ends(tt.code)
					return
				}
				c.silence()
				f.say(nil, identity.Caller{})
				before := f.asked
				c.subscribe(secrets, "leaf/web") // something new is a reason to ask at once
				c.accept("secret leaf/web")
				synctest.Wait()
				if f.asked == before {
					t.Error("a new subscription was not a reason to authorize again")
				}
			})
		})
	}
}
