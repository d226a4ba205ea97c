package vault

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"

	"github.com/sallyport/sallyport/ca"
	"github.com/sallyport/sallyport/internal/remote"
)

// Login is a way to get a token: a Token, an AppRole, a Kubernetes or a Certificate. Files are read at each login, as what is in them is
// replaced.
type Login interface {
	// check returns a mistake in what was configured.
	check(remote.Config) error
	// login returns what it came to.
	login(ctx context.Context, c *CA) (*auth, error)
}

// Token is one that somebody made. When it is refused, or has ended, the file is read again.
type Token struct {
	// File has the token, and perhaps white space around it.
	File string
	// Text is the token itself, where no file is named: when it has ended, nothing is signed.
	Text string
}

// AppRole is the method of that name.
type AppRole struct {
	// Mount is where it is mounted. Empty: "approle".
	Mount string
	// RoleID is no secret. Required.
	RoleID string
	// SecretIDFile has the secret ID. Empty: the role demands none.
	SecretIDFile string
	// Wrapped says that the file has a wrapping token, by which the secret ID is had once. It is kept in memory as long as the file has the
	// same token, so a restart takes a new one.
	Wrapped bool

	mu        sync.Mutex
	wrapping  string // the token that was unwrapped, and
	unwrapped string // what it came to
}

// Kubernetes is the method of that name.
type Kubernetes struct {
	// Mount is where it is mounted. Empty: "kubernetes".
	Mount string
	// Role is the role in it. Required.
	Role string
	// JWTFile has the token of the service account. Empty: where Kubernetes puts it.
	JWTFile string
}

// serviceAccountToken is where Kubernetes puts the token of a pod's service account.
const serviceAccountToken = "/var/run/secrets/kubernetes.io/serviceaccount/token" //nolint:gosec // a path

// Certificate is the method "cert", with the client certificate of Config.Server.
type Certificate struct {
	// Mount is where it is mounted. Empty: "cert".
	Mount string
	// Name is that of the role in it. Empty: each is tried.
	Name string
}

func (l *Token) check(remote.Config) error {
	if (l.File == "") == (l.Text == "") {
		return errors.New("give either the token for Vault or the file with it")
	}
	return nil
}

func (l *AppRole) check(remote.Config) error {
	if l.RoleID == "" || l.Wrapped && l.SecretIDFile == "" {
		return errors.New("a login to Vault by AppRole takes a role ID, and the file with the secret ID if that is wrapped")
	}
	return checkMount(l.Mount)
}

func (l *Kubernetes) check(remote.Config) error {
	if l.Role == "" {
		return errors.New("a login to Vault by Kubernetes takes a role")
	}
	return checkMount(l.Mount)
}

func (l *Certificate) check(server remote.Config) error {
	if server.CertFile == "" {
		return errors.New("a login to Vault by certificate takes a client certificate and its key")
	}
	return checkMount(l.Mount)
}

func checkMount(mount string) error {
	if mount != "" && !pathOf.MatchString(mount) {
		return fmt.Errorf("mount %.100q of a login to Vault: write letters, digits, '.', '-' and '_', with '/' between them", mount)
	}
	return nil
}

// readSecret reads a file of one word. What is in it is never in an error.
func readSecret(what, name string) (string, error) {
	text, err := remote.ReadSecret(name)
	if err != nil {
		return "", fmt.Errorf("%w: %s: %w", ca.ErrDenied, what, err)
	}
	return text, nil
}

func (l *Token) login(ctx context.Context, c *CA) (*auth, error) {
	token := l.Text
	if l.File != "" {
		var err error
		if token, err = readSecret("token for Vault", l.File); err != nil {
			return nil, err
		}
	}
	found, err := c.lookup(ctx, token)
	if err != nil {
		return nil, err
	}
	return &auth{Token: token, Lease: found.TTL, Renewable: found.Renewable}, nil
}

func (l *AppRole) login(ctx context.Context, c *CA) (*auth, error) {
	body := map[string]any{"role_id": l.RoleID}
	if l.SecretIDFile != "" {
		secret, err := readSecret("secret ID for Vault", l.SecretIDFile)
		if err != nil {
			return nil, err
		}
		if l.Wrapped {
			if secret, err = l.unwrap(ctx, c, secret); err != nil {
				return nil, err
			}
		}
		body["secret_id"] = secret
	}
	return c.post(ctx, orDefault(l.Mount, "approle"), body)
}

// unwrap exchanges a wrapping token for the secret ID, or returns what it came to before.
func (l *AppRole) unwrap(ctx context.Context, c *CA, wrapping string) (string, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.wrapping == wrapping {
		return l.unwrapped, nil
	}
	a, err := c.do(ctx, wrapping, http.MethodPost, "sys/wrapping/unwrap", nil, true)
	if err != nil {
		if errors.Is(err, ca.ErrDenied) {
			err = fmt.Errorf("%w; a wrapping token is good for once: if nobody here used this one, somebody else has: put a new one into %s", err, l.SecretIDFile)
		}
		return "", err
	}
	var data struct {
		SecretID string `json:"secret_id"`
	}
	if err := json.Unmarshal(a.Data, &data); err != nil || data.SecretID == "" {
		return "", fmt.Errorf("%w: what was wrapped for %s is no secret ID: wrap the answer of its AppRole", ca.ErrDenied, l.SecretIDFile)
	}
	l.wrapping, l.unwrapped = wrapping, data.SecretID
	return l.unwrapped, nil
}

func (l *Kubernetes) login(ctx context.Context, c *CA) (*auth, error) {
	jwt, err := readSecret("token of the service account", orDefault(l.JWTFile, serviceAccountToken))
	if err != nil {
		return nil, err
	}
	return c.post(ctx, orDefault(l.Mount, "kubernetes"), map[string]any{"role": l.Role, "jwt": jwt})
}

func (l *Certificate) login(ctx context.Context, c *CA) (*auth, error) {
	body := map[string]any{}
	if l.Name != "" {
		body["name"] = l.Name
	}
	return c.post(ctx, orDefault(l.Mount, "cert"), body)
}

func orDefault(text, otherwise string) string {
	if text == "" {
		return otherwise
	}
	return text
}

// post logs in at a method.
func (c *CA) post(ctx context.Context, mount string, body map[string]any) (*auth, error) {
	a, err := c.do(ctx, "", http.MethodPost, "auth/"+mount+"/login", body, false)
	switch {
	case err != nil:
		return nil, err
	case a.Auth == nil || a.Auth.Token == "":
		return nil, fmt.Errorf("%w: the login at auth/%s gave no token", ca.ErrInvalid, mount)
	}
	return a.Auth, nil
}

// found is what is known of a token.
type found struct {
	TTL       int64   `json:"ttl"` // in seconds; 0: no end
	Renewable bool    `json:"renewable"`
	Namespace *string `json:"namespace_path"`
}

// lookup asks about a token, and refuses one that is of another namespace than the Config's.
func (c *CA) lookup(ctx context.Context, token string) (*found, error) {
	a, err := c.do(ctx, token, http.MethodGet, "auth/token/lookup-self", nil, false)
	if err != nil {
		return nil, err
	}
	var f found
	if err := json.Unmarshal(a.Data, &f); err != nil {
		return nil, fmt.Errorf("%w: what auth/token/lookup-self says cannot be read: %w", ca.ErrInvalid, err)
	}
	if c.cfg.Namespace == "" {
		return &f, nil
	}
	var of string
	if f.Namespace != nil {
		of = strings.Trim(*f.Namespace, "/")
	}
	if of != c.cfg.Namespace {
		return nil, fmt.Errorf("%w: the token is of the namespace %q, not of %q: log in in that one; if this server knows no namespaces (Vault's community edition ignores them), configure none", ca.ErrDenied, of, c.cfg.Namespace)
	}
	return &f, nil
}
