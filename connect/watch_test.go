package connect

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sallyport/sallyport/connect/internal/apitest"
)

// direct asks a handler without a network, so that its time can be synctest's.
type direct struct{ handler http.Handler }

func (d direct) RoundTrip(r *http.Request) (resp *http.Response, err error) {
	defer func() {
		if recover() != nil {
			err = errors.New("connection reset")
		}
	}()
	w := httptest.NewRecorder()
	d.handler.ServeHTTP(w, r)
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	return w.Result(), nil
}

// request is what the API was asked, and when.
type request struct {
	at          time.Duration
	index, wait string
	token       string
}

// script is an API of which only roots are watched, and that notes what it is asked.
type script struct {
	began  time.Time
	answer func(n int, w http.ResponseWriter, r *http.Request)

	mu    sync.Mutex
	asked []request
}

func (s *script) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.asked = append(s.asked, request{time.Since(s.began), r.URL.Query().Get("index"), r.URL.Query().Get("wait"), r.Header.Get("X-Consul-Token")})
	n := len(s.asked)
	s.mu.Unlock()
	s.answer(n, w, r)
}

func (s *script) requests() []request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]request(nil), s.asked...)
}

// follow watches a scripted API for d of synctest's time, and returns what it was asked and what it
// told.
func follow(t *testing.T, d time.Duration, o Options, answer func(n int, w http.ResponseWriter, r *http.Request)) (asked []request, told []string) {
	t.Helper()
	s := &script{began: time.Now(), answer: answer}
	o.Address, o.transport = "localhost:8500", direct{s}
	asker, err := newAPI(o)
	if err != nil {
		t.Fatal(err)
	}
	w := watch{
		api: asker, logger: launchLogger, question: "roots", path: "/x", failed: func(error) {},
		changed: func(body []byte) error {
			if strings.HasPrefix(string(body), "bad") {
				return errors.New("bad")
			}
			told = append(told, string(body))
			return nil
		},
	}
	ctx, cancel := contextWithTimeout(t, d)
	defer cancel()
	w.run(ctx)
	return s.requests(), told
}

// reply answers with an index; 0: without.
func reply(w http.ResponseWriter, index int, body string) {
	if index > 0 {
		w.Header().Set("X-Consul-Index", strconv.Itoa(index))
	}
	fmt.Fprint(w, body)
}

// hang waits as a blocking query does.
func hang(r *http.Request) {
	wait, err := time.ParseDuration(r.URL.Query().Get("wait"))
	if err != nil {
		wait = time.Hour
	}
	select {
	case <-r.Context().Done():
	case <-time.After(wait):
	}
}

func TestWatch(t *testing.T) {
	tests := map[string]struct {
		d      time.Duration
		answer func(n int, w http.ResponseWriter, r *http.Request)
		// least and most requests.
		least, most int
		told        string
		check       func(t *testing.T, asked []request)
	}{
		"waits with an index, bounded": {
			time.Hour, func(n int, w http.ResponseWriter, r *http.Request) {
				if n > 1 {
					hang(r)
				}
				reply(w, 5, "a")
			}, 7, 7, "a",
			func(t *testing.T, asked []request) {
				if asked[0].index != "" || asked[0].wait != "" || asked[1].index != "5" || asked[1].wait != "10m0s" {
					t.Errorf("asked %+v", asked[:2])
				}
			},
		},
		"no index": {
			10 * time.Minute, func(_ int, w http.ResponseWriter, _ *http.Request) { reply(w, 0, "a") }, 10, 30, "a", nil,
		},
		"no index and always something else": {
			10 * time.Minute, func(n int, w http.ResponseWriter, _ *http.Request) { reply(w, 0, strconv.Itoa(n)) }, 10, 30, "", nil,
		},
		"an index that always counts on, and nothing new": {
			10 * time.Minute, func(n int, w http.ResponseWriter, _ *http.Request) { reply(w, n, "a") }, 10, 30, "a", nil,
		},
		"an index that always counts on, and always something else": {
			10 * time.Second, func(n int, w http.ResponseWriter, _ *http.Request) { reply(w, n, strconv.Itoa(n)) }, 50, 101, "", nil,
		},
		"does not wait": {
			10 * time.Minute, func(_ int, w http.ResponseWriter, _ *http.Request) { reply(w, 7, "a") }, 10, 30, "a", nil,
		},
		"changes come at once": {
			time.Minute, func(n int, w http.ResponseWriter, r *http.Request) {
				switch n {
				case 1:
					reply(w, 5, "a")
				case 2:
					time.Sleep(20 * time.Second)
					reply(w, 6, "b")
				default:
					if r.URL.Query().Get("index") != "6" {
						t.Errorf("asked with index %s after 6", r.URL.Query().Get("index"))
					}
					hang(r)
				}
			}, 3, 3, "a b", nil,
		},
		"begins anew": {
			time.Minute, func(n int, w http.ResponseWriter, r *http.Request) {
				switch {
				case n == 1:
					reply(w, 1000, "a")
				case n == 2:
					time.Sleep(10 * time.Second)
					reply(w, 3, "b")
				case n == 3 && r.URL.Query().Get("index") == "":
					reply(w, 4, "b")
				default:
					hang(r)
				}
			}, 4, 4, "a b",
			func(t *testing.T, asked []request) {
				if asked[3].index != "4" {
					t.Errorf("asked %+v", asked[3])
				}
			},
		},
		"errors": {
			10 * time.Minute, func(_ int, w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) }, 20, 45, "",
			func(t *testing.T, asked []request) {
				if first := asked[1].at; first < time.Second/2 || first > time.Second {
					t.Errorf("asked again after %s", first)
				}
				for i := range asked[1:] {
					if d := asked[i+1].at - asked[i].at; d > 30*time.Second {
						t.Errorf("%s between two questions", d)
					}
				}
			},
		},
		"an error, and back": {
			time.Hour, func(n int, w http.ResponseWriter, r *http.Request) {
				switch n {
				case 1:
					reply(w, 5, "a")
				case 2:
					time.Sleep(time.Minute)
					w.WriteHeader(500)
				default:
					if r.URL.Query().Get("index") != "" {
						hang(r)
					}
					reply(w, 5, "a")
				}
			}, 9, 10, "a", nil,
		},
		"an answer that says nothing": {
			time.Minute, func(n int, w http.ResponseWriter, r *http.Request) {
				switch {
				case n == 1:
					reply(w, 5, "a")
				case n < 4:
					reply(w, 6, "bad")
				case r.URL.Query().Get("index") == "":
					reply(w, 7, "b")
				default:
					hang(r)
				}
			}, 5, 5, "a b", nil,
		},
		"never answers": {
			time.Minute, func(_ int, _ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, 4, 6, "", nil,
		},
		"junk for an index": {
			10 * time.Minute, func(_ int, w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("X-Consul-Index", "-3")
				reply(w, 0, "a")
			}, 10, 30, "a", nil,
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				asked, told := follow(t, tt.d, Options{}, tt.answer)
				if n := len(asked); n < tt.least || n > tt.most {
					t.Errorf("asked %d times in %s, want %d to %d: %+v", n, tt.d, tt.least, tt.most, asked)
				}
				if got := strings.Join(told, " "); tt.told != "" && got != tt.told {
					t.Errorf("told %q, want %q", got, tt.told)
				}
				if tt.check != nil {
					tt.check(t, asked)
				}
			})
		})
	}
}

// TestTokenFile has the token exchanged while it is refused: that is not waited for any longer.
func TestTokenFile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "token")
		write := func(s string) {
			if err := os.WriteFile(file, []byte(s), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		write("old\n")
		exchange := 5*time.Minute + 3*time.Second
		go func() {
			time.Sleep(exchange)
			write("") // as it may be seen while it is written
			time.Sleep(2 * time.Second)
			write("new\n")
		}()
		asked, told := follow(t, 6*time.Minute, Options{TokenFile: file}, func(_ int, w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("X-Consul-Token") != "new" {
				w.WriteHeader(403)
				return
			}
			if r.URL.Query().Get("index") != "" {
				hang(r)
			}
			reply(w, 5, "a")
		})
		for _, q := range asked {
			if q.token == "new" {
				if late := q.at - exchange; late > 4*time.Second {
					t.Errorf("the new token came %s after it was written", late)
				}
				if len(told) != 1 {
					t.Errorf("told %q", told)
				}
				return
			}
			if q.token != "old" {
				t.Errorf("asked with the token %q", q.token)
			}
		}
		t.Error("the new token was never used")
	})
}

// TestServiceOverTime has a service renew its certificate and find the API again in synctest's time.
func TestServiceOverTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := apitest.New(t)
		a.Down()
		s, err := NewService(t.Context(), "web", Options{Address: "localhost:8500", transport: direct{a}, Logger: launchLogger})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		time.Sleep(10 * time.Minute)
		if s.Ready() {
			t.Fatal("ready without an API")
		}
		a.Up()
		began := time.Now()
		if err := s.ReadyWait(t.Context()); err != nil {
			t.Fatal(err)
		}
		if d := time.Since(began); d > longestDelay {
			t.Errorf("ready after %s", d)
		}
		old, err := s.SVID()
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		a.SetLeaf("web", a.Signer().Leaf(apitest.ID("web"), nil))
		time.Sleep(leastGap)
		if now, err := s.SVID(); err != nil || now == old {
			t.Errorf("the new certificate did not come: %v", err)
		}
		a.Down()
		time.Sleep(71 * time.Hour)
		if !s.Ready() {
			t.Error("not ready, although the certificate is good")
		}
		time.Sleep(2 * time.Hour)
		if s.Ready() {
			t.Error("ready with a certificate that has ended")
		}
		if n := a.Asked("/v1/agent/connect/ca/"); n > 2*2*75*3600/15 {
			t.Errorf("asked %d times in 75 hours", n)
		}
	})
}
