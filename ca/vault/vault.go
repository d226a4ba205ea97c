// Package vault has the CA behind the mesh's in a Vault or an OpenBao: an intermediate, or each leaf, is signed by a PKI secrets engine,
// and its roots are watched. It needs no privilege that Policy does not name. OpenBao answers as Vault does but for a few words, which
// is why statuses decide here and texts do not.
package vault

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"regexp"
	"strings"
	"time"

	"github.com/sallyport/sallyport/ca"
	"github.com/sallyport/sallyport/certpath"
	"github.com/sallyport/sallyport/internal/latest"
	"github.com/sallyport/sallyport/internal/remote"
)

// Config says where a CA is in Vault, and who asks there.
type Config struct {
	// Server is how Vault is reached. Its Name is "Vault" if empty, and CAOption "VAULT_CACERT". Required.
	Server remote.Config
	// Namespace is the one in which all of this is; empty: the root namespace. A server that does not know namespaces ignores what it is
	// told of them, so a login that ends in another one is refused.
	Namespace string
	// Login is how a token is had. Required.
	Login Login
	// Mount is the path of the PKI secrets engine that signs. Required.
	Mount string
	// Issuer is the name or ID of the issuer in Mount that signs, whose roots alone are watched. Empty: Mount's default signs, and the
	// roots of all its issuers are watched, so that one that is to sign later is known before.
	Issuer string
	// LeafRole is the role of Mount by which each leaf is signed there. Empty: an intermediate is, and no leaf.
	LeafRole string
	// Poll is how often the roots are asked for. Zero: a minute.
	Poll time.Duration
	// Logger gets logins that fail, warnings of Vault, and roots that change. Nil: nothing is logged.
	Logger *slog.Logger
}

// CA is the ca.Upstream. New makes it, Run keeps its token, Close ends its connections.
type CA struct {
	cfg    Config
	server *remote.Client
	log    *slog.Logger
	// session is what the last login came to; nil: it is known to be of no use.
	session latest.Value[*session]
	// logins is held by the one who logs in.
	logins chan struct{}
	// unknown is why the roots are not known now; nil: they are.
	unknown latest.Value[error]
}

var (
	_ ca.Upstream     = (*CA)(nil)
	_ ca.RootsProblem = (*CA)(nil)
)

// pathOf is what the parts of a path may be: what needs no escaping, so that nothing that is configured leads elsewhere.
var pathOf = regexp.MustCompile(`^[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*$`)

// New returns a CA that has asked nothing yet. The error is a mistake in cfg.
func New(cfg Config) (*CA, error) {
	if cfg.Server.Name == "" {
		cfg.Server.Name = "Vault"
	}
	if cfg.Server.CAOption == "" {
		cfg.Server.CAOption = "VAULT_CACERT"
	}
	if cfg.Poll == 0 {
		cfg.Poll = time.Minute
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	cfg.Namespace, cfg.Mount = strings.Trim(cfg.Namespace, "/"), strings.Trim(cfg.Mount, "/")
	if cfg.Login == nil {
		return nil, errors.New("no way to log in to Vault is given: TokenFile, Token (VAULT_TOKEN), or AuthMethod with Type approle, kubernetes or cert")
	}
	if cfg.LeafRole != "" && cfg.Issuer != "" {
		return nil, fmt.Errorf("role %q signs the leafs by the issuer that it names itself: leave out issuer %q", cfg.LeafRole, cfg.Issuer)
	}
	if cfg.Mount == "" {
		return nil, errors.New(`mount "" in Vault: RootPKIPath is missing (with LeafRole IntermediatePKIPath): the path of the PKI secrets engine that signs`)
	}
	for what, value := range map[string]string{"mount": cfg.Mount, "namespace": cfg.Namespace, "issuer": cfg.Issuer, "role": cfg.LeafRole} {
		if value != "" && !pathOf.MatchString(value) {
			return nil, fmt.Errorf("%s %.100q in Vault: write letters, digits, '.', '-' and '_', with '/' between them", what, value)
		}
	}
	if err := cfg.Login.check(cfg.Server); err != nil {
		return nil, err
	}
	server, err := remote.New(cfg.Server)
	if err != nil {
		return nil, err
	}
	return &CA{cfg: cfg, server: server, log: cfg.Logger, logins: make(chan struct{}, 1)}, nil
}

// Close ends the connections on which nothing is asked.
func (c *CA) Close() { c.server.Close() }

// signPath is where requests are sent, below /v1/.
func (c *CA) signPath() string {
	switch {
	case c.cfg.LeafRole != "":
		return c.cfg.Mount + "/sign/" + c.cfg.LeafRole
	case c.cfg.Issuer != "":
		return c.cfg.Mount + "/issuer/" + c.cfg.Issuer + "/sign-intermediate"
	}
	return c.cfg.Mount + "/root/sign-intermediate"
}

// Policy is the policy, in HCL, that the token needs, all of it: it works without Vault's default policy.
func (c *CA) Policy() string {
	var b strings.Builder
	for _, p := range []struct{ path, capability, why string }{
		{c.signPath(), "update", "sign"},
		{"auth/token/renew-self", "update", "without it a token ends silently with its TTL"},
		{"auth/token/lookup-self", "read", "which namespace it is of, and how long it lives"},
	} {
		fmt.Fprintf(&b, "# %s\npath %q { capabilities = [%q] }\n", p.why, p.path, p.capability)
	}
	return b.String()
}

// Sign implements ca.Upstream.
func (c *CA) Sign(ctx context.Context, r ca.UpstreamRequest) ([]*x509.Certificate, error) {
	csr, err := x509.ParseCertificateRequest(r.CSR)
	switch {
	case err != nil:
		return nil, fmt.Errorf("%w: the request cannot be read: %w", ca.ErrInvalid, err)
	case r.Leaf && c.cfg.LeafRole == "":
		return nil, fmt.Errorf("%w: no role by which Vault signs leafs is given", ca.ErrDenied)
	case !r.Leaf && c.cfg.LeafRole != "":
		return nil, fmt.Errorf("%w: Vault is to sign each leaf, by role %q, and no intermediate", ca.ErrDenied, c.cfg.LeafRole)
	}
	body := map[string]any{
		"csr":    string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: r.CSR})),
		"ttl":    seconds(r.TTL),
		"format": "pem",
	}
	if !r.Leaf {
		body["use_csr_values"] = true
		body["max_path_length"] = 0 // that of the request is dropped
	}
	a, err := c.ask(ctx, http.MethodPost, c.signPath(), body)
	if err != nil {
		return nil, err
	}
	var data struct {
		Certificate string   `json:"certificate"`
		IssuingCA   string   `json:"issuing_ca"`
		Chain       []string `json:"ca_chain"`
		PrivateKey  string   `json:"private_key"`
	}
	if err := json.Unmarshal(a.Data, &data); err != nil {
		return nil, fmt.Errorf("%w: %w", ca.ErrInvalid, err)
	}
	if data.PrivateKey != "" {
		return nil, fmt.Errorf("%w: Vault at %s made a private key, which nobody asked for", ca.ErrInvalid, c.signPath())
	}
	certs, err := ca.ParseCertificates(strings.Join(append([]string{data.Certificate, data.IssuingCA}, data.Chain...), "\n"))
	if err != nil {
		return nil, fmt.Errorf("what Vault signed at %s: %w", c.signPath(), err)
	}
	chain, err := certpath.Chain(csr.PublicKey, certs)
	if err != nil {
		return nil, fmt.Errorf("what Vault signed at %s: %w", c.signPath(), err)
	}
	return chain, nil
}

// seconds is a duration as Vault reads it.
func seconds(d time.Duration) string { return fmt.Sprintf("%ds", int64(d/time.Second)) }

// answer is what Vault says (https://developer.hashicorp.com/vault/api-docs).
type answer struct {
	Data     json.RawMessage `json:"data"`
	Auth     *auth           `json:"auth"`
	Warnings []string        `json:"warnings"`
	Errors   []string        `json:"errors"`
}

// auth is what a login and a renewal come to.
type auth struct {
	Token     string `json:"client_token"`
	Lease     int64  `json:"lease_duration"` // in seconds; 0: no end
	Renewable bool   `json:"renewable"`
}

// ask asks with the token. One that is refused is replaced by a new login, once.
func (c *CA) ask(ctx context.Context, method, path string, body any) (*answer, error) {
	var refused *session
	for {
		s, err := c.sessionBut(ctx, refused)
		if err != nil {
			return nil, err
		}
		a, err := c.do(ctx, s.token, method, path, body, false)
		if refusedToken(err) && refused == nil {
			refused = s
			continue
		}
		if refusedToken(err) {
			return nil, fmt.Errorf("%w; a new login changed nothing: the token's policy lacks this path, or the path is wrong", err)
		}
		return a, err
	}
}

// refusedToken reports whether an error is that the token is none (any more), or that its policy lacks the path: Vault answers 403 to both.
func refusedToken(err error) bool {
	var e *remote.Error
	return errors.As(err, &e) && e.Status == http.StatusForbidden
}

// do asks at path, below /v1/, with a token; with none if that is empty. once: a second question would be answered otherwise.
func (c *CA) do(ctx context.Context, token, method, path string, body any, once bool) (*answer, error) {
	// The second keeps a Vault Agent from taking the question for that of a browser which was led there.
	header := http.Header{"Content-Type": {"application/json"}, "X-Vault-Request": {"true"}}
	if token != "" {
		header.Set("X-Vault-Token", token)
	}
	if c.cfg.Namespace != "" {
		header.Set("X-Vault-Namespace", c.cfg.Namespace)
	}
	q := remote.Question{Method: method, Path: "/v1/" + path, Header: header, Once: once, Accept: []int{http.StatusOK, http.StatusNoContent}}
	if body != nil {
		var err error
		if q.Body, err = json.Marshal(body); err != nil {
			return nil, err
		}
	}
	got, err := c.server.Ask(ctx, q)
	if err != nil {
		return nil, classified(err)
	}
	a := &answer{}
	if got.Status == http.StatusNoContent {
		return a, nil
	}
	if err := json.Unmarshal(got.Body, a); err != nil {
		// Not what it said: that may be anything, also secret.
		return nil, fmt.Errorf("%w: %s at %s: %s /v1/%s: the answer is not JSON as Vault's: is that a Vault?", ca.ErrInvalid, c.cfg.Server.Name, c.cfg.Server.URL, method, withoutQuery(path))
	}
	for _, w := range a.Warnings {
		c.log.Warn("a warning of the CA", "endpoint", withoutQuery(path), "reason", fmt.Sprintf("%.300q", w))
	}
	return a, nil
}

func withoutQuery(path string) string {
	path, _, _ = strings.Cut(path, "?")
	return path
}

// classified says with the words of package ca what an error of the client means, with what Vault said instead of its JSON.
func classified(err error) error {
	var e *remote.Error
	if !errors.As(err, &e) {
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
	var said answer
	if e.Status != 0 && json.Unmarshal(e.Body, &said) == nil && e.Err == nil {
		e.Err = fmt.Errorf("answered %d %.300q", e.Status, strings.Join(said.Errors, "; "))
	}
	if e.Mend == "" {
		switch e.Status {
		case http.StatusNotFound:
			e.Mend = "nothing is there: are the mount, the issuer and the namespace right?"
		case http.StatusServiceUnavailable:
			e.Mend = "is it sealed, or not initialized?"
		}
	}
	return fmt.Errorf("%w: %w", kind, e)
}
