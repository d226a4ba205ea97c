package main

import (
	"context"
	"os"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/sallyport/sallyport/internal/meshtest"
)

// TestRotationBytes replaces the root of 30 sidecars, each of a service whose intentions have one source: each is sent its roots and those of
// who may call it, its leaf, and the roots again, as secrets and nothing else, and no more bytes than there are certificates in them.
func TestRotationBytes(t *testing.T) {
	t.Parallel() // it waits for what must not come
	const eachMost = 8400
	l := load{sidecars: 30, upstreams: 5, protocol: "tcp"}
	dir, err := os.MkdirTemp("/tmp", "rotation-") // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if err := writeCatalog(dir, l); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	next, served := make(chan os.Signal, 1), make(chan error, 1)
	go func() { served <- serveRoots(ctx, dir, next) }()
	var tokens map[string]string
	meshtest.Await(t, "the control plane", func() error { return readJSON(tokensFile(dir), &tokens) })
	var all measurements
	err = servedRoots(dir, l, tokens, func() error { next <- syscall.SIGUSR1; return nil }).measure(ctx, l, false, func(r figures) { all = append(all, r) })
	cancel()
	if failed := <-served; failed != nil {
		t.Error(failed)
	}
	if err != nil {
		t.Fatal(err)
	}
	type phase struct {
		Change    string
		Sidecars  int
		Resources [len(types)]int // the first are secrets
	}
	var got []phase
	for _, r := range all[1:] {
		got = append(got, phase{r.change, r.sidecars, r.resources})
	}
	want := []phase{
		{rootAdded, l.sidecars, [len(types)]int{2 * l.sidecars}},
		{leafsOfRoot, l.sidecars, [len(types)]int{l.sidecars}},
		{rootRetired, l.sidecars, [len(types)]int{2 * l.sidecars}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if r := all[1:].rotation(l, figures{}); r.verdict != verdict(true) {
		t.Errorf("%s: %s, %s: %s", r.work, r.value, r.target, r.verdict)
	}
	bytes := 0
	for _, r := range all[1:] {
		bytes += r.bytes
	}
	t.Logf("%d bytes for each sidecar", bytes/l.sidecars)
	if each := bytes / l.sidecars; each > eachMost {
		t.Errorf("%d bytes for each sidecar, want %d at most", each, eachMost)
	}
}
