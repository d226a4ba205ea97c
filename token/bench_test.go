package token_test

import (
	"testing"
	"time"
)

// TestVerifyKnownAllocates holds the look-up that each ext_authz call makes to no allocation.
func TestVerifyKnownAllocates(t *testing.T) {
	i, _ := open(t)
	text := mint(t, i, "web-sidecar-proxy", time.Hour)
	if n := testing.AllocsPerRun(100, func() {
		if _, err := i.Verify(text); err != nil {
			t.Error(err)
		}
	}); n > 0 {
		t.Errorf("Verify of a known token allocates %v times", n)
	}
}

func BenchmarkVerify(b *testing.B) {
	i, file := open(b)
	text := mint(b, i, "web-sidecar-proxy", time.Hour)
	b.Run("known", func(b *testing.B) {
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				if _, err := i.Verify(text); err != nil {
					b.Error(err)
				}
			}
		})
	})
	b.Run("new", func(b *testing.B) {
		fresh := make([]string, 2000)
		for n := range fresh {
			fresh[n] = mint(b, i, "web-sidecar-proxy", time.Hour)
		}
		i := reopen(b, file)
		b.ReportAllocs()
		for n := 0; b.Loop(); n++ {
			if n%len(fresh) == 0 {
				b.StopTimer()
				i = reopen(b, file)
				b.StartTimer()
			}
			if _, err := i.Verify(fresh[n%len(fresh)]); err != nil {
				b.Fatal(err)
			}
		}
	})
}
