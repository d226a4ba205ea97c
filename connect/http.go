package connect

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"
)

// HTTPClient is a client for the services of the mesh: https://api.service.consul is a healthy instance
// of api, https://api.service.dc2.consul one in that datacenter. Ports in the URL mean nothing, as the
// catalog has them. Other hosts, and http, are errors. It has one pool of connections for all of the
// service, which Close empties.
func (s *Service) HTTPClient() *http.Client { return &http.Client{Transport: s.client.Transport} }

// HTTPTransport is a new transport like that of HTTPClient, with a pool of its own, for those who want
// other limits.
func (s *Service) HTTPTransport() *http.Transport {
	return &http.Transport{
		DialContext: func(context.Context, string, string) (net.Conn, error) {
			return nil, errors.New("there is only TLS here: write https, not http")
		},
		DialTLSContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
			host, _, err := net.SplitHostPort(addr)
			if err != nil {
				return nil, err
			}
			name, datacenter, err := parseName(host)
			if err != nil {
				return nil, err
			}
			if name == host && datacenter == "" {
				return nil, fmt.Errorf("%q is no service of the mesh: write https://NAME.service.consul, or take another client for it", host)
			}
			conn, err := s.dial(ctx, host, defaultALPN)
			if err != nil {
				return nil, err // not a *tls.Conn that is nil
			}
			return conn, nil
		},
		ForceAttemptHTTP2: true, MaxIdleConnsPerHost: 32, IdleConnTimeout: 90 * time.Second, ExpectContinueTimeout: time.Second,
	}
}
