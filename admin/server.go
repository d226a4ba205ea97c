package admin

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"strconv"
	"strings"
	"time"

	"github.com/sallyport/sallyport/chain"
	"github.com/sallyport/sallyport/internal/connlimit"
	"github.com/sallyport/sallyport/internal/unixsocket"
	"github.com/sallyport/sallyport/xds"
)

// API is what the server answers from. All functions may be called by several goroutines and must
// not block for long.
type API struct {
	// Status describes the control plane and its proxies.
	Status func() Status
	// Proxy says all of the proxy with an ID.
	Proxy func(id string) (Proxy, error)
	// Instance says all of the application without a sidecar with an ID.
	Instance func(id string) (InstanceDetail, error)
	// Intentions are all that are in force, by destination.
	Intentions func() []Rule
	// Change says what became of a change of the catalog; number 0 is the newest.
	Change func(number uint64) (xds.ChangeStatus, error)
	// Check says whether source may connect to destination; both are names of services, source may
	// be a SPIFFE ID too. It blocks for some seconds at most.
	Check func(ctx context.Context, source, destination string, r CheckRequest) (CheckResponse, error)
	// Chain is the discovery chain of a service, compiled in a datacenter; empty: the mesh's own.
	Chain func(service, datacenter string) (*chain.Chain, error)
	// Rotate gives the service a new leaf now, and returns when its proxies have it.
	Rotate func(service string) (RotateResponse, error)
	// CA describes the certificate authority; RotateCA replaces its root, and returns when that has begun.
	CA       func() CA
	RotateCA func(RotateCARequest) (CA, error)
	// Leafs are those in the record that a query takes, the newest first.
	Leafs func(LeafQuery) ([]Leaf, error)
	// Token mints a proxy's token for the process peer.
	Token func(peer Peer, r TokenRequest) (TokenResponse, error)
	// ApplicationToken mints a token of the HTTP API for the process peer.
	ApplicationToken func(peer Peer, r ApplicationTokenRequest) (ApplicationTokenResponse, error)
	// Revoke has tokens be taken no more, as the process peer asks.
	Revoke func(peer Peer, r RevokeRequest) (RevokeResponse, error)
	// Judge says why a proxy would not be served with a token of its own: ErrForbidden, or that this
	// is not known. It blocks for some seconds at most.
	Judge func(ctx context.Context, peer Peer, r JudgeRequest) error
	// Application takes what the sidecar of the process peer says of its application.
	Application func(peer Peer, a Application) error
	// TrustDomain says all of the bundle of a trust domain; the mesh's own if name is empty.
	TrustDomain func(name string) (TrustDomainBundle, error)
	// ImportBundle has a bundle be that of another trust domain.
	ImportBundle func(ImportRequest) (ImportResponse, error)
	// BundleEndpoint says how others get the mesh's bundle.
	BundleEndpoint func() (BundleEndpoint, error)
	// Revoked are the certificates and identities that are revoked. ChangeRevoked has one be revoked, or no more, as the process peer
	// asks; it blocks for some seconds at most.
	Revoked       func() Revocations
	ChangeRevoked func(ctx context.Context, peer Peer, r RevocationRequest) (RevocationResponse, error)
	// Reload reads the sources again.
	Reload func()
	// Monitoring answers /metrics, /healthz and /readyz.
	Monitoring http.Handler
}

// Peer is the process at the other end of a connection, as the kernel names it.
type Peer = unixsocket.Peer

// Errors by which API tells the server what to answer.
var (
	// ErrForbidden: the peer may not have what it asks for.
	ErrForbidden = errors.New("not allowed")
	// ErrUnknown: no such proxy or service.
	ErrUnknown = errors.New("not found")
	// ErrNotYet: the control plane has not come that far since it started.
	ErrNotYet = errors.New("not yet")
)

// statuses are how errors travel to the client; others are http.StatusBadRequest.
var statuses = map[error]int{
	ErrForbidden: http.StatusForbidden, ErrUnknown: http.StatusNotFound, ErrNotYet: http.StatusServiceUnavailable,
}

type connKey struct{}

// peerOf is who made the connection of a request.
func peerOf(ctx context.Context) (Peer, error) {
	if c, ok := ctx.Value(connKey{}).(*connlimit.Conn); ok {
		return unixsocket.PeerOf(c.Conn)
	}
	return Peer{}, errors.New("not a Unix socket")
}

// Bounds of the connections of a server. Who asks is Prometheus or an operator, or two.
const (
	maxConns        = 256
	maxConnsPerPeer = 64
	// maxHeader bounds the header of a request, idleTimeout the time between two.
	maxHeader   = 16 << 10
	idleTimeout = 30 * time.Second
)

// maxRequest bounds the body of a request; the largest one names a service.
const maxRequest = 64 << 10

// writeTimeout bounds an answer. A CPU profile takes as long as it is asked to, by default that.
const writeTimeout = 35 * time.Second

// Serve answers on l, a Unix socket, until ctx ends. It returns nil when ctx ended.
func Serve(ctx context.Context, l net.Listener, api API, log *slog.Logger) error {
	return ServeHTTP(ctx, l, handler(api, log), log)
}

// ServeHTTP has h answer on l until ctx ends, then gives open requests a second. It returns nil
// when ctx ended.
func ServeHTTP(ctx context.Context, l net.Listener, h http.Handler, log *slog.Logger) error {
	s := &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		ConnContext:       func(ctx context.Context, c net.Conn) context.Context { return context.WithValue(ctx, connKey{}, c) },
	}
	failed := make(chan error, 1)
	limited := connlimit.Listen(l, connlimit.Config{Total: maxConns, PerPeer: maxConnsPerPeer})
	go func() { failed <- s.Serve(limited) }()
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
	mux.HandleFunc("GET /v1/proxy", func(w http.ResponseWriter, r *http.Request) {
		out, err := api.Proxy(r.FormValue("id"))
		reply(w, out, err)
	})
	mux.HandleFunc("GET /v1/instance", func(w http.ResponseWriter, r *http.Request) {
		out, err := api.Instance(r.FormValue("id"))
		reply(w, out, err)
	})
	mux.HandleFunc("GET /v1/intention/list", func(w http.ResponseWriter, _ *http.Request) { reply(w, api.Intentions(), nil) })
	mux.HandleFunc("GET /v1/intention/check", func(w http.ResponseWriter, r *http.Request) {
		out, err := api.Check(r.Context(), r.FormValue("source"), r.FormValue("destination"), CheckRequest{r.FormValue("method"), r.FormValue("path"), r.Form["header"]})
		reply(w, out, err)
	})
	mux.HandleFunc("GET /v1/chain", func(w http.ResponseWriter, r *http.Request) {
		out, err := api.Chain(r.FormValue("service"), r.FormValue("datacenter"))
		reply(w, out, err)
	})
	mux.HandleFunc("POST /v1/leaf/rotate", func(w http.ResponseWriter, r *http.Request) {
		service := r.FormValue("service")
		peer, err := peerOf(r.Context())
		var out RotateResponse
		if err == nil {
			out, err = api.Rotate(service)
		}
		if log := audited(log, peer).With("service", service); err != nil {
			log.Warn("leaf not rotated", "err", err)
		} else {
			log.Info("leaf rotated")
		}
		reply(w, out, err)
	})
	mux.HandleFunc("GET /v1/ca", func(w http.ResponseWriter, _ *http.Request) { reply(w, api.CA(), nil) })
	mux.HandleFunc("POST /v1/ca/rotate", func(w http.ResponseWriter, r *http.Request) {
		peer, in, err := request[RotateCARequest](w, r)
		if err != nil {
			reply(w, nil, err)
			return
		}
		out, err := api.RotateCA(in)
		log := audited(log, peer).With("provider", in.To, "proxies", strings.Join(in.Override, " "), "status", strings.Join(in.flags(), " "))
		if err != nil {
			log.Warn("rotation of the root refused", "err", err)
		} else {
			log.Info("rotation of the root asked for")
		}
		reply(w, out, err)
	})
	mux.HandleFunc("GET /v1/leaf/list", func(w http.ResponseWriter, r *http.Request) {
		out, err := api.Leafs(LeafQuery{Name: r.FormValue("name"), Serial: r.FormValue("serial"), SHA256: r.FormValue("sha256")})
		reply(w, out, err)
	})
	handleBundles(mux, api, log)
	handleRevocations(mux, api, log)
	mux.HandleFunc("POST /v1/reload", func(w http.ResponseWriter, r *http.Request) {
		peer, err := peerOf(r.Context())
		if err == nil {
			api.Reload()
			audited(log, peer).Info("catalog read again")
		}
		reply(w, struct{}{}, err)
	})
	mux.HandleFunc("POST /v1/token/revoke", func(w http.ResponseWriter, r *http.Request) {
		peer, in, err := request[RevokeRequest](w, r)
		if err != nil {
			reply(w, nil, err)
			return
		}
		out, err := api.Revoke(peer, in)
		log := audited(log, peer)
		if id := cmp.Or(out.ProxyID, in.Proxy); id != "" {
			log = log.With("proxy", id)
		} else {
			log = log.With("token_id", in.TokenID)
		}
		if err != nil {
			log.Warn("tokens not revoked", "err", err)
		} else {
			log.Info("tokens revoked", "count", out.Streams)
		}
		reply(w, out, err)
	})
	mux.HandleFunc("POST /v1/token/application", func(w http.ResponseWriter, r *http.Request) {
		peer, in, err := request[ApplicationTokenRequest](w, r)
		if err != nil {
			reply(w, nil, err)
			return
		}
		out, err := api.ApplicationToken(peer, in)
		log := audited(log, peer).With("reader", in.Reader)
		if in.Service != "" {
			log = log.With("applications_of", in.Service)
		}
		if err != nil {
			log.Warn("token refused", "err", err)
		} else {
			log.Info("token issued", "token_id", out.TokenID, "expires", out.Expires)
		}
		reply(w, out, err)
	})
	mux.HandleFunc("POST /v1/application", func(w http.ResponseWriter, r *http.Request) {
		peer, in, err := request[Application](w, r)
		if err == nil {
			err = api.Application(peer, in)
		}
		reply(w, struct{}{}, err)
	})
	mux.HandleFunc("POST /v1/judge", func(w http.ResponseWriter, r *http.Request) {
		peer, in, err := request[JudgeRequest](w, r)
		if err == nil {
			err = api.Judge(r.Context(), peer, in)
		}
		reply(w, struct{}{}, err)
	})
	mux.HandleFunc("POST /v1/token", func(w http.ResponseWriter, r *http.Request) {
		peer, in, err := request[TokenRequest](w, r)
		if err != nil {
			reply(w, nil, err)
			return
		}
		out, err := api.Token(peer, in)
		log := audited(log, peer)
		if id := cmp.Or(out.ProxyID, in.ProxyID); id != "" {
			log = log.With("proxy", id)
		}
		if in.SidecarFor != "" {
			log = log.With("sidecar_for", in.SidecarFor)
		}
		switch {
		case errors.Is(err, ErrUnknown) || errors.Is(err, ErrNotYet):
			// Who waits for a proxy asks again and again, and is told what for.
			log.Debug("token not issued", "err", err)
		case err != nil:
			log.Warn("token refused", "err", err)
		case out.OwnToken:
			log.Info("bootstrap issued")
		default:
			log.Info("token issued", "token_id", out.TokenID, "expires", out.Expires)
		}
		reply(w, out, err)
	})
	mux.Handle("GET /{page}", api.Monitoring)
	mux.Handle("GET /{$}", api.Monitoring)
	mux.HandleFunc("GET /debug/pprof/{name}", profile)
	return mux
}

// audited is for lines about what the process peer asked for.
func audited(log *slog.Logger, peer Peer) *slog.Logger {
	return log.With("audit", "admin", "uid", peer.UID, "pid", peer.PID)
}

// request reads the body of a request, and who sent it.
func request[T any](w http.ResponseWriter, r *http.Request) (peer Peer, in T, err error) {
	return requestOf[T](w, r, maxRequest)
}

// requestOf is request of a body of at most as many bytes.
func requestOf[T any](w http.ResponseWriter, r *http.Request, most int64) (peer Peer, in T, err error) {
	if peer, err = peerOf(r.Context()); err != nil {
		return peer, in, fmt.Errorf("%w: the kernel does not say who asks: %w", ErrForbidden, err)
	}
	d := json.NewDecoder(http.MaxBytesReader(w, r.Body, most))
	d.DisallowUnknownFields()
	if err := d.Decode(&in); err != nil {
		return peer, in, fmt.Errorf("request: %w", err)
	}
	return peer, in, nil
}

// profile answers with a profile of the control plane, for `go tool pprof`: "profile" is one of the
// processor, the others are those of runtime/pprof. They hold names of functions and sums, no
// contents of memory.
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
	if err != nil {
		v, status = problem{Error: err.Error()}, http.StatusBadRequest
		for e, code := range statuses {
			if errors.Is(err, e) {
				status = code
			}
		}
	}
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // a client that went away needs no answer
}
