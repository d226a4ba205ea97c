package files

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"
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

// Run publishes the directory's contents, and again after each change, until ctx ends; then it
// returns nil. As long as the directory is not valid nothing is published, so that what was
// published last stays.
func (s *Source) Run(ctx context.Context, publish func(catalog.Contents)) error {
	return s.run(ctx, publish, newWatch(s.config.Dir, s.config.Logger))
}

func (s *Source) run(ctx context.Context, publish func(catalog.Contents), w *watch) error {
	defer w.close()
	defer s.rememberPorts()()
	poll := time.NewTicker(pollInterval)
	defer poll.Stop()
	for seen, ok := time.Now(), true; ok; {
		files, valid := s.load(ctx, w, publish, seen)
		seen, ok = s.wait(ctx, w, poll.C, files, valid)
	}
	return nil
}

// load reads the directory, whose change was seen at a time, and publishes it if it is valid. It
// returns the files that it read.
func (s *Source) load(
	ctx context.Context, w *watch, publish func(catalog.Contents), seen time.Time,
) (files []listed, ok bool) {
	for range rereads {
		var err error
		if files, err = scan(s.config.Dir); err != nil {
			s.refused(Errors{{File: s.config.Dir, Text: err.Error()}}, nil)
			return nil, false
		}
		w.follow() // before reading, so that what changes meanwhile is noticed
		read := s.cache.read(files)
		after, err := scan(s.config.Dir)
		if err == nil && same(files, after) {
			return files, s.take(s.assembler.assemble(read), publish, seen)
		}
		// Some files may be old and some new: such a mixture never was what anybody meant.
		if !sleep(ctx, quiet) {
			return files, true
		}
	}
	s.refused(Errors{{File: s.config.Dir, Text: "the directory changes faster than it can be read"}}, nil)
	return files, false
}

// take publishes what the directory comes to, or keeps what was published last.
func (s *Source) take(o outcome, publish func(catalog.Contents), seen time.Time) bool {
	if len(o.problems) > 0 {
		s.refused(o.problems, o.warnings)
		return false
	}
	s.accepted(o)
	o.contents.Seen = seen
	publish(o.contents)
	if o.newPorts && s.ports != nil {
		select {
		case <-s.ports: // older ones, which nobody has begun to write
		default:
		}
		s.ports <- o.ports
	}
	return true
}

func (s *Source) accepted(o outcome) {
	s.mu.Lock()
	old := s.status
	s.status = Status{Dir: s.config.Dir, Files: o.files, LastSuccess: time.Now(), Warnings: o.warnings.texts()}
	now := s.status
	s.mu.Unlock()
	s.metrics.loaded(now, 0)
	o.warnings.newIn(old.Warnings, func(w Problem) { w.warn(s.config.Logger) })
	if old.LastSuccess.IsZero() || len(old.Problems) > 0 {
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

func (s *Source) refused(problems, warnings Errors) {
	s.mu.Lock()
	old := s.status
	s.status.Problems, s.status.Warnings = problems.texts(), warnings.texts()
	now := s.status
	s.mu.Unlock()
	s.metrics.loaded(now, len(problems))
	problems.newIn(old.Problems, func(p Problem) {
		if old.LastSuccess.IsZero() {
			s.config.Logger.Error("catalog refused, and there was no valid one before", "origin", p.origin(), "err", p.Text)
		} else {
			s.config.Logger.Error("catalog refused, the last valid one stays", "origin", p.origin(), "err", p.Text)
		}
	})
}

// wait returns when the directory is to be read again, and when that was first noticed; false if
// ctx ended. files are those that were read last, valid says whether they were that.
func (s *Source) wait(
	ctx context.Context, w *watch, poll <-chan time.Time, files []listed, valid bool,
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
		case <-poll:
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

// metrics say how fresh the catalog is.
type metrics struct {
	success, problems prometheus.Gauge
	loads             *prometheus.CounterVec
}

func newMetrics(r prometheus.Registerer) (metrics, error) {
	m := metrics{
		success: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "sallyport_catalog_last_success_timestamp_seconds",
			Help: "When the catalog's directory was last looked at and found valid, changed or not, in seconds since 1970; 0: never.",
		}),
		problems: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "sallyport_catalog_problems",
			Help: "Mistakes for which the catalog's directory is refused; 0: it is valid.",
		}),
		loads: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sallyport_catalog_loads_total",
			Help: "How often the catalog's directory was read, by result: ok or refused.",
		}, []string{"result"}),
	}
	m.loads.WithLabelValues("ok")
	m.loads.WithLabelValues("refused")
	if r == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.success, m.problems, m.loads} {
		if err := r.Register(c); err != nil {
			return m, err
		}
	}
	return m, nil
}

func (m metrics) loaded(s Status, problems int) {
	m.problems.Set(float64(problems))
	if problems > 0 {
		m.loads.WithLabelValues("refused").Inc()
		return
	}
	m.loads.WithLabelValues("ok").Inc()
	m.fresh(s)
}

func (m metrics) fresh(s Status) { m.success.Set(float64(s.LastSuccess.UnixNano()) / 1e9) }
