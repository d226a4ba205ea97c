package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"
)

// read is readConfig of a fresh set of flags, in an environment without variables of ours.
func read(t *testing.T, env map[string]string, file string, args ...string) (serveConfig, error) {
	t.Helper()
	withoutVariables(t)
	for k, v := range env {
		t.Setenv(k, v)
	}
	f := pflag.NewFlagSet("serve", pflag.ContinueOnError)
	serveFlags(f)
	f.String("runtime-dir", os.Getenv("SALLYPORT_RUNTIME_DIR"), "")
	if file != "" {
		name := "sallyport.yaml"
		switch {
		case strings.HasPrefix(file, "{"):
			name = "sallyport.json"
		case strings.Contains(file, " = "):
			name = "sallyport.toml"
		}
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, []byte(file), 0o600); err != nil {
			t.Fatal(err)
		}
		args = append(args, "--config", path)
	}
	if err := f.Parse(args); err != nil {
		t.Fatal(err)
	}
	return readConfig(f)
}

func TestReadConfig(t *testing.T) {
	c, err := read(t, nil, "")
	if err != nil || c.Datacenter != "dc1" || c.LeafTTL != 72*time.Hour || c.DefaultIntentionPolicy != "deny" {
		t.Fatalf("defaults = %+v, %v", c, err)
	}
	c, err = read(t, map[string]string{"SALLYPORT_LEAF_TTL": "2h", "SALLYPORT_DATACENTER": "env", "SALLYPORT_RUNTIME_DIR": "/run/x"},
		"leaf_ttl: 3h\ndatacenter: file\ncatalog: /etc/sallyport\n", "--datacenter", "flag")
	if err != nil || c.LeafTTL != 2*time.Hour || c.Datacenter != "flag" || c.Catalog != "/etc/sallyport" || c.RuntimeDir != "/run/x" {
		t.Errorf("file, variable, flag = %+v, %v", c, err)
	}
}

// TestEmptyVariables: an empty variable is an empty value, where a value may be empty.
func TestEmptyVariables(t *testing.T) {
	c, err := read(t, map[string]string{"SALLYPORT_METRICS_BIND": "", "SALLYPORT_LEAF_TTL": "", "SALLYPORT_CONSUL": ""}, "consul: true\nxds_address: a:1\n")
	if err != nil || c.MetricsBind != "" || c.LeafTTL != 72*time.Hour || !c.Consul || c.XDSAddress != "a:1" {
		t.Errorf("empty variables = %+v, %v", c, err)
	}
}

func TestReadConfigRefuses(t *testing.T) {
	for _, tc := range []struct {
		name, file, want string
		env              map[string]string
	}{
		{name: "unknown key", file: "catalog: x\nleaf-tll: 3h\n", want: `sallyport.yaml:2: unknown key "leaf-tll"`},
		{name: "not yaml", file: "catalog: [x\n", want: "sallyport.yaml"},
		{name: "not a duration", file: "catalog: x\nleaf_ttl: soon\n", want: "sallyport.yaml:2: 'leaf_ttl' time: invalid duration"},
		{name: "no unit", file: "catalog: x\nleaf_ttl: 300\n", want: `sallyport.yaml:2: 'leaf_ttl' 300: a time has a unit`},
		{name: "variable", file: "leaf_ttl: 3h\n", env: map[string]string{"SALLYPORT_LEAF_TTL": "soon"}, want: `SALLYPORT_LEAF_TTL: 'leaf_ttl' time: invalid duration`},
		{name: "toml table", file: "catalog = \"x\"\n[foo]\nbar = 1\n", want: `sallyport.toml:2: unknown key "foo"`},
		{name: "toml", file: "catalog = \"x\"\nleaf_ttl = = 1\n", want: "sallyport.toml:2: "},
		{name: "json", file: "{\n\"catalog\": \"x\",\n}", want: "sallyport.json:3: "},
		{name: "unknown variable", env: map[string]string{"SALLYPORT_LEAFTTL": "1h"}, want: "SALLYPORT_LEAFTTL is not a variable"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if _, err := read(t, tc.env, tc.file); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error = %v, want %q in it", err, tc.want)
			}
		})
	}
	if _, err := read(t, nil, "", "--config", "sallyport.hcl"); err == nil || !strings.Contains(err.Error(), "must end in .yaml, .yml, .toml or .json") {
		t.Errorf("configuration in HCL: %v", err)
	}
}

func TestFilesConfig(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file.hcl"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	good := serveConfig{Catalog: dir, Data: filepath.Join(dir, "d"), Datacenter: "dc1", DefaultIntentionPolicy: "deny", IntentionEnforcement: "rbac", TokenTTL: time.Hour, LeafTTL: time.Hour}
	if err := good.check(); err != nil {
		t.Fatal(err)
	}
	for want, change := range map[string]func(*serveConfig){
		"--datacenter":               func(c *serveConfig) { c.Datacenter = "a/b" },
		"--default-intention-policy": func(c *serveConfig) { c.DefaultIntentionPolicy = "permit" },
		"--intention-enforcement":    func(c *serveConfig) { c.IntentionEnforcement = "RBAC" },
		"--revocation":               func(c *serveConfig) { c.Revocation = "now" },
		"--catalog":                  func(c *serveConfig) { c.Catalog = "" },
		"--token-ttl":                func(c *serveConfig) { c.TokenTTL = 0 },
		"--xds-address":              func(c *serveConfig) { c.XDSAddress = "7000" },
		"--leaf-ttl":                 func(c *serveConfig) { c.LeafTTL = 300 },
		"--trust-domain":             func(c *serveConfig) { c.TrustDomain = "a/b" },
		"--http-addr: is for":        func(c *serveConfig) { c.HTTPAddr = "x" },
		"--token-file: is for":       func(c *serveConfig) { c.TokenFile = "x" },
		"--ca-file: is for":          func(c *serveConfig) { c.CAFile = "x" },
		"--ca-path: is for":          func(c *serveConfig) { c.CAPath = "x" },
		"--client-cert: is for":      func(c *serveConfig) { c.ClientCert = "x" },
		"--client-key: is for":       func(c *serveConfig) { c.ClientKey = "x" },
		"--tls-server-name: is for":  func(c *serveConfig) { c.TLSServerName = "x" },
		"--node-name: is for":        func(c *serveConfig) { c.NodeName = "x" },
		"--service-tokens: is for":   func(c *serveConfig) { c.ServiceTokens = "x=/y" },
		"is the catalog directory":   func(c *serveConfig) { c.Data = dir },
		"no-such does not exist":     func(c *serveConfig) { c.Catalog = filepath.Join(dir, "no-such") },
		"is not a directory":         func(c *serveConfig) { c.Catalog = filepath.Join(dir, "file.hcl") },
	} {
		c := good
		change(&c)
		if err := c.check(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error = %v, want %q named", err, want)
		}
	}
}

// TestCatalogThatIsAway: a mesh that has begun goes on while its catalog is away.
func TestCatalogThatIsAway(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "ca"), 0o700); err != nil {
		t.Fatal(err)
	}
	c := serveConfig{Catalog: filepath.Join(dir, "no-such"), Data: dir, Datacenter: "dc1", DefaultIntentionPolicy: "deny", IntentionEnforcement: "rbac", TokenTTL: time.Hour, LeafTTL: time.Hour}
	if err := c.check(); err != nil {
		t.Error(err)
	}
}

// TestMistakesTogether: of file, variables and flags all mistakes are told at once, but no
// consequences of them.
func TestMistakesTogether(t *testing.T) {
	withoutVariables(t)
	t.Setenv("SALLYPORT_TOKEN_TTLL", "1h")
	path := filepath.Join(t.TempDir(), "s.yaml")
	if err := os.WriteFile(path, []byte("catalgo: x\nleaf_ttl: 5\nfoo: bar\nxds_address: nowhere\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	parse := func(args ...string) *pflag.FlagSet {
		f := pflag.NewFlagSet("serve", pflag.ContinueOnError)
		serveFlags(f)
		if err := f.Parse(append(args, "--config", path)); err != nil {
			t.Fatal(err)
		}
		return f
	}
	_, err := serveConfiguration(parse("--intention-enforcement", "x", "--revocation", "y"))
	want := `environment: SALLYPORT_TOKEN_TTLL is not a variable that sallyport knows: did you mean SALLYPORT_TOKEN_TTL?
` + path + `:2: 'leaf_ttl' 5: a time has a unit, like "10s" or "72h"
` + path + `:1: unknown key "catalgo": did you mean catalog?
` + path + `:3: unknown key "foo": the keys are the flags of ` + "`sallyport serve --help` with '_' for '-'" + `
--catalog is missing: the directory of service definitions and intentions, or --consul, to read the local agent
--xds-address: "nowhere" is not host:port`
	if err == nil || err.Error() != want {
		t.Errorf("mistakes:\n%v\nwant:\n%s", err, want)
	}
	dir := t.TempDir()
	_, err = serveConfiguration(parse("--catalog", dir, "--intention-enforcement", "x", "--revocation", "y", "--http-addr", "z", "--ca-file", "z"))
	for _, want := range []string{"--http-addr: is for", "--ca-file: is for", `--intention-enforcement: "x"`, `--revocation: "y"`} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("mistakes: %v, want %q among them", err, want)
		}
	}
	if err := os.WriteFile(path, []byte("catalog: [\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err = serveConfiguration(parse()); err == nil || strings.Contains(err.Error(), "--catalog") {
		t.Errorf("of a file that cannot be read: %v, want nothing of what it may say", err)
	}
}

func TestConsulConfig(t *testing.T) {
	good, err := read(t, nil, "", "--consul", "--data", "d", "--http-addr", "127.0.0.1:8500", "--node-name", "n", "--token-file", "t")
	if err != nil {
		t.Fatal(err)
	}
	if err := good.check(); err != nil {
		t.Fatal(err)
	}
	for want, change := range map[string]func(*serveConfig){
		"--catalog":                  func(c *serveConfig) { c.Catalog = "c" },
		"--trust-domain":             func(c *serveConfig) { c.TrustDomain = "x" },
		"--datacenter":               func(c *serveConfig) { c.Datacenter = "dc2" },
		"--default-intention-policy": func(c *serveConfig) { c.DefaultIntentionPolicy = "allow" },
		"--intention-enforcement":    func(c *serveConfig) { c.IntentionEnforcement = "RBAC" },
		"--leaf-ttl":                 func(c *serveConfig) { c.LeafTTL = time.Hour },
		"--token-ttl":                func(c *serveConfig) { c.TokenTTL = time.Minute },
	} {
		c := good
		change(&c)
		if err := c.check(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error = %v, want %q named", err, want)
		}
	}
}

// TestRevokedKey: what Consul would not take, or would not be read as YAML, is refused before anything is opened.
func TestRevokedKey(t *testing.T) {
	t.Parallel()
	for key, good := range map[string]bool{
		"": true, "sallyport/revoked": true, "a": true, "/a": false, "a/": false, "a b": false, "a\"b": false, "a.json": false, strings.Repeat("a", 600): false,
	} {
		err := serveConfig{Consul: true, RevokedKey: key}.checkConsul()
		if told := err != nil && strings.Contains(err.Error(), "--revoked-key"); told == good {
			t.Errorf("%q: %v", key, err)
		}
	}
}
