package issuance

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"log/slog"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/sds"
)

// certificate is number n, of a service, valid for life.
func certificate(n int, service string, life time.Duration) *x509.Certificate {
	return &x509.Certificate{
		Raw: fmt.Appendf(nil, "certificate %d of %s", n, service), SerialNumber: big.NewInt(int64(n)), NotAfter: time.Now().Add(life),
		URIs: []*url.URL{{Scheme: "spiffe", Host: "mesh.test", Path: "/ns/default/dc/dc1/svc/" + service}},
	}
}

func open(t testing.TB, path string) (r *Record, log *bytes.Buffer) {
	t.Helper()
	log = &bytes.Buffer{}
	r, err := Open(Config{File: path, Logger: slog.New(slog.NewTextHandler(log, nil)), Registerer: prometheus.NewRegistry()})
	if err != nil {
		t.Fatal(err)
	}
	return r, log
}

// running runs r until the end of what it returns.
func running(t testing.TB, r *Record) (end func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	return func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

func all(r *Record) []Leaf { return r.Leafs(func(Leaf) bool { return true }) }

func web(n string) identity.Caller { return identity.Caller{Proxy: identity.ProxyID(n)} }

func TestRecord(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "issued-leafs")
		r, _ := open(t, path)
		end := running(t, r)
		began := time.Now().Truncate(time.Second)
		r.Add(identity.Caller{Proxy: "web-1", Token: "secret-token"}, certificate(258, "web", 72*time.Hour))
		time.Sleep(time.Second)
		r.Add(identity.Caller{Application: "uid 1000"}, certificate(2, "api", time.Minute))
		r.Add(identity.Caller{Application: "uid 1000"}, certificate(2, "api", time.Minute)) // once more, as an agent gives it
		r.Add(identity.Caller{Application: "token 7QK"}, certificate(2, "api", time.Minute))
		sum := sha256.Sum256([]byte("certificate 258 of web"))
		first := Leaf{
			Serial: []byte{1, 2}, SHA256: sum, ID: "spiffe://mesh.test/ns/default/dc/dc1/svc/web", Caller: "proxy web-1", Issued: began, Ends: began.Add(72 * time.Hour),
		}
		check := func(r *Record, callers ...string) {
			t.Helper()
			var got []string
			for _, l := range all(r) {
				got = append(got, l.Caller)
			}
			if diff := cmp.Diff(callers, got); diff != "" {
				t.Errorf("callers (-want +got):\n%s", diff)
			}
			found := r.Leafs(func(l Leaf) bool { return l.SHA256 == sum })
			if diff := cmp.Diff([]Leaf{first}, found); diff != "" {
				t.Errorf("by SHA-256 (-want +got):\n%s", diff)
			}
		}
		check(r, "token 7QK", "uid 1000", "proxy web-1")

		// Written without an end of Run, as a process that is killed leaves it.
		time.Sleep(time.Second)
		synctest.Wait()
		again, log := open(t, path)
		check(again, "token 7QK", "uid 1000", "proxy web-1")
		if log.Len() > 0 {
			t.Errorf("log: %s", log)
		}
		// What has ended is not told any more, nor read.
		time.Sleep(2 * time.Minute)
		check(r, "proxy web-1")
		end()
		again, _ = open(t, path)
		check(again, "proxy web-1")
		b, err := os.ReadFile(path)
		if err != nil || bytes.Contains(b, []byte("secret-token")) || !bytes.Contains(b, []byte(`"serial":"0102"`)) {
			t.Errorf("the file (%v) has:\n%s", err, b)
		}
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%v, %v: want mode 0600", info, err)
		}
	})
}

// TestTorn cuts the file anywhere, as a power cut may: what comes after the last whole line is lost, and nothing else,
// also when there is more to record.
func TestTorn(t *testing.T) {
	path := filepath.Join(t.TempDir(), "issued-leafs")
	r, _ := open(t, path)
	for n := range 5 {
		r.Add(web("web"), certificate(n, "web", time.Hour))
	}
	running(t, r)()
	whole, err := os.ReadFile(path)
	if err != nil || bytes.Count(whole, []byte("\n")) != 5 {
		t.Fatalf("%s, %v", whole, err)
	}
	for n := range whole {
		if err := os.WriteFile(path, whole[:n], 0o600); err != nil {
			t.Fatal(err)
		}
		r, log := open(t, path)
		want := bytes.Count(whole[:n], []byte("\n"))
		if got := len(all(r)); got != want || log.Len() > 0 {
			t.Fatalf("cut off at %d of %d: %d leafs, want %d; log: %s", n, len(whole), got, want, log)
		}
		if n%37 != 0 {
			continue
		}
		r.Add(web("web"), certificate(99, "web", time.Hour))
		running(t, r)()
		if r, log = open(t, path); len(all(r)) != want+1 || log.Len() > 0 {
			t.Fatalf("cut off at %d and gone on: %d leafs, want %d; log: %s", n, len(all(r)), want+1, log)
		}
	}
}

// TestDamaged flips a bit anywhere: at most two lines are lost, the rest is there, and the log tells.
func TestDamaged(t *testing.T) {
	path := filepath.Join(t.TempDir(), "issued-leafs")
	r, _ := open(t, path)
	for n := range 5 {
		r.Add(web("web"), certificate(n, "web", time.Hour))
	}
	running(t, r)()
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for n := range whole[:len(whole)-1] {
		damaged := bytes.Clone(whole)
		damaged[n] ^= 1 << (n % 8)
		if err := os.WriteFile(path, damaged, 0o600); err != nil {
			t.Fatal(err)
		}
		r, log := open(t, path)
		// Of a checksum an upper-case digit says the same.
		if got := len(all(r)); got == 5 && log.Len() == 0 && bytes.EqualFold(damaged, whole) {
			continue
		} else if got != 4 && got != 3 || !strings.Contains(log.String(), "damaged") {
			t.Fatalf("with byte %d of %d changed: %d leafs, log: %s", n, len(whole), got, log)
		}
	}
	long := append(bytes.Repeat([]byte("x"), 200_000), '\n')
	if err := os.WriteFile(path, append(long, whole...), 0o600); err != nil {
		t.Fatal(err)
	}
	if r, log := open(t, path); len(all(r)) != 5 || !strings.Contains(log.String(), "count=1") {
		t.Errorf("after an endless line %d leafs, log: %s", len(all(r)), log)
	}
}

func TestOpenFails(t *testing.T) {
	if _, err := Open(Config{File: t.TempDir()}); err == nil || !strings.Contains(err.Error(), "move ") {
		t.Errorf("a directory is read as the file: %v", err)
	}
	registry := prometheus.NewRegistry()
	for n, want := range []bool{true, false} {
		_, err := Open(Config{File: filepath.Join(t.TempDir(), "f"), Registerer: registry})
		if (err == nil) != want {
			t.Errorf("number %d with the same registry: %v", n, err)
		}
	}
}

// TestFull has those make room that have ended, then those that end first.
func TestFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, log := open(t, filepath.Join(t.TempDir(), "issued-leafs"))
		r.max = 100
		for n := range 50 {
			r.Add(web("web"), certificate(n, "short", time.Minute))
		}
		time.Sleep(2 * time.Minute)
		for n := range 100 {
			r.Add(web("web"), certificate(n, "web", time.Hour+time.Duration(n)*time.Minute))
		}
		if got := testutil.ToFloat64(r.dropped); got != 0 || log.Len() > 0 {
			t.Errorf("%v are dropped that had not ended; log: %s", got, log)
		}
		for n := 100; n < 120; n++ {
			r.Add(web("web"), certificate(n, "web", time.Hour+time.Duration(n)*time.Minute))
		}
		kept := all(r)
		if len(kept) > 100 || len(kept) < 95 || testutil.ToFloat64(r.dropped)+float64(len(kept)) != 120 {
			t.Errorf("%d of 120 are kept, %v dropped", len(kept), testutil.ToFloat64(r.dropped))
		}
		for _, l := range kept {
			if n := new(big.Int).SetBytes(l.Serial).Int64(); n < 20 {
				t.Errorf("number %d is kept, which ends before others that are not", n)
			}
		}
		if n := strings.Count(log.String(), "is full"); n != 1 {
			t.Errorf("said %d times:\n%s", n, log)
		}
	})
}

// TestCompaction has the file be written anew when most of it is about leafs that have ended, while it runs and at a start.
func TestCompaction(t *testing.T) {
	const fewLines = 1000 // of internal/journal
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "issued-leafs")
		lines := func() int {
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			return bytes.Count(b, []byte("\n"))
		}
		fill := func(r *Record) {
			for n := range fewLines + 100 {
				r.Add(web("web"), certificate(n, "web", time.Minute))
			}
			r.Add(web("web"), certificate(7, "long", 99*time.Hour))
			time.Sleep(time.Second)
			synctest.Wait()
			if got := lines(); got != fewLines+101 {
				t.Fatalf("%d lines", got)
			}
		}
		r, _ := open(t, path)
		end := running(t, r)
		fill(r)
		time.Sleep(3 * sweep)
		synctest.Wait()
		if got := lines(); got != 1 {
			t.Errorf("%d lines after the leafs have ended, want 1", got)
		}
		fill(r)
		end()
		time.Sleep(2 * time.Minute)
		r, _ = open(t, path)
		running(t, r)()
		if got := lines(); got != 1 || len(all(r)) != 1 {
			t.Errorf("%d lines after a start, want 1", got)
		}
	})
}

// TestDisk: leafs are handed out while the disk takes nothing, the record says what is wrong, and all of them are on the disk when it does
// again. More than a quarter of what is kept wait, so the file is written anew.
func TestDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "data")
		path := filepath.Join(dir, "issued-leafs")
		r, log := open(t, path)
		r.max = 100
		defer running(t, r)()
		for n := range 60 {
			r.Add(web("web"), certificate(n, "web", time.Hour))
		}
		time.Sleep(time.Minute)
		if err := r.Health(); !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), path) || len(all(r)) != 60 {
			t.Errorf("%d leafs, health %v", len(all(r)), err)
		}
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Second)
		r.Add(web("web"), certificate(60, "web", time.Hour))
		time.Sleep(time.Second)
		if again, _ := open(t, path); len(all(again)) != 61 || r.Health() != nil {
			t.Errorf("%d leafs are on the disk, want 61; health %v", len(all(again)), r.Health())
		}
		if n := strings.Count(log.String(), "level=ERROR"); n != 1 || !strings.Contains(log.String(), "record written again") {
			t.Errorf("%d errors in the log:\n%s", n, log)
		}
	})
}

// TestFormat reads what releases since the first have written, and writes the same.
func TestFormat(t *testing.T) {
	const text = `{"serial":"0102","sha256":"ab52706b3a8dea4b2b9b3bc3a0d9f2ca0d7b2a5b4c3d2e1f00112233445566aa","id":"spiffe://mesh.test/ns/default/dc/dc1/svc/web","caller":"token 7QK","issued":1700000000,"ends":4102444800} `
	path := filepath.Join(t.TempDir(), "issued-leafs")
	content := fmt.Sprintf("%s%08x\n", text, crc32.ChecksumIEEE([]byte(strings.TrimSuffix(text, " "))))
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	r, log := open(t, path)
	if got := all(r); len(got) != 1 || got[0].Caller != "token 7QK" || !bytes.Equal(got[0].Serial, []byte{1, 2}) || log.Len() > 0 {
		t.Fatalf("%+v; log: %s", got, log)
	}
	r.journal.Rewrite()
	running(t, r)()
	if b, err := os.ReadFile(path); err != nil || string(b) != content {
		t.Errorf("%v, written anew it is\n%swant\n%s", err, b, content)
	}
}

// given is a source that gives each caller one leaf and ends.
type given struct{ sds.Source }

func (given) WatchSVID(_ context.Context, _ identity.Caller, _ identity.Service, f func(*sds.SVID)) error {
	f(nil)
	f(&sds.SVID{})
	f(&sds.SVID{Certificates: []*x509.Certificate{certificate(1, "web", time.Hour)}})
	return nil
}

func TestSource(t *testing.T) {
	r, _ := open(t, filepath.Join(t.TempDir(), "issued-leafs"))
	handed := 0
	err := r.Source(given{}).WatchSVID(t.Context(), identity.Caller{Application: "uid 7", Token: "secret"}, identity.Service{}, func(s *sds.SVID) {
		handed++
		if s != nil && len(s.Certificates) > 0 && len(all(r)) != 1 {
			t.Error("a leaf is handed out before it is recorded")
		}
	})
	if got := all(r); err != nil || handed != 3 || len(got) != 1 || got[0].Caller != "uid 7" {
		t.Errorf("%d handed out, recorded: %+v, %v", handed, got, err)
	}
}

func FuzzLine(f *testing.F) {
	r, _ := open(f, filepath.Join(f.TempDir(), "issued-leafs"))
	r.Add(web(`we"b`), certificate(1, "web", time.Hour))
	textOf := func(k key, v value) []byte {
		text, err := json.Marshal(lineOf(k, v))
		if err != nil {
			f.Fatal(err)
		}
		return text
	}
	for k, v := range r.all {
		f.Add(textOf(k, v))
	}
	f.Add([]byte(`{}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		k, v, err := parseLine(b)
		if err != nil {
			return
		}
		k2, v2, err := parseLine(textOf(k, v))
		if err != nil || k2 != k || v2 != v {
			t.Errorf("%q is %v %v, and written anew %v %v, %v", b, k, v, k2, v2, err)
		}
	})
}
