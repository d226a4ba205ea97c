package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sallyport/sallyport/chain"
	"github.com/sallyport/sallyport/xds"
)

// Client asks a running control plane. It may be used by several goroutines.
type Client struct {
	dir  string
	http http.Client
}

// maxResponse bounds what a client reads; a status of 10,000 proxies is some megabytes.
const maxResponse = 256 << 20

// Find returns a client of the control plane whose sockets are in dir or, if dir is empty, in the
// first of the usual directories that has an admin socket: the user's own, then root's. A directory
// is trusted only if CheckDir has nothing against it; so a control plane of another user than root and
// this one is asked only if owners has that user's uid, or in SystemDir, where root alone can make a
// directory. An error says where it looked.
func Find(dir string, owners ...int) (*Client, error) {
	if dir != "" {
		return find(owners, dir)
	}
	return find(owners, slices.Compact([]string{DefaultDir(), SystemDir})...)
}

// find returns a client of the first of dirs that has an admin socket and is trusted: a false control
// plane would be told tokens, and be believed.
func find(owners []int, dirs ...string) (*Client, error) {
	var tried []string
	there := false // something is, though it cannot be asked
	for _, d := range dirs {
		path := Socket(d)
		if err := checkSocketPath(path); err != nil {
			return nil, err
		}
		err := checkRuntime(d, owners)
		if err == nil {
			var c net.Conn
			if c, err = (&net.Dialer{Timeout: 2 * time.Second}).Dial("unix", path); err == nil {
				_ = c.Close()
				return newClient(d), nil
			}
		}
		text := path + ": " + reason(err)
		if info, serr := os.Stat(d); serr == nil && !info.IsDir() {
			text = d + " is not a directory: name the one that the sockets are in with --runtime-dir"
		} else if _, ok := errors.AsType[*Untrusted](err); ok {
			there, text = true, distrusted(err)+": what answers there may be anybody: ask as that user, or trust it with --runtime-owner"
		}
		there = there || errors.Is(err, fs.ErrPermission)
		tried = append(tried, text)
	}
	if there { // it may well run
		return nil, fmt.Errorf("sallyport cannot be asked: %s", strings.Join(tried, "; "))
	}
	return nil, fmt.Errorf("no running sallyport found: %s: start one (`sallyport serve --help`), or say where its sockets are with --runtime-dir or SALLYPORT_RUNTIME_DIR", strings.Join(tried, "; "))
}

// FindHTTPSocket returns the path of the HTTP API's socket in dir or, if dir is empty, in the first of the usual directories that
// has one, under the conditions of Find.
func FindHTTPSocket(dir string, owners ...int) (string, error) {
	dirs := []string{dir}
	if dir == "" {
		dirs = slices.Compact([]string{DefaultDir(), SystemDir})
	}
	var tried []string
	for _, d := range dirs {
		path := HTTPSocket(d)
		_, err := os.Lstat(path)
		if err == nil {
			if err = checkRuntime(d, owners); err == nil {
				return path, nil
			}
		}
		text := reason(err)
		if _, ok := errors.AsType[*Untrusted](err); ok {
			text = distrusted(err) + ": trust it with --runtime-owner"
		}
		tried = append(tried, path+": "+text)
	}
	return "", fmt.Errorf("no HTTP API found: %s: start `sallyport serve`, or say where the API is with --api or CONSUL_HTTP_ADDR", strings.Join(tried, "; "))
}

// checkRuntime is CheckDir of a runtime directory. That of the system may be any user's: only root
// can have made it.
func checkRuntime(dir string, owners []int) error {
	if filepath.Clean(dir) == SystemDir {
		if info, err := os.Lstat(SystemDir); err == nil {
			owners = append(slices.Clip(owners), ownerOf(info).uid)
		}
	}
	return CheckDir(dir, owners...)
}

func reason(err error) string {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "no such socket"
	case errors.Is(err, fs.ErrPermission):
		return "permission denied: ask as root, as the user that runs `sallyport serve`, or as a member of its --admin-group"
	}
	return "nobody answers"
}

func newClient(dir string) *Client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", Socket(dir))
	}
	return &Client{dir: dir, http: http.Client{Transport: &http.Transport{DialContext: dial}, Timeout: 30 * time.Second}}
}

// Dir is the runtime directory that c was found in.
func (c *Client) Dir() string { return c.dir }

// Status asks for the state of the control plane and its proxies.
func (c *Client) Status(ctx context.Context) (Status, error) {
	return call[Status](ctx, c, http.MethodGet, "/v1/status", nil)
}

// Change asks what became of a change of the catalog; number 0 is the newest.
func (c *Client) Change(ctx context.Context, number uint64) (xds.ChangeStatus, error) {
	return call[xds.ChangeStatus](ctx, c, http.MethodGet, "/v1/change?number="+strconv.FormatUint(number, 10), nil)
}

// Proxy asks for all that is known of the proxy with an ID.
func (c *Client) Proxy(ctx context.Context, id string) (Proxy, error) {
	return call[Proxy](ctx, c, http.MethodGet, "/v1/proxy?"+url.Values{"id": {id}}.Encode(), nil)
}

// Instance asks for all of the application without a sidecar with an ID.
func (c *Client) Instance(ctx context.Context, id string) (InstanceDetail, error) {
	return call[InstanceDetail](ctx, c, http.MethodGet, "/v1/instance?"+url.Values{"id": {id}}.Encode(), nil)
}

// Intentions asks for all intentions, by destination.
func (c *Client) Intentions(ctx context.Context) ([]Rule, error) {
	return call[[]Rule](ctx, c, http.MethodGet, "/v1/intention/list", nil)
}

// Check asks whether source may connect to destination, or send it the request of a CheckRequest. An older control plane, which knows none,
// answers for connections.
func (c *Client) Check(ctx context.Context, source, destination string, requests ...CheckRequest) (CheckResponse, error) {
	query := url.Values{"source": {source}, "destination": {destination}}
	for _, r := range requests {
		query["method"], query["path"], query["header"] = []string{r.Method}, []string{r.Path}, r.Headers
	}
	return call[CheckResponse](ctx, c, http.MethodGet, "/v1/intention/check?"+query.Encode(), nil)
}

// Chain asks for the discovery chain of a service, compiled in a datacenter; empty: the mesh's own.
func (c *Client) Chain(ctx context.Context, service, datacenter string) (*chain.Chain, error) {
	out, err := call[chain.Chain](ctx, c, http.MethodGet, "/v1/chain?"+url.Values{"service": {service}, "datacenter": {datacenter}}.Encode(), nil)
	return &out, err
}

// Rotate gives a service a new leaf now. An older control plane does not say which.
func (c *Client) Rotate(ctx context.Context, service string) (RotateResponse, error) {
	return call[RotateResponse](ctx, c, http.MethodPost, "/v1/leaf/rotate?"+url.Values{"service": {service}}.Encode(), nil)
}

// Leafs asks for the leafs in the record that a query takes, the newest first.
func (c *Client) Leafs(ctx context.Context, q LeafQuery) ([]Leaf, error) {
	return call[[]Leaf](ctx, c, http.MethodGet, "/v1/leaf/list?"+url.Values{"name": {q.Name}, "serial": {q.Serial}, "sha256": {q.SHA256}}.Encode(), nil)
}

// Token asks for a proxy's token.
func (c *Client) Token(ctx context.Context, r TokenRequest) (TokenResponse, error) {
	return call[TokenResponse](ctx, c, http.MethodPost, "/v1/token", r)
}

// ApplicationToken returns a token of the HTTP API.
func (c *Client) ApplicationToken(ctx context.Context, r ApplicationTokenRequest) (ApplicationTokenResponse, error) {
	return call[ApplicationTokenResponse](ctx, c, http.MethodPost, "/v1/token/application", r)
}

// Revoke has tokens be taken no more.
func (c *Client) Revoke(ctx context.Context, r RevokeRequest) (RevokeResponse, error) {
	return call[RevokeResponse](ctx, c, http.MethodPost, "/v1/token/revoke", r)
}

// Judge asks whether a proxy would be served with a token of its own. The error wraps ErrForbidden if
// it would not; any other one says that this is not known, as of a control plane that is older than
// the question.
func (c *Client) Judge(ctx context.Context, r JudgeRequest) error {
	_, err := call[struct{}](ctx, c, http.MethodPost, "/v1/judge", r)
	return err
}

// Application says whether the application of a proxy answers.
func (c *Client) Application(ctx context.Context, a Application) error {
	_, err := call[struct{}](ctx, c, http.MethodPost, "/v1/application", a)
	return err
}

func call[T any](ctx context.Context, c *Client, method, path string, in any) (out T, err error) {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return out, err
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://sallyport"+path, body)
	if err != nil {
		return out, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		if u, ok := errors.AsType[*url.Error](err); ok {
			err = u.Err
		}
		return out, fmt.Errorf("asking sallyport at %s: %w", Socket(c.dir), err)
	}
	defer func() { _ = resp.Body.Close() }()
	d := json.NewDecoder(io.LimitReader(resp.Body, maxResponse))
	if resp.StatusCode != http.StatusOK {
		var p problem
		if d.Decode(&p) != nil || p.Error == "" {
			p.Error = resp.Status
		}
		return out, &refusal{text: p.Error, status: resp.StatusCode}
	}
	if err := d.Decode(&out); err != nil {
		return out, fmt.Errorf("answer of sallyport at %s: %w", Socket(c.dir), err)
	}
	return out, nil
}

// refusal is what the control plane said instead of an answer.
type refusal struct {
	text   string
	status int
}

func (r *refusal) Error() string { return r.text }

// Unwrap is the error that the server was given, as far as the status tells.
func (r *refusal) Unwrap() error {
	for err, status := range statuses {
		if status == r.status {
			return err
		}
	}
	return nil
}

// MayPass reports whether err may pass by waiting: no control plane runs, it has just started, or
// it does not have what was asked for (yet). Who may not have something, or asks for nonsense, is
// told the same again.
func MayPass(err error) bool {
	if _, ok := errors.AsType[*refusal](err); !ok {
		return err != nil
	}
	return errors.Is(err, ErrUnknown) || errors.Is(err, ErrNotYet)
}
