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
		fmt.Fprintf(&b, "\n  %d × %s", r.Errors[e], e)
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

	mu        sync.Mutex
	report    Report
	latencies []time.Duration
}

const (
	maxInFlight  = 256
	pingInterval = 100 * time.Millisecond
)

// StartLoad starts a load. The held connections are made before it returns, and an error of one of
// them is returned.
func StartLoad(c LoadConfig) (*Load, error) {
	ctx, cancel := context.WithCancel(context.Background())
	l := &Load{stop: cancel, inFlight: make(chan struct{}, maxInFlight), started: time.Now(), patience: cmp.Or(c.Patience, patience), report: Report{Held: c.Held + c.Streams, Errors: map[string]int{}}}
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
	return l, nil
}

// Stop ends the load, waits for what is under way and reports. It may be called once.
func (l *Load) Stop() Report {
	l.stop()
	l.wg.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	slices.Sort(l.latencies)
	if n := len(l.latencies); n > 0 {
		l.report.P50, l.report.P99, l.report.Max = l.latencies[n/2], l.latencies[n*99/100], l.latencies[n-1]
	}
	return l.report
}

// Sofar is the number of requests, and of failed ones, until now.
func (l *Load) Sofar() (requests, failed int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.report.Requests, l.report.Failed
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
				l.report.Unsent++
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
	l.mu.Lock()
	defer l.mu.Unlock()
	l.report.Requests++
	if err != nil {
		l.report.Failed++
		l.fail(err)
		return
	}
	l.latencies = append(l.latencies, time.Since(due))
}

// fail counts an error under its text, without the ports of the connection, and with the time of
// its first appearance.
func (l *Load) fail(err error) {
	text := err.Error()
	if e := (*net.OpError)(nil); errors.As(err, &e) {
		text = e.Op + ": " + e.Err.Error()
	}
	for known := range l.report.Errors {
		if strings.HasPrefix(known, text+" (first after ") {
			l.report.Errors[known]++
			return
		}
	}
	l.report.Errors[fmt.Sprintf("%s (first after %.2f s)", text, time.Since(l.started).Seconds())]++
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
			l.mu.Lock()
			l.report.Closed++
			l.mu.Unlock()
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
