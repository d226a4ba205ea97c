package consul

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/hashicorp/consul/api"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/sallyport/sallyport/catalog"
)

// Config says which agent to read and what holds where Consul says nothing. The zero Config is the
// agent that Consul's own commands would ask: each field that is empty is what its variable says
// (CONSUL_HTTP_ADDR, CONSUL_HTTP_TOKEN, …), else Consul's default.
type Config struct {
	// Address is host:port, a URL, or unix:// and the path of a socket. CONSUL_HTTP_ADDR; else
	// localhost:8500.
	Address string
	// Token is the control plane's own ACL token; Policy is what it needs. CONSUL_HTTP_TOKEN.
	Token string
	// TokenFile is where the token is, instead. It is read again for each query, so that a rotated
	// token is used at once. It goes before Token. CONSUL_HTTP_TOKEN_FILE.
	TokenFile string
	// CACert and CAPath are the CAs that the agent's certificate is verified with. CONSUL_CACERT,
	// CONSUL_CAPATH.
	CACert, CAPath string
	// ClientCert and ClientKey are what the agent is shown. CONSUL_CLIENT_CERT, CONSUL_CLIENT_KEY.
	ClientCert, ClientKey string
	// TLSServerName is the name in the agent's certificate. CONSUL_TLS_SERVER_NAME.
	TLSServerName string

	// Node is the name of the agent's node; empty: the agent is asked, for which the token needs
	// agent:read.
	Node string

	// RemoteWithoutACLs lets streams from other machines in though no token says whose they are, as
	// the agent's ACLs are off, or let everybody write the service: whoever reaches the endpoint is
	// then given the service's key.
	RemoteWithoutACLs bool

	// Enforcement holds for proxies for which Consul says no intention_enforcement; the zero value
	// is catalog.RBAC.
	Enforcement catalog.Enforcement
	// Revocation holds for proxies for which Consul says none and whose protocol it fits; nil: the
	// default of each protocol.
	Revocation *catalog.Revocation

	// LKGFile is where the last known good contents are kept for a start while Consul is away;
	// empty: nowhere. It holds no keys and no tokens.
	LKGFile string
	// MaxBody bounds an answer, in bytes. 0: 32 MiB.
	MaxBody int64
	// MaxQueries bounds the queries that wait at the agent at one time, each of which takes one of
	// the connections that the agent grants a client (limits.http_max_conns_per_client, 200 by
	// default). With more things to watch, intentions and chains are watched together, which asks
	// more of Consul's servers; what is left then (endpoints) takes turns if it is still too much.
	// 0: 120.
	MaxQueries int

	// Logger is told of what is read, refused and lost; nil: nobody is.
	Logger *slog.Logger
	// Registerer takes the metrics; nil: they are not shown.
	Registerer prometheus.Registerer

	transport http.RoundTripper // of tests; nil: made of the above
}

const (
	defaultMaxBody    = 32 << 20
	defaultMaxQueries = 120
	// mostChains and mostLeafs bound how many chains and leafs are asked for at one time.
	mostChains, mostLeafs = 8, 24
	// mostConnections bounds all of the connections, of the 200 that an agent grants a client by
	// default: others of this machine are clients, too.
	mostConnections = 170
	// idleConnections are kept for the next query: more than the few of Go's default, as many
	// answers come at one time.
	idleConnections = 64
)

// connect makes the client that c describes. The environment is read as Consul's own client reads
// it.
func (c Config) connect() (*client, error) {
	d := api.DefaultConfig()
	d.Address = cmp.Or(c.Address, d.Address)
	d.TLSConfig.CAFile = cmp.Or(c.CACert, d.TLSConfig.CAFile)
	d.TLSConfig.CAPath = cmp.Or(c.CAPath, d.TLSConfig.CAPath)
	d.TLSConfig.CertFile = cmp.Or(c.ClientCert, d.TLSConfig.CertFile)
	d.TLSConfig.KeyFile = cmp.Or(c.ClientKey, d.TLSConfig.KeyFile)
	d.TLSConfig.Address = cmp.Or(c.TLSServerName, d.TLSConfig.Address)
	// explicit ones go before those of the environment, whichever of the two they are
	if c.Token != "" || c.TokenFile != "" {
		d.Token, d.TokenFile = c.Token, c.TokenFile
	}
	tokens := &tokenSource{token: d.Token, file: d.TokenFile}
	if tokens.file != "" {
		if _, err := os.ReadFile(tokens.file); err != nil {
			return nil, fmt.Errorf("consul token file: %w", err)
		}
	}
	for _, tenancy := range [][2]string{{"namespace", d.Namespace}, {"partition", d.Partition}} {
		if tenancy[1] != "" && tenancy[1] != "default" {
			return nil, fmt.Errorf("consul: %s %q: only the default one is supported", tenancy[0], tenancy[1])
		}
	}
	name := d.Address
	// the token is put into each request, as some are made with another's
	d.TokenFile, d.Token = "", ""
	d.Transport.MaxIdleConnsPerHost = idleConnections
	d.Transport.MaxConnsPerHost = max(mostConnections, c.MaxQueries+mostConnections-defaultMaxQueries)
	// NewClient completes d, which is all that is wanted of it: headers and bodies are read here,
	// bounded.
	if _, err := api.NewClient(d); err != nil {
		return nil, fmt.Errorf("consul agent %s: %w", name, err)
	}
	h := *d.HttpClient
	if c.transport != nil {
		h.Transport = c.transport
	}
	h.CheckRedirect = func(*http.Request, []*http.Request) error {
		return errors.New("the agent answered with a redirection, after which a token is not sent")
	}
	host := d.Address
	if strings.HasPrefix(host, "/") { // a Unix socket
		host = "localhost"
	}
	return &client{
		name: name, http: &h, scheme: d.Scheme, host: host, prefix: d.PathPrefix, auth: d.HttpAuth,
		tokens:     tokens,
		maxBody:    cmp.Or(max(c.MaxBody, 0), defaultMaxBody),
		limiter:    newLimiter(cmp.Or(max(c.MaxQueries, 0), defaultMaxQueries)),
		chainSlots: make(chan struct{}, mostChains), leafSlots: make(chan struct{}, mostLeafs),
		contact: &contact{},
	}, nil
}

// tokenSource is the control plane's own token.
type tokenSource struct{ token, file string }

// current is the token as of now. A file that cannot be read, which may be just being replaced, is
// an error: no token at all would make the agent use its own default token.
func (t *tokenSource) current() (string, error) {
	if t.file == "" {
		return t.token, nil
	}
	data, err := os.ReadFile(t.file)
	if err != nil {
		return "", fmt.Errorf("consul token file: %w", err)
	}
	return strings.TrimSpace(string(data)), nil
}

// Bounds of a query's times.
const (
	// longestWait is how long a blocking query waits for a change; the agent adds up to a 16th, and
	// at most 10 min are allowed.
	longestWait = 5 * time.Minute
	// answerTimeout is how long an answer may take beyond the time that it was asked to wait.
	answerTimeout = 15 * time.Second
	// bodyTimeout is how long an answer may take from its first to its last byte.
	bodyTimeout = 30 * time.Second
)
