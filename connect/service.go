package connect

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

// Service is an application's part in the mesh: the identity of one service, kept up to date. It is
// safe for concurrent use. NewService makes one.
type Service struct {
	name    string
	options Options
	logger  *slog.Logger
	api     *api

	ctx    context.Context // ends with the service
	cancel context.CancelFunc
	tasks  sync.WaitGroup

	state  state
	live   live
	client *http.Client
}

// leaf is the certificate of a service, as go-spiffe and as crypto/tls want it.
type leaf struct {
	svid *x509svid.SVID
	tls  tls.Certificate
}

// state is what the watches have learnt.
type state struct {
	leaf  atomic.Pointer[leaf]
	roots atomic.Pointer[x509bundle.Bundle]

	mu      sync.Mutex
	changed chan struct{} // closed, and another one, when something changes
	errs    map[string]error
}

// change waits for the next one.
func (s *state) change() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.changed == nil {
		s.changed = make(chan struct{})
	}
	return s.changed
}

// tell wakes whoever waits.
func (s *state) tell() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.changed != nil {
		close(s.changed)
		s.changed = nil
	}
}

// failed notes why a question has no answer; nil: it has one.
func (s *state) failed(question string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.errs == nil {
		s.errs = map[string]error{}
	}
	s.errs[question] = err
}

// why is the reason that there is nothing; nil: none is known.
func (s *state) why() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return errors.Join(s.errs["leaf"], s.errs["roots"])
}

// NewService takes part in the mesh as the service of that name, until ctx ends or Close is called. It
// returns at once, with an error only if the options or the environment are wrong: an API that is away
// is asked until it is there. ReadyWait waits for that; handshakes and Dial do so too, for a while.
func NewService(ctx context.Context, name string, options Options) (*Service, error) {
	if err := spiffeid.ValidatePathSegment(name); err != nil {
		return nil, fmt.Errorf("%q is not the name of a service: letters, digits, dots, dashes and underscores are all that a SPIFFE ID can have", name)
	}
	if options.RevocationInterval < 0 {
		return nil, fmt.Errorf("RevocationInterval is %s: write 0 for %s, or more", options.RevocationInterval, defaultRevocationInterval)
	}
	if options.RevocationInterval == 0 {
		options.RevocationInterval = defaultRevocationInterval
	}
	asker, err := newAPI(options)
	if err != nil {
		return nil, fmt.Errorf("service %s: %w", name, err)
	}
	s := &Service{name: name, options: options, logger: options.Logger, api: asker}
	if s.logger == nil {
		s.logger = slog.Default()
	}
	s.logger = s.logger.With("service", name)
	s.ctx, s.cancel = context.WithCancel(ctx)
	s.client = &http.Client{Transport: s.HTTPTransport()}
	s.start()
	return s, nil
}

func (s *Service) start() {
	s.watch("leaf", "/v1/agent/connect/ca/leaf/"+url.PathEscape(s.name), nil, s.setLeaf)
	s.watch("roots", "/v1/agent/connect/ca/roots", nil, s.setRoots)
	if s.options.EndOnRevocation {
		s.live.wake = make(chan struct{}, 1)
		query := url.Values{"by": {"destination"}, "name": {s.name}}
		s.watch("intentions", "/v1/connect/intentions/match", query, func([]byte) error { s.live.look(); return nil })
		s.tasks.Go(s.endRevoked)
	}
}

// watch asks a question for ever, in a goroutine of its own.
func (s *Service) watch(question, path string, query url.Values, changed func([]byte) error) {
	w := watch{
		api: s.api, logger: s.logger, question: question, path: path, query: query, changed: changed,
		failed: func(err error) { s.state.failed(question, err) },
	}
	s.tasks.Go(func() { w.run(s.ctx) })
}

func (s *Service) setLeaf(body []byte) error {
	svid, err := decodeLeaf(body, s.name)
	if err != nil {
		return err
	}
	l := &leaf{svid: svid, tls: tls.Certificate{PrivateKey: svid.PrivateKey, Leaf: svid.Certificates[0]}}
	for _, c := range svid.Certificates {
		l.tls.Certificate = append(l.tls.Certificate, c.Raw)
	}
	s.state.leaf.Store(l)
	s.state.tell()
	s.logger.Info("new certificate", "serial", serialNumber(svid.Certificates[0]), "expires", svid.Certificates[0].NotAfter)
	return nil
}

func (s *Service) setRoots(body []byte) error {
	roots, err := decodeRoots(body)
	if err != nil {
		return err
	}
	s.state.roots.Store(roots)
	s.state.tell()
	if s.options.EndOnRevocation {
		s.endUnrooted(roots)
	}
	return nil
}

// Close ends what the service does by itself, and waits for that. Connections that are open stay open,
// and nobody ends them any more; there are no new ones. It returns nil, and may be called again.
func (s *Service) Close() error {
	s.cancel()
	s.tasks.Wait()
	s.client.CloseIdleConnections()
	s.api.close()
	return nil
}

// Name is the name of the service.
func (s *Service) Name() string { return s.name }

// Ready reports whether connections can be made and accepted: there are roots, and a certificate that
// hangs under one of them, also by way of an intermediate, and has not ended. Whether the API answers
// just now does not count.
func (s *Service) Ready() bool { return s.notReady() == nil }

// notReady says why Ready is false.
func (s *Service) notReady() error {
	l, roots := s.state.leaf.Load(), s.state.roots.Load()
	switch {
	case s.ctx.Err() != nil:
		return fmt.Errorf("service %s: %w", s.name, ErrClosed)
	case l == nil, roots == nil:
		what := "certificate"
		if l != nil {
			what = "roots"
		}
		if err := s.state.why(); err != nil {
			return fmt.Errorf("service %s is %w: there is no %s: %w", s.name, errNotReady, what, err)
		}
		return fmt.Errorf("service %s is %w: there is no %s yet", s.name, errNotReady, what)
	}
	if _, err := verify(l.svid.Certificates, roots, x509.ExtKeyUsageServerAuth); err != nil {
		return fmt.Errorf("service %s is %w: its certificate is not good: %w", s.name, errNotReady, err)
	}
	return nil
}

// ReadyWait waits until Ready is true. When ctx or the service ends first it returns an error that
// says what is missing.
func (s *Service) ReadyWait(ctx context.Context) error {
	return s.wait(ctx, s.notReady)
}

// wait waits until missing is nil.
func (s *Service) wait(ctx context.Context, missing func() error) error {
	for {
		changed := s.state.change()
		err := missing()
		if err == nil || errors.Is(err, ErrClosed) {
			return err
		}
		select {
		case <-ctx.Done():
			if err = missing(); err == nil { // what is known of it by now
				return nil
			}
			return fmt.Errorf("%w: %w", context.Cause(ctx), err)
		case <-s.ctx.Done():
		case <-changed:
		}
	}
}

// credentials waits until there are a certificate and roots. The certificate may have ended; the peer
// says so then.
func (s *Service) credentials(ctx context.Context) (*leaf, *x509bundle.Bundle, error) {
	l, roots := s.state.leaf.Load(), s.state.roots.Load()
	if s.ctx.Err() == nil && l != nil && roots != nil {
		return l, roots, nil
	}
	err := s.wait(ctx, func() error {
		if l, roots = s.state.leaf.Load(), s.state.roots.Load(); s.ctx.Err() == nil && l != nil && roots != nil {
			return nil
		}
		return s.notReady()
	})
	return l, roots, err
}

// SVID is the certificate of the service, with its key and its intermediates, as it is now. It is not
// to be changed.
func (s *Service) SVID() (*x509svid.SVID, error) {
	if l := s.state.leaf.Load(); l != nil {
		return l.svid, nil
	}
	return nil, s.notReady()
}

// Roots are the roots of the mesh as they are now.
func (s *Service) Roots() (*x509bundle.Bundle, error) {
	if r := s.state.roots.Load(); r != nil {
		return r.Clone(), nil
	}
	return nil, s.notReady()
}
