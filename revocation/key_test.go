package revocation_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/consul"
	"github.com/sallyport/sallyport/intention"
	"github.com/sallyport/sallyport/revocation"
)

const keyName = "sallyport/revoked"

// store is a Consul agent that has nothing but one key.
type store struct {
	mu       sync.Mutex
	value    []byte
	modified uint64 // 0: there is no key
	index    uint64
	changed  chan struct{}
	deny     map[string]bool // "GET token", "PUT token"
	lost     int             // swaps that came too late
}

func newStore(t *testing.T) (*store, string) {
	t.Helper()
	s := &store{index: 7, changed: make(chan struct{}), deny: map[string]bool{}}
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	return s, server.URL
}

func (s *store) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.URL.Path != "/v1/kv/"+keyName || s.deny[r.Method+" "+r.Header.Get("X-Consul-Token")] {
		http.Error(w, "Permission denied", http.StatusForbidden)
		return
	}
	if r.Method == http.MethodPut {
		value, err := io.ReadAll(r.Body)
		cas, casErr := strconv.ParseUint(r.FormValue("cas"), 10, 64)
		switch {
		case err != nil || casErr != nil:
			http.Error(w, fmt.Sprint(err, casErr), http.StatusBadRequest)
		case cas != s.modified:
			s.lost++
			fmt.Fprintln(w, false)
		default:
			s.set(value)
			fmt.Fprintln(w, true)
		}
		return
	}
	if after, _ := strconv.ParseUint(r.FormValue("index"), 10, 64); after >= s.index {
		changed := s.changed
		s.mu.Unlock()
		select {
		case <-changed:
		case <-r.Context().Done():
		}
		s.mu.Lock()
	}
	w.Header().Set("X-Consul-Index", strconv.FormatUint(s.index, 10))
	if s.modified == 0 {
		http.NotFound(w, r)
		return
	}
	_ = json.NewEncoder(w).Encode([]map[string]any{{"Key": keyName, "Value": s.value, "ModifyIndex": s.modified}})
}

// set has the key have a value; nil: there is no such key. s.mu is held.
func (s *store) set(value []byte) {
	s.index++
	s.value, s.modified = value, s.index
	if value == nil {
		s.modified = 0
	}
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *store) put(text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if text == "" {
		s.set(nil)
		return
	}
	s.set([]byte(text))
}

// node is one that reads the key.
func node(t *testing.T, url, file string) (*revocation.Key, *revocation.Registry, *published) {
	t.Helper()
	agent, err := consul.New(consul.Config{Address: url, Token: "own"})
	if err != nil {
		t.Fatal(err)
	}
	r, p, publish := open(t, file)
	publish(catalog.Contents{})
	k := &revocation.Key{Agent: agent, Name: keyName, Registry: r}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- k.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return k, r, p
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s is not so", what)
		}
	}
}

// TestKey: what one node has revoked all refuse, whoever writes at one time loses nothing, and no key is nothing revoked.
func TestKey(t *testing.T) {
	t.Parallel()
	s, url := newStore(t)
	one, _, _ := node(t, url, filepath.Join(t.TempDir(), "revoked"))
	other, r, p := node(t, url, filepath.Join(t.TempDir(), "revoked"))
	eventually(t, "that there is no key is known", func() bool { return r.Status().Known })
	if err := one.Edit(t.Context(), "", adding("a1")); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the other node refuses it", func() bool { return strings.Join(p.serials(), " ") == "a1" })

	var all sync.WaitGroup
	const writers = 6
	for i := range writers {
		k := []*revocation.Key{one, other}[i%2]
		all.Go(func() {
			if err := k.Edit(t.Context(), "operator", adding("b"+strconv.Itoa(i))); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	eventually(t, "all are there", func() bool { return r.Revoked().Len() == writers+1 })
	if err := other.Edit(t.Context(), "", dropping("a1")); err != nil || r.Revoked().Len() != writers {
		t.Errorf("%v: %v", err, p.serials())
	}
	t.Logf("%d swaps came too late", s.lost)
	s.put("")
	eventually(t, "the key is gone", func() bool { return r.Revoked().Len() == 0 })
}

// TestKeyUnreadable: what was read last holds while the key has a mistake or may not be read, over a restart too.
func TestKeyUnreadable(t *testing.T) {
	t.Parallel()
	s, url := newStore(t)
	s.put("# ours\nrevoked:\n- serial: \"a1\"\n")
	file := filepath.Join(t.TempDir(), "revoked")
	k, r, p := node(t, url, file)
	eventually(t, "it is read", func() bool { return len(p.serials()) == 1 })
	if o := r.Revoked().All()[0].Origin; o != keyName+":3" {
		t.Errorf("the origin is %q", o)
	}
	s.put("revoked:\n- serial: 1x\n")
	eventually(t, "the mistake is seen", func() bool { return strings.Contains(r.Status().Problem, keyName+":2") })
	if len(p.serials()) != 1 {
		t.Error("a mistake takes what was in force")
	}
	if err := k.Edit(t.Context(), "", adding("b2")); err == nil || !strings.Contains(err.Error(), "consul kv get "+keyName) {
		t.Errorf("%v", err)
	}
	s.put("# ours\nrevoked:\n- serial: \"a1\"\n- serial: \"c3\"\n")
	eventually(t, "it is mended", func() bool { return len(p.serials()) == 2 && r.Status().Problem == "" })
	if err := k.Edit(t.Context(), "", adding("b2")); err != nil || string(s.value) != "# ours\nrevoked:\n- serial: \"a1\"\n- serial: \"c3\"\n- serial: b2\n" {
		t.Errorf("%v: %s", err, s.value)
	}

	s.mu.Lock()
	s.deny["GET own"] = true
	s.mu.Unlock()
	_, again, q := node(t, url, file)
	eventually(t, "that it may not be read is known", func() bool { return again.Status().NotAllowed })
	if len(q.serials()) != 3 {
		t.Errorf("after a restart %v are revoked", q.serials())
	}
	_, fresh, f := node(t, url, filepath.Join(t.TempDir(), "revoked"))
	eventually(t, "who never was allowed to serves", func() bool { return fresh.Status().NotAllowed && f.count() == 1 })
	s.mu.Lock()
	s.deny["GET own"] = false
	s.mu.Unlock()
	eventually(t, "the right is used", func() bool {
		return len(f.serials()) == 3 && !fresh.Status().NotAllowed && fresh.Status().Problem == ""
	})
}

// TestKeyNotWritten: the errors say what is missing.
func TestKeyNotWritten(t *testing.T) {
	t.Parallel()
	s, url := newStore(t)
	s.deny["PUT own"], s.deny["GET nobody"] = true, true
	k, r, _ := node(t, url, filepath.Join(t.TempDir(), "revoked"))
	eventually(t, "it is read", func() bool { return r.Status().Known })
	long := func([]intention.Revocation) (revocation.Edit, error) {
		var e revocation.Edit
		for i := range 700 {
			e.Add = append(e.Add, intention.Revocation{Serial: strconv.FormatInt(int64(i), 16), Reason: strings.Repeat("x", 900)})
		}
		return e, nil
	}
	for name, c := range map[string]struct {
		token, want string
		decide      revocation.Decide
	}{
		"may not write": {"", `bring a token with ` + "`key \"sallyport/revoked\" { policy = \"write\" }`", adding("1")},
		"may not read":  {"nobody", "cannot be read", adding("1")},
		"too much":      {"operator", "524288 at most", long},
	} {
		if err := k.Edit(t.Context(), c.token, c.decide); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := k.Edit(t.Context(), "operator", adding("a1")); err != nil || r.Revoked().Len() != 1 {
		t.Errorf("%v: %d are revoked", err, r.Revoked().Len())
	}
	why := errors.New("not this one")
	if err := k.Edit(t.Context(), "operator", func([]intention.Revocation) (revocation.Edit, error) { return revocation.Edit{}, why }); !errors.Is(err, why) {
		t.Errorf("%v", err)
	}
}
