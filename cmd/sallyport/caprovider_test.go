package main

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/sallyport/sallyport/ca/vault"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// settings reads what a configuration file says of the CA.
func settings(t *testing.T, file string) (caSettings, error) {
	t.Helper()
	for _, name := range []string{"VAULT_ADDR", "VAULT_TOKEN", "VAULT_CACERT", "VAULT_SKIP_VERIFY", "VAULT_NAMESPACE"} {
		t.Setenv(name, "")
	}
	cfg, err := read(t, nil, file)
	if err != nil {
		t.Fatal(err)
	}
	return cfg.caSettings()
}

// consuls is what somebody has for Consul's servers, with Vault.
const consuls = `trust_domain: mesh.example
ca_provider: vault
ca_config:
  Address: https://vault.example:8200
  AuthMethod: {Type: approle, MountPath: ar, Params: {role_id: x, secret_id_file_path: /s}}
  RootPKIPath: connect-root
  IntermediatePKIPath: connect-intermediate
  Namespace: team1
  CAFile: /ca.pem
  LeafCertTTL: 24h
  IntermediateCertTTL: 720h
  RootCertTTL: 87600h
  PrivateKeyType: ec
  PrivateKeyBits: 256
  CSRMaxConcurrent: 2
`

// TestConsulsKeys: keys in Consul's words mean the same, in either spelling and from a variable, and those that mean nothing are told.
func TestConsulsKeys(t *testing.T) {
	snake := strings.NewReplacer("Address", "address", "RootPKIPath", "root_pki_path", "IntermediatePKIPath", "intermediate_pki_path", "AuthMethod", "auth_method",
		"LeafCertTTL", "leaf_cert_ttl", "CAFile", "ca_file", "Type: approle", "type: approle", "MountPath", "mount_path").Replace(consuls)
	asJSON := `{"trust_domain": "mesh.example", "ca_provider": "vault", "ca_config": "{\"Address\": \"https://vault.example:8200\", \"Namespace\": \"team1\", \"CAFile\": \"/ca.pem\", \"RootPKIPath\": \"connect-root\",` +
		`\"IntermediatePKIPath\": \"y\", \"LeafCertTTL\": \"24h\", \"IntermediateCertTTL\": \"720h\", \"RootCertTTL\": \"87600h\", \"PrivateKeyType\": \"ec\", \"PrivateKeyBits\": 256, \"CSRMaxConcurrent\": 2,` +
		`\"AuthMethod\": {\"Type\": \"approle\", \"MountPath\": \"ar\", \"Params\": {\"role_id\": \"x\", \"secret_id_file_path\": \"/s\"}}}"}`
	for _, file := range []string{consuls, snake, asJSON} {
		s, err := settings(t, file)
		if err != nil {
			t.Errorf("%v\n%s", err, file)
			continue
		}
		if s.provider != "vault" || s.leafTTL != 24*time.Hour || s.intermediateTTL != 720*time.Hour || s.rootTTL != 87600*time.Hour || len(s.providers) != 1 {
			t.Errorf("%+v", s)
		}
		notes := strings.Join(s.notes, "\n")
		for _, want := range []string{"IntermediatePKIPath means nothing", "PrivateKeyType", "PrivateKeyBits", "CSRMaxConcurrent"} {
			if !strings.Contains(notes, want) {
				t.Errorf("%s is not told: %s", want, notes)
			}
		}
		if len(s.notes) != 4 {
			t.Errorf("notes: %s", notes)
		}
		o := s.providers[0].options
		o.again()
		cfg, err := vaultConfig(o, func(string) string { return "" })
		login, ok := cfg.Login.(*vault.AppRole)
		if err != nil || !ok || login.Mount != "ar" || login.RoleID != "x" || login.SecretIDFile != "/s" {
			t.Fatalf("%v, %+v", err, cfg.Login)
		}
		if cfg.Server.URL != "https://vault.example:8200" || cfg.Server.CAFile != "/ca.pem" || cfg.Mount != "connect-root" || cfg.Namespace != "team1" || cfg.LeafRole != "" {
			t.Errorf("%+v", cfg)
		}
	}
}

// TestVaultVariables: what Vault's own commands are told by variables is taken where the configuration says nothing.
func TestVaultVariables(t *testing.T) {
	env := map[string]string{
		"VAULT_ADDR": "https://a", "VAULT_TOKEN": "t", "VAULT_CACERT": "/ca", "VAULT_CLIENT_CERT": "/c", "VAULT_CLIENT_KEY": "/k", "VAULT_TLS_SERVER_NAME": "n", "VAULT_NAMESPACE": "ns",
	}
	for config, want := range map[string]string{"": "https://a t /ca /c /k n ns", `{"Address": "https://b", "Token": "u", "Namespace": "m"}`: "https://b u /ca /c /k n m"} {
		o, err := optionsOf("ca_config", config)
		if err != nil {
			t.Fatal(err)
		}
		cfg, err := vaultConfig(o, func(name string) string { return env[name] })
		token, ok := cfg.Login.(*vault.Token)
		if err != nil || !ok {
			t.Fatal(err, cfg.Login)
		}
		s := cfg.Server
		if got := strings.Join([]string{s.URL, token.Text, s.CAFile, s.CertFile, s.KeyFile, s.ServerName, cfg.Namespace}, " "); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}

// TestProviders: several, of every kind, and which of them signs.
func TestProviders(t *testing.T) {
	dir := t.TempDir()
	s, err := settings(t, fmt.Sprintf(`trust_domain: mesh.example
ca_provider: corp
ca_providers:
  corp: {provider: plugin, config: {command: [/usr/local/lib/x, -v], env: [CA_DIR=/x], leafs: true}}
  socket: {provider: plugin, config: {url: "unix:///run/x", uids: [990]}}
  bao: {provider: vault, config: {address: "https://bao", token_file: /t, root_pki_path: pki}}
  keys: {provider: files, config: {roots_file: %[1]s/r, chain_file: %[1]s/c, key_file: %[1]s/k}}
  requests: {provider: files, config: {roots_file: %[1]s/r, chain_file: %[1]s/c, request_file: %[1]s/q}}
`, dir))
	if err != nil || s.provider != "corp" {
		t.Fatal(s.provider, err)
	}
	each := map[string]bool{}
	for _, p := range s.providers {
		o, err := p.open(spiffeid.RequireTrustDomainFromString("mesh.example"), slog.New(slog.DiscardHandler), nil, nil)
		if err != nil || o.Upstream == nil || o.close() != nil {
			t.Errorf("%s: %v", p.name, err)
		}
		each[p.name] = o.EachLeaf
	}
	if diff := cmp.Diff(map[string]bool{"corp": true, "socket": false, "bao": false, "keys": true, "requests": false}, each); diff != "" {
		t.Error(diff)
	}
}

func TestProvidersRefused(t *testing.T) {
	const td = "trust_domain: mesh.example\n"
	for file, want := range map[string]string{
		"ca_provider: plugin\nca_config: {command: /x}\n":                                                                         "--trust-domain is missing",
		td + "ca_provider: aws-pca\n":                                                                                             "is neither builtin, files, plugin, vault nor a name",
		td + "ca_provider: vault\nca_config: {token: secret, address: \"https://a\"}\n":                                           `mount ""`,
		td + "ca_provider: vault\nca_config: {token: secret, address: \"http://a\", root_pki_path: x}\n":                          "write https",
		td + "ca_provider: vault\nca_config: {token: secret, address: \"https://a\", root_pki_path: x, TLSSkipVerify: true}\n":    "whoever answers would be believed",
		td + "ca_provider: vault\nca_config: {address: \"https://a\", root_pki_path: x}\n":                                        "no way to log in",
		td + "ca_provider: vault\nca_config: {token: secret, AuthMethod: {Type: jwt}}\n":                                          "there are a token and AuthMethod",
		td + "ca_provider: vault\nca_config: {AuthMethod: {Type: jwt}}\n":                                                         "none of approle, cert and kubernetes",
		td + "ca_provider: vault\nca_config: {AuthMethod: {Type: approle, Params: {secret_id: secret}}}\n":                        "secret_id_file_path",
		td + "ca_provider: vault\nca_config: {token: secret, root_pki_pth: x}\n":                                                  "did you mean RootPKIPath?",
		td + "ca_provider: vault\nca_config: {token: [secret]}\n":                                                                 "Token is a []interface {}, want a text",
		td + "ca_provider: vault\nca_config: [1, 2]\n":                                                                            "want a block",
		td + "ca_provider: plugin\nca_config: {command: /x, url: \"https://x\"}\n":                                                "give either a command or a URL",
		td + "ca_provider: plugin\nca_config: {command: ./x}\n":                                                                   "absolute path",
		td + "ca_provider: plugin\nca_config: {url: \"unix:///x\", uids: [mesh]}\n":                                               "whole numbers",
		td + "ca_provider: files\nca_config: {roots_file: /r}\n":                                                                  "chain_file is missing",
		td + "ca_provider: consul\nca_config: {PrivateKey: secret}\n":                                                             "the built-in root is made here",
		td + "ca_provider: consul\nca_config: {LeafCertTTL: 3}\n":                                                                 "a time has a unit",
		td + "leaf_ttl: 2h\nca_config: {LeafCertTTL: 3h}\n":                                                                       "give one of them",
		td + "ca_config: {address: x}\n":                                                                                          `unknown key "address"`,
		td + "ca_config: {chain_file: x}\n":                                                                                       `unknown key "chain_file"`,
		td + "ca_config: {roots_file: x}\n":                                                                                       "--ca-provider is not given",
		td + "ca_provider: file\nca_config: {roots_file: /r, chain_file: /c, key_file: /k}\n":                                     "did you mean files?",
		td + "ca_provider: files\nca_config: {root_file: /r, chain_file: /c, key_file: /k}\n":                                     "did you mean roots_file?",
		td + "ca_config: \"{\"\n":                                                                                                 "is not JSON",
		td + "ca_providers: {consul: {provider: plugin, config: {command: /x}}}\n":                                                "is no name",
		td + "ca_providers: {x: {provider: aws, config: {}}}\n":                                                                   "is none of files, plugin, vault",
		td + "ca_providers: {x: {provider: plugin, config: {command: /x}, more: 1}}\n":                                            `unknown key "more"`,
		td + "ca_provider: plugin\nca_config: {command: /x}\nca_providers: {plugin: {provider: plugin, config: {command: /x}}}\n": "are this one, too",
	} {
		if _, err := settings(t, file); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "secret\"") {
			t.Errorf("%s%v, want %q", file, err, want)
		}
	}
}

// TestProvidersBesideConsul: there Consul's servers keep the CA.
// TestOneMistake: a word that is mistyped is one mistake, and not all that follows from it.
func TestOneMistake(t *testing.T) {
	for _, file := range []string{
		"trust_domain: mesh.example\nca_provider: file\nca_config: {roots_file: /r, chain_file: /c, key_file: /k}\n",
		"trust_domain: mesh.example\nca_provider: files\nca_config: {root_file: /r, chain_file: /c, key_file: /k}\n",
	} {
		if _, err := settings(t, file); err == nil || strings.Contains(err.Error(), "\n") || strings.Count(err.Error(), "ca_config: ") > 1 {
			t.Errorf("%s%v", file, err)
		}
	}
}

func TestProvidersBesideConsul(t *testing.T) {
	for _, file := range []string{"consul: true\nca_provider: vault\n", "consul: true\nca_config: {address: x}\n", "consul: true\nca_providers: {x: {}}\n"} {
		cfg, err := read(t, nil, file)
		if err == nil {
			err = cfg.check()
		}
		if err == nil || !strings.Contains(err.Error(), "Consul's servers keep the CA") {
			t.Errorf("%s%v", file, err)
		}
	}
}

// TestVaultPolicy: the command prints what vault.Policy says of the same.
func TestVaultPolicy(t *testing.T) {
	for want, args := range map[string][]string{
		`path "pki/root/sign-intermediate"`: nil, `path "a/b/issuer/x/sign-intermediate"`: {"--mount", "a/b", "--issuer", "x"}, `path "pki/sign/r"`: {"--leaf-role", "r"},
	} {
		out, err := command(t, append([]string{"ca", "vault-policy"}, args...)...)
		if err != nil || !strings.Contains(out, want) || !strings.Contains(out, `path "auth/token/renew-self"`) {
			t.Errorf("%v: %s, want %s", err, out, want)
		}
	}
}

// TestVaultPolicyOfAConfiguration: mount, issuer and role are those of the file, whose token need not exist yet.
func TestVaultPolicyOfAConfiguration(t *testing.T) {
	withoutVariables(t)
	const several = "ca_providers:\n  east: {provider: vault, config: {root_pki_path: e}}\n  west: {provider: vault, config: {root_pki_path: w, issuer: i}}\n  corp: {provider: plugin}\n"
	for name, tt := range map[string]struct {
		file, args, want string
	}{
		"an intermediate": {"ca_provider: vault\nca_config: {Address: 'https://v:8200', RootPKIPath: a/b, TokenFile: /none, AuthMethod: {Type: new}}\n", "", `path "a/b/root/sign-intermediate"`},
		"an issuer":       {"ca_provider: vault\nca_config: {RootPKIPath: a, Issuer: x}\n", "vault", `path "a/issuer/x/sign-intermediate"`},
		"each leaf":       {"ca_provider: vault\nca_config: {RootPKIPath: a, IntermediatePKIPath: b, LeafRole: r}\n", "", `path "b/sign/r"`},
		"by its name":     {several, "west", `path "w/issuer/i/sign-intermediate"`},
		"several":         {several, "", "say which one: east, west"},
		"another":         {several, "corp", `"corp" is no Vault of it: there are east, west`},
		"none":            {"ca_providers: {corp: {provider: plugin}}\n", "", "no provider in it is a Vault"},
		"no mount":        {"ca_provider: vault\nca_config: {LeafRole: r}\n", "", "IntermediatePKIPath with LeafRole"},
		"both":            {several, "--mount x", "leave out either"},
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "sallyport.yaml")
			writeText(t, file, tt.file)
			out, err := command(t, append([]string{"ca", "vault-policy", "--config", file}, strings.Fields(tt.args)...)...)
			if err != nil {
				out = err.Error()
			}
			if !strings.Contains(out, tt.want) {
				t.Errorf("%s, want %s", out, tt.want)
			}
		})
	}
	file := filepath.Join(t.TempDir(), "sallyport.yaml")
	writeText(t, file, several)
	t.Setenv("SALLYPORT_CONFIG", file)
	if out, err := command(t, "ca", "vault-policy", "east"); err != nil || !strings.Contains(out, `path "e/root`) {
		t.Errorf("by SALLYPORT_CONFIG: %v, %s", err, out)
	}
	if out, err := command(t, "ca", "vault-policy", "--mount", "m"); err != nil || !strings.Contains(out, `path "m/root`) {
		t.Errorf("--mount beside SALLYPORT_CONFIG: %v, %s", err, out)
	}
}

// TestRoleIDFile: Consul takes the ID of a role from a file, too.
func TestRoleIDFile(t *testing.T) {
	name := filepath.Join(t.TempDir(), "role")
	if err := os.WriteFile(name, []byte("x\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	o, _ := optionsOf("AuthMethod", map[string]any{"Params": map[string]any{"role_id_file_path": name, "secret_id_file_path": "/s"}})
	login, err := vaultLogin("approle", o)
	if l, ok := login.(*vault.AppRole); err != nil || !ok || l.RoleID != "x" {
		t.Errorf("%v, %+v", err, login)
	}
}
