package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/sallyport/sallyport/ca"
	"github.com/sallyport/sallyport/ca/pemfile"
	"github.com/sallyport/sallyport/ca/plugin"
	"github.com/sallyport/sallyport/ca/vault"
	"github.com/sallyport/sallyport/definition"
	"github.com/sallyport/sallyport/internal/remote"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// provider is a CA that may sign instead of the built-in one, as it is configured.
type provider struct {
	name, kind string
	options    *options
}

// providerKinds are what a provider can be, beside the built-in one.
var providerKinds = []string{"files", "plugin", "vault"}

// providerName is what a provider may be called. The configuration's reader knows no capitals in keys.
var providerName = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,62}$`)

// caSettings is all that is configured of the CA.
type caSettings struct {
	// provider signs in a new mesh.
	provider  string
	providers []provider
	// leafTTL, intermediateTTL and rootTTL are zero where nothing is said.
	leafTTL, intermediateTTL, rootTTL time.Duration
	// notes are keys that mean nothing here, and why.
	notes []string
}

// caSettings reads ca_provider, ca_config and ca_providers. The error has all mistakes.
func (c serveConfig) caSettings() (caSettings, error) {
	s := caSettings{provider: c.CAProvider}
	var errs []error
	config, err := optionsOf("ca_config", c.CAConfig)
	errs = append(errs, err)
	s.leafTTL = config.duration("LeafCertTTL")
	s.intermediateTTL = config.duration("IntermediateCertTTL")
	s.rootTTL = config.duration("RootCertTTL")
	switch {
	case s.provider == "" || s.provider == "consul" || s.provider == ca.Builtin:
		s.provider = ca.Builtin
	case slices.Contains(providerKinds, s.provider):
		s.providers = append(s.providers, provider{s.provider, s.provider, config})
	}
	several, err := optionsOf("ca_providers", c.CAProviders)
	errs = append(errs, err)
	for _, name := range slices.Sorted(maps.Keys(several.values)) {
		p := provider{name: name}
		one, err := optionsOf("ca_providers."+name, several.values[name])
		errs = append(errs, err)
		p.kind = one.text("provider")
		p.options, err = optionsOf("ca_providers."+name+".config", one.take("config"))
		errs = append(errs, err, one.rest())
		switch {
		case !providerName.MatchString(name) || name == ca.Builtin || name == "consul":
			errs = append(errs, fmt.Errorf("ca_providers: %.70q is no name: lower case letters, digits, '-' and '_', and neither consul nor %s", name, ca.Builtin))
		case !slices.Contains(providerKinds, p.kind):
			errs = append(errs, fmt.Errorf("ca_providers.%s: provider %.50q is none of %s", name, p.kind, strings.Join(providerKinds, ", ")))
		case slices.ContainsFunc(s.providers, func(o provider) bool { return o.name == name }):
			errs = append(errs, fmt.Errorf("ca_providers.%s: ca_provider and ca_config are this one, too: leave one out", name))
		default:
			s.providers = append(s.providers, p)
		}
	}
	mistyped := false
	if s.provider != ca.Builtin && !slices.ContainsFunc(s.providers, func(o provider) bool { return o.name == s.provider }) {
		text := ""
		if near := definition.Nearest(s.provider, append([]string{ca.Builtin}, providerKinds...)); near != "" {
			text = fmt.Sprintf(": did you mean %s?", near)
		}
		errs = append(errs, fmt.Errorf("--ca-provider: %.50q is neither %s, %s nor a name of ca_providers%s", s.provider, ca.Builtin, strings.Join(providerKinds, ", "), text))
		mistyped = true
	}
	if len(s.providers) > 0 && c.TrustDomain == "" {
		errs = append(errs, errors.New("--trust-domain is missing: with other CAs than the built-in one it has to be said, as their certificates have it; that of a mesh that exists is in the first line of `sallyport ca status`, and in the file ca/state.json of --data"))
	}
	if s.leafTTL != 0 && c.LeafTTL != ca.DefaultLeafTTL && c.LeafTTL != s.leafTTL {
		errs = append(errs, fmt.Errorf("ca_config: LeafCertTTL is %s, and leaf_ttl %s: give one of them", s.leafTTL, c.LeafTTL))
	}
	// What is made of it is checked by making it.
	td, err := configuredTrustDomain(c.TrustDomain)
	for _, p := range s.providers {
		if err == nil && !td.IsZero() {
			one, err := p.open(td, slog.New(slog.DiscardHandler), nil, nil)
			if err == nil {
				err = one.close()
			}
			errs = append(errs, err)
			s.notes = append(s.notes, p.options.notes...)
		}
	}
	if s.provider == ca.Builtin || !slices.ContainsFunc(s.providers, func(p provider) bool { return p.options == config }) {
		config.ignored("is of Vault, and this CA's keys are on P-256", "PrivateKeyType", "PrivateKeyBits", "RotationPeriod")
		config.ignoredLimits()
		config.refused("the built-in root is made here: `sallyport ca rotate` makes another; for one of your own configure the provider files or plugin", "PrivateKey", "RootCert")
		if unknown := config.rest(); unknown != nil && !mistyped { // whose keys they are is not known then
			if s.provider == ca.Builtin && c.CAProvider == "" {
				unknown = errors.Join(unknown, fmt.Errorf("ca_config: --ca-provider is not given, so these are the keys of the built-in CA: say it if they are of %s", strings.Join(providerKinds, ", ")))
			}
			errs = append(errs, unknown)
		}
		s.notes = append(s.notes, config.notes...)
	}
	return s, errors.Join(errs...)
}

// leafTTL is how long a leaf lives: what ca_config says, if it does. What is wrong with that caSettings tells.
func (c serveConfig) leafTTL() time.Duration {
	config, _ := optionsOf("ca_config", c.CAConfig)
	return cmp.Or(config.duration("LeafCertTTL"), c.LeafTTL)
}

// opened is a provider that can be asked.
type opened struct {
	ca.UpstreamConfig
	run   func(context.Context) error // nil: nothing runs
	close func() error
	// plugin is nil if it is none.
	plugin *plugin.CA
}

// open makes the provider of what is configured; nothing is asked yet.
func (p provider) open(td spiffeid.TrustDomain, log *slog.Logger, asked *remote.Metrics, plugins *plugin.Metrics) (out opened, err error) {
	o := p.options
	o.again()
	log = log.With("source", p.name)
	out.close = func() error { return nil }
	switch p.kind {
	case "vault":
		cfg, err := vaultConfig(o, os.Getenv)
		if err != nil {
			return out, err
		}
		cfg.Server.Name, cfg.Server.Metrics, cfg.Logger = p.name, asked, log
		v, err := vault.New(cfg)
		if err != nil {
			return out, fmt.Errorf("%s: %w", o.of, err)
		}
		out.Upstream, out.EachLeaf, out.run = v, cfg.LeafRole != "", v.Run
		out.close = func() error { v.Close(); return nil }
	case "plugin":
		cfg := plugin.Config{
			Name: p.name, TrustDomain: td, Command: o.list("command"), Env: o.list("env"), TokenFile: o.text("token_file"), Logger: log, Metrics: plugins,
			Server: remote.Config{
				URL: o.text("url"), CAFile: o.text("ca_file"), CertFile: o.text("cert_file"), KeyFile: o.text("key_file"), ServerName: o.text("tls_server_name"), UIDs: o.numbers("uids"),
				CAOption: "ca_file", Metrics: asked,
			},
		}
		out.EachLeaf = o.yes("leafs")
		if err := o.rest(); err != nil {
			return out, err
		}
		v, err := plugin.New(cfg)
		if err != nil {
			return out, fmt.Errorf("%s: %w", o.of, err)
		}
		out.Upstream, out.plugin = v, v
		out.close = func() error { v.Close(); return nil }
	case "files":
		v, err := pemfile.New(pemfile.Config{TrustDomain: td, Roots: o.path("roots_file"), Chain: o.path("chain_file"), Key: o.path("key_file"), Request: o.path("request_file"), Logger: log})
		if unknown := o.rest(); unknown != nil { // what is missing may be there under a wrong name
			return out, unknown
		}
		if err != nil {
			return out, fmt.Errorf("%s: %w", o.of, err)
		}
		out.Upstream, out.EachLeaf = v, v.EachLeaf()
	}
	return out, nil
}

// vaultConfig is what is said in the words of Consul's Vault provider, and by the variables of Vault's own commands.
func vaultConfig(o *options, variable func(string) string) (vault.Config, error) {
	cfg := vault.Config{
		Server: remote.Config{
			URL: cmp.Or(o.text("Address"), variable("VAULT_ADDR")), CAFile: cmp.Or(o.text("CAFile"), variable("VAULT_CACERT")), CAOption: "CAFile (VAULT_CACERT)",
			CertFile: cmp.Or(o.text("CertFile"), variable("VAULT_CLIENT_CERT")), KeyFile: cmp.Or(o.text("KeyFile"), variable("VAULT_CLIENT_KEY")),
			ServerName: cmp.Or(o.text("TLSServerName"), variable("VAULT_TLS_SERVER_NAME")),
		},
		Namespace: cmp.Or(o.text("Namespace"), variable("VAULT_NAMESPACE")),
	}
	cfg.Mount, cfg.Issuer, cfg.LeafRole = o.vaultPaths()
	if cfg.LeafRole != "" {
		o.ignored("is not asked, as LeafRole signs each leaf at IntermediatePKIPath", "RootPKIPath")
	} else if o.text("IntermediatePKIPath") != "" {
		o.note("IntermediatePKIPath", "means nothing: the intermediate is sallyport's own, signed at RootPKIPath; LeafRole has each leaf signed at IntermediatePKIPath")
	}
	o.ignored("means nothing: the key is on P-256", "PrivateKeyType", "PrivateKeyBits")
	o.ignoredLimits()
	var errs []error
	if o.yes("TLSSkipVerify") || variable("VAULT_SKIP_VERIFY") != "" && variable("VAULT_SKIP_VERIFY") != "0" && variable("VAULT_SKIP_VERIFY") != "false" {
		errs = append(errs, fmt.Errorf("%s: TLSSkipVerify (VAULT_SKIP_VERIFY): whoever answers would be believed, and given the token: name the CA of Vault's certificate with CAFile", o.of))
	}
	o.refused("a directory of CAs is not read: name one file with CAFile", "CAPath")
	o.refused("one namespace has it all: Namespace", "RootPKINamespace", "IntermediatePKINamespace")
	method, err := optionsOf(o.of+".AuthMethod", o.take("AuthMethod"))
	errs = append(errs, err)
	token, file := o.text("Token"), o.text("TokenFile")
	switch kind := method.text("Type"); {
	case kind != "" && (token != "" || file != ""):
		errs = append(errs, fmt.Errorf("%s: there are a token and AuthMethod: give one of them", o.of))
	case kind == "" && file != "":
		cfg.Login = &vault.Token{File: file}
	case kind == "":
		if token = cmp.Or(token, variable("VAULT_TOKEN")); token != "" {
			cfg.Login = &vault.Token{Text: token}
		}
	default:
		cfg.Login, err = vaultLogin(kind, method)
		errs = append(errs, err)
	}
	return cfg, errors.Join(append(errs, method.rest(), o.rest())...)
}

// vaultPaths are where in Vault is signed, on which its policy depends.
func (o *options) vaultPaths() (mount, issuer, leafRole string) {
	mount, issuer, leafRole = o.text("RootPKIPath"), o.text("Issuer"), o.text("LeafRole")
	if between := o.text("IntermediatePKIPath"); leafRole != "" {
		mount = between
	}
	return mount, issuer, leafRole
}

// vaultLogin is the way to log in that AuthMethod names.
func vaultLogin(kind string, method *options) (vault.Login, error) {
	params, err := optionsOf(method.of+".Params", method.take("Params"))
	mount := method.text("MountPath")
	var login vault.Login
	switch kind {
	case "approle":
		role := params.text("role_id")
		if name := params.text("role_id_file_path"); role == "" && name != "" {
			text, readErr := os.ReadFile(name)
			role, err = strings.TrimSpace(string(text)), errors.Join(err, readErr)
		}
		params.refused("a secret in a file is read again when it is replaced: secret_id_file_path", "secret_id")
		login = &vault.AppRole{Mount: mount, RoleID: role, SecretIDFile: params.text("secret_id_file_path"), Wrapped: params.yes("wrapped")}
	case "kubernetes":
		login = &vault.Kubernetes{Mount: mount, Role: params.text("role"), JWTFile: params.text("token_path")}
	case "cert":
		login = &vault.Certificate{Mount: mount, Name: params.text("name")}
	default:
		return nil, fmt.Errorf("%s: Type %.50q is none of approle, cert and kubernetes", method.of, kind)
	}
	return login, errors.Join(err, params.rest())
}

// ignoredLimits notes the limits of Consul's servers.
func (o *options) ignoredLimits() {
	o.ignored("means nothing: leafs are signed here, as many as are asked for", "CSRMaxPerSecond", "CSRMaxConcurrent")
}

// decoded is a value of a flag or a variable, which is JSON, or of a file, which is a map.
func decoded(v any) (any, error) {
	text, ok := v.(string)
	if !ok || text == "" {
		return v, nil
	}
	var out any
	err := json.Unmarshal([]byte(text), &out)
	return out, err
}
