package authz_test

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sallyport/sallyport/authz"
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/intention"
	"github.com/sallyport/sallyport/internal/decisiontable"
	"github.com/sallyport/sallyport/internal/latest"
)

// TestWaitsForTheRecord: who is let in as soon as that is on disk is let in then, if that is within the deadline, and refused before it else.
func TestWaitsForTheRecord(t *testing.T) {
	certificate := newIssuer(t).certificate(t, decisiontable.Peer{URIs: []string{uri("web")}})
	tests := []struct {
		name             string
		recorded         time.Duration // after the question; 0: never
		deadline         time.Duration // 0: none
		want             intention.Action
		longest, atLeast time.Duration
	}{
		{"at once", 5 * time.Millisecond, 250 * time.Millisecond, intention.Allow, 5 * time.Millisecond, 0},
		{"too late", time.Second, 250 * time.Millisecond, intention.Deny, 200 * time.Millisecond, 100 * time.Millisecond},
		{"a short deadline", 40 * time.Millisecond, 60 * time.Millisecond, intention.Deny, 10 * time.Millisecond, 0},
		{"hardly a deadline", time.Second, 10 * time.Millisecond, intention.Deny, 0, 0},
		{"never, and no deadline", 0, 0, intention.Deny, 200 * time.Millisecond, 100 * time.Millisecond},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var recorded atomic.Bool
				var changes latest.Value[int]
				s := newServer(t, authz.Config{
					Views: views(scope(intention.Deny), identity.NewName("api"), someIntentions()), Authorize: known,
					Told: func(_ *catalog.View, p *intention.Policy) *intention.Policy {
						if recorded.Load() {
							return p
						}
						return nil
					},
					ToldChanged: changes.Changed,
				})
				changes.Set(1) // of something else
				if tt.recorded > 0 {
					time.AfterFunc(tt.recorded, func() { recorded.Store(true); changes.Set(2) })
				}
				ctx := call(t.Context(), "api")
				if tt.deadline > 0 {
					var cancel context.CancelFunc
					ctx, cancel = context.WithTimeout(ctx, tt.deadline)
					defer cancel()
				}
				start := time.Now()
				resp, err := s.Check(ctx, request("tcp", uri("web"), certificate, "api"))
				if err != nil {
					t.Fatal(err)
				}
				took := time.Since(start)
				if got := answer(t, resp, ""); got != tt.want || took > tt.longest || took < tt.atLeast {
					t.Errorf("%v after %v, want %v within %v to %v", got, took, tt.want, tt.atLeast, tt.longest)
				}
				time.Sleep(2 * time.Second) // the disk's end of it
			})
		})
	}
}

// TestWaitsForTheProxy: beside Consul the first View has no proxies, and those that come next have some. Who asks meanwhile waits.
func TestWaitsForTheProxy(t *testing.T) {
	certificate := newIssuer(t).certificate(t, decisiontable.Peer{URIs: []string{uri("web")}})
	synctest.Test(t, func(t *testing.T) {
		store := &catalog.Store{}
		full := contents(scope(intention.Deny), identity.NewName("api"), someIntentions()).Contents()
		early := full
		early.Proxies, early.Intentions = nil, nil
		store.Publish(early)
		s := newServer(t, authz.Config{Views: &store.Views, Authorize: known})
		ask := func() (intention.Action, time.Duration) {
			start := time.Now()
			resp, err := s.Check(call(t.Context(), "api"), request("tcp", uri("web"), certificate, "api"))
			if err != nil {
				t.Fatal(err)
			}
			return answer(t, resp, ""), time.Since(start)
		}
		if a, took := ask(); a != intention.Deny || took != 200*time.Millisecond {
			t.Errorf("%v after %v of a proxy that never comes", a, took)
		}
		time.AfterFunc(30*time.Millisecond, func() { store.Publish(full) })
		if a, took := ask(); a != intention.Allow || took != 30*time.Millisecond {
			t.Errorf("%v after %v of a proxy that comes after 30 ms", a, took)
		}
	})
}
