package svidfile

import (
	"context"
	"crypto/tls"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// signedBy has the API sign requests by an authority.
func (f *fakeAPI) signedBy(t *testing.T, a *authority, life time.Duration) {
	t.Helper()
	f.sign = func(key any) leafAnswer {
		return leafAnswer{CertPEM: string(encode("CERTIFICATE", certify(t, a, "web", false, life, key, nil).Raw)), Service: "web"}
	}
}

// requests is how many came; none has a key.
func (f *fakeAPI) requests(t *testing.T) int {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, b := range f.bodies {
		if strings.Contains(b, "PRIVATE") {
			t.Errorf("a key was sent: %s", b)
		}
	}
	return len(f.bodies)
}

// TestOwnKey: the key is made here; another when the roots change, and when half of the leaf's life is over.
func TestOwnKey(t *testing.T) {
	f, a, address := serveAPI(t)
	f.signedBy(t, a, time.Hour)
	dir, log := outDir(t), &buffer{}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- Run(ctx, Config{Service: "web", Address: address, Dir: dir, OwnKey: true, Logger: slog.New(slog.NewTextHandler(log, nil))})
	}()
	svid, key := filepath.Join(dir, current, svidName), filepath.Join(dir, current, keyName)
	loaded := func() bool { _, err := tls.LoadX509KeyPair(svid, key); return err == nil }
	await(t, "the first leaf", loaded)
	if info, err := os.Stat(key); err != nil || info.Mode() != 0o600 {
		t.Errorf("the key: %v, %v", info, err)
	}
	first := readFile(t, key)
	if n := f.requests(t); n != 1 {
		t.Errorf("%d requests for one leaf", n)
	}

	// A new root, under which leafs live for a few seconds.
	b := newAuthority(t)
	f.set(func() {
		f.roots.Roots = append(f.roots.Roots, b.roots().Roots...)
		f.signedBy(t, b, 20*time.Second)
	})
	await(t, "another key for another root", func() bool { return loaded() && readFile(t, key) != first })
	if n := f.requests(t); n < 2 {
		t.Errorf("%d requests for two leafs", n)
	}
	f.mu.Lock()
	f.signedBy(t, b, time.Hour)
	f.mu.Unlock()
	second := readFile(t, key)
	await(t, "another key after half of the life", func() bool { return loaded() && readFile(t, key) != second })
	if n := f.requests(t); n < 3 {
		t.Errorf("%d requests for three leafs", n)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if strings.Contains(log.String(), "PRIVATE") {
		t.Errorf("the log has a key: %s", log)
	}
}

// TestOwnKeyOnce has an error where nobody signs, and for a leaf of another key.
func TestOwnKeyOnce(t *testing.T) {
	f, a, address := serveAPI(t)
	c := Config{Service: "web", Address: address, Dir: outDir(t), OwnKey: true, Once: true}
	if err := Run(t.Context(), c); err == nil || !strings.Contains(err.Error(), "--own-key: ") || !strings.Contains(err.Error(), "404") {
		t.Errorf("an API that signs nothing: %v", err)
	}
	f.sign = func(any) leafAnswer { return leafAnswer{CertPEM: a.leaf(t, time.Hour).CertPEM} }
	if err := Run(t.Context(), c); err == nil || !strings.Contains(err.Error(), "private key does not match") {
		t.Errorf("a leaf of another key: %v", err)
	}
	f.signedBy(t, a, time.Hour)
	if err := Run(t.Context(), c); err != nil {
		t.Error(err)
	}
	if _, err := tls.LoadX509KeyPair(filepath.Join(c.Dir, current, svidName), filepath.Join(c.Dir, current, keyName)); err != nil {
		t.Error(err)
	}
}

// TestOwnKeyEnded: a leaf that has ended when it comes, as by a clock that is ahead, is an error, and no reason to ask without end.
func TestOwnKeyEnded(t *testing.T) {
	f, a, address := serveAPI(t)
	f.signedBy(t, a, -time.Minute)
	log := &buffer{}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- Run(ctx, Config{Service: "web", Address: address, Dir: outDir(t), OwnKey: true, Logger: slog.New(slog.NewTextHandler(log, nil))})
	}()
	await(t, "what is wrong", func() bool { return strings.Contains(log.String(), "is the clock of this machine right?") })
	if n := f.requests(t); n > 2 {
		t.Errorf("%d requests at once", n)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
