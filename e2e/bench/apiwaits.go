package main

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/sallyport/sallyport/admin"
)

// How many questions wait at each server, and how often the change comes that they wait for.
const (
	waiting    = 5000
	waitRounds = 9
)

// waiters are the questions that wait at one server, a connection each.
type waiters struct {
	server *apiServer
	path   string // of the question
	uid    int    // of the first of the users that ask in turns, of which each is a caller; 0: this process's alone, by tokens
	conns  []*rawConn
	wake   func(ctx context.Context, n int) (time.Time, error) // makes the n-th change
	says   func(n int) string                                  // what the answer holds after it
	// from is from when on sallyport is measured after a change; nil: from the change on.
	from func(change time.Time) (time.Duration, error)

	sockets, goroutines int     // before anybody waited
	each                float64 // bytes of memory
	took                []time.Duration
}

// open has all wait, and notes what each of them takes of the server's memory.
func (w *waiters) open(ctx context.Context) (err error) {
	index := uint64(1)
	if w.server.by != byNothing { // each of the callers has asked before, and what is kept for it is there
		for _, token := range w.server.applications {
			if index, err = w.first(ctx, token); err != nil {
				return err
			}
		}
	}
	p := &plane{control: w.server.process}
	if err := p.settle(ctx, 15*time.Second); err != nil {
		return err
	}
	if w.sockets, err = w.server.process.sockets(); err != nil {
		return err
	}
	if w.goroutines, err = w.server.goroutines(ctx); err != nil {
		return err
	}
	before := w.server.process.rss()
	for i := range waiting {
		uid := 0
		if w.uid > 0 {
			uid = w.uid + i%waitCallers
		}
		c, err := dialRaw(ctx, "unix", w.server.unix, uid)
		if err != nil {
			return err
		}
		c.index = index
		w.conns = append(w.conns, c)
		if err := w.ask(i); err != nil {
			return err
		}
	}
	if err := p.settle(ctx, 15*time.Second); err != nil {
		return err
	}
	w.each = float64(w.server.process.rss()-before) / waiting
	return nil
}

// first is the index of the answer that a caller has.
func (w *waiters) first(ctx context.Context, token string) (uint64, error) {
	c, err := dialRaw(ctx, "unix", w.server.unix, 0)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	if err := c.exchange(rawRequest("GET", w.path, token, "")); err != nil {
		return 0, err
	}
	if c.code != http.StatusOK || c.index == 0 {
		return 0, fmt.Errorf("%d %.200s, with the index %d", c.code, c.body, c.index)
	}
	return c.index, nil
}

// ask asks for what comes after the answer that one has.
func (w *waiters) ask(i int) error {
	path := fmt.Sprintf("%s&wait=10m&index=%d", w.path, w.conns[i].index)
	if w.server.by == byNothing {
		path = waitPath
	}
	all := w.server.applications
	_, err := w.conns[i].Write(rawRequest("GET", path, all[i%len(all)], ""))
	return err
}

// change makes the n-th change, notes how long it takes until all are answered, and has them wait again.
func (w *waiters) change(ctx context.Context, n int) error {
	since, err := w.wake(ctx, n)
	if err != nil {
		return err
	}
	says := []byte(w.says(n))
	for i, c := range w.conns {
		if err := c.SetReadDeadline(since.Add(time.Minute)); err != nil {
			return err
		}
		if err := c.read(); err != nil {
			return fmt.Errorf("the answer of %d who wait: %w", i, err)
		}
		if c.code != http.StatusOK || !bytes.Contains(c.body, says) {
			return fmt.Errorf("the answer of %d who wait: %d %.300s, without %s", i, c.code, c.body, says)
		}
	}
	took := time.Since(since)
	if w.from != nil {
		answered, err := w.from(since)
		if err != nil {
			return err
		}
		took -= answered
	}
	if n > 0 { // the first is to warm
		w.took = append(w.took, took)
	}
	for i := range w.conns {
		if err := w.ask(i); err != nil {
			return err
		}
	}
	return (&plane{control: w.server.process}).settle(ctx, 10*time.Second)
}

// remains are what is left of those who waited a second after they went, beyond what was there before they came.
type remains struct{ connections, goroutines int }

// leave closes all connections.
func (w *waiters) leave(ctx context.Context) (remains, error) {
	for _, c := range w.conns {
		_ = c.Close()
	}
	w.conns = nil
	select {
	case <-time.After(time.Second):
	case <-ctx.Done():
		return remains{}, ctx.Err()
	}
	sockets, err := w.server.process.sockets()
	if err != nil {
		return remains{}, err
	}
	goroutines, err := w.server.goroutines(ctx)
	return remains{max(0, sockets-w.sockets), max(0, goroutines-w.goroutines)}, err
}

// goroutines is how many a sallyport has; of others it is 0.
func (s *apiServer) goroutines(ctx context.Context) (int, error) {
	if s.client == nil {
		return 0, nil
	}
	c, err := dialRaw(ctx, "unix", admin.Socket(s.client.Dir()), 0)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	if err := c.exchange(rawRequest("GET", "/debug/pprof/goroutine?debug=1", "", "")); err != nil {
		return 0, err
	}
	var n int
	_, err = fmt.Sscanf(string(c.body), "goroutine profile: total %d", &n)
	return n, err
}

// intentions is the n-th version of what all wait for. One more that allows would be two changes: from files it is a deny until it is recorded
// what may connect.
func intentions(n int) entry {
	return entry{Kind: "service-intentions", Name: service(0), Sources: []source{{service(1), "allow"}, {fmt.Sprintf("operator-%d", n), "deny"}}}
}

// waits measures what those cost who wait for a change. The servers are new ones, as memory that was used before says nothing.
func (b *apiBench) waits(ctx context.Context) (rows []row, err error) {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return nil, err
	}
	if need := uint64(3*waiting + 500); limit.Cur < need {
		return nil, fmt.Errorf("%d open files are allowed, and %d are needed: ulimit -n", limit.Cur, need)
	}
	all, done, err := b.waiters(ctx)
	defer done()
	if err != nil {
		return nil, err
	}
	var servers []*apiServer
	by := map[*apiServer]*waiters{}
	for _, w := range all {
		if err := w.open(ctx); err != nil {
			return nil, fmt.Errorf("%s, %d waiting: %w", w.server.by, waiting, err)
		}
		servers = append(servers, w.server)
		by[w.server] = w
	}
	meanwhile, err := b.meanwhile(ctx, servers)
	if err != nil {
		return nil, err
	}
	err = turns(waitRounds+1, servers, func(n int, s *apiServer) error { return by[s].change(ctx, n+1) })
	if err != nil {
		return nil, err
	}
	left := map[string]remains{}
	for _, w := range all {
		r, err := w.leave(ctx)
		if err != nil {
			return nil, err
		}
		left[w.server.by] = r
	}
	measured := map[string]*waiters{}
	for _, w := range all {
		measured[w.server.by] = w
		b.o.line(benchmarkLine("Waits/by="+strings.ReplaceAll(w.server.by, " ", "-"), nanos(median(w.took), "ns/op"), strconv.FormatFloat(w.each, 'f', 0, 64)+" B/wait"))
	}
	missing := noConsul
	if b.agent != nil {
		missing = noUser
	}
	return waitRows(measured, meanwhile, left, missing), nil
}

// waiters starts the servers on which questions are to wait.
func (b *apiBench) waiters(ctx context.Context) (all []*waiters, done func(), err error) {
	done = func() {}
	path := "/v1/connect/intentions/match?by=destination&name=" + service(0)
	says := func(n int) string { return `"SourceName":"` + intentions(n).Sources[1].Name + `"` }
	files, err := b.fromFiles(ctx, "files-waits")
	if err != nil {
		return nil, done, err
	}
	entries, first := b.load().entries(), entriesFile(0)
	write := func(_ context.Context, n int) (time.Time, error) {
		at := time.Now()
		err := writeJSON(filepath.Join(b.dir, "files-waits", "catalog", first), map[string]any{"config_entries": map[string]any{"bootstrap": append([]entry{entries[0], intentions(n)}, entries[2:perFile]...)}})
		if err != nil {
			return at, err
		}
		return at, files.process.Signal(syscall.SIGHUP)
	}
	all = append(all, &waiters{server: files, path: path, says: says, wake: write})
	if b.agent != nil && b.uid > 0 {
		between, err := noteAnswers(b.agent.http)
		if err != nil {
			return nil, done, err
		}
		done = between.server.Close
		put := func(ctx context.Context, n int) (time.Time, error) {
			at := time.Now()
			return at, b.agent.call(ctx, http.MethodPut, "/v1/config", intentions(n))
		}
		beside, err := b.beside(ctx, "beside-waits", between.server.Addr)
		if err != nil {
			return nil, done, err
		}
		beside.domain = b.by(byConsul).domain
		all = append(all, &waiters{
			server: beside, path: path, says: says, wake: put, uid: b.uid,
			from: func(change time.Time) (time.Duration, error) {
				return between.last(change, "/v1/connect/intentions/match")
			},
		})
	}
	// All have an intention of the kind that changes, so that all answers are as long.
	question := apiQuestion{name: "match", method: "GET", path: path, says: says(0)}
	recorded := nothing{Bodies: map[string][]byte{}}
	for _, w := range all {
		if _, err := w.wake(ctx, 0); err != nil {
			return nil, done, err
		}
		c, err := b.asked(ctx, w.server, "unix", question)
		if err != nil {
			return nil, done, err
		}
		if w.server == files {
			recorded.Bodies[waitPath] = bytes.Clone(c.body)
		}
		_ = c.Close()
	}
	bare, err := b.nothing(ctx, "nothing-waits", &recorded)
	if err != nil {
		return nil, done, err
	}
	signal := func(context.Context, int) (time.Time, error) {
		at := time.Now()
		return at, bare.process.Signal(syscall.SIGUSR1)
	}
	return append(all, &waiters{server: bare, wake: signal, says: func(int) string { return says(0) }}), done, nil
}

// meanwhile is how long authorize takes on servers at which nobody waits, and on those at which they do, in turns.
func (b *apiBench) meanwhile(ctx context.Context, busy []*apiServer) (map[string]*apiFigures, error) {
	var asked []*apiServer
	for _, s := range busy {
		if s.client == nil {
			continue
		}
		other := *s
		other.by = whileWaiting(s.by)
		asked = append(asked, b.by(s.by), &other)
	}
	return b.one(ctx, "unix", askMay, asked)
}

// whileWaiting is what a server is called at which thousands wait.
func whileWaiting(by string) string { return by + ", while they wait" }
