package journal

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"iter"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// numbers is who keeps numbers in a journal.
type numbers struct {
	j       *Journal
	log     *bytes.Buffer
	missing bool
	damaged int

	mu      sync.Mutex
	all     []int
	due     []int
	ended   bool // the last line that was read says so
	refused int  // each refuses it
}

// number is an entry.
type number struct {
	N     int  `json:"n"`
	Ended bool `json:"ended,omitempty"`
}

func open(t testing.TB, path string) *numbers {
	t.Helper()
	n := &numbers{log: &bytes.Buffer{}, refused: -1}
	n.open(t, path)
	return n
}

func (n *numbers) open(t testing.TB, path string) {
	t.Helper()
	var err error
	cfg := Config{File: path, Logger: slog.New(slog.NewTextHandler(n.log, nil)), Due: n.take, Last: number{Ended: true}}
	n.j, n.damaged, n.missing, err = Open(cfg, func(text []byte) error {
		var e number
		if err := json.Unmarshal(text, &e); err != nil {
			return err
		}
		if n.ended = e.Ended; e.Ended {
			return nil
		}
		if e.N == n.refused {
			return errors.New("refused")
		}
		n.all = append(n.all, e.N)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func (n *numbers) take(all bool) iter.Seq[any] {
	n.mu.Lock()
	defer n.mu.Unlock()
	list := n.due
	n.due = nil
	if all {
		list = slices.Clone(n.all)
	}
	return func(yield func(any) bool) {
		for _, e := range list {
			if !yield(number{N: e}) {
				return
			}
		}
	}
}

func (n *numbers) add(e int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.all, n.due = append(n.all, e), append(n.due, e)
	n.j.Signal()
}

func (n *numbers) run(t testing.TB) (end func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- n.j.Run(ctx) }()
	return func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

func linesOf(t testing.TB, path string) int {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return bytes.Count(b, []byte("\n"))
}

// TestEnd: what was added is there after an end, and after a kill a moment later; the last line tells which it was.
func TestEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "journal")
		n := open(t, path)
		if !n.missing || n.damaged != 0 || n.ended {
			t.Errorf("a new one: %+v", n)
		}
		end := n.run(t)
		n.add(1)
		n.add(2)
		time.Sleep(time.Second)
		killed := open(t, path)
		if diff := cmp.Diff([]int{1, 2}, killed.all); diff != "" || killed.missing || killed.ended {
			t.Errorf("as a process that is killed leaves it: ended %v, missing %v (-want +got):\n%s", killed.ended, killed.missing, diff)
		}
		n.add(3)
		end()
		ended := open(t, path)
		if diff := cmp.Diff([]int{1, 2, 3}, ended.all); diff != "" || !ended.ended {
			t.Errorf("after an end: ended %v (-want +got):\n%s", ended.ended, diff)
		}
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%v, %v: want mode 0600", info, err)
		}
	})
}

// TestTorn cuts the file off anywhere, as a power cut may: what comes after the last whole line is lost without being counted, the next
// write makes the file whole, and nothing that is there is lost.
func TestTorn(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	n := open(t, path)
	for e := range 5 {
		n.add(e)
	}
	n.run(t)()
	whole, err := os.ReadFile(path)
	if err != nil || bytes.Count(whole, []byte("\n")) != 6 {
		t.Fatalf("%s, %v", whole, err)
	}
	for cut := range whole {
		if err := os.WriteFile(path, whole[:cut], 0o600); err != nil {
			t.Fatal(err)
		}
		n := open(t, path)
		want := min(5, bytes.Count(whole[:cut], []byte("\n")))
		if len(n.all) != want || n.damaged != 0 || n.ended || n.missing {
			t.Fatalf("cut off at %d of %d: %v, want %d; damaged %d, ended %v", cut, len(whole), n.all, want, n.damaged, n.ended)
		}
		if cut%17 != 0 {
			continue
		}
		n.add(99)
		n.run(t)()
		if again := open(t, path); len(again.all) != want+1 || again.damaged != 0 || !again.ended {
			t.Fatalf("cut off at %d and gone on: %v, want %d; damaged %d", cut, again.all, want+1, again.damaged)
		}
	}
}

// TestDamaged flips bits, has lines that are too long and lines that their reader refuses: they are counted, left out, and gone after the
// next write; all others are there.
func TestDamaged(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	n := open(t, path)
	for e := range 5 {
		n.add(e)
	}
	n.run(t)()
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for at := range whole[:len(whole)-1] {
		damaged := bytes.Clone(whole)
		damaged[at] ^= 1 << (at % 8)
		if bytes.EqualFold(damaged, whole) { // of a checksum an upper-case digit says the same
			continue
		}
		if err := os.WriteFile(path, damaged, 0o600); err != nil {
			t.Fatal(err)
		}
		if n := open(t, path); n.damaged != 1 || len(n.all) < 3 { // without its newline a line takes the next one along
			t.Fatalf("byte %d of %d changed: %v, damaged %d", at, len(whole), n.all, n.damaged)
		}
	}
	for name, text := range map[string]string{
		"long":              strings.Repeat("x", 3*maxLine),
		"as long as may be": strings.Repeat("x", maxLine),
		"empty":             "",
		"short":             "1234567",
		"no checksum":       `{"n":7} zzzzzzzz`,
		"no JSON":           fmt.Sprintf(`{"n": %08x`, crc32.ChecksumIEEE([]byte(`{"n":`))),
	} {
		if err := os.WriteFile(path, append([]byte(text+"\n"), whole...), 0o600); err != nil {
			t.Fatal(err)
		}
		n := open(t, path)
		if n.damaged != 1 || len(n.all) != 5 {
			t.Errorf("%s: damaged %d, %v", name, n.damaged, n.all)
		}
		n.run(t)()
		if again := open(t, path); again.damaged != 0 || len(again.all) != 5 {
			t.Errorf("%s: written anew: damaged %d, %v", name, again.damaged, again.all)
		}
	}
	refusing := &numbers{log: &bytes.Buffer{}, refused: 3}
	refusing.open(t, path)
	if diff := cmp.Diff([]int{0, 1, 2, 4}, refusing.all); diff != "" || refusing.damaged != 1 {
		t.Errorf("refused: damaged %d (-want +got):\n%s", refusing.damaged, diff)
	}
}

func TestUnreadable(t *testing.T) {
	if _, _, _, err := Open(Config{File: t.TempDir()}, func([]byte) error { return nil }); err == nil {
		t.Error("a directory is read as a journal")
	}
	// Nobody writes to it: to wait for that would be to wait without end.
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	opened := make(chan error, 1)
	go func() {
		_, _, _, err := Open(Config{File: pipe}, func([]byte) error { return nil })
		opened <- err
	}()
	select {
	case err := <-opened:
		if err == nil {
			t.Error("a pipe is read as a journal")
		}
	case <-time.After(time.Minute):
		t.Error("a pipe is waited for")
	}
}

// TestCompact has the file be written anew when most of its lines hold no more, and not before.
func TestCompact(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "journal")
		n := open(t, path)
		end := n.run(t)
		for e := range fewLines + 1 {
			n.add(e)
		}
		compact := func(hold, want int) {
			t.Helper()
			n.mu.Lock()
			n.all = n.all[:hold]
			n.mu.Unlock()
			n.j.Compact(hold)
			time.Sleep(time.Second)
			if got := linesOf(t, path); got != want {
				t.Errorf("%d lines with %d that hold, want %d", got, hold, want)
			}
		}
		time.Sleep(time.Second)
		compact(fewLines+1, fewLines+1)
		compact(fewLines/2+1, fewLines+1) // more than half of them hold
		compact(fewLines/2, fewLines/2)
		compact(1, fewLines/2) // so few are no trouble
		end()
		if got := linesOf(t, path); got != fewLines/2+1 { // with the one of the end
			t.Errorf("%d lines at the end", got)
		}
	})
}

// trouble is a disk that answers what it is told to.
type trouble struct {
	file
	answer chan error
	calls  []string
}

func (d *trouble) append(b []byte) error { return d.do("append", b, d.file.append) }

func (d *trouble) replace(b []byte) error { return d.do("replace", b, d.file.replace) }

func (d *trouble) do(what string, b []byte, f func([]byte) error) error {
	d.calls = append(d.calls, fmt.Sprintf("%s %d", what, bytes.Count(b, []byte("\n"))))
	if err := <-d.answer; err != nil {
		return err
	}
	return f(b)
}

// TestDisk adds entries while the disk takes nothing, has it fail with a line that is half there, and finds all when it works again.
func TestDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "journal")
		n := open(t, path)
		d := &trouble{file: file{path: path}, answer: make(chan error)}
		n.j.disk = d
		end := n.run(t)
		began := time.Now()
		for e := range 40 {
			n.add(e)
			synctest.Wait()
		}
		if time.Since(began) != 0 || n.j.Health() != nil {
			t.Errorf("adding waited for the disk: %v, %v", time.Since(began), n.j.Health())
		}
		d.answer <- nil // the first, alone
		time.Sleep(time.Second)
		d.answer <- nil
		time.Sleep(time.Second)
		n.add(40)
		synctest.Wait()
		half, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := half.WriteString(`{"n":4`); err != nil {
			t.Fatal(err)
		}
		d.answer <- errors.New("no space left")
		synctest.Wait()
		if err := n.j.Health(); err == nil || !strings.Contains(err.Error(), "no space left") || !strings.Contains(err.Error(), path) {
			t.Errorf("health %v", err)
		}
		if crashed := open(t, path); len(crashed.all) != 40 || crashed.damaged != 0 {
			t.Errorf("after the failure %v, damaged %d", crashed.all, crashed.damaged)
		}
		time.Sleep(retry)
		d.answer <- errors.New("no space left")
		time.Sleep(retry)
		d.answer <- nil
		time.Sleep(time.Second)
		n.add(41)
		d.answer <- nil
		synctest.Wait()
		if diff := cmp.Diff([]string{"replace 1", "append 39", "append 1", "replace 41", "replace 41", "append 1"}, d.calls); diff != "" || n.j.Health() != nil {
			t.Errorf("%v; calls (-want +got):\n%s", n.j.Health(), diff)
		}
		if again := open(t, path); len(again.all) != 42 || again.damaged != 0 {
			t.Errorf("%v are on the disk, damaged %d", again.all, again.damaged)
		}
		if e := strings.Count(n.log.String(), "level=ERROR"); e != 1 || !strings.Contains(n.log.String(), "written again") {
			t.Errorf("%d errors in the log:\n%s", e, n.log)
		}
		// At the end it waits for the disk, but not for ever.
		time.Sleep(time.Second)
		n.add(42)
		synctest.Wait()
		began = time.Now()
		end()
		if took := time.Since(began); took != lastWrite || !strings.Contains(n.log.String(), "did not take it") {
			t.Errorf("the end took %v, want %v; log: %s", took, lastWrite, n.log)
		}
		d.answer <- nil
		d.answer <- nil // the last line
		time.Sleep(time.Second)
	})
}

// TestConcurrent adds from many goroutines while the file is written, written anew and compacted: each entry is there once at least, and
// no line is damaged.
func TestConcurrent(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	n := open(t, path)
	end := n.run(t)
	var all sync.WaitGroup
	for g := range 8 {
		all.Go(func() {
			for i := range 200 {
				n.add(g*1000 + i)
				switch i % 50 {
				case 7:
					n.j.Rewrite()
				case 31:
					n.j.Compact(1)
				}
				_ = n.j.Health()
			}
		})
	}
	all.Wait()
	end()
	again := open(t, path)
	slices.Sort(again.all)
	if got := slices.Compact(again.all); len(got) != 1600 || again.damaged != 0 || !again.ended {
		t.Errorf("%d entries, want 1600; damaged %d, ended %v", len(got), again.damaged, again.ended)
	}
}
