package main

import (
	"errors"
	"log/slog"
	"path/filepath"
	"testing"

	"github.com/sallyport/sallyport/admin"
)

// TestAdvice: a command that is advised says which control plane it asks, and nothing else is changed.
func TestAdvice(t *testing.T) {
	t.Chdir(t.TempDir())
	here, err := filepath.Abs("r t")
	if err != nil {
		t.Fatal(err)
	}
	a := adviceFor("r t", "mesh")
	a.catalog = "/etc/mesh --datacenter dc2"
	flags := " --runtime-dir '" + here + "' --runtime-owner mesh"
	for text, want := range map[string]string{
		"`sallyport status` lists them":                   "`sallyport status" + flags + "` lists them",
		"run `sallyport envoy --sidecar-for web`, or not": "run `sallyport envoy --sidecar-for web" + flags + "`, or not",
		"restart `sallyport envoy`":                       "restart `sallyport envoy`",
		"see `sallyport status --help`":                   "see `sallyport status --help`",
		"did you mean `sallyport intention check`?":       "did you mean `sallyport intention check" + flags + "`?",
		"the log of `sallyport serve`":                    "the log of `sallyport serve`",
		"and 3 more: `sallyport validate` lists them":     "and 3 more: `sallyport validate /etc/mesh --datacenter dc2` lists them",
		"`sallyport statuses`":                            "`sallyport statuses`",
		"nothing":                                         "nothing",
	} {
		if got := a.text(text); got != want {
			t.Errorf("%q became\n%q, want\n%q", text, got, want)
		}
		if got := a.attr(nil, slog.Any("err", errors.New(text))).Value.String(); got != want {
			t.Errorf("an error %q became\n%q, want\n%q", text, got, want)
		}
	}
	const usual = "`sallyport status` lists them"
	for _, dir := range []string{"", admin.DefaultDir()} {
		if got := adviceFor(dir, "").text(usual); got != usual {
			t.Errorf("in the usual place: %q", got)
		}
	}
}
