package connect

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Options are what NewService can be told. The zero value reads all from the environment, as Consul's
// clients do: CONSUL_HTTP_ADDR, CONSUL_HTTP_TOKEN, CONSUL_HTTP_TOKEN_FILE, CONSUL_HTTP_AUTH,
// CONSUL_HTTP_SSL, CONSUL_HTTP_SSL_VERIFY, CONSUL_CACERT, CONSUL_CAPATH, CONSUL_CLIENT_CERT,
// CONSUL_CLIENT_KEY and CONSUL_TLS_SERVER_NAME.
type Options struct {
	// Address is where the HTTP API is: "127.0.0.1:8500", "https://consul.example:8501",
	// "unix:///run/sallyport/http.sock". Empty: CONSUL_HTTP_ADDR, and without that 127.0.0.1:8500.
	Address string
	// TokenFile is a file with the token for the API. It is read for each question, so its content
	// can be exchanged. It wins over Token. Empty, and Token too: CONSUL_HTTP_TOKEN_FILE.
	TokenFile string
	// Token is the token for the API. Empty, and TokenFile too: CONSUL_HTTP_TOKEN.
	Token string
	// APITLS is used for an API whose address is https. Nil: the environment says.
	APITLS *tls.Config

	// AllowTLS12 lets peers speak TLS 1.2 too, with ECDHE and AEAD suites alone; false: TLS 1.3 only.
	AllowTLS12 bool

	// EndOnRevocation ends connections that would not be made again. Inbound ones, if the intentions
	// deny their peer by now: that is asked after each change of the intentions about this service,
	// which needs the right to read them (Consul gives it with service:write), and every
	// RevocationInterval. Connections in both directions, if their peer's certificate hangs under no
	// root of the mesh any more. Whoever uses a connection sees it closed, whatever runs over it. As
	// long as the API is away none ends. Connections that Dial, HTTPTransport and Handshake opened
	// and those of ServerTLSConfig are meant, not those of ClientTLSConfig.
	EndOnRevocation bool
	// RevocationInterval is how often EndOnRevocation asks without a reason; 0: 30 s.
	RevocationInterval time.Duration

	// Logger is told what nobody else is: that the API is away and that it is back, a new certificate,
	// connections that were ended. Nil: slog.Default().
	Logger *slog.Logger
	// Metrics is told what happens. The zero value tells nobody.
	Metrics Metrics

	// transport asks the API; nil: one for Address. Tests set it.
	transport http.RoundTripper
}

const (
	defaultAddress            = "127.0.0.1:8500"
	defaultRevocationInterval = 30 * time.Second
)

// environment is what an API client needs to know, of Options and the environment.
type environment struct {
	scheme, host, prefix string
	// socket is the path of the Unix socket; empty: TCP.
	socket           string
	token, tokenFile string
	user             *url.Userinfo
	tls              *tls.Config
}

// resolve reads from the environment what o does not say.
func (o Options) resolve() (environment, error) {
	var e environment
	for _, name := range []string{"CONSUL_NAMESPACE", "CONSUL_PARTITION"} {
		if v := os.Getenv(name); v != "" && v != "default" {
			return e, fmt.Errorf("%s is %q: there is only the default one here: unset it", name, v)
		}
	}
	if err := e.setAddress(or(o.Address, os.Getenv("CONSUL_HTTP_ADDR"), defaultAddress)); err != nil {
		return e, err
	}
	switch {
	case o.TokenFile != "" || o.Token != "":
		e.token, e.tokenFile = o.Token, o.TokenFile
	default:
		e.token, e.tokenFile = os.Getenv("CONSUL_HTTP_TOKEN"), os.Getenv("CONSUL_HTTP_TOKEN_FILE")
	}
	if auth := os.Getenv("CONSUL_HTTP_AUTH"); auth != "" {
		name, password, _ := strings.Cut(auth, ":")
		e.user = url.UserPassword(name, password)
	}
	if e.scheme != "https" {
		return e, nil
	}
	if e.tls = o.APITLS; e.tls != nil {
		return e, nil
	}
	var err error
	e.tls, err = apiTLS()
	return e, err
}

// setAddress reads an address as Consul's clients take it.
func (e *environment) setAddress(address string) error {
	ssl, err := boolean("CONSUL_HTTP_SSL", false)
	if err != nil {
		return err
	}
	scheme, rest, found := strings.Cut(address, "://")
	if !found {
		scheme, rest = "http", address
	}
	switch scheme {
	case "unix":
		if rest == "" {
			return fmt.Errorf("address %q of the API has no path: write unix:///path/of/the/socket", address)
		}
		e.scheme, e.host, e.socket = "http", "localhost", rest
		return nil
	case "http", "https":
		e.scheme = scheme
		if ssl {
			e.scheme = "https"
		}
	default:
		return fmt.Errorf("address %q of the API has the scheme %q: write http, https or unix", address, scheme)
	}
	host, prefix, _ := strings.Cut(rest, "/")
	u, err := url.Parse(e.scheme + "://" + host)
	if err != nil || u.Host != host || u.Hostname() == "" {
		return fmt.Errorf("address %q of the API is no host and port: write it like %s", address, defaultAddress)
	}
	e.host = host
	if prefix = strings.Trim(prefix, "/"); prefix != "" {
		e.prefix = "/" + prefix
	}
	return nil
}

// apiTLS is how the environment wants an API over https to be spoken to.
func apiTLS() (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: os.Getenv("CONSUL_TLS_SERVER_NAME")}
	verify, err := boolean("CONSUL_HTTP_SSL_VERIFY", true)
	if err != nil {
		return nil, err
	}
	c.InsecureSkipVerify = !verify
	var files []string
	if f := os.Getenv("CONSUL_CACERT"); f != "" {
		files = append(files, f)
	} else if dir := os.Getenv("CONSUL_CAPATH"); dir != "" {
		if files, err = filepath.Glob(filepath.Join(dir, "*")); err != nil || len(files) == 0 {
			return nil, fmt.Errorf("CONSUL_CAPATH: no certificates in %s", dir)
		}
	}
	for _, f := range files {
		pem, err := os.ReadFile(f)
		if err != nil {
			return nil, fmt.Errorf("certificates for the API: %w", err)
		}
		if c.RootCAs == nil {
			c.RootCAs = x509.NewCertPool()
		}
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("certificates for the API: %s has none in PEM", f)
		}
	}
	cert, key := os.Getenv("CONSUL_CLIENT_CERT"), os.Getenv("CONSUL_CLIENT_KEY")
	if (cert == "") != (key == "") {
		return nil, errors.New("only one of CONSUL_CLIENT_CERT and CONSUL_CLIENT_KEY is set: set both, or none")
	}
	if cert != "" {
		// Read for each handshake, so that both can be exchanged.
		if _, err := tls.LoadX509KeyPair(cert, key); err != nil {
			return nil, fmt.Errorf("certificate for the API: %w", err)
		}
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			pair, err := tls.LoadX509KeyPair(cert, key)
			return &pair, err
		}
	}
	return c, nil
}

// boolean is a variable of the environment that says yes or no.
func boolean(name string, otherwise bool) (bool, error) {
	v := os.Getenv(name)
	if v == "" {
		return otherwise, nil
	}
	b, err := strconv.ParseBool(v)
	if err != nil {
		return false, fmt.Errorf("%s is %q: write true or false", name, v)
	}
	return b, nil
}

// or is the first of texts that is not empty.
func or(texts ...string) string {
	for _, t := range texts {
		if t != "" {
			return t
		}
	}
	return ""
}
