package workload

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/sallyport/sallyport/ca"
	"github.com/sallyport/sallyport/identity"
	"github.com/spiffe/go-spiffe/v2/bundle/jwtbundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
)

// TestJWTKeysFollow takes the keys through two rotations of the CA's root. After each step the process is another one, and asks again: what is
// on the disk says how it goes on, and nothing is done twice.
func TestJWTKeysFollow(t *testing.T) {
	file := filepath.Join(t.TempDir(), "jwt-svid.key")
	now := time.Date(2027, 3, 1, 12, 0, 0, 0, time.UTC)
	names := map[string]string{}
	name := func(k *JWTKeys) (list string) {
		for _, key := range k.load().list {
			if names[key.id] == "" {
				names[key.id] = string(rune('a' + len(names)))
			}
			list += names[key.id]
		}
		return list
	}
	first, second := now, now.Add(time.Hour)
	// tokens are JWT-SVIDs by the key that signed them: they are good as long as it is in the bundle, and no longer.
	tokens := map[rune]string{}
	td := spiffeid.RequireTrustDomainFromString("mesh.test")
	validated := func(k *JWTKeys, token string) bool {
		bundle, err := jwtbundle.Parse(td, []byte(k.Bundle()))
		if err != nil {
			t.Fatal(err)
		}
		_, err = jwtsvid.ParseAndValidate(token, bundle, []string{"mail"})
		return err == nil
	}
	for i, step := range []struct {
		after time.Duration
		r     Rotation
		want  string // the first signs, all are in the bundle
	}{
		{0, Rotation{}, "a"},
		{time.Second, Rotation{ca.Preparing, first}, "ab"},
		{time.Second, Rotation{ca.Preparing, first}, "ab"},
		{jwtSettle - 3*time.Second, Rotation{ca.Activating, first}, "ab"}, // it was published a moment ago
		{time.Second, Rotation{ca.Activating, first}, "ba"},
		{time.Hour, Rotation{ca.Activating, first}, "ba"},
		{time.Second, Rotation{ca.Retiring, first}, "b"},
		{time.Second, Rotation{}, "b"},
		{time.Second, Rotation{ca.Preparing, second}, "bc"},
		{time.Second, Rotation{ca.Retiring, second}, "cb"}, // activate was not seen
		{jwtGrace - time.Second, Rotation{}, "cb"},
		{time.Second, Rotation{}, "c"},
	} {
		k, err := OpenJWTKeys(file, nil)
		if err != nil {
			t.Fatal(err)
		}
		now = now.Add(step.after)
		for range 2 {
			k.follow(slog.New(slog.DiscardHandler), step.r, now)
			if got := name(k); got != step.want {
				t.Errorf("step %d: %s, want %s", i, got, step.want)
			}
		}
		again, err := OpenJWTKeys(file, nil)
		if err != nil || name(again) != step.want {
			t.Fatalf("step %d: the disk has %s (%v), want %s", i, name(again), err, step.want)
		}
		svid, err := again.load().list[0].sign(identity.Service{TrustDomain: td, Datacenter: "dc1", Name: identity.NewName("web")}, []string{"mail"}, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		if key := rune(step.want[0]); tokens[key] == "" {
			tokens[key] = svid
		}
		for key, token := range tokens {
			if good, want := validated(again, token), strings.ContainsRune(step.want, key); good != want {
				t.Errorf("step %d: a JWT-SVID by %c is good: %t, want %t", i, key, good, want)
			}
		}
		if n := strings.Count(string(again.load().bundle), `"kid"`); n != len(step.want) {
			t.Errorf("step %d: %d keys in the bundle, want %d", i, n, len(step.want))
		}
	}
}

// TestJWTKeysSkip: a control plane that was away all the while ends with one key, and never with none.
func TestJWTKeysSkip(t *testing.T) {
	now := time.Now()
	for _, r := range []Rotation{{ca.Preparing, now}, {ca.Activating, now}, {ca.Retiring, now}} {
		k, err := OpenJWTKeys(filepath.Join(t.TempDir(), "key"), nil)
		if err != nil {
			t.Fatal(err)
		}
		old := k.load().list[0].id
		for i := range 5 {
			k.follow(slog.New(slog.DiscardHandler), r, now.Add(time.Duration(i)*jwtGrace))
		}
		for i := range 5 {
			k.follow(slog.New(slog.DiscardHandler), Rotation{}, now.Add(time.Duration(5+i)*jwtGrace))
		}
		if list := k.load().list; len(list) != 1 || list[0].id == old {
			t.Errorf("%s: %d keys", r.Phase, len(list))
		}
	}
}

// TestJWTKeysDisk: a step that cannot be written is not taken.
func TestJWTKeysDisk(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	k, err := OpenJWTKeys(filepath.Join(dir, "key"), nil)
	if err != nil {
		t.Fatal(err)
	}
	before := string(k.load().bundle)
	if err := os.Rename(dir, dir+".away"); err != nil {
		t.Fatal(err)
	}
	r := Rotation{ca.Preparing, time.Now()}
	if again := k.follow(slog.New(slog.DiscardHandler), r, time.Now()); again != jwtRetry {
		t.Errorf("again after %s", again)
	}
	if diff := cmp.Diff(before, string(k.load().bundle)); diff != "" {
		t.Error(diff)
	}
	if err := os.Rename(dir+".away", dir); err != nil {
		t.Fatal(err)
	}
	if k.follow(slog.New(slog.DiscardHandler), r, time.Now()); len(k.load().list) != 2 {
		t.Error("it is not taken when it can be")
	}
	if _, err := decodeKeys(nil); err == nil || errors.Is(err, os.ErrNotExist) {
		t.Errorf("an empty file: %v", err)
	}
}
