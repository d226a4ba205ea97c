package remote

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// answering returns a Client whose server answers attempt n, from 1 on, with f(n); no header and no body if f returns only a status.
func answering(t *testing.T, cfg Config, f func(n int, r *http.Request) (*http.Response, error)) (*Client, *atomic.Int64) {
	t.Helper()
	cfg.Name, cfg.URL = "Vault", "https://vault.example:8200"
	c, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	var asked atomic.Int64
	c.send = func(r *http.Request) (*http.Response, error) { return f(int(asked.Add(1)), r) }
	return c, &asked
}

func status(code int, header ...string) *http.Response {
	r := &http.Response{StatusCode: code, Header: http.Header{}, Body: io.NopCloser(strings.NewReader("said"))}
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	return r
}

func problem(t *testing.T, err error) *Error {
	t.Helper()
	var e *Error
	if !errors.As(err, &e) {
		t.Fatalf("%T (%v) is no *Error", err, err)
	}
	return e
}

func TestAskedAgain(t *testing.T) {
	refused := errors.New("connection refused")
	for name, tt := range map[string]struct {
		cfg      Config
		question Question
		answer   func(n int, r *http.Request) (*http.Response, error)
		asked    int64
		least    time.Duration
		most     time.Duration
		want     string // of the error; empty: none
	}{
		"at once":         {answer: func(int, *http.Request) (*http.Response, error) { return status(200), nil }, asked: 1},
		"the third time":  {answer: func(n int, _ *http.Request) (*http.Response, error) { return status([]int{503, 500, 200}[n-1]), nil }, asked: 3, most: 750 * time.Millisecond},
		"never":           {answer: func(int, *http.Request) (*http.Response, error) { return nil, refused }, asked: 4, most: 1750 * time.Millisecond, want: "GET /x: connection refused (asked 4 times)"},
		"denied":          {answer: func(int, *http.Request) (*http.Response, error) { return status(403), nil }, asked: 1, want: `answered 403 "said"`},
		"another success": {answer: func(int, *http.Request) (*http.Response, error) { return status(204), nil }, asked: 1, want: `answered 204`},
		"accepted":        {question: Question{Accept: []int{204}}, answer: func(int, *http.Request) (*http.Response, error) { return status(204), nil }, asked: 1},
		"only accepted":   {question: Question{Accept: []int{204}}, answer: func(int, *http.Request) (*http.Response, error) { return status(200), nil }, asked: 1, want: "answered 200"},
		"once":            {question: Question{Once: true}, answer: func(int, *http.Request) (*http.Response, error) { return status(503), nil }, asked: 1, want: "answered 503"},
		"told when": {
			answer: func(n int, _ *http.Request) (*http.Response, error) {
				return status([]int{429, 200}[n-1], "Retry-After", "7"), nil
			}, asked: 2, least: 7 * time.Second, most: 7250 * time.Millisecond,
		},
		"told when, too late":              {answer: func(int, *http.Request) (*http.Response, error) { return status(503, "Retry-After", "60"), nil }, asked: 1, want: "not asked again for 1m0s"},
		"told when, by a client's mistake": {answer: func(int, *http.Request) (*http.Response, error) { return status(400, "Retry-After", "7"), nil }, asked: 1, want: "answered 400"},
		"silence": {answer: func(_ int, r *http.Request) (*http.Response, error) {
			<-r.Context().Done()
			return nil, r.Context().Err()
		}, asked: 1, least: 30 * time.Second, most: 30 * time.Second, want: "no answer within 30s"},
		"silence in the body": {
			answer: func(_ int, r *http.Request) (*http.Response, error) {
				resp := status(200)
				resp.Body = io.NopCloser(&drip{r.Context()})
				return resp, nil
			}, asked: 1, least: 30 * time.Second, most: 31 * time.Second, want: "no answer within 30s",
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, asked := answering(t, tt.cfg, tt.answer)
				tt.question.Path = "/x"
				begin := time.Now()
				_, err := c.Ask(t.Context(), tt.question)
				took := time.Since(begin)
				if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
					t.Errorf("%v, want %q", err, tt.want)
				}
				if asked.Load() != tt.asked || took < tt.least || took > tt.most {
					t.Errorf("asked %d times in %s, want %d times in %s to %s", asked.Load(), took, tt.asked, tt.least, tt.most)
				}
			})
		})
	}
}

// drip is a body that comes a byte a second until ctx ends.
type drip struct{ ctx context.Context }

func (d *drip) Read(p []byte) (int, error) {
	timer := time.NewTimer(time.Second)
	defer timer.Stop()
	select {
	case <-d.ctx.Done():
		return 0, d.ctx.Err()
	case <-timer.C:
		return copy(p, "x"), nil
	}
}

// TestFullJitter: those who failed together do not come back together.
func TestFullJitter(t *testing.T) {
	for attempts, most := range map[int]time.Duration{1: 250 * time.Millisecond, 2: 500 * time.Millisecond, 4: 2 * time.Second, 6: 8 * time.Second, 1000: 8 * time.Second} {
		var low, high int
		for range 200 {
			d := fullJitter(attempts)
			if d < 0 || d > most {
				t.Fatalf("after %d attempts %s, want %s at most", attempts, d, most)
			}
			if d < most/4 {
				low++
			}
			if d > most*3/4 {
				high++
			}
		}
		if low == 0 || high == 0 {
			t.Errorf("after %d attempts: %d of 200 in the first quarter, %d in the last", attempts, low, high)
		}
	}
}

// TestBreaker: a server that is unavailable is asked by one question after each rest, whoever asks, and by all when that was answered.
func TestBreaker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		up := false
		c, asked := answering(t, Config{Attempts: 1}, func(int, *http.Request) (*http.Response, error) {
			if up {
				return status(200), nil
			}
			return status(503), nil
		})
		ask := func() error { _, err := c.Ask(t.Context(), Question{Path: "/x"}); return err }
		for range breakAfter {
			if e := problem(t, ask()); e.Status != 503 {
				t.Fatal(e)
			}
		}
		for range 3 {
			if e := problem(t, ask()); e.Status != 0 || e.Kind != Unavailable || e.RetryAfter <= 0 || e.RetryAfter > firstRest || asked.Load() != breakAfter {
				t.Fatalf("%v, asked %d times", e, asked.Load())
			}
		}
		// An hour of questions by everybody, ten a second.
		begin, before := time.Now(), asked.Load()
		for time.Since(begin) < time.Hour {
			_ = ask()
			<-time.After(100 * time.Millisecond)
		}
		if n := asked.Load() - before; n < 60 || n > 130 {
			t.Errorf("asked %d times in an hour, want one in %s or so", n, longestRest)
		}
		up = true
		<-time.After(longestRest)
		before = asked.Load()
		for range 10 {
			if err := ask(); err != nil {
				t.Error(err)
			}
		}
		if n := asked.Load() - before; n != 10 {
			t.Errorf("of 10 questions to a server that is back %d came to it", n)
		}
	})
}

// TestBreakerTriesOne: while one question tries whether the server is back, the others fail at once; one that nobody waits for any
// more is no trial.
func TestBreakerTriesOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		hang := false
		c, asked := answering(t, Config{Attempts: 1}, func(_ int, r *http.Request) (*http.Response, error) {
			if !hang {
				return status(503), nil
			}
			select {
			case <-release:
				return status(200), nil
			case <-r.Context().Done():
				return nil, r.Context().Err()
			}
		})
		for range breakAfter {
			_, _ = c.Ask(t.Context(), Question{Path: "/x"})
		}
		hang = true
		<-time.After(longestRest)
		ctx, cancel := context.WithCancel(t.Context())
		first := make(chan error, 2)
		go func() { _, err := c.Ask(ctx, Question{Path: "/x"}); first <- err }()
		synctest.Wait()
		if _, err := c.Ask(t.Context(), Question{Path: "/x"}); err == nil || asked.Load() != breakAfter+1 {
			t.Errorf("a second trial: %v, asked %d times", err, asked.Load())
		}
		cancel()
		if err := <-first; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		go func() { _, err := c.Ask(t.Context(), Question{Path: "/x"}); first <- err }()
		synctest.Wait()
		close(release)
		if err := <-first; err != nil {
			t.Errorf("after a trial that was given up: %v", err)
		}
	})
}

// TestRetryAfterHolds: what one question was told holds for all.
func TestRetryAfterHolds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, asked := answering(t, Config{}, func(n int, _ *http.Request) (*http.Response, error) {
			if n == 1 {
				return status(503, "Retry-After", "40"), nil
			}
			return status(200), nil
		})
		for range 40 {
			if e := problem(t, func() error { _, err := c.Ask(t.Context(), Question{Path: "/x"}); return err }()); e.RetryAfter == 0 || asked.Load() != 1 {
				t.Fatalf("%v, asked %d times", e, asked.Load())
			}
			<-time.After(time.Second)
		}
		if _, err := c.Ask(t.Context(), Question{Path: "/x"}); err != nil {
			t.Error(err)
		}
	})
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for text, want := range map[string]time.Duration{
		"": 0, "0": 0, "12": 12 * time.Second, "-1": 0, "soon": 0, "1e9": 0, "999999999": time.Hour, "99999999999999999999": 0,
		"Fri, 02 Jan 2026 03:05:05 GMT": time.Minute, "Fri, 02 Jan 2026 03:04:04 GMT": 0, "Sat, 02 Jan 2036 03:04:04 GMT": time.Hour,
	} {
		if got := retryAfter(text, now); got != want {
			t.Errorf("Retry-After %q: %s, want %s", text, got, want)
		}
	}
}
