package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/sallyport/sallyport/admin"
	"github.com/sallyport/sallyport/ca"
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/consul"
	"github.com/sallyport/sallyport/files"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/intention"
	"github.com/spf13/pflag"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// serveConfig is what `serve` is told by its configuration file, SALLYPORT_* variables and flags,
// under the same names.
type serveConfig struct {
	Catalog                string        `mapstructure:"catalog"`
	StrictCatalog          bool          `mapstructure:"strict_catalog"`
	Data                   string        `mapstructure:"data"`
	RuntimeDir             string        `mapstructure:"runtime_dir"`
	Datacenter             string        `mapstructure:"datacenter"`
	TrustDomain            string        `mapstructure:"trust_domain"`
	DefaultIntentionPolicy string        `mapstructure:"default_intention_policy"`
	IntentionEnforcement   string        `mapstructure:"intention_enforcement"`
	Revocation             string        `mapstructure:"revocation"`
	LeafTTL                time.Duration `mapstructure:"leaf_ttl"`
	CAProvider             string        `mapstructure:"ca_provider"`
	CAConfig               any           `mapstructure:"ca_config"`
	CAProviders            any           `mapstructure:"ca_providers"`
	TokenTTL               time.Duration `mapstructure:"token_ttl"`
	SocketDirs             string        `mapstructure:"socket_dirs"`
	CAKeyFile              string        `mapstructure:"ca_key_file"`
	XDSAddress             string        `mapstructure:"xds_address"`
	XDSNames               string        `mapstructure:"xds_names"`
	MetricsBind            string        `mapstructure:"metrics_bind"`
	APIAddress             string        `mapstructure:"api_address"`
	APIHosts               string        `mapstructure:"api_hosts"`
	APITLSCert             string        `mapstructure:"api_tls_cert"`
	APITLSKey              string        `mapstructure:"api_tls_key"`
	APIWithoutACLs         bool          `mapstructure:"api_without_acls"`
	APIWrites              bool          `mapstructure:"api_writes"`
	TrustDomains           string        `mapstructure:"trust_domains"`
	JWKSFromThisMachine    bool          `mapstructure:"jwks_from_this_machine"`
	BundleAddress          string        `mapstructure:"bundle_address"`
	BundleURL              string        `mapstructure:"bundle_url"`
	BundleTLSCert          string        `mapstructure:"bundle_tls_cert"`
	BundleTLSKey           string        `mapstructure:"bundle_tls_key"`
	BundleRefreshHint      time.Duration `mapstructure:"bundle_refresh_hint"`
	AdminGroup             string        `mapstructure:"admin_group"`
	LogFormat              string        `mapstructure:"log_format"`
	LogLevel               string        `mapstructure:"log_level"`
	LogDenials             bool          `mapstructure:"log_denials"`
	LogAPI                 bool          `mapstructure:"log_api"`

	Consul        bool   `mapstructure:"consul"`
	HTTPAddr      string `mapstructure:"http_addr"`
	TokenFile     string `mapstructure:"token_file"`
	CAFile        string `mapstructure:"ca_file"`
	CAPath        string `mapstructure:"ca_path"`
	ClientCert    string `mapstructure:"client_cert"`
	ClientKey     string `mapstructure:"client_key"`
	TLSServerName string `mapstructure:"tls_server_name"`
	NodeName      string `mapstructure:"node_name"`
	ServiceTokens string `mapstructure:"service_tokens"`
	MaxQueries    int    `mapstructure:"max_queries"`
	RevokedKey    string `mapstructure:"revoked_key"`
	WithoutACLs   bool   `mapstructure:"xds_without_acls"`
}

// defaultTokenTTL is how long a token lives that "sallyport envoy" renews.
const defaultTokenTTL = time.Hour

// defaultSocketDirs are where sockets are made by whoever runs an application or its sidecar. What is
// in /run else belongs to the machine.
const defaultSocketDirs = "/run/sallyport-sockets,/tmp,/var/tmp"

func serveFlags(f *pflag.FlagSet) {
	f.String("config", "", "configuration file (YAML, TOML or JSON); its keys are the flags' names with '_' for '-'")
	f.String("catalog", "", "directory of service definitions and config entries in Consul's formats (HCL, JSON, YAML)")
	f.String("data", "", "directory of the control plane's state: the CA, keys, generations (0700; created if missing; default /var/lib/sallyport for root, else sallyport in XDG_STATE_HOME or ~/.local/state)")
	f.Bool("strict-catalog", false, "take the files of --catalog as a whole or not at all: one mistake anywhere keeps all that is newer, denials too, from being taken")
	f.Bool("consul", false, "read services, intentions and certificates from the local Consul agent instead of --catalog; Consul's own variables (CONSUL_HTTP_ADDR, CONSUL_HTTP_TOKEN, …) say where it is")
	f.String("http-addr", "", "with --consul: the agent's address, as for consul (CONSUL_HTTP_ADDR)")
	f.String("token-file", "", "with --consul: file with the control plane's own ACL token; a rotated one is used at once (CONSUL_HTTP_TOKEN_FILE)")
	f.String("ca-file", "", "with --consul: CA of the agent's certificate (CONSUL_CACERT)")
	f.String("ca-path", "", "with --consul: directory of CAs of the agent's certificate (CONSUL_CAPATH)")
	f.String("client-cert", "", "with --consul: certificate to show the agent (CONSUL_CLIENT_CERT)")
	f.String("client-key", "", "with --consul: its key (CONSUL_CLIENT_KEY)")
	f.String("tls-server-name", "", "with --consul: name in the agent's certificate (CONSUL_TLS_SERVER_NAME)")
	f.String("node-name", "", "with --consul: the agent's node (default: the agent is asked, which needs agent:read)")
	f.Bool("xds-without-acls", false, "with --consul: let sidecars on other machines in by --xds-address without a token, where Consul's ACLs are off or let everybody write the service; whoever reaches it is then given the service's private key")
	f.String("service-tokens", "", "with --consul and ACLs: SERVICE=FILE, with commas between several: a file with an ACL token of that service's own (service:write), with which its leaf is fetched for processes that it names; a rotated one is used within 20 s")
	f.Int("max-queries", 0, "with --consul: how many queries may wait at the agent at one time, of the connections that it grants a client (default 120 of 200)")
	f.String("revoked-key", "", "with --consul: key of Consul's KV store with the certificates and identities that are revoked, the same for all nodes of a datacenter (default "+consul.DefaultRevokedKey+")")
	f.String("datacenter", "dc1", "the datacenter that identities are made for")
	f.String("trust-domain", "", "the mesh's SPIFFE trust domain (default: made once, <uuid>.consul, and kept in the data directory)")
	f.String("default-intention-policy", "deny", "what holds where no intention says anything: allow or deny")
	f.String("intention-enforcement", "rbac", "where intentions are enforced unless a service says otherwise: rbac, ext_authz or both")
	f.String("revocation", "", "what happens to live connections when access is taken away, unless a service says otherwise: drain, new (tcp) or next-request (http)")
	f.Duration("leaf-ttl", ca.DefaultLeafTTL, "life of leaf certificates, at least 1m; they are renewed at 60-90 % of it")
	f.String("ca-provider", "", "the CA that signs in a new mesh: builtin (as consul), vault, plugin or files, as ca_config says, or a name of ca_providers; in one that exists a rotation changes it")
	f.String("ca-config", "", "what the CA of --ca-provider is told, with Consul's keys where they mean the same; in the file a block, here JSON")
	f.String("ca-providers", "", "further CAs, to which a rotation can lead: NAME { provider, config }; in the file a block, here JSON")
	f.String("ca-key-file", "", "file with an age identity, as age-keygen writes it, to which every private key in the data directory is encrypted (default: they are in clear); of several the first encrypts and each decrypts")
	f.Duration("token-ttl", defaultTokenTTL, "life of the tokens that \"sallyport envoy\" renews")
	f.String("socket-dirs", defaultSocketDirs, "directories, with commas between them, in which registrations may name Unix sockets to listen on or to dial, at any depth")
	f.String("xds-address", "", "host:port of a TLS endpoint for Envoys on other machines (default: none, the socket alone)")
	f.String("xds-names", "", "names and addresses, separated by commas, by which clients reach --xds-address, for its certificate: what the machine does not know of itself, such as a load balancer's name")
	f.String("metrics-bind", "127.0.0.1:19876", `host:port of /metrics, /healthz and /readyz ("" : on the admin socket alone)`)
	f.String("api-address", "", "host:port, of a loopback address or with --api-tls-cert, on which Consul's HTTP API is answered for applications (default: none, the socket http.sock alone)")
	f.String("api-hosts", "", "names, separated by commas, by which --api-address may be asked beside its own host, localhost and loopback addresses")
	f.String("api-tls-cert", "", "file with the certificate (PEM, with its chain) of --api-address, which answers https alone then; a new one is used at once")
	f.String("api-tls-key", "", "its key (PEM)")
	f.Bool("api-without-acls", false, "with --consul: give leafs over --api-address without a token, where Consul's ACLs are off; whoever reaches it is then given the private key of any service")
	f.Bool("api-writes", false, "with --consul: pass writes of the HTTP API (intentions, config entries, registrations) on to Consul, with the caller's token")
	trustDomainFlags(f)
	f.String("admin-group", "", "group whose members may use the admin socket too")
	f.String("log-format", "auto", "auto (short lines on a terminal, else text), text or json")
	f.String("log-level", "info", "debug, info, warn or error")
	f.Bool("log-api", false, "log what is asked of the HTTP API: one line per answer, 1,000 a minute at most, with who asked, and no token")
	f.Bool("log-denials", false, "log what ext_authz denies: one line per caller, service, reason and minute, with a count")
}

// variable is the environment variable that says the same as a flag.
func variable(flag string) string {
	return "SALLYPORT_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// consulConfig is how the local Consul agent is read.
func (c serveConfig) consulConfig() (consul.Config, error) {
	out := consul.Config{
		Address: c.HTTPAddr, TokenFile: c.TokenFile, CACert: c.CAFile, CAPath: c.CAPath,
		ClientCert: c.ClientCert, ClientKey: c.ClientKey, TLSServerName: c.TLSServerName, Node: c.NodeName, MaxQueries: c.MaxQueries, RemoteWithoutACLs: c.WithoutACLs,
	}
	var err error
	out.Enforcement, out.Revocation, err = c.defaults()
	return out, err
}

// defaults is how intentions are enforced where a service says nothing about it.
func (c serveConfig) defaults() (e catalog.Enforcement, r *catalog.Revocation, err error) {
	e, ok := catalog.ParseEnforcement(c.IntentionEnforcement)
	if !ok {
		err = fmt.Errorf("--intention-enforcement: %q is none of rbac, ext_authz and both", c.IntentionEnforcement)
	}
	if c.Revocation == "" {
		return e, nil, err
	}
	parsed, ok := catalog.ParseRevocation(c.Revocation)
	if !ok {
		err = errors.Join(err, fmt.Errorf("--revocation: %q is none of drain, new and next-request", c.Revocation))
	}
	return e, &parsed, err
}

// configuredTrustDomain parses --trust-domain; empty gives the zero value: the CA's own.
func configuredTrustDomain(s string) (spiffeid.TrustDomain, error) {
	if s == "" {
		return spiffeid.TrustDomain{}, nil
	}
	td, err := spiffeid.TrustDomainFromString(s)
	if err != nil {
		return td, fmt.Errorf("--trust-domain: %w", err)
	}
	return td, nil
}

// filesConfig is what the directory of files is read with; the trust domain may be zero for reading
// alone.
func (c serveConfig) filesConfig(td spiffeid.TrustDomain) (files.Config, error) {
	out := files.Config{Dir: c.Catalog, Datacenter: c.Datacenter, TrustDomain: td, Strict: c.StrictCatalog}
	var errs [3]error
	if err := identity.CheckDatacenter(c.Datacenter); err != nil {
		errs[0] = fmt.Errorf("--datacenter: %w", err)
	}
	switch c.DefaultIntentionPolicy {
	case "deny":
	case "allow":
		out.Default = intention.Allow
	default:
		errs[1] = fmt.Errorf("--default-intention-policy: %q is neither allow nor deny", c.DefaultIntentionPolicy)
	}
	out.Enforcement, out.Revocation, errs[2] = c.defaults()
	return out, errors.Join(errs[:]...)
}

// complete fills in the directories that nobody named, and makes all of them full paths: Envoys that are
// started elsewhere, and whoever asks from elsewhere, are told of them.
func (c *serveConfig) complete() error {
	if c.RuntimeDir == "" {
		c.RuntimeDir = admin.DefaultDir()
	}
	var missing error
	if c.Data == "" {
		c.Data, missing = stateDir(os.Geteuid(), os.Getenv)
	}
	errs := []error{missing}
	for flag, dir := range map[string]*string{"--runtime-dir": &c.RuntimeDir, "--data": &c.Data, "--catalog": &c.Catalog, "--trust-domains": &c.TrustDomains} {
		if *dir == "" {
			continue
		}
		full, err := filepath.Abs(*dir)
		if err != nil { // a working directory that is gone
			errs = append(errs, fmt.Errorf("%s: %w: give a full path", flag, err))
			continue
		}
		*dir = full
	}
	return errors.Join(errs...)
}

// stateDir is the default of --data.
func stateDir(uid int, variable func(string) string) (string, error) {
	switch state, home := variable("XDG_STATE_HOME"), variable("HOME"); {
	case uid == 0:
		return "/var/lib/sallyport", nil
	case filepath.IsAbs(state):
		return filepath.Join(state, "sallyport"), nil
	case filepath.IsAbs(home):
		return filepath.Join(home, ".local", "state", "sallyport"), nil
	}
	return "", errors.New("--data is missing: the directory of the control plane's state, which has no default where neither XDG_STATE_HOME nor HOME is set")
}

// check refuses what makes no sense before anything is opened. The error has all that is wrong.
func (c serveConfig) check() error {
	var errs []error
	switch {
	case c.Consul && c.Catalog != "":
		return errors.New("--consul and --catalog: services come from one of them")
	case c.Consul:
		errs = append(errs, c.checkConsul())
	case c.Catalog == "":
		errs = append(errs, errors.New("--catalog is missing: the directory of service definitions and intentions, or --consul, to read the local agent"))
	default:
		errs = append(errs, c.checkFiles())
	}
	for _, f := range []struct{ flag, addr string }{{"--xds-address", c.XDSAddress}, {"--metrics-bind", c.MetricsBind}, {"--api-address", c.APIAddress}, {"--bundle-address", c.BundleAddress}} {
		if _, _, err := net.SplitHostPort(f.addr); f.addr != "" && err != nil {
			errs = append(errs, fmt.Errorf("%s: %q is not host:port", f.flag, f.addr))
		}
	}
	errs = append(errs, c.checkAPI(), c.checkTrustDomains())
	if c.XDSNames != "" && c.XDSAddress == "" {
		errs = append(errs, errors.New("--xds-names: there is no --xds-address whose certificate they would be in"))
	}
	if err := ca.CheckEndpointNames(c.xdsNames()); err != nil {
		errs = append(errs, fmt.Errorf("--xds-names: %w", err))
	}
	return errors.Join(errs...)
}

// xdsNames are the names that --xds-names gives.
func (c serveConfig) xdsNames() []string {
	return strings.FieldsFunc(c.XDSNames, func(r rune) bool { return r == ',' || r == ' ' })
}

// checkFiles refuses what makes no sense for a mesh from files, before a CA begins that nobody
// wants.
func (c serveConfig) checkFiles() error {
	errs := []error{unused("is for --consul, and the services come from --catalog", []flagValue{
		{"--http-addr", c.HTTPAddr, ""},
		{"--token-file", c.TokenFile, ""},
		{"--ca-file", c.CAFile, ""},
		{"--ca-path", c.CAPath, ""},
		{"--client-cert", c.ClientCert, ""},
		{"--client-key", c.ClientKey, ""},
		{"--tls-server-name", c.TLSServerName, ""},
		{"--node-name", c.NodeName, ""},
		{"--service-tokens", c.ServiceTokens, ""},
		{"--revoked-key", c.RevokedKey, ""},
		{"--api-without-acls", c.APIWithoutACLs, false},
		{"--api-writes", c.APIWrites, false},
	}), c.checkCatalog()}
	if samePlace(c.Catalog, c.Data) {
		errs = append(errs, fmt.Errorf("--data: %s is the catalog directory, where no keys belong: choose another", c.Data))
	}
	if c.TokenTTL < time.Second {
		errs = append(errs, fmt.Errorf("--token-ttl: %v is less than a second", c.TokenTTL))
	}
	if most := ca.DefaultIntermediateTTL / 2; c.LeafTTL < ca.MinLeafTTL || c.LeafTTL > most {
		errs = append(errs, fmt.Errorf("--leaf-ttl: %v is not between %v and %v", c.LeafTTL, ca.MinLeafTTL, most))
	}
	td, err := configuredTrustDomain(c.TrustDomain)
	errs = append(errs, err)
	_, err = c.caSettings()
	errs = append(errs, err)
	_, err = c.filesConfig(td)
	return errors.Join(append(errs, err)...)
}

// checkCatalog refuses a catalog that there is not, as a mistyped one is, where no mesh has begun
// yet. Of one that has begun it may be away for a while, and all stays as it was.
func (c serveConfig) checkCatalog() error {
	if _, err := os.Stat(filepath.Join(c.Data, "ca")); err == nil {
		return nil
	}
	info, err := os.Stat(c.Catalog)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("--catalog: %s does not exist: make the directory, and files in it that say what services there are", c.Catalog)
	case err != nil:
		return fmt.Errorf("--catalog: %w", err)
	case !info.IsDir():
		return fmt.Errorf("--catalog: %s is not a directory: name the one that the file is in", c.Catalog)
	}
	return nil
}

// checkConsul refuses what makes no sense beside Consul.
func (c serveConfig) checkConsul() error {
	err := errors.Join(unused("with --consul, Consul's servers keep the CA: consul connect ca set-config", []flagValue{
		{"--ca-provider", c.CAProvider, ""},
		{"--ca-config", c.CAConfig != nil && c.CAConfig != "", false},
		{"--ca-providers", c.CAProviders != nil && c.CAProviders != "", false},
	}), unused("with --consul, Consul says that", []flagValue{
		{"--trust-domain", c.TrustDomain, ""},
		{"--datacenter", c.Datacenter, "dc1"},
		{"--default-intention-policy", c.DefaultIntentionPolicy, "deny"},
		{"--leaf-ttl", c.LeafTTL, ca.DefaultLeafTTL},
		{"--token-ttl", c.TokenTTL, defaultTokenTTL},
	}))
	_, config := c.consulConfig()
	_, tokens := c.serviceTokens()
	return errors.Join(err, config, tokens, checkKey(c.RevokedKey))
}

// checkKey refuses what is no good name of a key for a list in YAML.
func checkKey(key string) error {
	bad := len(key) > 512 || strings.HasPrefix(key, "/") || strings.HasSuffix(key, "/") ||
		strings.ContainsFunc(key, func(r rune) bool { return r <= ' ' || r == '"' || r == '\\' || r == 0x7f })
	if bad || filepath.Ext(key) != "" {
		return fmt.Errorf("--revoked-key: %q is no key for a list: want a path without an ending, as %s", key, consul.DefaultRevokedKey)
	}
	return nil
}

// flagValue is a flag, what it says, and what it says if nobody gave it.
type flagValue struct {
	flag         string
	value, unset any
}

// unused refuses flags that say something where nobody would listen.
func unused(why string, flags []flagValue) error {
	var errs []error
	for _, f := range flags {
		if f.value != f.unset {
			errs = append(errs, fmt.Errorf("%s: %s", f.flag, why))
		}
	}
	return errors.Join(errs...)
}

// samePlace reports whether two paths lead to one directory.
func samePlace(a, b string) bool {
	if x, err := os.Stat(a); err == nil {
		if y, err := os.Stat(b); err == nil {
			return os.SameFile(x, y)
		}
	}
	x, errX := filepath.Abs(a)
	y, errY := filepath.Abs(b)
	return errX == nil && errY == nil && x == y
}
