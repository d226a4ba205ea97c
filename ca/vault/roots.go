package vault

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/sallyport/sallyport/ca"
	"github.com/sallyport/sallyport/certpath"
)

// maxIssuers bounds the issuers of a mount that are looked at.
const maxIssuers = 32

// WatchRoots implements ca.Upstream. It asks without a token, as what is public can be had without.
func (c *CA) WatchRoots(ctx context.Context, f func([]*x509.Certificate)) error {
	return ca.PollRoots(ctx, c.log, c.cfg.Poll, func(ctx context.Context) ([]*x509.Certificate, time.Duration, error) {
		roots, err := c.roots(ctx)
		c.unknown.Set(err)
		return roots, c.cfg.Poll - c.cfg.Poll/10 + rand.N(c.cfg.Poll/5+1), err
	}, f)
}

// RootsProblem implements ca.RootsProblem.
func (c *CA) RootsProblem() error {
	err, _ := c.unknown.Load()
	return err
}

// roots are those of the issuer, or of all issuers of the mount, that are valid now.
func (c *CA) roots(ctx context.Context) ([]*x509.Certificate, error) {
	issuers := []string{c.cfg.Issuer}
	if c.cfg.Issuer == "" {
		a, err := c.do(ctx, "", http.MethodGet, c.cfg.Mount+"/issuers?list=true", nil, false)
		if err != nil {
			return nil, err
		}
		var data struct {
			Keys []string `json:"keys"`
		}
		if err := json.Unmarshal(a.Data, &data); err != nil || len(data.Keys) == 0 {
			return nil, fmt.Errorf("%w: the mount %s lists no issuers", ca.ErrInvalid, c.cfg.Mount)
		}
		if issuers = data.Keys; len(issuers) > maxIssuers {
			return nil, fmt.Errorf("%w: the mount %s has %d issuers, more than %d: name the one that signs, or delete old ones", ca.ErrDenied, c.cfg.Mount, len(issuers), maxIssuers)
		}
	}
	var roots []*x509.Certificate
	now := time.Now()
	for _, issuer := range issuers {
		certs, err := c.issuer(ctx, issuer)
		if err != nil {
			return nil, err
		}
		for _, cert := range certs {
			if certpath.SelfSigned(cert) && cert.IsCA && now.Before(cert.NotAfter) && !slices.ContainsFunc(roots, cert.Equal) {
				roots = append(roots, cert)
			}
		}
	}
	if len(roots) == 0 {
		return nil, fmt.Errorf("%w: the mount %s has no root that is valid: import that of its issuer, so that its chain is complete", ca.ErrDenied, c.cfg.Mount)
	}
	slices.SortFunc(roots, func(a, b *x509.Certificate) int { return bytes.Compare(a.Raw, b.Raw) })
	return roots, nil
}

// issuer returns the certificate of an issuer and its chain.
func (c *CA) issuer(ctx context.Context, name string) ([]*x509.Certificate, error) {
	if !pathOf.MatchString(name) || strings.Contains(name, "/") {
		return nil, fmt.Errorf("%w: the mount %s has an issuer %.100q", ca.ErrInvalid, c.cfg.Mount, name)
	}
	path := c.cfg.Mount + "/issuer/" + name + "/json"
	a, err := c.do(ctx, "", http.MethodGet, path, nil, false)
	if err != nil {
		return nil, err
	}
	var data struct {
		Certificate string   `json:"certificate"`
		Chain       []string `json:"ca_chain"`
	}
	if err := json.Unmarshal(a.Data, &data); err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ca.ErrInvalid, path, err)
	}
	certs, err := ca.ParseCertificates(strings.Join(append([]string{data.Certificate}, data.Chain...), "\n"))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return certs, nil
}
