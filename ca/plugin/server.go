package plugin

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"

	"github.com/sallyport/sallyport/ca"
	"github.com/sallyport/sallyport/internal/remote"
)

// server is a plug-in that answers at a URL.
type server struct {
	name, path, tokenFile string
	client                *remote.Client
}

func newServer(cfg Config) (*server, error) {
	s := &server{name: cfg.Name, path: "/", tokenFile: cfg.TokenFile}
	server := cfg.Server
	server.Name, server.Timeout, server.MaxAnswer = "plug-in "+cfg.Name, cfg.Timeout, maxAnswer
	if u, err := url.Parse(server.URL); err == nil && u.Scheme == "https" && u.Path != "" {
		s.path, u.Path, u.RawPath = u.EscapedPath(), "", ""
		server.URL = u.String()
	}
	var err error
	s.client, err = remote.New(server)
	return s, err
}

// redirects are statuses that lead elsewhere, which is refused.
var redirects = []int{http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther, http.StatusTemporaryRedirect, http.StatusPermanentRedirect}

func (s *server) ask(ctx context.Context, q question) ([]byte, error) {
	header := http.Header{"Content-Type": {"application/json"}}
	if q.ID != "" {
		header.Set("Idempotency-Key", q.ID)
	}
	if s.tokenFile != "" {
		token, err := remote.ReadSecret(s.tokenFile)
		if err != nil {
			return nil, fmt.Errorf("%w: plug-in %s: token: %w", ca.ErrDenied, s.name, err)
		}
		header.Set("Authorization", "Bearer "+token)
	}
	got, err := s.client.Ask(ctx, remote.Question{Method: http.MethodPost, Path: s.path, Header: header, Body: q.marshal(), Accept: append([]int{http.StatusOK}, redirects...)})
	switch {
	case err != nil:
		return nil, classified(err)
	case got.Status != http.StatusOK:
		return nil, fmt.Errorf("%w: plug-in %s: it leads elsewhere (%d), where nothing is asked: name the URL that answers", ca.ErrInvalid, s.name, got.Status)
	}
	return got.Body, nil
}

// classified is an error of the client in the words of package ca.
func classified(err error) error {
	e, ok := errors.AsType[*remote.Error](err)
	if !ok {
		return err
	}
	kind := ca.ErrUnavailable
	switch e.Kind {
	case remote.Denied:
		kind = ca.ErrDenied
	case remote.Invalid:
		kind = ca.ErrInvalid
	case remote.Unavailable:
	}
	if hasPrivateKey(string(e.Body)) {
		return errPrivateKey
	}
	return fmt.Errorf("%w: %w", kind, e)
}
