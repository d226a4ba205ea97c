package connect

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/url"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// connectTimeout bounds the attempt to reach one instance.
const connectTimeout = 5 * time.Second

// Instance is a healthy instance of a service: its sidecar, or the application itself.
type Instance struct {
	// Address is host:port.
	Address string
	// ID is the SPIFFE ID that it has to prove.
	ID spiffeid.ID
	// ServiceID is that of its registration.
	ServiceID string
}

// Instances are the healthy instances of a service, in no order: of the API's own datacenter if service
// is a name, and of another one if it is NAME.service.DATACENTER.consul. None is no error.
func (s *Service) Instances(ctx context.Context, service string) ([]Instance, error) {
	name, path, query, err := instancesQuery(service)
	if err != nil {
		return nil, err
	}
	_, roots, err := s.credentials(ctx)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	got, err := s.api.get(ctx, "instances", path, query)
	if err != nil {
		return nil, fmt.Errorf("nobody says where instances of %s are: %w", service, err)
	}
	return decodeInstances(got.body, name, roots.TrustDomain())
}

// WatchInstances calls changed with the healthy instances of a service, as Instances has them, at once
// and when they change, until ctx or the service ends; it returns the reason. While the API is away
// what it said last holds.
func (s *Service) WatchInstances(ctx context.Context, service string, changed func([]Instance)) error {
	name, path, query, err := instancesQuery(service)
	if err != nil {
		return err
	}
	_, roots, err := s.credentials(ctx)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(s.ctx, cancel)() //nolint:contextcheck // it ends with the service too
	w := watch{
		api: s.api, logger: s.logger.With("destination", service), question: "instances", path: path, query: query,
		failed: func(error) {},
		changed: func(body []byte) error {
			instances, err := decodeInstances(body, name, roots.TrustDomain())
			if err == nil {
				changed(instances)
			}
			return err
		},
	}
	w.run(ctx)
	if s.ctx.Err() != nil {
		return s.notReady()
	}
	return ctx.Err()
}

func instancesQuery(service string) (name, path string, query url.Values, err error) {
	name, datacenter, err := parseName(service)
	if err != nil {
		return "", "", nil, err
	}
	query = url.Values{"passing": {"1"}, "stale": {""}}
	if datacenter != "" {
		query.Set("dc", datacenter)
	}
	return name, "/v1/health/connect/" + url.PathEscape(name), query, nil
}

// Dial connects to a healthy instance of a service, chosen at random, and proves that it is one. If
// that fails another one is tried, once. service is as in Instances.
//
// A peer whose intentions deny this service ends the connection: in TLS 1.3 that is after Dial has
// returned, and the first Read has the error.
func (s *Service) Dial(ctx context.Context, service string) (*tls.Conn, error) {
	return s.dial(ctx, service, nil)
}

func (s *Service) dial(ctx context.Context, service string, alpn []string) (conn *tls.Conn, err error) {
	began := time.Now()
	defer func() { s.options.Metrics.dialed(service, err, time.Since(began)) }()
	instances, err := s.Instances(ctx, service)
	if err != nil {
		return nil, err
	}
	if len(instances) == 0 {
		return nil, fmt.Errorf("%w of %s: see why in the catalog, /v1/health/connect/: nothing is registered with connect, or its checks fail", ErrNoInstance, service)
	}
	rand.Shuffle(len(instances), func(i, j int) { instances[i], instances[j] = instances[j], instances[i] })
	var failures []error
	for _, to := range instances[:min(2, len(instances))] {
		if conn, err = s.connect(ctx, to, alpn); err == nil {
			return conn, nil
		}
		failures = append(failures, err)
		if ctx.Err() != nil {
			break
		}
	}
	return nil, fmt.Errorf("dial %s: %w", service, errors.Join(failures...))
}

// connect connects to an instance.
func (s *Service) connect(ctx context.Context, to Instance, alpn []string) (*tls.Conn, error) {
	dialer := net.Dialer{Timeout: connectTimeout}
	raw, err := dialer.DialContext(ctx, "tcp", to.Address)
	if err != nil {
		return nil, err
	}
	conn, err := s.Handshake(ctx, raw, to.ID, alpn...)
	var other *otherPeer
	switch {
	case errors.As(err, &other):
		return nil, wrongPeer(to.Address, other.is, to.ID)
	case err != nil:
		return nil, fmt.Errorf("handshake with %s: %w", to.Address, err)
	}
	return conn, nil
}
