package revocation

import (
	"errors"
	"path/filepath"
	"testing"
	"time"

	"github.com/sallyport/sallyport/intention"
)

// TestClockSetBack: what ended by a clock that was wrong is revoked again when it is right.
func TestClockSetBack(t *testing.T) {
	t.Parallel()
	r, err := Open(Config{File: filepath.Join(t.TempDir(), "revoked")})
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	r.Take([]intention.Revocation{{Serial: "1", Until: now.Add(time.Hour)}, {Serial: "2"}})
	for _, at := range []struct {
		at   time.Time
		want int
	}{{now, 2}, {now.Add(2 * time.Hour), 1}, {now, 2}} {
		next := r.end(at.at)
		if got := r.Revoked().Len(); got != at.want {
			t.Errorf("at %s: %d revoked, want %d", at.at, got, at.want)
		}
		if next.IsZero() || next.Sub(at.at) > longestSleep {
			t.Errorf("at %s: looks again at %s", at.at, next)
		}
	}
}

// TestSavedTwice: of two about the same, which different files may have, one is kept over a restart, the one that lasts.
func TestSavedTwice(t *testing.T) {
	t.Parallel()
	file, until := filepath.Join(t.TempDir(), "revoked"), time.Now().Add(time.Hour).Truncate(time.Second).UTC()
	r, err := Open(Config{File: file})
	if err != nil {
		t.Fatal(err)
	}
	const id = "spiffe://example.org/ns/default/dc/dc1/svc/web"
	r.Take([]intention.Revocation{{Serial: "1"}, {Serial: "1", Until: until}, {ID: id, Until: until}, {ID: id, Until: until.Add(time.Hour)}})
	if r, err = Open(Config{File: file}); err != nil {
		t.Fatal(err)
	}
	r.Fail(errors.New("away"))
	if s := r.Status(); !s.Known || r.Revoked().Len() != 2 {
		t.Fatalf("%+v, %v", s, r.Revoked().All())
	}
	for _, e := range r.Revoked().All() {
		if e.Serial == "1" && !e.Until.IsZero() || e.ID == id && !e.Until.Equal(until.Add(time.Hour)) {
			t.Errorf("%+v", e)
		}
	}
}
