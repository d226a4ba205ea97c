package catalog_test

import (
	"sync"
	"testing"

	"github.com/sallyport/sallyport/catalog"
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
