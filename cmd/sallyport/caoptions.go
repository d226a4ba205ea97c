package main

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/sallyport/sallyport/definition"
)

// options are the keys of a block, as Consul writes them (RootPKIPath) or as this configuration does (root_pki_path). Each is to be taken:
// rest tells of those that nobody took.
type options struct {
	// of is where the block is.
	of     string
	values map[string]any // by name in lower case, without '_'
	// written are the names as they are there, by the same.
	written map[string]string
	taken   map[string]bool
	errs    []error
	notes   []string
	// known are the names that were asked for, as they are written.
	known []string
}

func folded(name string) string { return strings.ToLower(strings.ReplaceAll(name, "_", "")) }

// optionsOf reads a block. Nothing is an empty one.
func optionsOf(of string, v any) (*options, error) {
	o := &options{of: of, values: map[string]any{}, written: map[string]string{}}
	o.again()
	v, err := decoded(v)
	if err != nil {
		return o, fmt.Errorf("%s: is not JSON: %w", of, err)
	}
	if list, ok := v.([]any); ok && len(list) == 1 { // a block of HCL in JSON
		v = list[0]
	}
	switch v := v.(type) {
	case nil:
	case string:
	case map[string]any:
		for name, value := range v {
			key := folded(name)
			if of == "ca_providers" {
				key = name
			}
			if _, twice := o.values[key]; twice {
				return o, fmt.Errorf("%s: %s is there twice", of, name)
			}
			o.values[key], o.written[key] = value, name
		}
	default:
		return o, fmt.Errorf("%s: is a %T, want a block", of, v)
	}
	return o, nil
}

// again forgets what was taken.
func (o *options) again() {
	taken := map[string]bool{}
	for _, key := range []string{"leafcertttl", "intermediatecertttl", "rootcertttl"} {
		if o.of == "ca_config" { // of all providers
			taken[key] = true
		}
	}
	o.taken, o.errs, o.notes, o.known = taken, nil, nil, nil
}

// take is a value; nil: it is not there.
func (o *options) take(name string) any {
	o.known = append(o.known, name)
	o.taken[folded(name)] = true
	return o.values[folded(name)]
}

func (o *options) wrong(name string, v any, want string) {
	o.errs = append(o.errs, fmt.Errorf("%s: %s is a %T, want %s", o.of, name, v, want)) // not the value: it may be a secret
}

func (o *options) text(name string) string {
	v := o.take(name)
	s, ok := v.(string)
	if !ok && v != nil {
		o.wrong(name, v, "a text")
	}
	return s
}

// path is the full path of a file.
func (o *options) path(name string) string {
	s := o.text(name)
	if s == "" {
		return ""
	}
	full, err := filepath.Abs(s)
	if err != nil {
		o.errs = append(o.errs, fmt.Errorf("%s: %s: %w", o.of, name, err))
	}
	return full
}

func (o *options) yes(name string) bool {
	switch v := o.take(name).(type) {
	case nil:
	case bool:
		return v
	case string:
		if v == "true" || v == "false" {
			return v == "true"
		}
		o.wrong(name, v, "true or false")
	default:
		o.wrong(name, v, "true or false")
	}
	return false
}

func (o *options) duration(name string) time.Duration {
	v := o.take(name)
	if v == nil {
		return 0
	}
	s, _ := v.(string)
	d, err := time.ParseDuration(s)
	if err != nil || d <= 0 {
		o.errs = append(o.errs, fmt.Errorf(`%s: %s: %v: a time has a unit, like "72h"`, o.of, name, v))
	}
	return d
}

// list is a list of texts. A text alone is one.
func (o *options) list(name string) (list []string) {
	switch v := o.take(name).(type) {
	case nil:
	case string:
		return []string{v}
	case []any:
		for _, e := range v {
			s, ok := e.(string)
			if !ok {
				o.wrong(name, e, "texts")
			}
			list = append(list, s)
		}
	default:
		o.wrong(name, v, "a list of texts")
	}
	return list
}

// numbers is a list of whole numbers.
func (o *options) numbers(name string) (list []int) {
	v := o.take(name)
	all, ok := v.([]any)
	if !ok && v != nil {
		all = []any{v}
	}
	for _, e := range all {
		switch n := e.(type) {
		case int:
			list = append(list, n)
		case int64:
			list = append(list, int(n))
		case float64:
			if n != math.Trunc(n) {
				o.wrong(name, e, "whole numbers")
			}
			list = append(list, int(n))
		default:
			o.wrong(name, e, "whole numbers")
		}
	}
	return list
}

func (o *options) note(name, why string) {
	o.notes = append(o.notes, fmt.Sprintf("%s: %s %s", o.of, name, why))
}

// ignored notes keys that mean nothing here.
func (o *options) ignored(why string, names ...string) {
	for _, name := range names {
		if _, ok := o.values[folded(name)]; ok && !o.taken[folded(name)] || name == "RootPKIPath" && o.values[folded(name)] != nil {
			o.note(name, why)
		}
		o.take(name)
	}
}

// refused refuses keys.
func (o *options) refused(why string, names ...string) {
	for _, name := range names {
		if o.take(name) != nil {
			o.errs = append(o.errs, fmt.Errorf("%s: %s: %s", o.of, name, why))
		}
	}
}

// rest is all that is wrong, and the keys that nobody took.
func (o *options) rest() error {
	errs := slices.Clone(o.errs)
	for _, key := range slices.Sorted(maps.Keys(o.values)) {
		if o.taken[key] {
			continue
		}
		advice := "the keys are " + strings.Join(o.known, ", ")
		for _, name := range o.known {
			if near := definition.Nearest(key, []string{folded(name)}); near != "" {
				advice = "did you mean " + name + "?"
			}
		}
		errs = append(errs, fmt.Errorf("%s: unknown key %q: %s", o.of, o.written[key], advice))
	}
	return errors.Join(errs...)
}
