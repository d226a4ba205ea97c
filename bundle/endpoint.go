package bundle

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"

	"github.com/sallyport/sallyport/internal/remote"
	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

// splitURL cuts the URL of an endpoint into the server's and the path there.
func splitURL(text string) (server, path string, err error) {
	u, err := url.Parse(text)
	switch {
	case err != nil:
		return "", "", errors.New("it is no URL: write https://HOST[:PORT]/PATH")
	case u.Scheme != "https" || u.Hostname() == "":
		return "", "", errors.New("it is not https://HOST[:PORT][/PATH]")
	case u.User != nil || u.Fragment != "":
		return "", "", errors.New("a user name or a fragment is in it: leave it out")
	}
	path = u.EscapedPath()
	if path == "" {
		path = "/"
	}
	if u.RawQuery != "" {
		path += "?" + u.RawQuery
	}
	return "https://" + u.Host, path, nil
}

// endpoint is a bundle endpoint that is asked.
type endpoint struct {
	trustDomain spiffeid.TrustDomain
	client      *remote.Client
	path        string
}

// newEndpoint returns the endpoint of a definition. rootsOf are the roots that verify one of https_spiffe, empty if none are known.
func newEndpoint(d definition, rootsOf func(spiffeid.TrustDomain) []*x509.Certificate) (*endpoint, error) {
	server, path, err := splitURL(d.url)
	if err != nil {
		return nil, err
	}
	cfg := remote.Config{
		Name: "bundle endpoint of " + d.trustDomain.Name(), URL: server, CAFile: d.caFile, CAOption: "ca_file",
		RedirectAnywhere: true, Attempts: 1, MaxAnswer: maxDocument, Connections: 1,
	}
	if d.profile == ProfileSPIFFE {
		cfg.Verify = func(chain []*x509.Certificate) error {
			return verifyEndpoint(chain, d.endpointID, rootsOf(d.endpointID.TrustDomain()))
		}
	}
	c, err := remote.New(cfg)
	if err != nil {
		return nil, err
	}
	return &endpoint{d.trustDomain, c, path}, nil
}

// stranger is that an endpoint of https_spiffe cannot be verified with the roots that are known.
type stranger struct{ error }

func (s stranger) Unwrap() error { return s.error }

// verifyEndpoint returns an error unless chain is of id by roots.
func verifyEndpoint(chain []*x509.Certificate, id spiffeid.ID, roots []*x509.Certificate) error {
	if len(roots) == 0 {
		return stranger{fmt.Errorf("no root of %s is known to verify it with", id.TrustDomain())}
	}
	got, _, err := x509svid.Verify(chain, x509bundle.FromX509Authorities(id.TrustDomain(), roots))
	switch {
	case err != nil && len(chain) > 0:
		if shown, idErr := x509svid.IDFromCert(chain[0]); idErr == nil && shown == id {
			return stranger{fmt.Errorf("it calls itself %s, and the roots that are known do not verify that: %w", id, err)}
		}
		return fmt.Errorf("it does not prove to be %s: %w", id, err)
	case err != nil:
		return fmt.Errorf("it does not prove to be %s: %w", id, err)
	case got != id:
		return fmt.Errorf("it is %s, and should be %s", got, id)
	}
	return nil
}

// fetch asks for the bundle. It blocks for half a minute at most.
func (e *endpoint) fetch(ctx context.Context) (*Document, error) {
	answer, err := e.client.Ask(ctx, remote.Question{Path: e.path})
	if err != nil {
		return nil, err
	}
	return parse(e.trustDomain, answer.Body)
}
