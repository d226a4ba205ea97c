package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"
)

// fleet is the sidecars of one run against one control plane.
type fleet struct {
	sidecars []*sidecar
	cancel   context.CancelFunc
	running  sync.WaitGroup
}

// figures are what one change cost.
type figures struct {
	plane     string
	load      load
	change    string
	times     int           // how often the change was made, if this is the median of it
	answered  time.Duration // when the Consul agent had told sallyport of the change; 0: there is none
	sidecars  int           // that were told
	first     time.Duration
	p50, p99  time.Duration
	last      time.Duration
	bytes     int
	messages  [len(types)]int
	resources [len(types)]int
	cpu       time.Duration // of the control plane
	clients   time.Duration // of the load's own processor time
	beside    time.Duration // of the Consul agent that it runs beside; of Consul's own control plane it is in cpu
	rss       int64         // of the control plane at the end, in bytes
	rssBeside int64
}

// connect connects all sidecars, without a stream.
func (f *fleet) connect(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for _, s := range f.sidecars {
		s.conn.Connect()
	}
	for _, s := range f.sidecars {
		for state := s.conn.GetState(); state.String() != "READY"; state = s.conn.GetState() {
			if !s.conn.WaitForStateChange(ctx, state) {
				return fmt.Errorf("%s is not connected after a minute", s.id)
			}
		}
	}
	return nil
}

// start opens all streams at once.
func (f *fleet) start(ctx context.Context) {
	ctx, f.cancel = context.WithCancel(ctx)
	for _, s := range f.sidecars {
		f.running.Go(func() { s.run(ctx) })
	}
}

// close ends all streams and connections.
func (f *fleet) close() {
	if f.cancel != nil {
		f.cancel()
	}
	f.running.Wait()
	for _, s := range f.sidecars {
		_ = s.conn.Close()
	}
}

func (f *fleet) reset(recording bool) {
	for _, s := range f.sidecars {
		s.reset(recording)
	}
}

// recorded is what came to each sidecar since reset was told to record.
func (f *fleet) recorded() (map[string][][]byte, error) {
	out := map[string][][]byte{}
	for _, s := range f.sidecars {
		s.mu.Lock()
		all := s.recorded
		s.mu.Unlock()
		for _, r := range all {
			b, err := proto.Marshal(r)
			if err != nil {
				return nil, err
			}
			out[s.id] = append(out[s.id], b)
		}
	}
	return out, nil
}

// expectation is when a change has arrived.
type expectation struct {
	sidecars int // how many are to be told
	complete bool
	// quiet is how long nothing may come before all is taken to have come.
	quiet time.Duration
	limit time.Duration
}

// await waits until what is expected has come, and nothing more does, and evaluates it. since is when the change was made.
func (f *fleet) await(ctx context.Context, since time.Time, want expectation) (figures, error) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		var told []time.Duration
		var first time.Duration
		var last time.Time
		out := figures{}
		for _, s := range f.sidecars {
			c, err := s.look()
			if err != nil {
				return out, fmt.Errorf("%s: the stream ended: %w", s.id, err)
			}
			if c.last.After(last) {
				last = c.last
			}
			out.bytes += c.bytes
			for i := range types {
				out.messages[i] += c.messages[i]
				out.resources[i] += c.resources[i]
			}
			at := c.last
			if want.complete {
				at = c.complete
			}
			if at.IsZero() {
				continue
			}
			told = append(told, at.Sub(since))
			if d := c.first.Sub(since); first == 0 || d < first {
				first = d
			}
		}
		if len(told) >= want.sidecars && time.Since(last) >= want.quiet {
			slices.Sort(told)
			out.sidecars, out.first = len(told), first
			out.p50, out.p99, out.last = percentile(told, 50), percentile(told, 99), told[len(told)-1]
			return out, nil
		}
		if time.Since(since) > want.limit {
			return out, fmt.Errorf("%d of %d sidecars have it after %s", len(told), want.sidecars, want.limit)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return out, errors.New("interrupted")
		}
	}
}

// percentile is the smallest value that is not below p of 100 of the sorted ones.
func percentile(sorted []time.Duration, p int) time.Duration {
	return sorted[max(0, (len(sorted)*p+99)/100-1)]
}
