package main

import (
	"fmt"
	"log/slog"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/sallyport/sallyport/admin"
	"github.com/spf13/pflag"
)

// advice is what has to be added to the commands that texts advise, so that they work where they are
// typed as they stand: of several control planes on a machine they are to ask the same one, and of
// several directories they are to look at the same one. The zero value adds nothing.
type advice struct {
	// flags are for what asks a running control plane.
	flags string
	// catalog is for `sallyport validate`: the directory and what changes how it is read; empty: that
	// is not known here.
	catalog string
}

// adviceOf is for texts of a command that was given flags.
func adviceOf(f *pflag.FlagSet) advice {
	value := func(flag string) string {
		if given := f.Lookup(flag); given != nil {
			return given.Value.String()
		}
		return ""
	}
	return adviceFor(value("runtime-dir"), value("runtime-owner"))
}

// adviceFor is for texts about a control plane whose runtime directory is dir and belongs to owner;
// empty: these are the usual ones.
func adviceFor(dir, owner string) (a advice) {
	if dir == "" {
		return a
	}
	if full, err := filepath.Abs(dir); err == nil { // a working directory that is gone
		dir = full
	}
	if dir != admin.DefaultDir() {
		a.flags = " --runtime-dir " + shellWord(dir)
		if owner != "" {
			a.flags += " --runtime-owner " + shellWord(owner)
		}
	}
	return a
}

// advice is for texts of a control plane that is configured by c.
func (c serveConfig) advice() advice {
	a := adviceFor(c.RuntimeDir, "")
	if c.Catalog == "" {
		return a
	}
	a.catalog = shellWord(c.Catalog)
	for _, f := range []flagValue{
		{"--datacenter", c.Datacenter, "dc1"},
		{"--default-intention-policy", c.DefaultIntentionPolicy, "deny"},
		{"--intention-enforcement", c.IntentionEnforcement, "rbac"},
		{"--revocation", c.Revocation, ""},
	} {
		if f.value != f.unset {
			a.catalog += fmt.Sprintf(" %s %s", f.flag, shellWord(fmt.Sprint(f.value)))
		}
	}
	return a
}

// advised is a command in a text. What is said of `sallyport envoy` and `sallyport bootstrap` without
// an argument is about a process, and no command to type.
var advised = regexp.MustCompile("`sallyport (?:(status|check|change|intention|leaf|token|revoke|unrevoke|revoked)((?: [^`]*)?)|(envoy|bootstrap)( [^`]+)|(validate))`")

// text is s with the commands in it completed.
func (a advice) text(s string) string {
	if a == (advice{}) || !strings.Contains(s, "`sallyport ") {
		return s
	}
	return advised.ReplaceAllStringFunc(s, func(command string) string {
		command = strings.Trim(command, "`")
		switch {
		case command == "sallyport validate":
			if a.catalog != "" {
				command += " " + a.catalog
			}
		case !strings.Contains(command, "--help") && !strings.Contains(command, "--runtime-dir"):
			command += a.flags
		}
		return "`" + command + "`"
	})
}

// attr is what a log says, completed.
func (a advice) attr(_ []string, x slog.Attr) slog.Attr {
	switch v := x.Value.Any().(type) {
	case error:
		x.Value = slog.StringValue(a.text(v.Error()))
	case string:
		x.Value = slog.StringValue(a.text(v))
	}
	return x
}
