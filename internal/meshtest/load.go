package meshtest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// LoadConfig says what a Load does. Rates are per second; zero leaves that kind of load out.
type LoadConfig struct {
	// URL is what http requests ask for. KeepAlive requests share pooled connections, each Fresh
	// request has its own.
	URL              string
	KeepAlive, Fresh int
	// Streams are responses of URL's StreamPath that live as long as the load; they count as held
	// connections.
	Streams int
	// TCP is the address of an echo service. Held connections live as long as the load and ping 10
	// times a second; Dialled ones are made at that rate, echo once and end.
	TCP     string
	Held    int
	Dialled int
	// Banner is what the echo service sends first.
	Banner string
	// Calls are made beside these, and Holds held.
	Calls []Call
	Holds []Hold
	// Patience is how long a request, a ping or a dial may take. 0: 5 s.
	Patience time.Duration
}

// Report is what became of a load.
type Report struct {
	Requests, Failed int // http requests, held pings and dialled connections, together
	// Unsent are requests that were due while maxInFlight others had no answer: the machine, or
	// what is tested, stood still.
	Unsent        int
	Held, Closed  int // held connections, and how many of them ended before the load did
	P50, P99, Max time.Duration
	Errors        map[string]int // what failed, and how often
	From, To      time.Time      // the time that it is about
	first         map[string]time.Time
}

// String is the report in one line.
func (r Report) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "requests=%d failed=%d held=%d closed=%d p50=%.1fms p99=%.1fms max=%.1fms",
		r.Requests, r.Failed, r.Held, r.Closed, ms(r.P50), ms(r.P99), ms(r.Max))
	if r.Unsent > 0 {
		fmt.Fprintf(&b, " unsent=%d", r.Unsent)
	}
	for _, e := range slices.Sorted(maps.Keys(r.Errors)) {
		fmt.Fprintf(&b, "\n  %d × %s (first after %.2f s)", r.Errors[e], e, r.first[e].Sub(r.From).Seconds())
	}
	return b.String()
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// Load is open-loop load: each request has its tick, whether the one before was answered or not,
// and its latency counts from that tick, so a stall is seen in full.
type Load struct {
	stop     context.CancelFunc
	wg       sync.WaitGroup
	inFlight chan struct{}
	started  time.Time
	patience time.Duration

	mu       sync.Mutex
	held     int // connections
	unsent   []time.Time
	closed   []time.Time
	outcomes []outcome
	failed   int // of outcomes
}

// outcome is what became of one request.
type outcome struct {
	due   time.Time
	took  time.Duration // negative: nobody measured
	error string        // "": none
}

const (
	maxInFlight  = 256
	pingInterval = 100 * time.Millisecond
)

// StartLoad starts a load. The held connections are made before it returns, and an error of one of
// them is returned.
func StartLoad(c LoadConfig) (*Load, error) {
	ctx, cancel := context.WithCancel(context.Background())
	l := &Load{stop: cancel, inFlight: make(chan struct{}, maxInFlight), started: time.Now(), patience: cmp.Or(c.Patience, patience), held: c.Held + c.Streams + len(c.Holds)}
	for range c.Held {
		conn, err := l.dialEcho(c.TCP, c.Banner)
		if err != nil {
			l.Stop()
			return nil, fmt.Errorf("held connection: %w", err)
		}
		l.wg.Go(func() { l.hold(ctx, conn) })
	}
	for range c.Streams {
		body, err := openStream(ctx, c.URL+StreamPath)
		if err != nil {
			l.Stop()
			return nil, err
		}
		l.wg.Go(func() { l.follow(ctx, body) })
	}
	keep := &http.Transport{MaxIdleConnsPerHost: 64, DisableCompression: true}
	fresh := &http.Transport{DisableKeepAlives: true, DisableCompression: true}
	l.tick(ctx, c.KeepAlive, func() error { return l.request(keep, c.URL) }, keep.CloseIdleConnections)
	l.tick(ctx, c.Fresh, func() error { return l.request(fresh, c.URL) }, nil)
	l.tick(ctx, c.Dialled, func() error {
		conn, err := l.dialEcho(c.TCP, c.Banner)
		if err != nil {
			return err
		}
		defer conn.Close()
		return l.ping(conn)
	}, nil)
	for _, call := range c.Calls {
		l.tick(ctx, call.Rate, func() error { return l.call(call.Do) }, nil)
	}
	for _, hold := range c.Holds {
		l.wg.Go(func() { l.keepHeld(ctx, hold) })
	}
	return l, nil
}

// Stop ends the load, waits for what is under way and reports. It may be called once.
func (l *Load) Stop() Report {
	l.stop()
	l.wg.Wait()
	return l.During(l.started, time.Now())
}

// During is the report of the requests that were under way between from and to, of those that have ended. It may be
// called at any time.
func (l *Load) During(from, to time.Time) Report {
	r := Report{Held: l.held, Errors: map[string]int{}, From: from, To: to, first: map[string]time.Time{}}
	within := func(t time.Time) bool { return !t.Before(from) && !t.After(to) }
	var latencies []time.Duration
	l.mu.Lock()
	for _, o := range l.outcomes {
		ended := o.due.Add(max(o.took, 0))
		if o.due.After(to) || ended.Before(from) {
			continue
		}
		r.Requests++
		if o.error == "" {
			if o.took >= 0 {
				latencies = append(latencies, o.took)
			}
			continue
		}
		r.Failed++
		r.Errors[o.error]++
		if first, ok := r.first[o.error]; !ok || ended.Before(first) {
			r.first[o.error] = ended
		}
	}
	for _, t := range l.unsent {
		if within(t) {
			r.Unsent++
		}
	}
	for _, t := range l.closed {
		if within(t) {
			r.Closed++
		}
	}
	l.mu.Unlock()
	slices.Sort(latencies)
	if n := len(latencies); n > 0 {
		r.P50, r.P99, r.Max = latencies[n/2], latencies[n*99/100], latencies[n-1]
	}
	return r
}

// Sofar is the number of requests, and of failed ones, until now.
func (l *Load) Sofar() (requests, failed int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.outcomes), l.failed
}

func (l *Load) tick(ctx context.Context, rate int, do func() error, end func()) {
	if rate == 0 {
		return
	}
	l.wg.Go(func() {
		if end != nil {
			defer end()
		}
		var wg sync.WaitGroup
		defer wg.Wait()
		start := time.Now()
		for n := 0; ; n++ {
			due := start.Add(time.Duration(n) * time.Second / time.Duration(rate))
			if !sleepUntil(ctx, due) {
				return
			}
			select {
			case l.inFlight <- struct{}{}:
			default:
				// Who is waited for that long is told by the others' latencies, or fails after
				// its patience.
				l.mu.Lock()
				l.unsent = append(l.unsent, due)
				l.mu.Unlock()
				continue
			}
			wg.Go(func() {
				err := do()
				<-l.inFlight
				l.done(due, err)
			})
		}
	})
}

func (l *Load) done(due time.Time, err error) {
	o := outcome{due: due, took: time.Since(due)}
	if err != nil {
		o.error = errorText(err)
	}
	l.keep(o)
}

func (l *Load) keep(o outcome) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.outcomes = append(l.outcomes, o)
	if o.error != "" {
		l.failed++
	}
}

// end is the end of a held connection.
func (l *Load) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = append(l.closed, time.Now())
}

// errorText is an error without the ports of its connection.
func errorText(err error) string {
	if e := (*net.OpError)(nil); errors.As(err, &e) {
		return e.Op + ": " + e.Err.Error()
	}
	return err.Error()
}

func (l *Load) hold(ctx context.Context, conn net.Conn) {
	defer conn.Close()
	for {
		due := time.Now().Add(pingInterval)
		if !sleepUntil(ctx, due) {
			return
		}
		err := l.ping(conn)
		l.done(due, err)
		if err != nil {
			l.end()
			return
		}
	}
}

func sleepUntil(ctx context.Context, t time.Time) bool {
	timer := time.NewTimer(time.Until(t))
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return ctx.Err() == nil
	}
}

func (l *Load) request(rt http.RoundTripper, url string) error {
	ctx, cancel := context.WithTimeout(context.Background(), l.patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return err
	}
	resp, err := rt.RoundTrip(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("status %d: %.120s", resp.StatusCode, body)
	}
	return nil
}

// dialEcho connects to an echo service and reads its banner.
func (l *Load) dialEcho(addr, banner string) (net.Conn, error) {
	conn, err := net.DialTimeout("tcp", addr, l.patience)
	if err != nil {
		return nil, err
	}
	if err := l.expect(conn, banner); err != nil {
		conn.Close()
		return nil, err
	}
	if banner == "" {
		if err := l.ping(conn); err != nil {
			conn.Close()
			return nil, err
		}
	}
	return conn, nil
}

func (l *Load) ping(conn net.Conn) error {
	const text = "ping"
	if err := conn.SetDeadline(time.Now().Add(l.patience)); err != nil {
		return err
	}
	if _, err := io.WriteString(conn, text); err != nil {
		return err
	}
	return l.expect(conn, text)
}

func (l *Load) expect(conn net.Conn, text string) error {
	if text == "" {
		return nil
	}
	if err := conn.SetDeadline(time.Now().Add(l.patience)); err != nil {
		return err
	}
	got := make([]byte, len(text))
	if n, err := io.ReadFull(conn, got); err != nil {
		return fmt.Errorf("read after %d of %d bytes: %w", n, len(text), err)
	}
	if string(got) != text {
		return fmt.Errorf("read %q, want %q", got, text)
	}
	return nil
}
