package xds

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/sallyport/sallyport/intention"
	"github.com/sallyport/sallyport/internal/atomicfile"
	"github.com/sallyport/sallyport/internal/sequence"
)

// recordedFile is the format of the generations on disk. Most destinations allow the same sources,
// which are written once.
type recordedFile struct {
	Version      int                            `json:"version"`
	Bases        []*intention.Base              `json:"bases"`
	Revoked      [][]string                     `json:"revoked,omitempty"`
	Destinations map[string]recordedDestination `json:"destinations"`
	Ended        uint64                         `json:"ended,omitempty"` // generations.ended
}

// recordedDestination is one destination's part of the file.
type recordedDestination struct {
	Number uint64   `json:"generation"`
	Base   *int     `json:"base,omitempty"` // index in bases; none: nobody was allowed
	In     []string `json:"in,omitempty"`
	Out    []string `json:"out,omitempty"`
	// Revoked is the index in revoked, from 1, of what is not allowed because it is revoked; 0: nothing is.
	// Releases that do not know it do allow that.
	Revoked int `json:"revoked,omitempty"`
}

// olderFile is the format of releases before recordedVersion, under the name olderName.
type olderFile struct {
	Version      int `json:"version"`
	Destinations map[string]struct {
		Number  uint64          `json:"generation"`
		Allowed *intention.Base `json:"allowed"`
	} `json:"destinations"`
}

const (
	recordedVersion = 2
	olderVersion    = 1
	olderName       = "generations.json"
)

// openGenerations reads path; an empty path stands for no file. If there is no file, it reads that
// of an older release beside it; if there is none either, there are no generations. A file that
// cannot be read is an error that names the remedy. unrecorded is the path of the file that
// recorder.writeUnrecorded wrote: the services in it get a new generation. numbers continues after
// the generations that are read.
func openGenerations(path, unrecorded string, numbers *sequence.Numbers, now time.Time) (*generations, error) {
	g := &generations{byDst: map[string]*generation{}, numbers: numbers}
	if path == "" {
		return g, nil
	}
	b, err := os.ReadFile(path)
	read := g.read
	if errors.Is(err, fs.ErrNotExist) {
		path, read = filepath.Join(filepath.Dir(path), olderName), g.readOlder
		b, err = os.ReadFile(path)
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return g, nil
	case err != nil:
		return nil, fmt.Errorf("filter chain generations: %w", err)
	}
	// Releases before did not seal it.
	if b, _, err = atomicfile.Unseal(b); err == nil {
		err = read(b)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: filter chain generations: %w: restore the file from a backup or delete it; deleting it ends the live connections of each service with revocation \"drain\" once, and loses nothing else", path, err)
	}
	newest := g.ended
	for _, s := range g.byDst {
		newest, s.gone = max(newest, s.number), now
	}
	if err := numbers.Raise(newest); err != nil {
		return nil, err
	}
	lost, err := os.ReadFile(unrecorded)
	if err != nil && !errors.Is(err, fs.ErrNotExist) && unrecorded != "" {
		return nil, fmt.Errorf("services whose live connections are to end: %w", err)
	}
	for name := range strings.FieldsSeq(string(lost)) {
		g.rename(name)
	}
	return g, nil
}

// rename gives a destination that is read from disk another generation: more was told under the one
// that it has than is recorded.
func (g *generations) rename(name string) {
	if s := g.byDst[name]; s != nil {
		s.number = g.numbers.Next()
		s.allowed = intention.Set{}
		g.dirty = true
	}
}

func (g *generations) read(b []byte) error {
	var f recordedFile
	if err := json.Unmarshal(b, &f); err != nil {
		return err
	}
	if f.Version > recordedVersion {
		return fmt.Errorf("format %d was written by a newer sallyport: run that one, or else", f.Version)
	}
	if f.Version != recordedVersion {
		return fmt.Errorf("unknown format %d", f.Version)
	}
	g.ended = f.Ended
	for name, d := range f.Destinations {
		r := record{number: d.Number, allowed: intention.Set{In: d.In, Out: d.Out}}
		switch {
		case d.Base == nil:
			r.allowed = intention.Set{}
		case *d.Base < 0 || *d.Base >= len(f.Bases) || f.Bases[*d.Base] == nil:
			return fmt.Errorf("%q refers to a base that is not there", name)
		default:
			r.allowed.Base = f.Bases[*d.Base]
		}
		switch {
		case d.Revoked < 0 || d.Revoked > len(f.Revoked):
			return fmt.Errorf("%q refers to revocations that are not there", name)
		case d.Revoked > 0 && d.Base != nil:
			r.allowed.Revoked = f.Revoked[d.Revoked-1]
		}
		if err := g.put(name, r); err != nil {
			return err
		}
	}
	return nil
}

func (g *generations) readOlder(b []byte) error {
	var f olderFile
	if err := json.Unmarshal(b, &f); err != nil {
		return err
	}
	if f.Version != olderVersion {
		return fmt.Errorf("unknown format %d", f.Version)
	}
	g.dirty = len(f.Destinations) > 0 // to be written under the new name
	for name, d := range f.Destinations {
		if err := g.put(name, record{number: d.Number, allowed: intention.Set{Base: d.Allowed}}); err != nil {
			return err
		}
	}
	return nil
}

func (g *generations) put(name string, r record) error {
	if r.number == 0 {
		return fmt.Errorf("%q has no generation", name)
	}
	g.byDst[name] = &generation{record: r, recorded: r}
	return nil
}

// saveAgain is how long after a failed write the generations are written again.
const saveAgain = 5 * time.Second

// recorder writes generations to disk, one set at a time, in a goroutine other than theirs.
type recorder struct {
	path, unrecorded string
	file             func(path string, data []byte) error // atomicfile.Replace
	done             chan recording                       // has room for the one recording
	busy             bool
	retryAt          time.Time    // when to try the same once more; zero: the last try worked
	err              error        // of the last try
	left             *atomic.Bool // what is being written is not waited for any more
}

// recording is a set of generations that is being written, and the result.
type recording struct {
	of      map[string]record
	ended   uint64
	missing []string // the names of those in of that are not on disk yet
	err     error
}

// start begins to write g if there is something to write. What was not tried yet is tried at once,
// even if the last try has just failed: until then it has to wait. spawn calls its argument in a
// goroutine.
func (r *recorder) start(g *generations, now time.Time, spawn func(func())) {
	if r.busy || !g.dirty && (r.retryAt.IsZero() || now.Before(r.retryAt)) {
		return
	}
	g.dirty = false
	maps.DeleteFunc(g.byDst, func(_ string, s *generation) bool { return !s.gone.IsZero() && now.Sub(s.gone) > keepGone })
	w := recording{of: make(map[string]record, len(g.byDst)), ended: g.ended, missing: g.missing()}
	for name, s := range g.byDst {
		w.of[name], s.writing = s.record, s.record
	}
	r.busy = true
	spawn(func() {
		w.err = r.write(w)
		r.done <- w
	})
}

// missing are the names of those of which something is not on disk.
func (g *generations) missing() (names []string) {
	for name, s := range g.byDst {
		if !s.record.equal(s.recorded) {
			names = append(names, name)
		}
	}
	return names
}

// finish notes the result of a recording.
func (r *recorder) finish(g *generations, w recording, now time.Time) {
	r.busy, r.err, r.retryAt = false, w.err, time.Time{}
	if w.err != nil {
		r.retryAt = now.Add(saveAgain)
	}
	for name, was := range w.of {
		s := g.byDst[name]
		s.writing, s.bounded, s.named = record{}, nil, false
		if w.err == nil {
			s.recorded = was
		}
	}
	if w.err != nil {
		for _, name := range w.missing {
			g.byDst[name].named = true
		}
	}
}

// lastWrite is how long the end waits for the disk.
const lastWrite = 5 * time.Second

// end writes what is not written yet. Of what the disk does not take in time, or at all, the next
// start gets to know that it is missing.
func (r *recorder) end(g *generations) error {
	g.dirty = g.dirty || r.err != nil
	spawn := func(f func()) { go f() }
	timeout := time.After(lastWrite)
	for r.start(g, time.Now(), spawn); r.busy; r.start(g, time.Now(), spawn) {
		select {
		case w := <-r.done:
			r.finish(g, w, time.Now())
		case <-timeout:
			r.left.Store(true)
			return errors.Join(errors.New("the disk does not answer"), r.writeUnrecorded(g.missing()))
		}
	}
	return r.err
}

func (r *recorder) write(w recording) error {
	if r.path == "" {
		return nil
	}
	err := r.replace(w.of, w.ended)
	if r.left.Load() {
		return err
	}
	if err == nil {
		return errors.Join(remove(filepath.Join(filepath.Dir(r.path), olderName)), remove(r.unrecorded))
	}
	return errors.Join(err, r.writeUnrecorded(w.missing))
}

func remove(path string) error {
	if path == "" {
		return nil
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func (r *recorder) replace(of map[string]record, ended uint64) error {
	f := recordedFile{Version: recordedVersion, Ended: ended, Destinations: make(map[string]recordedDestination, len(of))}
	at := map[*intention.Base]*int{nil: nil}
	equal, revoked := map[string]*int{}, map[string]int{}
	for name, s := range of {
		n, ok := at[s.allowed.Base]
		if !ok {
			// Destinations with a rule for the rest have bases of their own, most of them equal.
			key, err := json.Marshal(s.allowed.Base)
			if err != nil {
				return err
			}
			if n = equal[string(key)]; n == nil {
				i := len(f.Bases)
				n = &i
				f.Bases = append(f.Bases, s.allowed.Base)
				equal[string(key)] = n
			}
			at[s.allowed.Base] = n
		}
		d := recordedDestination{Number: s.number, Base: n, In: s.allowed.In, Out: s.allowed.Out}
		if list := s.allowed.Revoked; len(list) > 0 {
			key := strings.Join(list, "\n")
			if revoked[key] == 0 {
				f.Revoked = append(f.Revoked, list)
				revoked[key] = len(f.Revoked)
			}
			d.Revoked = revoked[key]
		}
		f.Destinations[name] = d
	}
	b, err := json.Marshal(f)
	if err != nil {
		return err
	}
	return r.file(r.path, atomicfile.Seal(append(b, '\n')))
}

// writeUnrecorded writes, in a directory that is not on the failed disk, the names of the services
// of which more was published than is recorded: the next start ends their live connections.
func (r *recorder) writeUnrecorded(names []string) error {
	if r.unrecorded == "" {
		return nil
	}
	return atomicfile.Replace(r.unrecorded, []byte(strings.Join(names, "\n")+"\n"))
}

// Unrecorded says why part of the generations file could not be written; empty: all of it was.
func (s *Server) Unrecorded() string {
	if text := s.unrecorded.Load(); text != nil {
		return *text
	}
	return ""
}
