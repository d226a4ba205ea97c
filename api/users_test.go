package api

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestUsers: who has connections, waits and leafs, by whom the token is for; and nobody after that.
func TestUsers(t *testing.T) {
	r := start(t)
	type user struct {
		Services, Unix, TCP, Wait, Leaf int
	}
	// settled is who uses it, once that is want: connections come and go a moment after their answers.
	settled := func(what string, want map[string]user) {
		t.Helper()
		diff := ""
		for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
			got := map[string]user{}
			for _, u := range r.Users() {
				got[u.Caller] = user{len(u.Services), u.Unix, u.TCP, u.Waiting, len(u.Leafs)}
			}
			if diff = cmp.Diff(want, got); diff == "" {
				return
			}
		}
		t.Fatalf("%s: -want +got:\n%s", what, diff)
	}
	settled("nobody", map[string]user{})
	a := r.ask(t, "GET", "/v1/agent/connect/ca/leaf/api", "api", "")
	settled("a leaf", map[string]user{"api": {1, 1, 0, 0, 1}})
	ctx, cancel := context.WithCancel(t.Context())
	answered := make(chan struct{})
	go func() {
		defer close(answered)
		_, _ = r.try(ctx, "GET", fmt.Sprintf("/v1/agent/connect/ca/leaf/api?index=%d", a.index(t)), "api", "") // it is given up
	}()
	settled("a wait", map[string]user{"api": {1, 1, 0, 1, 1}})
	_ = r.ask(t, "GET", "/v1/agent/connect/ca/roots", "", "")
	uid := fmt.Sprintf("uid %d", os.Geteuid())
	settled("somebody who says nothing", map[string]user{"api": {1, 1, 0, 1, 1}, uid: {0, 1, 0, 0, 0}})
	_ = r.ask(t, "GET", "/v1/agent/connect/ca/leaf/web", "web", "")
	settled("another caller on the same connection", map[string]user{"api": {1, 1, 0, 1, 1}, "web": {1, 1, 0, 0, 1}})
	_ = r.ask(t, "GET", "/v1/agent/connect/ca/roots", "", "")
	settled("what everybody may ask", map[string]user{"api": {1, 1, 0, 1, 1}, "web": {1, 1, 0, 0, 1}})
	cancel()
	<-answered
	r.client.CloseIdleConnections()
	settled("all gone", map[string]user{"api": {0, 0, 0, 0, 1}, "web": {0, 0, 0, 0, 1}})
	r.leafs.forget(time.Now().Add(idleLeaf + time.Minute))
	settled("an hour later", map[string]user{})
}
