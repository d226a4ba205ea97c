package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"strconv"
	"time"

	"github.com/sallyport/sallyport/xds"
)

// API is what the server answers from. All functions may be called by several goroutines and must not block for long.
type API struct {
	// Status describes the control plane and its proxies.
	Status func() Status
	// Change says what became of a change of the catalog; number 0 is the newest.
	Change func(number uint64) (xds.ChangeStatus, error)
	// Check says whether source may connect to destination; both are names of services, source may be a SPIFFE ID too.
	Check func(source, destination string) (CheckResponse, error)
	// Rotate gives the service a new leaf now.
	Rotate func(service string) error
	// Token mints a proxy's token for the process peer.
	Token func(peer Peer, r TokenRequest) (TokenResponse, error)
	// Reload reads the sources again.
	Reload func()
	// Metrics, Health and Ready are served as they are, here and on the metrics address.
	Metrics, Health, Ready http.Handler
}

// Peer is the process at the other end of a connection, as the kernel names it.
type Peer struct{ PID, UID int }

// Errors by which API tells the server what to answer.
var (
	// ErrForbidden: the peer may not have what it asks for.
	ErrForbidden = errors.New("not allowed")
	// ErrUnknown: no such proxy or service.
	ErrUnknown = errors.New("not found")
	// ErrNotYet: the control plane has not come that far since it started.
	ErrNotYet = errors.New("not yet")
)

type peerKey struct{}

// maxRequest bounds the body of a request; the largest one names a service.
const maxRequest = 64 << 10

// writeTimeout bounds an answer. A CPU profile takes as long as it is asked to, by default that.
const writeTimeout = 35 * time.Second

// Serve answers on l, a Unix socket, until ctx ends. It returns nil when ctx ended.
func Serve(ctx context.Context, l net.Listener, api API, log *slog.Logger) error {
	s := &http.Server{
		Handler:           handler(api, log),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      writeTimeout,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			p, err := peerOf(c)
			if err != nil {
				log.Warn("admin connection without credentials", "err", err)
				return ctx
			}
			return context.WithValue(ctx, peerKey{}, p)
		},
	}
	return ServeHTTP(ctx, s, l)
}

// ServeHTTP runs s on l until ctx ends, then gives open requests a second. It returns nil when ctx ended.
func ServeHTTP(ctx context.Context, s *http.Server, l net.Listener) error {
	failed := make(chan error, 1)
	go func() { failed <- s.Serve(l) }()
	select {
	case err := <-failed:
		return fmt.Errorf("serving %s: %w", l.Addr(), err)
	case <-ctx.Done():
	}
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	if s.Shutdown(grace) != nil {
		_ = s.Close() // what is still open after the grace is cut off
	}
	if err := <-failed; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serving %s: %w", l.Addr(), err)
	}
	return nil
}

func handler(api API, log *slog.Logger) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", func(w http.ResponseWriter, _ *http.Request) { reply(w, api.Status(), nil) })
	mux.HandleFunc("GET /v1/change", func(w http.ResponseWriter, r *http.Request) {
		number, err := strconv.ParseUint(r.FormValue("number"), 10, 64)
		if err != nil {
			reply(w, nil, fmt.Errorf("number: %w", err))
			return
		}
		out, err := api.Change(number)
		reply(w, out, err)
	})
	mux.HandleFunc("GET /v1/intention/check", func(w http.ResponseWriter, r *http.Request) {
		out, err := api.Check(r.FormValue("source"), r.FormValue("destination"))
		reply(w, out, err)
	})
	mux.HandleFunc("POST /v1/leaf/rotate", func(w http.ResponseWriter, r *http.Request) {
		reply(w, struct{}{}, api.Rotate(r.FormValue("service")))
	})
	mux.HandleFunc("POST /v1/reload", func(w http.ResponseWriter, _ *http.Request) {
		api.Reload()
		reply(w, struct{}{}, nil)
	})
	mux.HandleFunc("POST /v1/token", func(w http.ResponseWriter, r *http.Request) {
		peer, ok := r.Context().Value(peerKey{}).(Peer)
		if !ok {
			reply(w, nil, fmt.Errorf("%w: the kernel does not say who asks", ErrForbidden))
			return
		}
		var in TokenRequest
		d := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxRequest))
		d.DisallowUnknownFields()
		if err := d.Decode(&in); err != nil {
			reply(w, nil, fmt.Errorf("request for a token: %w", err))
			return
		}
		out, err := api.Token(peer, in)
		switch {
		case errors.Is(err, ErrUnknown) || errors.Is(err, ErrNotYet):
			// Who waits for a proxy asks again and again, and is told what for.
			log.Debug("token not given", "proxy", in.ProxyID, "sidecar_for", in.SidecarFor, "uid", peer.UID, "pid", peer.PID, "err", err)
		case err != nil:
			log.Warn("token refused", "proxy", in.ProxyID, "sidecar_for", in.SidecarFor, "uid", peer.UID, "pid", peer.PID, "err", err)
		case out.OwnToken:
			log.Info("bootstrap given out", "proxy", out.ProxyID, "uid", peer.UID, "pid", peer.PID)
		default:
			log.Info("token minted", "proxy", out.ProxyID, "expires", out.Expires, "uid", peer.UID, "pid", peer.PID)
		}
		reply(w, out, err)
	})
	mux.Handle("GET /metrics", api.Metrics)
	mux.Handle("GET /healthz", api.Health)
	mux.Handle("GET /readyz", api.Ready)
	mux.HandleFunc("GET /debug/pprof/{name}", profile)
	return mux
}

// profile answers with a profile of the control plane, for `go tool pprof`: "profile" is one of the processor, the others are those of
// runtime/pprof. What a profile holds is the names of functions and sums, no contents of memory.
func profile(w http.ResponseWriter, r *http.Request) {
	if name := r.PathValue("name"); name != "profile" {
		pprof.Handler(name).ServeHTTP(w, r)
		return
	}
	pprof.Profile(w, r)
}

type problem struct {
	Error string `json:"error"`
}

func reply(w http.ResponseWriter, v any, err error) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	status := http.StatusOK
	switch {
	case err == nil:
	case errors.Is(err, ErrForbidden):
		status = http.StatusForbidden
	case errors.Is(err, ErrUnknown):
		status = http.StatusNotFound
	case errors.Is(err, ErrNotYet):
		status = http.StatusServiceUnavailable
	default:
		status = http.StatusBadRequest
	}
	w.WriteHeader(status)
	if err != nil {
		v = problem{Error: err.Error()}
	}
	_ = json.NewEncoder(w).Encode(v) // a client that went away needs no answer
}
