package bundle

import (
	"context"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sallyport/sallyport/internal/latest"
	"github.com/sallyport/sallyport/sds"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// TestNumberRecordedLater: a sequence number that could not be recorded is, as soon as it can be, though the bundle stays the same.
func TestNumberRecordedLater(t *testing.T) {
	file := filepath.Join(t.TempDir(), "data", "sequence.json")
	if err := os.Mkdir(filepath.Dir(file), 0o700); err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		td := spiffeid.RequireTrustDomainFromString("td-a.example")
		var roots latest.Value[*sds.Roots]
		set := func() {
			roots.Set(sds.NewRoots(td, "", []sds.Root{{ID: "x", Certificate: rootUntil(t, time.Now().Add(time.Hour))}}))
		}
		config := OfferConfig{
			TrustDomain: func() (spiffeid.TrustDomain, bool) { return td, true }, Roots: roots.Load, RootsChanged: roots.Changed, File: file,
		}
		o, err := NewOffer(config)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { _ = o.Run(ctx) })
		set()
		synctest.Wait()
		away := filepath.Dir(file) + ".away"
		if err := os.Rename(filepath.Dir(file), away); err != nil {
			t.Fatal(err)
		}
		for range 3 {
			set()
			synctest.Wait()
		}
		said, _ := o.Document().Sequence()
		if err := os.Rename(away, filepath.Dir(file)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * tick)
		cancel()
		running.Wait()
		after, err := NewOffer(config)
		if err != nil {
			t.Fatal(err)
		}
		roots.Set(sds.NewRoots(td, "", []sds.Root{{ID: "y", Certificate: rootUntil(t, time.Now().Add(2*time.Hour))}}))
		after.refresh()
		if next, _ := after.Document().Sequence(); next <= said {
			t.Errorf("after a restart %d, and %d was said before", next, said)
		}
	})
}
