package files

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/sallyport/sallyport/catalog"
)

const (
	// quiet is how long a directory must be left alone before it is read, so that half of what a
	// deployment writes is not.
	quiet = 50 * time.Millisecond
	// maxWait bounds that: a directory that is never left alone is read all the same.
	maxWait = 500 * time.Millisecond
	// pollInterval is how often the directory is looked at whatever the notifications say, which do
	// not come for all file systems.
	pollInterval = 750 * time.Millisecond
	// retryPolls is how many polls a directory that is refused is left before it is read again
	// though it looks unchanged.
	retryPolls = 8
	// rereads bounds how often a directory that changes while it is read is read again at once.
	rereads = 5
)

// Run publishes what is in force of the directory's contents, and again after each change, until
// ctx ends; then it returns nil. Nothing is published before the whole directory was valid once.
func (s *Source) Run(ctx context.Context, publish func(catalog.Contents)) error {
	return s.run(ctx, publish, newWatch(s.config.Dir, s.config.Logger))
}

func (s *Source) run(ctx context.Context, publish func(catalog.Contents), w *watch) error {
	defer w.close()
	defer s.rememberPorts()()
	defer s.endRecord()
	s.restore()
	poll := time.NewTicker(pollInterval)
	defer poll.Stop()
	for seen, ok := time.Now(), true; ok; {
		files, valid := s.load(ctx, w, publish, seen)
		seen, ok = s.wait(ctx, w, publish, poll.C, files, valid)
	}
	return nil
}

// load reads the directory, whose change was seen at a time, and publishes what can be taken of it.
// It returns the files that it read, and whether all was taken.
func (s *Source) load(
	ctx context.Context, w *watch, publish func(catalog.Contents), seen time.Time,
) (files []listed, ok bool) {
	take := func(read []*file) []listed {
		s.ledger.take(read, time.Now(), func(o outcome) {
			s.tell(o, publish, seen)
			ok = len(o.problems) == 0
		})
		return files
	}
	for n := range rereads {
		var err error
		if files, err = scan(s.config.Dir); err != nil {
			s.unread(err, publish)
			return nil, false
		}
		w.follow() // before reading, so that what changes meanwhile is noticed
		read := s.cache.read(files)
		after, err := scan(s.config.Dir)
		switch {
		case err == nil && same(files, after):
			return take(read), ok
		case n == rereads-1 && err == nil:
			return take(unsettled(read, files, after)), ok
		}
		// Some files may be old and some new: such a mixture never was what anybody meant.
		if !sleep(ctx, quiet) {
			return files, true
		}
	}
	s.unread(errors.New("the directory changes faster than it can be read"), publish)
	return files, false
}

// unsettled is what was read between two listings of a directory that does not come to rest: of the files that changed
// meanwhile nothing is known.
func unsettled(read []*file, before, after []listed) (files []*file) {
	for len(before)+len(after) > 0 {
		f := &file{}
		switch {
		case len(before) > 0 && (len(after) == 0 || before[0].name < after[0].name):
			f.name, before, read = before[0].name, before[1:], read[1:]
		case len(before) == 0 || after[0].name < before[0].name:
			f.name, after = after[0].name, after[1:]
		default:
			if f.name = read[0].name; before[0].same(after[0]) {
				f = read[0]
			}
			before, after, read = before[1:], after[1:], read[1:]
		}
		if f.src == nil && len(f.problems) == 0 {
			f.unread(0, "changes faster than it can be read")
		}
		files = append(files, f)
	}
	return files
}

// tell publishes what is in force, and notes how that came about.
func (s *Source) tell(o outcome, publish func(catalog.Contents), seen time.Time) {
	s.note(o)
	if !o.inForce {
		return
	}
	o.contents.Seen = seen
	s.publish(s.recorder.offer(o.contents, s.ledger.record(), time.Now()), publish)
	if o.newPorts && s.ports != nil {
		select {
		case <-s.ports: // older ones, which nobody has begun to write
		default:
		}
		s.ports <- o.ports
	}
}

// publish publishes as much as may be.
func (s *Source) publish(c catalog.Contents, publish func(catalog.Contents)) {
	s.ledger.published, s.published = c.Intentions, &c
	publish(c)
}

// recorded takes in how a record was written, and publishes what waited for it.
func (s *Source) recorded(w recorded, publish func(catalog.Contents)) {
	c := s.recorder.finish(w, time.Now())
	s.noteRecord()
	if s.published != nil && !slices.Equal(c.Intentions, s.published.Intentions) {
		s.publish(c, publish)
	}
}

// noteRecord notes why what is in force is not recorded.
func (s *Source) noteRecord() {
	var p *Problem
	if err := s.recorder.err; err != nil {
		p = &Problem{File: s.config.RecordFile, Text: "what is in force is not recorded, and who is newly let in waits for that: " + err.Error()}
	}
	s.mu.Lock()
	old := s.unrecorded
	s.unrecorded = p
	s.mu.Unlock()
	if p != nil && (old == nil || *old != *p) {
		s.config.Logger.Error("what is in force of the catalog is not recorded", "file", p.File, "err", s.recorder.err)
	}
}

// restore goes on from what was in force before a restart, if that was recorded. Nothing is
// published before the directory was looked at.
func (s *Source) restore() {
	on, lost := s.recorder.open(s.cache)
	if on != nil && lost == nil {
		lost = s.ledger.restore(on)
	}
	if lost != nil {
		s.config.Logger.Warn("what was in force of the catalog is not known: nothing is served before all files are valid", "file", s.config.RecordFile, "err", lost)
	}
	if on == nil || lost != nil {
		return
	}
	on.intentions = s.ledger.intentions
	s.recorder.on, s.ledger.published = on, on.intentions
	s.cache.know(on.states)
}

// unread notes that nothing of the directory can be read. All that is in force stays, or was before
// a restart.
func (s *Source) unread(err error, publish func(catalog.Contents)) {
	p := Problem{File: s.config.Dir, Text: err.Error()}
	o := outcome{problems: Errors{p}}
	if s.ledger.started {
		n := NotTaken{File: p.File, Since: time.Now(), Problem: p.String()}
		for _, old := range s.Status().NotTaken {
			if old.File == n.File {
				n.Since = old.Since
			}
		}
		o.notTaken = []NotTaken{n}
	}
	s.note(o)
	if s.ledger.started && s.published == nil {
		s.publish(s.ledger.outcome(o).contents, publish)
	}
}

// note takes in what there is to say of the directory.
func (s *Source) note(o outcome) {
	s.mu.Lock()
	old := s.status
	s.status.NotTaken = o.notTaken
	if !o.early {
		if o.files > 0 {
			s.status.Files = o.files
		}
		s.status.Problems, s.status.Warnings = o.problems.texts(), o.warnings.texts()
		if len(o.problems) == 0 {
			s.status.LastSuccess = time.Now()
		}
	}
	now := s.status
	s.mu.Unlock()
	if s.metrics.notTaken.Set(float64(len(o.notTaken))); o.early {
		return
	}
	s.metrics.loaded(now, o)
	o.warnings.newIn(old.Warnings, func(w Problem) { w.warn(s.config.Logger) })
	o.problems.newIn(old.Problems, func(p Problem) {
		log := s.config.Logger.With("origin", p.origin(), "err", p.Text)
		switch {
		case !s.ledger.started:
			log.Error("catalog refused, and there was no valid one before: nothing is served until it is mended")
		case s.config.Strict || p.File == s.config.Dir:
			log.Error("catalog refused, the last valid one stays")
		default:
			log.Error("a part of the catalog is not taken, the rest is")
		}
	})
	if len(o.problems) == 0 && (old.LastSuccess.IsZero() || len(old.Problems) > 0) {
		s.config.Logger.Info("catalog read", "file", s.config.Dir, "resources", len(o.contents.Services)+len(o.contents.Proxies)+len(o.contents.Intentions))
	}
}

// unchanged notes that what was found valid is still what there is.
func (s *Source) unchanged() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.status.LastSuccess = time.Now()
	s.metrics.fresh(s.status)
}

// wait returns when the directory is to be read again, and when that was first noticed; false if
// ctx ended. files are those that were read last, valid says whether they were that.
func (s *Source) wait(
	ctx context.Context, w *watch, publish func(catalog.Contents), poll <-chan time.Time, files []listed, valid bool,
) (seen time.Time, ok bool) {
	for retry := retryPolls; ; {
		select {
		case <-ctx.Done():
			return time.Time{}, false
		case <-s.reload:
			s.cache.readAll = true
			return time.Now(), true
		case _, open := <-w.events:
			if !open {
				w.events = nil // polling goes on
				continue
			}
		case err, open := <-w.errors:
			if !open {
				w.errors = nil
				continue
			}
			s.config.Logger.Warn("file notification", "err", err) // events may be lost
		case r := <-s.recorder.done:
			s.recorded(r, publish)
			continue
		case <-poll:
			s.recorder.start(time.Now())
			now, err := scan(s.config.Dir)
			unchanged := (err != nil) == (files == nil) && same(now, files) &&
				(err != nil || !s.cache.changed())
			if retry--; unchanged && (valid || retry > 0) {
				if valid {
					s.unchanged()
				}
				continue
			}
		}
		seen = time.Now()
		return seen, s.settle(ctx, w)
	}
}

// settle waits until the directory is left alone for a while; false if ctx ended.
func (s *Source) settle(ctx context.Context, w *watch) bool {
	end := time.Now().Add(maxWait)
	timer := time.NewTimer(quiet)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return false
		case <-timer.C:
			return true
		case <-s.reload:
			s.cache.readAll = true
			return true
		case _, open := <-w.events:
			if !open {
				w.events = nil
				continue
			}
			timer.Reset(min(quiet, time.Until(end)))
		}
	}
}

// sleep waits; false if ctx ended.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
