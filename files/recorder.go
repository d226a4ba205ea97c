package files

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/sallyport/sallyport/catalog"
)

// recordAgain is how long after a failure a record is written again.
const recordAgain = 5 * time.Second

// recorder keeps what is in force on disk, beside Run: what takes somebody's access away is
// published at once, and what lets somebody in when it is recorded that he is.
//
// So a record may allow more than was published last, for as long as the disk takes. Then a mark in
// another directory, which is written first and needs no disk, says so, and a start does not go on
// from the record (docs/adr/0010-files-one-by-one.md).
type recorder struct {
	config *Config
	write  func(*record) error
	// The rest is Run's alone.
	done     chan recorded
	writing  *record // nil: none is
	on       *record // what is on the disk; nil: nothing that a start would go on from
	next     *record // what is to be written; nil: nothing
	marked   bool
	retryAt  time.Time // when to write after a failure; zero: there was none
	err      error     // of the last write, or of the last mark
	contents catalog.Contents
}

// recorded is how the writing of a record ended.
type recorded struct {
	*record
	err error
}

func newRecorder(c *Config) *recorder {
	r := &recorder{config: c, done: make(chan recorded, 1)}
	r.write = func(next *record) error { return next.write(c.RecordFile, c.Dir) }
	return r
}

// offer takes contents that are to be published, and next, the record of them. It returns as much of
// the contents as may be published now.
func (r *recorder) offer(contents catalog.Contents, next *record, now time.Time) catalog.Contents {
	r.contents = contents
	if r.config.RecordFile == "" {
		return contents
	}
	switch {
	case r.next != nil, r.writing != nil && !next.equal(r.writing), r.writing == nil && (r.on == nil || !next.equal(r.on)):
		r.next = next
	}
	r.start(now)
	return r.now()
}

// now is as much of the contents as may be published.
func (r *recorder) now() catalog.Contents {
	c := r.contents
	why := "that is recorded on disk"
	if r.err != nil {
		why += ", which fails: " + r.err.Error()
	}
	for _, bound := range []*record{r.on, r.writing} {
		// Of a record that the next start does not go on from nobody needs to be told before.
		if bound == nil || r.on == nil {
			continue
		}
		if allowed := alike(bound.intentions, c.Intentions); !r.config.within(c.Intentions, allowed) {
			c.Intentions = r.config.both(c.Intentions, allowed, why)
		}
	}
	c.Reuse(&r.contents)
	for _, bound := range []*record{r.on, r.writing} {
		if bound != nil && !r.config.within(bound.intentions, c.Intentions) {
			r.mark()
			break
		}
	}
	return c
}

// mark notes, without a disk, that records allow more than is published.
func (r *recorder) mark() {
	if r.marked || r.config.UnrecordedFile == "" {
		return
	}
	if err := os.WriteFile(r.config.UnrecordedFile, []byte(r.config.Dir+"\n"), 0o600); err != nil {
		r.err = fmt.Errorf("that it is not recorded cannot be noted: %w", err)
		return
	}
	r.marked = true
}

// start begins to write the next record, if there is one and none is being written.
func (r *recorder) start(now time.Time) {
	if r.next == nil || r.writing != nil || now.Before(r.retryAt) {
		return
	}
	next := r.next
	r.writing, r.next = next, nil
	go func() { r.done <- recorded{next, r.write(next)} }()
}

// finish notes how a write ended, and returns what may be published now.
func (r *recorder) finish(w recorded, now time.Time) catalog.Contents {
	r.writing, r.err, r.retryAt = nil, w.err, time.Time{}
	if w.err != nil {
		r.retryAt = now.Add(recordAgain)
		if r.next == nil {
			r.next = w.record
		}
	} else {
		r.on = w.record
	}
	r.start(now)
	c := r.now()
	if r.marked && r.on != nil && r.writing == nil && r.next == nil {
		if err := os.Remove(r.config.UnrecordedFile); err != nil && !errors.Is(err, os.ErrNotExist) {
			r.err = fmt.Errorf("that it was not recorded is noted still: %w", err)
		} else {
			r.marked = false
		}
	}
	return c
}

// end waits until what there is to record is written, but not for ever.
func (r *recorder) end() error {
	timeout := time.After(lastWrite)
	r.retryAt = time.Time{}
	for r.start(time.Now()); r.writing != nil; {
		select {
		case w := <-r.done:
			if r.finish(w, time.Now()); r.err != nil {
				return r.err
			}
		case <-timeout:
			return fmt.Errorf("the disk did not take it in %s", lastWrite)
		}
	}
	return nil
}

// open reads the record that there is; nil: nothing goes on from one. lost is why one that is there
// does not count.
func (r *recorder) open(c *cache) (on *record, lost error) {
	if r.config.RecordFile == "" {
		return nil, nil
	}
	if r.config.UnrecordedFile != "" {
		if _, err := os.Stat(r.config.UnrecordedFile); !errors.Is(err, os.ErrNotExist) {
			r.marked = err == nil
			return nil, errors.New("access was taken away that it does not know of")
		}
	}
	return c.readRecord(r.config.RecordFile)
}

// endRecord waits until what is in force is recorded, as far as the disk lets it.
func (s *Source) endRecord() {
	if err := s.recorder.end(); err != nil {
		s.config.Logger.Error("what is in force of the catalog is not recorded", "file", s.config.RecordFile, "err", err)
	}
}
