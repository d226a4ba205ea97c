// Package svidfile keeps the leaf, the key and the roots of a service as files, for servers that speak neither Consul's HTTP API nor the
// SPIFFE Workload API, as nginx, PostgreSQL and HAProxy. It asks the HTTP API, so it works beside a bare Consul agent too.
package svidfile

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/sallyport/sallyport/internal/backoff"
)

// Config says what is written where.
type Config struct {
	// Service is whose leaf it is. Required.
	Service string
	// Address is that of the HTTP API, as Consul's clients take it: "127.0.0.1:8500", "unix:///run/sallyport/http.sock". Required.
	Address string
	// TokenFile has the token for the API; it is read for each question. Empty: the environment says (CONSUL_HTTP_TOKEN,
	// CONSUL_HTTP_TOKEN_FILE), or there is none.
	TokenFile string
	// Dir is where the files are: Dir/current/svid.pem, key.pem and roots.pem. Required.
	Dir string
	// Group may read the key, by name or number; empty: its owner alone.
	Group string
	// OwnKey says that the key is made here, and never sent: the API signs a certificate request. Consul's does not.
	OwnKey bool
	// Command is run by a shell after each change of the files; empty: nothing is.
	Command string
	// Timeout ends the command; 0: 30 s.
	Timeout time.Duration
	// Once writes once, and returns why it could not.
	Once bool
	// Logger gets what happens. Nil: nothing is logged.
	Logger *slog.Logger
}

const (
	defaultTimeout = 30 * time.Second
	// settle is how long after an answer another is waited for: leaf and roots change together.
	settle = 500 * time.Millisecond
	// leastGap is how long files stay at least, for servers that open one after the other.
	leastGap = 5 * time.Second
	// firstDelay and longestDelay are those between questions that fail, longestPause the one between answers that came at
	// once and say nothing new: of an API that cannot wait.
	firstDelay   = 2 * time.Second
	longestDelay = 30 * time.Second
	longestPause = time.Minute
)

// writer is a Config at work.
type writer struct {
	Config
	log *slog.Logger
	api *client
	dir *directory

	mu sync.Mutex
	// written is what the files have; nil: nothing. It is set by one goroutine alone.
	written *material
	leaf    leafAnswer
	roots   rootsAnswer
	changed chan struct{}
	// others is full when the roots have become others.
	others chan struct{}
	// renew is when a leaf for a key of our own is asked for anew.
	renew time.Time
}

// Run writes the files, at once and after each change, until ctx ends; then it returns nil. An API that is away, or refuses, is
// asked again, and the files stay. The error is that the configuration is wrong, or with Once why nothing was written.
func Run(ctx context.Context, c Config) error {
	w := &writer{Config: c, log: c.Logger, changed: make(chan struct{}, 1), others: make(chan struct{}, 1)}
	if w.log == nil {
		w.log = slog.New(slog.DiscardHandler)
	}
	w.Timeout = cmp.Or(w.Timeout, defaultTimeout)
	if w.Service == "" || strings.ContainsAny(w.Service, "/") {
		return fmt.Errorf("%q is not the name of a service", w.Service)
	}
	t := findToken(c.TokenFile, os.Getenv)
	if _, err := t.now(); err != nil {
		return err
	}
	var err error
	if w.api, err = newClient(c.Address, t, os.Getenv); err != nil {
		return err
	}
	defer w.api.http.CloseIdleConnections()
	if w.dir, err = openDirectory(c.Dir, c.Group); err != nil {
		return err
	}
	defer w.dir.close()
	w.written = w.dir.read()
	if w.Once {
		return w.once(ctx)
	}
	w.follow(ctx)
	return nil
}

func (w *writer) leafPath() string { return "/v1/agent/connect/ca/leaf/" + url.PathEscape(w.Service) }

const rootsPath = "/v1/agent/connect/ca/roots"

// askLeaf reads the leaf, with an index above 0 after a wait for another.
func (w *writer) askLeaf(ctx context.Context, index uint64, to *leafAnswer) (uint64, error) {
	if w.OwnKey {
		return w.askForOwnKey(ctx, index, to)
	}
	return w.api.ask(ctx, w.leafPath(), index, to)
}

func (w *writer) askRoots(ctx context.Context, index uint64, to *rootsAnswer) (uint64, error) {
	next, err := w.api.ask(ctx, rootsPath, index, to)
	w.mu.Lock()
	defer w.mu.Unlock()
	if err == nil && len(w.roots.Roots) > 0 && !sameRoots(w.roots, *to) {
		select {
		case w.others <- struct{}{}:
		default:
		}
	}
	return next, err
}

func sameRoots(a, b rootsAnswer) bool { return slices.Equal(a.Roots, b.Roots) }

func (w *writer) once(ctx context.Context) error {
	if _, err := w.api.ask(ctx, rootsPath, 0, &w.roots); err != nil {
		return err
	}
	if _, err := w.askLeaf(ctx, 0, &w.leaf); err != nil {
		return err
	}
	m, err := materialOf(w.leaf, w.roots, time.Now())
	if err != nil || m.equal(w.written) {
		return err
	}
	return w.put(ctx, m)
}

// follow watches leaf and roots, and writes what they become.
func (w *writer) follow(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	var watches sync.WaitGroup
	defer watches.Wait()
	defer cancel()
	watches.Go(func() {
		watch(ctx, w, w.leafPath(), w.askLeaf, &w.leaf, func(a, b leafAnswer) bool { return a == b })
	})
	watches.Go(func() { watch(ctx, w, rootsPath, w.askRoots, &w.roots, sameRoots) })
	last, failures := "", 0
	for {
		var again <-chan time.Time
		if failures > 0 {
			again = time.After(backoff.Delay(failures, firstDelay, longestDelay))
		}
		select {
		case <-ctx.Done():
			return
		case <-again:
		case <-w.changed:
			if !backoff.Sleep(ctx, settle) {
				return
			}
		}
		w.mu.Lock()
		leaf, roots := w.leaf, w.roots
		w.mu.Unlock()
		if leaf.CertPEM == "" || len(roots.Roots) == 0 {
			continue // the other one has not come yet
		}
		m, err := materialOf(leaf, roots, time.Now())
		if err == nil && m.equal(w.written) {
			failures = 0
			continue
		}
		if err == nil {
			err = w.put(ctx, m)
		}
		_, ran := errors.AsType[*commandError](err)
		switch {
		case ran:
			w.log.Error("the files are new, and the command failed: it is run again at the next change", "err", err)
			failures = 0
		case err != nil:
			failures++
			if err.Error() != last {
				w.log.Error("files not written, trying again", "err", err)
			}
			last = err.Error()
			continue
		default:
			failures = 0
		}
		last = ""
		if !backoff.Sleep(ctx, leastGap) {
			return
		}
	}
}

// put writes the files and runs the command.
func (w *writer) put(ctx context.Context, m *material) error {
	if err := w.dir.write(m, time.Now()); err != nil {
		return err
	}
	w.mu.Lock()
	w.written = m
	w.mu.Unlock()
	w.log.Info("files written", "service", w.Service, "file", w.dir.path+"/"+current, "serial", m.leaf.SerialNumber.Text(16), "expires", m.leaf.NotAfter)
	return w.run(ctx)
}

// commandError is how the command failed.
type commandError struct{ text string }

func (e *commandError) Error() string { return e.text }

// run runs the command, with all that it starts, no longer than Timeout.
func (w *writer) run(ctx context.Context) error {
	if w.Command == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, w.Timeout)
	defer cancel()
	c := exec.CommandContext(ctx, "/bin/sh", "-c", w.Command) //nolint:gosec // running it is what it is given for
	c.Stdout, c.Stderr = os.Stderr, os.Stderr
	c.Dir = "/"
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "CONSUL_HTTP_TOKEN=") { // the command needs no token
			c.Env = append(c.Env, v)
		}
	}
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	c.Cancel = func() error { return syscall.Kill(-c.Process.Pid, syscall.SIGKILL) }
	c.WaitDelay = time.Second
	err := c.Run()
	switch {
	case err == nil:
		return nil
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return &commandError{fmt.Sprintf("--exec %q: took longer than %s: run what takes long in the background, or raise --exec-timeout", w.Command, w.Timeout)}
	case errors.Is(err, exec.ErrWaitDelay):
		return nil // it has ended well, and left something in the background
	}
	return &commandError{fmt.Sprintf("--exec %q: %v: run it by hand to see why", w.Command, err)}
}

// watch keeps to the newest answer that ask gives, which is that of path, until ctx ends.
func watch[T any](ctx context.Context, w *writer, path string, ask func(context.Context, uint64, *T) (uint64, error), to *T, same func(a, b T) bool) {
	var index uint64
	failures, idle := 0, 0
	for last := ""; ctx.Err() == nil; {
		began := time.Now()
		var got T
		next, err := ask(ctx, index, &got)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			failures++
			index = 0
			if text := err.Error(); text != last {
				last = text
				w.log.Warn("the API does not answer: the files stay, and it is asked again", "err", err, "expires", w.expires())
			}
			w.sleep(ctx, backoff.Delay(failures, firstDelay, longestDelay))
			continue
		}
		if failures > 0 {
			failures, last = 0, ""
			w.log.Info("the API answers again", "file", path)
		}
		w.mu.Lock()
		news := !same(*to, got)
		*to = got
		w.mu.Unlock()
		if news {
			select {
			case w.changed <- struct{}{}:
			default:
			}
		}
		if next < index {
			next = 0
		}
		// An index that stays, or that is none, must not make this a busy loop.
		if !news && time.Since(began) < time.Second || next == 0 {
			idle++
			backoff.Sleep(ctx, backoff.Delay(idle, firstDelay, longestPause))
		} else {
			idle = 0
		}
		index = next
	}
}

// expires is when the leaf in the files ends, in words.
func (w *writer) expires() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.written == nil {
		return "nothing is written yet"
	}
	return w.written.leaf.NotAfter.UTC().Format(time.RFC3339)
}

// sleep waits for d, or until there is another token.
func (w *writer) sleep(ctx context.Context, d time.Duration) {
	before, _ := w.api.token.now()
	for end := time.Now().Add(d); time.Now().Before(end); {
		if !backoff.Sleep(ctx, min(time.Second, time.Until(end))) {
			return
		}
		if now, err := w.api.token.now(); err == nil && now != before {
			return
		}
	}
}
