package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/sallyport/sallyport/admin"
	"github.com/sallyport/sallyport/bundle"
	"github.com/sallyport/sallyport/internal/backoff"
	"github.com/sallyport/sallyport/sds"
	"github.com/spf13/pflag"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

func trustDomainFlags(f *pflag.FlagSet) {
	f.String("trust-domains", "", "directory with a file (YAML) for each other trust domain: its name, and its bundle or where that is asked for")
	f.String("bundle-address", "", "host:port on which other trust domains are given the mesh's SPIFFE bundle (default: none)")
	f.String("bundle-url", "", `https:// URL by which they reach --bundle-address, where that is not it; "sallyport bundle endpoint" prints it`)
	f.String("bundle-tls-cert", "", "file with the certificate (PEM, with its chain) of --bundle-address, for the profile https_web; a new one is used at once (default: the profile https_spiffe, with a leaf of the mesh)")
	f.String("bundle-tls-key", "", "its key (PEM)")
	f.Bool("jwks-from-this-machine", false, "ask for the keys of jwt-provider entries also at addresses of this machine, and at link-local ones")
	f.Duration("bundle-refresh-hint", bundle.DefaultRefreshHint, "how often other trust domains are to ask for the bundle")
}

// checkTrustDomains refuses what makes no sense.
func (c serveConfig) checkTrustDomains() error {
	var errs []error
	if c.TrustDomains != "" {
		if _, err := os.ReadDir(c.TrustDomains); err != nil {
			errs = append(errs, fmt.Errorf("--trust-domains: %w: make the directory, and a file in it for each other trust domain", err))
		}
	}
	if c.BundleAddress == "" {
		return errors.Join(append(errs, unused("there is no --bundle-address", []flagValue{
			{"--bundle-url", c.BundleURL, ""},
			{"--bundle-tls-cert", c.BundleTLSCert, ""},
			{"--bundle-tls-key", c.BundleTLSKey, ""},
			{"--bundle-refresh-hint", cmp.Or(c.BundleRefreshHint, bundle.DefaultRefreshHint), bundle.DefaultRefreshHint},
		}))...)
	}
	if (c.BundleTLSCert == "") != (c.BundleTLSKey == "") {
		errs = append(errs, errors.New("--bundle-tls-cert and --bundle-tls-key: give both, or none"))
	}
	if c.Consul && c.BundleTLSCert == "" {
		errs = append(errs, errors.New("--bundle-address: beside Consul it needs a certificate that clients know (https_web): give --bundle-tls-cert and --bundle-tls-key"))
	}
	if c.BundleURL != "" && !strings.HasPrefix(c.BundleURL, "https://") {
		errs = append(errs, fmt.Errorf("--bundle-url: %q does not begin with https://", c.BundleURL))
	}
	if h := c.BundleRefreshHint; h < bundle.MinRefreshHint || h > bundle.MaxRefreshHint {
		errs = append(errs, fmt.Errorf("--bundle-refresh-hint: %v is not between %v and %v", h, bundle.MinRefreshHint, bundle.MaxRefreshHint))
	}
	return errors.Join(errs...)
}

// federationHint is how often others ask for the mesh's bundle; zero where they are not given it.
func (c serveConfig) federationHint() time.Duration {
	if c.BundleAddress == "" {
		return 0
	}
	return c.BundleRefreshHint
}

// openTrustDomains makes what knows the bundles of other trust domains, and what offers them the mesh's.
func (p *controlPlane) openTrustDomains() (err error) {
	p.domains, err = bundle.Open(bundle.Config{
		Dir: p.cfg.TrustDomains, Data: filepath.Join(p.cfg.Data, "trust-domains"), Own: p.authority.trustDomain, Logger: p.log, Registerer: p.metrics,
	})
	if err != nil {
		return err
	}
	p.offer, err = bundle.NewOffer(bundle.OfferConfig{
		TrustDomain: p.authority.trustDomain, Roots: p.secrets.Roots, RootsChanged: p.secrets.RootsChanged,
		JWTKeys:     func() []byte { return p.workload.JWTBundle() }, // which is there before anything runs
		RefreshHint: p.cfg.BundleRefreshHint, File: filepath.Join(p.cfg.Data, "bundle-sequence.json"), Logger: p.log,
	})
	if err != nil {
		return err
	}
	p.runs = append(p.runs, p.domains.Run, p.offer.Run)
	p.federate()
	return nil
}

// reload reads all again that files say.
func (p *controlPlane) reload() {
	p.source.reload()
	p.domains.Reload()
}

// listenBundle listens on --bundle-address.
func (l *listeners) listenBundle(ctx context.Context, cfg serveConfig, log *slog.Logger) (err error) {
	if cfg.BundleAddress == "" {
		return nil
	}
	if cfg.BundleTLSCert != "" {
		c, err := openCertificate(cfg.BundleTLSCert, cfg.BundleTLSKey, log)
		if err != nil {
			return fmt.Errorf("--bundle-tls-cert, --bundle-tls-key: %w", err)
		}
		l.bundleTLS = c.tlsConfig()
	}
	if l.bundle, err = (&net.ListenConfig{}).Listen(ctx, "tcp", cfg.BundleAddress); err != nil {
		return fmt.Errorf("--bundle-address: %w: choose an address of this machine whose port is free", byWhom(err, cfg.BundleAddress))
	}
	return nil
}

// bundleIdentity is what the endpoint of https_spiffe proves to be: spiffe://TRUST-DOMAIN/sallyport/bundle.
const bundleIdentity = "bundle"

// serveBundle gives other trust domains the mesh's bundle until ctx ends. A nil config: with a leaf of the mesh.
func (p *controlPlane) serveBundle(ctx context.Context, l net.Listener, config *tls.Config) error {
	if config != nil {
		return admin.ServeHTTP(ctx, tls.NewListener(l, config), p.offer, p.log)
	}
	ctx, cancel := context.WithCancel(ctx)
	var leaf atomic.Pointer[tls.Certificate]
	watching := make(chan struct{})
	go func() {
		defer close(watching)
		for failures := 1; ; failures++ {
			err := p.authority.own(ctx, bundleIdentity, func(s *sds.SVID) {
				failures = 0
				leaf.Store(certificateOf(s))
			})
			if ctx.Err() != nil {
				return
			}
			p.log.Error("no leaf for the bundle endpoint", "err", err)
			if !backoff.Sleep(ctx, backoff.Delay(max(failures, 1), time.Second, time.Minute)) {
				return
			}
		}
	}()
	config = &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}, GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
		if c := leaf.Load(); c != nil {
			return c, nil
		}
		return nil, errors.New("there is no leaf yet")
	}}
	err := admin.ServeHTTP(ctx, tls.NewListener(l, config), p.offer, p.log)
	cancel()
	<-watching
	return err
}

func certificateOf(s *sds.SVID) *tls.Certificate {
	out := &tls.Certificate{PrivateKey: s.PrivateKey, Leaf: s.Certificates[0]}
	for _, c := range s.Certificates {
		out.Certificate = append(out.Certificate, c.Raw)
	}
	return out
}

// otherTrustDomains are those of --trust-domains, and what is wrong with its files.
func (p *controlPlane) otherTrustDomains() (out []admin.TrustDomain, problems []string) {
	domains, problems := p.domains.Status()
	for _, d := range domains {
		t := admin.TrustDomain{
			Name: d.TrustDomain.Name(), File: d.File, Source: d.Source, Profile: d.Profile, Roots: d.Roots, Confirmed: d.Confirmed, Stale: d.Stale, Problem: d.Problem,
		}
		if d.Document != nil {
			t.RefreshSeconds, t.Sequence = int(d.Document.RefreshHint()/time.Second), sequenceOf(d.Document)
		}
		out = append(out, t)
	}
	return out, problems
}

func sequenceOf(d *bundle.Document) *uint64 {
	if d == nil {
		return nil
	}
	if n, ok := d.Sequence(); ok {
		return &n
	}
	return nil
}

// trustDomain is the bundle of a trust domain; the mesh's own if name is empty.
func (p *controlPlane) trustDomain(name string) (out admin.TrustDomainBundle, err error) {
	own, known := p.authority.trustDomain()
	var d *bundle.Document
	if name == "" || known && name == own.Name() {
		if d = p.offer.Document(); d == nil {
			return out, fmt.Errorf("%w: the mesh's roots are not known", admin.ErrNotYet)
		}
	} else {
		domains, _ := p.domains.Status()
		found := false
		for _, s := range domains {
			if s.TrustDomain.Name() == name {
				found, d = true, s.Document
			}
		}
		switch {
		case !found:
			return out, fmt.Errorf("a file for the trust domain %q: %w in --trust-domains", name, admin.ErrUnknown)
		case d == nil:
			return out, fmt.Errorf("%w: there is no bundle of %s: `sallyport status` says why", admin.ErrNotYet, name)
		}
	}
	out.TrustDomain, out.PEM = d.TrustDomain().Name(), d.PEM()
	out.Document, err = d.JSON()
	return out, err
}

// importBundle has a bundle be that of another trust domain.
func (p *controlPlane) importBundle(r admin.ImportRequest) (out admin.ImportResponse, err error) {
	td, err := spiffeid.TrustDomainFromString(r.TrustDomain)
	if err != nil {
		return out, err
	}
	change, err := p.domains.Import(td, []byte(r.Text), !r.Try)
	if err != nil {
		return out, err
	}
	return admin.ImportResponse{
		Added: inWords(change.Added), Removed: inWords(change.Removed), Kept: inWords(change.Kept),
		OldSequence: sequenceOf(change.Old), Sequence: sequenceOf(change.New),
	}, nil
}

// inWords are certificates as people tell them apart.
func inWords(list []*x509.Certificate) []string {
	out := []string{}
	for _, c := range list {
		out = append(out, fmt.Sprintf("%s, serial %x, until %s", cmp.Or(c.Subject.String(), "no subject"), c.SerialNumber, at(c.NotAfter)))
	}
	return out
}

// bundleEndpoint says how others get the mesh's bundle.
func (p *controlPlane) bundleEndpoint() (out admin.BundleEndpoint, err error) {
	d := p.offer.Document()
	if d == nil {
		return out, fmt.Errorf("%w: the mesh's roots are not known", admin.ErrNotYet)
	}
	out.TrustDomain, out.RefreshSeconds = d.TrustDomain().Name(), int(d.RefreshHint()/time.Second)
	out.Sequence, _ = d.Sequence()
	if p.cfg.BundleAddress == "" {
		return out, nil
	}
	out.Profile = bundle.ProfileWeb
	if p.cfg.BundleTLSCert == "" {
		out.Profile = bundle.ProfileSPIFFE
		out.SPIFFEID = d.TrustDomain().IDString() + "/sallyport/" + bundleIdentity
	}
	out.URL = p.cfg.BundleURL
	if out.URL == "" {
		host, port, _ := net.SplitHostPort(p.cfg.BundleAddress) // it was checked
		if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
			if host, err = os.Hostname(); err != nil {
				return out, fmt.Errorf("the name of this machine: %w: say with --bundle-url how others reach --bundle-address", err)
			}
		}
		out.URL = "https://" + net.JoinHostPort(host, port)
	}
	return out, nil
}
