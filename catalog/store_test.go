package catalog_test

import (
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sallyport/sallyport/catalog"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestStore(t *testing.T) {
	var s catalog.Store
	if v, ok := s.Views.Load(); ok {
		t.Fatalf("an empty store has %v", v)
	}
	changed := s.Views.Changed()
	s.Publish(contents().Contents())
	<-changed
	first, ok := s.Views.Load()
	if !ok || first.Proxy("web-1-sidecar-proxy") == nil {
		t.Fatalf("Load = %v, %t", first, ok)
	}
	changed = s.Views.Changed()
	s.Publish(contents().Contents())
	select {
	case <-changed:
		t.Error("equal contents woke those who wait")
	default:
	}
	c := contents()
	c.Proxies = c.Proxies[:1]
	s.Publish(c.Contents())
	<-changed
	if next, _ := s.Views.Load(); next == first || next.Service(name("web")) != first.Service(name("web")) {
		t.Error("the second View does not go on from the first")
	}
}

// TestStoreNothing publishes a mesh of nothing, which is known to be empty and not unknown.
func TestStoreNothing(t *testing.T) {
	var s catalog.Store
	s.Publish(catalog.Contents{})
	if v, ok := s.Views.Load(); !ok || v.Mesh() == nil {
		t.Errorf("Load = %v, %t", v, ok)
	}
}

// TestStoreManySides publishes from several goroutines while others read: every View is whole.
func TestStoreManySides(t *testing.T) {
	var s catalog.Store
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for i := range 100 {
				c := contents()
				c.Proxies = c.Proxies[:(i+g)%4]
				s.Publish(c.Contents())
				v, _ := s.Views.Load()
				for p := range v.Proxies() {
					if v.Service(p.Service) == nil || v.Policy(p.Service) == nil || v.Proxy(p.ID).Proxy != p {
						t.Errorf("a View without what belongs to %s", p.ID)
					}
				}
			}
		})
	}
	wg.Wait()
}

// TestChanges: each change has a greater number, equal contents have none, and who skips Views finds what they merge.
func TestChanges(t *testing.T) {
	var last uint64
	var log strings.Builder
	s := catalog.Store{Number: func() uint64 { last += 10; return last }, Logger: slog.New(slog.NewTextHandler(&log, nil))}
	c := contents()
	at := time.Unix(1000, 0)
	for i := range 3 * 64 {
		c.Endpoints[1].List[0].Port++
		for range 2 { // the second time it is no change
			now := c.Contents()
			now.Seen = at.Add(time.Duration(i) * time.Second)
			s.Publish(now)
		}
		v, _ := s.Views.Load()
		if got, want := v.Change(), (catalog.Change{Number: uint64(i+1) * 10, Seen: at.Add(time.Duration(i) * time.Second)}); got != want {
			t.Fatalf("change %+v, want %+v", got, want)
		}
	}
	v, _ := s.Views.Load()
	number := v.Change().Number
	for skipped, want := range map[uint64]int{0: 0, 1: 1, 5: 5, 10_000: 64} {
		merged := v.ChangesSince(number - min(10*skipped, number))
		if len(merged) != want || want > 0 && (merged[0].Number != number-10*uint64(want-1) || merged[want-1].Number != number) {
			t.Errorf("%d skipped: %d merged %v", skipped, len(merged), merged)
		}
	}
	// All of them concerned web, which dials api, and none db.
	if got := v.Proxy("web-1-sidecar-proxy").Changes; len(got) != 16 || got[15] != number {
		t.Errorf("changes of web: %v", got)
	}
	if got := v.Proxy("db-1-sidecar-proxy").Changes; len(got) != 1 || got[0] != 10 {
		t.Errorf("changes of db: %v", got)
	}
	if n := strings.Count(log.String(), "catalog changed"); n != 3*64 || !strings.Contains(log.String(), fmt.Sprintf("change=%d", number)) {
		t.Errorf("%d lines for %d changes, the last:\n%s", n, 3*64, log.String()[strings.LastIndex(log.String(), "time="):])
	}
}

// TestFederate: the trust domains whose bundles are known are part of each View, whatever the source says and whoever comes first.
func TestFederate(t *testing.T) {
	td := spiffeid.RequireTrustDomainFromString("td-b.example")
	var s catalog.Store
	s.Federate([]spiffeid.TrustDomain{td})
	if _, ok := s.Views.Load(); ok {
		t.Fatal("a View before there are contents")
	}
	known := func(want ...spiffeid.TrustDomain) *catalog.View {
		t.Helper()
		v, _ := s.Views.Load()
		if got := v.Mesh().Federated; !slices.Equal(got, want) {
			t.Fatalf("federated with %v, want %v", got, want)
		}
		return v
	}
	c := contents()
	s.Publish(c.Contents())
	first := known(td)
	s.Federate([]spiffeid.TrustDomain{td})
	if known(td) != first {
		t.Error("another View for the same trust domains")
	}
	s.Federate(nil)
	if v := known(); v.Change().Number != first.Change().Number+1 {
		t.Errorf("change %d after %d", v.Change().Number, first.Change().Number)
	}
	s.Publish(c.Contents())
	known()
}
