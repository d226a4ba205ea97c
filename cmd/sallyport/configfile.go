package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/sallyport/sallyport/definition"
	"github.com/spf13/pflag"
	"github.com/spf13/viper"
)

// readConfig puts file, environment and flags together; the later ones win in the order file,
// variable, flag. The error has all mistakes; what they are about is as if nobody had said it.
func readConfig(f *pflag.FlagSet) (serveConfig, error) {
	v := viper.New()
	v.SetEnvPrefix("SALLYPORT")
	v.AllowEmptyEnv(true) // "" is a value of --metrics-bind
	known := []string{"SALLYPORT_CONFIG"}
	var mistakes []error
	f.VisitAll(func(fl *pflag.Flag) {
		key := strings.ReplaceAll(fl.Name, "-", "_")
		if slices.Contains([]string{"config", "help", "json", "method", "path", "header"}, key) { // no part of a configuration
			return
		}
		known = append(known, variable(fl.Name))
		if key == "runtime_owner" { // it is for those who ask
			return
		}
		mistakes = append(mistakes, v.BindPFlag(key, fl))
		if fl.Value.Type() == "string" || os.Getenv(variable(fl.Name)) != "" { // of the others an empty one says nothing
			mistakes = append(mistakes, v.BindEnv(key))
		}
	})
	path := ""
	if config := f.Lookup("config"); config != nil { // `serve` has one, and the variables for itself
		for _, e := range os.Environ() {
			if name, _, _ := strings.Cut(e, "="); strings.HasPrefix(name, "SALLYPORT_") && !slices.Contains(known, name) {
				mistakes = append(mistakes, fmt.Errorf("environment: %s is not a variable that sallyport knows: %s", name, nearestOf(name, known)))
			}
		}
		path = cmp.Or(config.Value.String(), os.Getenv("SALLYPORT_CONFIG"))
	}
	if path != "" {
		if err := readConfigFile(v, path); err != nil {
			return serveConfig{}, unreadError{errors.Join(append(mistakes, err)...)}
		}
	}
	var c serveConfig
	if err := v.UnmarshalExact(&c, viper.DecodeHook(durationHook)); err != nil {
		wrong, errs := configErrors(path, err)
		mistakes = append(mistakes, errs...)
		rest := v.AllSettings()
		for _, key := range wrong {
			if delete(rest, key); f.Lookup(strings.ReplaceAll(key, "_", "-")) != nil {
				rest[key] = f.Lookup(strings.ReplaceAll(key, "_", "-")).DefValue
			}
		}
		v = viper.New()
		c = serveConfig{}
		if err := errors.Join(v.MergeConfigMap(rest), v.Unmarshal(&c, viper.DecodeHook(durationHook))); err != nil {
			mistakes = append(mistakes, err)
		}
	}
	return c, errors.Join(mistakes...)
}

// serveConfiguration is the whole configuration of `serve`, checked. The error has all mistakes: who
// mistypes one thing may have mistyped two.
func serveConfiguration(f *pflag.FlagSet) (serveConfig, error) {
	c, err := readConfig(f)
	if _, unread := errors.AsType[unreadError](err); unread {
		return c, err
	}
	return c, errors.Join(err, c.complete(), c.check())
}

// unreadError is that of a file of which nothing could be read, so that what it says is not known.
type unreadError struct{ error }

// nearestOf is a suggestion for a name that is none of those known.
func nearestOf(name string, known []string) string {
	if near := definition.Nearest(name, known); near != "" {
		return "did you mean " + near + "?"
	}
	return "those are " + strings.Join(known, " ")
}

func readConfigFile(v *viper.Viper, path string) error {
	if ext := filepath.Ext(path); !slices.Contains([]string{".yaml", ".yml", ".toml", ".json"}, ext) {
		return fmt.Errorf("configuration %s: its name must end in .yaml, .yml, .toml or .json, which says how it is read", path)
	}
	if _, err := os.Stat(path); err != nil {
		return fmt.Errorf("configuration: %w: name a file that this user may read with --config or SALLYPORT_CONFIG", err)
	}
	v.SetConfigFile(path)
	if err := v.ReadInConfig(); err != nil {
		return syntaxError(path, err)
	}
	return nil
}

// durationHook reads times, which are nothing without a unit.
func durationHook(_, to reflect.Type, data any) (any, error) {
	if to != reflect.TypeFor[time.Duration]() {
		return data, nil
	}
	switch d := data.(type) {
	case time.Duration: // a flag's default
		return d, nil
	case string:
		return time.ParseDuration(d)
	}
	return nil, fmt.Errorf(`%v: a time has a unit, like "10s" or "72h"`, data)
}

// positioned is an error of the TOML parser.
type positioned interface {
	error
	Position() (row, column int)
}

// syntaxError puts the line at which a file cannot be parsed in front, where the parser does not
// say it itself.
func syntaxError(path string, err error) error {
	if j, ok := errors.AsType[*json.SyntaxError](err); ok {
		if b, readErr := os.ReadFile(path); readErr == nil {
			return fmt.Errorf("%s:%d: %w", path, 1+bytes.Count(b[:min(int(j.Offset), len(b))], []byte("\n")), err)
		}
	}
	if t, ok := errors.AsType[positioned](err); ok {
		row, _ := t.Position()
		return fmt.Errorf("%s:%d: %w", path, row, err)
	}
	// The YAML parser quotes the beginning of a value, which may be anything if it is the wrong file.
	return fmt.Errorf("configuration %s: %s", path, quotedValue.ReplaceAllString(err.Error(), "a value"))
}

var (
	quotedValue = regexp.MustCompile("`[^`]*`")
	invalidKeys = regexp.MustCompile(`^'[^']*' has invalid keys: (.*)$`)
	quotedKey   = regexp.MustCompile(`'([a-z_]+)'`)
)

// configErrors are the mistakes that viper finds, one each, and the keys that they are about.
func configErrors(path string, err error) (keys []string, errs []error) {
	for line := range strings.Lines(strings.TrimPrefix(err.Error(), "decoding failed due to the following error(s):")) {
		line = strings.TrimSpace(line)
		if m := invalidKeys.FindStringSubmatch(line); m != nil {
			for key := range strings.SplitSeq(m[1], ", ") {
				keys, errs = append(keys, key), append(errs, unknownKey(path, key))
			}
			continue
		}
		if m := quotedKey.FindStringSubmatch(line); m != nil {
			keys, errs = append(keys, m[1]), append(errs, wrongValue(path, m[1], line))
		} else if line != "" {
			errs = append(errs, fmt.Errorf("configuration: %s", line))
		}
	}
	return keys, errs
}

// keyLine is where a file has a key; empty: it has none.
func keyLine(path, key string) string {
	b, err := os.ReadFile(path)
	at := regexp.MustCompile(`(?im)^[ \t{,"\[]*` + regexp.QuoteMeta(key) + `["\s]*[:=\]]`).FindIndex(b)
	if err != nil || at == nil {
		return ""
	}
	return fmt.Sprintf("%s:%d", path, 1+bytes.Count(b[:at[0]], []byte("\n")))
}

func unknownKey(path, key string) error {
	var all []string
	for f := range reflect.TypeFor[serveConfig]().Fields() {
		all = append(all, f.Tag.Get("mapstructure"))
	}
	advice := "the keys are the flags of `sallyport serve --help` with '_' for '-'"
	if near := definition.Nearest(key, all); near != "" {
		advice = "did you mean " + near + "?"
	}
	return fmt.Errorf("%s: unknown key %q: %s", cmp.Or(keyLine(path, key), "configuration "+path), key, advice)
}

// wrongValue is viper's text about a value, with where it is: a variable wins over the file.
func wrongValue(path, key, text string) error {
	if name := variable(key); os.Getenv(name) != "" {
		return fmt.Errorf("%s: %s", name, text)
	}
	return fmt.Errorf("%s: %s", cmp.Or(keyLine(path, key), "configuration"), text)
}
