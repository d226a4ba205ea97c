package main

import (
	"bytes"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

func TestWrongCommands(t *testing.T) {
	for args, want := range map[string]string{
		"foo":                    `unknown command "foo" for "sallyport"`,
		"intention chek a b":     `unknown command "chek" for "sallyport intention"`,
		"intention check a":      "sallyport intention check takes SOURCE and DESTINATION, and was given 1 argument: see `sallyport intention check --help`",
		"serve --catlog x":       "unknown flag: --catlog: did you mean --catalog?",
		"envoy --sidecarfor web": "did you mean --sidecar-for?",
		"envoy -sidecar-fro web": "did you mean --sidecar-for?",
		"serve --leaf_ttl 1h":    "did you mean --leaf-ttl?",
		"status -j":              "did you mean --json?",
		"status -r":              "see `sallyport status --help`",
		"status --nothing-like":  "see `sallyport status --help`",
		"status --runtime-dri x": "did you mean --runtime-dir?",
		"bootstrap -adminbind x": "did you mean --admin-bind?",
		"leaf --josn":            "see `sallyport leaf --help`",
		"bootstrap --wait x":     "one has a unit, like",
		"envoy":                  "sidecar-for",
		"envoy web":              "come after --",
		"leaf rotate":            "sallyport leaf rotate takes SERVICE, and was given 0 arguments",
		"status a b":             "sallyport status takes at most PROXY, and was given 2 arguments",
		"statsu":                 "did you mean `sallyport status`?",
		"bootstrap":              "whose sidecar?",
		"validate":               "sallyport validate takes DIR, and was given 0 arguments",
	} {
		root := newRootCommand()
		root.SetArgs(strings.Fields(args))
		var out bytes.Buffer
		root.SetOut(&out)
		root.SetErr(&out)
		if err := root.Execute(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("sallyport %s: %v, want %q", args, err, want)
		}
		if out.Len() > 0 {
			t.Errorf("sallyport %s printed %q besides its error", args, out.String())
		}
	}
}

// A word in backquotes becomes the name of a flag's type, which is never meant here.
func TestFlagsAreExplained(t *testing.T) {
	var walk func(*cobra.Command)
	walk = func(c *cobra.Command) {
		c.Flags().VisitAll(func(f *pflag.Flag) {
			if f.Usage == "" || strings.Contains(f.Usage, "`") {
				t.Errorf("%s --%s: usage %q", c.CommandPath(), f.Name, f.Usage)
			}
		})
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	walk(newRootCommand())
}

// TestValidateSaysNone: in JSON no mistakes and no warnings are empty lists, and a warning is counted in the line that says how much there is.
func TestValidateSaysNone(t *testing.T) {
	dir := t.TempDir()
	writeText(t, filepath.Join(dir, "mesh.hcl"), twoServices)
	if out, err := command(t, "validate", "--json", dir); err != nil || strings.Contains(out, "null") {
		t.Errorf("%v, %s", err, out)
	}
	writeText(t, filepath.Join(dir, "more.hcl"), "Kind = \"service-intentions\"\nName = \"nobody\"\nSources { Name = \"web\" Action = \"allow\" }\n")
	if out, err := command(t, "validate", dir); err != nil || !strings.Contains(out, "no mistakes, 1 warning") {
		t.Errorf("%v, %s", err, out)
	}
}

// TestValidateClaims: what serve would leave out, and what it takes for now alone, is a warning at its line.
func TestValidateClaims(t *testing.T) {
	withoutVariables(t)
	dir := t.TempDir()
	writeText(t, filepath.Join(dir, "mesh.hcl"), strings.Replace(twoServices, "{ sidecar_service {} }", `{ sidecar_service { proxy { upstreams = [{
		destination_name = "x" local_bind_port = 19876 }] } } }`, 1))
	out, err := command(t, "validate", "--json", dir)
	if err != nil || !strings.Contains(out, "sallyport's own --metrics-bind") || !strings.Contains(out, `"file": "mesh.hcl"`) {
		t.Errorf("%v, %s", err, out)
	}
	t.Setenv("SALLYPORT_METRICS_BIND", "127.0.0.1:29876")
	if out, err := command(t, "validate", "--json", dir); err != nil || strings.Contains(out, "--metrics-bind") {
		t.Errorf("%v, %s", err, out)
	}
}
