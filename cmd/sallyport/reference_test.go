package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/internal/golden"
	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
	"github.com/spf13/pflag"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// reference is where the generated documentation is. `make generate` writes it; here it is
// compared.
const reference = "../../docs/reference"

// rootForDocs is the command line without what the environment of the test says, and with the
// commands that cobra adds when it runs.
func rootForDocs(t *testing.T) *cobra.Command {
	t.Helper()
	t.Setenv("SALLYPORT_RUNTIME_DIR", "")
	root := newRootCommand()
	root.DisableAutoGenTag = true
	root.InitDefaultCompletionCmd()
	return root
}

// commands calls f for c and what is below it, as the reader meets them.
func commands(c *cobra.Command, f func(*cobra.Command)) {
	f(c)
	for _, sub := range c.Commands() {
		if sub.IsAvailableCommand() {
			commands(sub, f)
		}
	}
}

func TestReference(t *testing.T) {
	pages := golden.New(t, reference, ".md")
	schemas := golden.New(t, reference, ".json")
	pages.Equal(t, "commands.md", commandsPage(t))
	pages.Equal(t, "configuration.md", configurationPage(t))
	pages.Equal(t, "metrics.md", metricsPage(t))
	schemas.Equal(t, "serve.schema.json", schema(t))
	schemas.Equal(t, "grafana.json", dashboard(t))
}

func commandsPage(t *testing.T) []byte {
	t.Helper()
	var b bytes.Buffer
	b.WriteString(generated + "\n# Commands\n\nWhat `sallyport COMMAND --help` says. `sallyport completion bash|zsh|fish` prints what a shell needs to complete them; the Debian package\ninstalls that, and the man pages.\n\n")
	commands(rootForDocs(t), func(c *cobra.Command) {
		if c.HasParent() && c.Parent().Name() == "completion" { // cobra's own words, the same for every program
			return
		}
		var page bytes.Buffer
		if err := doc.GenMarkdown(c, &page); err != nil {
			t.Fatal(err)
		}
		text, _, _ := strings.Cut(page.String(), "### SEE ALSO")
		text = strings.ReplaceAll(text, "### Synopsis\n\n", "")
		text, _, _ = strings.Cut(text, "### Options inherited from parent commands")
		b.WriteString(strings.TrimSpace(text) + "\n\n")
	})
	return append(bytes.TrimSpace(b.Bytes()), '\n')
}

const generated = "<!-- Made by `make generate`; do not edit. -->\n"

// choices are the values of the keys that take one of a few. TestChoices holds them to the code.
var choices = map[string][]string{
	"default_intention_policy": {"deny", "allow"},
	"intention_enforcement":    {"rbac", "ext_authz", "both"},
	"revocation":               {"", "drain", "new", "next-request"},
	"log_format":               {"auto", "text", "json"},
	"log_level":                {"debug", "info", "warn", "error"},
}

func TestChoices(t *testing.T) {
	take := func(key, value string) error {
		cfg, err := read(t, nil, fmt.Sprintf("%s: %q\ncatalog: c\ndata: d\n", key, value))
		if err == nil {
			_, err = cfg.filesConfig(spiffeid.RequireTrustDomainFromString("mesh.invalid"))
		}
		if err == nil {
			_, err = newLogger(cfg.LogFormat, cfg.LogLevel, os.Stderr, advice{})
		}
		return err
	}
	for key, values := range choices {
		for _, v := range values {
			if err := take(key, v); err != nil {
				t.Errorf("%s: %q: %v", key, v, err)
			}
		}
		if err := take(key, "perhaps"); err == nil {
			t.Errorf("%s: any value is taken: it is not a choice", key)
		}
	}
}

// TestPackagedConfiguration: what the Debian package installs is taken as it is.
func TestPackagedConfiguration(t *testing.T) {
	text, err := os.ReadFile("../../packaging/etc/sallyport.yaml")
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := read(t, nil, string(text))
	catalog := cfg.Catalog
	cfg.Catalog = "../../packaging/etc/catalog"
	if err == nil {
		err = cfg.check()
	}
	if err != nil || catalog != "/etc/sallyport/catalog" || cfg.RuntimeDir != "/run/sallyport" || cfg.AdminGroup != "sallyport-envoy" {
		t.Errorf("%+v, %v", cfg, err)
	}
}

// key is one thing that `serve` can be told.
type key struct {
	name, flag, variable, kind, fallback, usage string
}

func keys(t *testing.T) []key {
	t.Helper()
	serve, _, err := rootForDocs(t).Find([]string{"serve"})
	if err != nil {
		t.Fatal(err)
	}
	known := map[string]reflect.Kind{}
	for f := range reflect.TypeFor[serveConfig]().Fields() {
		known[f.Tag.Get("mapstructure")] = f.Type.Kind()
	}
	var out []key
	add := func(f *pflag.Flag) {
		if f.Name == "config" || f.Name == "help" || f.Name == "runtime-owner" {
			return
		}
		name := strings.ReplaceAll(f.Name, "-", "_")
		if _, ok := known[name]; !ok {
			t.Errorf("--%s is no key of serveConfig", f.Name)
		}
		delete(known, name)
		out = append(out, key{name: name, flag: f.Name, variable: "SALLYPORT_" + strings.ToUpper(name), kind: f.Value.Type(), fallback: f.DefValue, usage: f.Usage})
	}
	serve.LocalFlags().VisitAll(add)
	serve.InheritedFlags().VisitAll(add)
	for name := range known {
		t.Errorf("the key %s has no flag", name)
	}
	slices.SortFunc(out, func(a, b key) int { return strings.Compare(a.name, b.name) })
	return out
}

func configurationPage(t *testing.T) []byte {
	t.Helper()
	var b bytes.Buffer
	b.WriteString(generated + `
# Configuration of the control plane

` + "`sallyport serve`" + ` is told the same things by flags, by variables and by a file (` + "`--config FILE` or `SALLYPORT_CONFIG`" + `: YAML, TOML or JSON by its
ending). A flag wins over a variable, a variable over the file. An unknown key, an unknown ` + "`SALLYPORT_*`" + ` variable and a wrong value are errors; one
in the file is named with its line. Durations are written as 90s, 20m or 72h.

[serve.schema.json](serve.schema.json) is a JSON schema of the file. Editors that speak to yaml-language-server use it after this first line:

` + "```yaml" + `
# yaml-language-server: $schema=/usr/share/sallyport/serve.schema.json
catalog: /etc/sallyport/catalog
data: /var/lib/sallyport
leaf_ttl: 24h
` + "```" + `

| key | flag | variable | type | default | |
|---|---|---|---|---|---|
`)
	for _, k := range keys(t) {
		fallback := "–"
		if k.fallback != "" {
			fallback = "`" + k.fallback + "`"
		}
		kind := k.kind
		if c := choices[k.name]; c != nil {
			kind = "one of " + strings.TrimPrefix("`"+strings.Join(c, "`, `")+"`", "``, ")
		}
		fmt.Fprintf(&b, "| `%s` | `--%s` | `%s` | %s | %s | %s |\n", k.name, k.flag, k.variable, kind, fallback, strings.ReplaceAll(k.usage, "|", `\|`))
	}
	return b.Bytes()
}

// durations are those that Go reads: 1h30m.
const durations = `^([0-9]+(\.[0-9]+)?(ns|us|µs|ms|s|m|h))+$`

func schema(t *testing.T) []byte {
	t.Helper()
	type property struct {
		Type        any      `json:"type"`
		Description string   `json:"description"`
		Default     any      `json:"default,omitempty"`
		Enum        []string `json:"enum,omitempty"`
		Pattern     string   `json:"pattern,omitempty"`
	}
	properties := map[string]property{}
	for _, k := range keys(t) {
		p := property{Type: "string", Description: k.usage, Enum: choices[k.name]}
		if k.fallback != "" {
			p.Default = k.fallback
		}
		switch k.kind {
		case "string":
		case "bool":
			p.Type, p.Default = "boolean", k.fallback == "true"
		case "int":
			p.Type, p.Default = "integer", nil // zero stands for what the usage says
		case "duration":
			p.Pattern = durations
		default:
			t.Errorf("%s: the schema has no words for the type %s", k.name, k.kind)
		}
		if k.name == "ca_config" || k.name == "ca_providers" {
			p.Type = []string{"object", "string"} // a block, or JSON as of the flag
		}
		properties[k.name] = p
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	err := e.Encode(map[string]any{
		"$schema": "http://json-schema.org/draft-07/schema#",
		"title":   "The configuration file of sallyport serve", "type": "object", "additionalProperties": false, "properties": properties,
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}
