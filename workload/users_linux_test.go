package workload_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestUsers: whose connections and streams there are, and leafs, which are held for a while.
func TestUsers(t *testing.T) {
	h := start(t, time.Hour, nil)
	h.publish(instance("web-1", "web", fmt.Sprintf("unix:uid:%d", webUID)))
	type user struct{ Connections, Streams, Leafs int }
	settled := func(what string, want map[string]user) {
		t.Helper()
		diff := ""
		for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
			got := map[string]user{}
			for _, u := range h.server.Users() {
				got[u.Caller] = user{u.Connections, u.Streams, len(u.Leafs)}
			}
			if diff = cmp.Diff(want, got); diff == "" {
				return
			}
		}
		t.Fatalf("%s: -want +got:\n%s", what, diff)
	}
	settled("nobody", map[string]user{})
	web := fmt.Sprintf("uid %d", webUID)
	c := h.client(t, webUID)
	for range 2 {
		if _, err := fetch(t, c).Recv(); err != nil {
			t.Fatal(err)
		}
	}
	settled("two streams", map[string]user{web: {1, 2, 1}})
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	settled("none any more", map[string]user{web: {0, 0, 1}})
}
