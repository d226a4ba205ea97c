package consul

import (
	"fmt"
	"maps"
	"math"
	"net"
	"net/netip"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"time"
)

// opt is a value that may not be set: Consul tells "not set" from zero.
type opt[T any] struct {
	set   bool
	value T
}

func some[T any](v T) opt[T] { return opt[T]{true, v} }

// or is o if it is set, else p.
func (o opt[T]) or(p opt[T]) opt[T] {
	if o.set {
		return o
	}
	return p
}

// options reads one of the opaque maps that Consul calls config. Whoever wrote them chose the spelling of keys and types: bind_port or
// BindPort, 21000 or "21000". What does not make sense is a problem and counts as not set.
type options struct {
	what     string // for people: "config of web-sidecar-proxy"
	values   map[string]any
	spelling map[string]string // of the keys as they were written
	asked    map[string]bool
	problems *[]string
}

func readOptions(what string, m map[string]any, problems *[]string) *options {
	o := &options{what: what, values: map[string]any{}, spelling: map[string]string{}, asked: map[string]bool{}, problems: problems}
	for _, k := range slices.Sorted(maps.Keys(m)) {
		c := canonical(k)
		if first, ok := o.spelling[c]; ok {
			o.problem("%.60q and %.60q in %s are one: %.60q is taken", first, k, what, first)
			continue
		}
		if m[k] != nil {
			o.values[c], o.spelling[c] = m[k], k
		}
	}
	return o
}

// canonical is what the spellings of one key have in common.
func canonical(key string) string { return strings.ToLower(strings.ReplaceAll(key, "_", "")) }

func (o *options) problem(format string, args ...any) {
	*o.problems = append(*o.problems, fmt.Sprintf(format, args...))
}

func (o *options) field(key string) any {
	c := canonical(key)
	o.asked[c] = true
	return o.values[c]
}

func (o *options) mismatch(key, want string, v any) {
	o.problem("%s in %s must be %s, not %.60q: it is not taken", key, o.what, want, fmt.Sprint(v))
}

// text is a string; the empty one counts as not set.
func (o *options) text(key string) opt[string] {
	switch v := o.field(key).(type) {
	case nil:
		return opt[string]{}
	case string:
		return opt[string]{v != "", v}
	default:
		o.mismatch(key, "a string", v)
		return opt[string]{}
	}
}

// integer is a whole number within the bounds.
func (o *options) integer(key string, least, most int64) opt[int64] {
	v := o.field(key)
	var n int64
	switch v := v.(type) {
	case nil:
		return opt[int64]{}
	case float64:
		if v != math.Trunc(v) || math.Abs(v) > 1<<53 {
			o.mismatch(key, "a whole number", v)
			return opt[int64]{}
		}
		n = int64(v)
	case string:
		if v == "" {
			return opt[int64]{}
		}
		p, err := strconv.ParseInt(v, 10, 64)
		if err != nil {
			o.mismatch(key, "a whole number", v)
			return opt[int64]{}
		}
		n = p
	default:
		o.mismatch(key, "a whole number", v)
		return opt[int64]{}
	}
	if n < least || n > most {
		o.problem("%s in %s is %d, which is not between %d and %d: it is not taken", key, o.what, n, least, most)
		return opt[int64]{}
	}
	return some(n)
}

func (o *options) port(key string) opt[uint16] {
	n := o.integer(key, 1, 65535)
	return opt[uint16]{n.set, uint16(n.value)} //nolint:gosec // within the range
}

func (o *options) count(key string) opt[uint32] {
	n := o.integer(key, 0, 1<<31)
	return opt[uint32]{n.set, uint32(n.value)} //nolint:gosec // within the range
}

func (o *options) boolean(key string) opt[bool] {
	switch v := o.field(key).(type) {
	case nil:
		return opt[bool]{}
	case bool:
		return some(v)
	case string:
		if v == "" {
			return opt[bool]{}
		}
		if v == "true" || v == "false" {
			return some(v == "true")
		}
		o.mismatch(key, "true or false", v)
	default:
		o.mismatch(key, "true or false", v)
	}
	return opt[bool]{}
}

func (o *options) milliseconds(key string) opt[time.Duration] {
	n := o.integer(key, 0, longestTime.Milliseconds())
	return opt[time.Duration]{n.set, time.Duration(n.value) * time.Millisecond}
}

// duration is "10s" or, as Consul writes it back, a number of nanoseconds. Zero counts as not set.
func (o *options) duration(key string) time.Duration {
	switch v := o.field(key).(type) {
	case nil:
	case float64:
		return clampDuration(v)
	case string:
		if v == "" {
			return 0
		}
		if d, err := time.ParseDuration(v); err == nil && d >= 0 && d <= longestTime {
			return d
		}
		o.mismatch(key, `a time like "10s"`, v)
	default:
		o.mismatch(key, `a time like "10s"`, v)
	}
	return 0
}

// child is the map of a key; ok is false if there is none.
func (o *options) child(key string) (c *options, ok bool) {
	v := o.field(key)
	if list, isList := v.([]any); isList && len(list) == 1 { // an HCL block
		v = list[0]
	}
	m, isMap := v.(map[string]any)
	if v != nil && !isMap {
		o.mismatch(key, "a block", v)
	}
	return readOptions(key+" in "+o.what, m, o.problems), isMap
}

// ip is an IP address without a zone; localhost is taken for 127.0.0.1.
func (o *options) ip(key string) opt[netip.Addr] {
	t := o.text(key)
	if !t.set {
		return opt[netip.Addr]{}
	}
	a, ok := parseIP(t.value)
	if !ok {
		o.mismatch(key, "an IP address", t.value)
	}
	return opt[netip.Addr]{ok, a}
}

func parseIP(s string) (netip.Addr, bool) {
	if s == "localhost" {
		return netip.AddrFrom4([4]byte{127, 0, 0, 1}), true
	}
	a, err := netip.ParseAddr(s)
	if err != nil || a.Zone() != "" {
		return netip.Addr{}, false
	}
	return a.Unmap(), true
}

func (o *options) addrPort(key string) opt[netip.AddrPort] {
	t := o.text(key)
	if !t.set {
		return opt[netip.AddrPort]{}
	}
	host, port, err := net.SplitHostPort(t.value)
	a, ok := parseIP(host)
	p, perr := strconv.ParseUint(port, 10, 16)
	if err != nil || !ok || perr != nil || p == 0 {
		o.mismatch(key, `an IP address and a port, like "0.0.0.0:9102"`, t.value)
		return opt[netip.AddrPort]{}
	}
	return some(netip.AddrPortFrom(a, uint16(p)))
}

// user is a uid, or the name of a user of this machine.
func (o *options) user(key string) opt[int] {
	if s, ok := o.field(key).(string); ok && s != "" {
		if _, err := strconv.ParseInt(s, 10, 64); err != nil {
			u, err := user.Lookup(s)
			if err != nil {
				o.mismatch(key, "a user of this machine, or a number", s)
				return opt[int]{}
			}
			uid, err := strconv.Atoi(u.Uid)
			return opt[int]{err == nil, uid}
		}
	}
	n := o.integer(key, 0, 1<<32-2) // the largest uid_t means "no user"
	return opt[int]{n.set, int(n.value)}
}

// named is one of the values that parse knows.
func named[T any](o *options, key string, parse func(string) (T, bool), known string) opt[T] {
	t := o.text(key)
	if !t.set {
		return opt[T]{}
	}
	v, ok := parse(t.value)
	if !ok {
		o.mismatch(key, known, t.value)
	}
	return opt[T]{ok, v}
}

// given are the keys that were written, begin with prefix and were not asked for, as they were written, sorted.
func (o *options) given(prefix string) []string {
	var out []string
	for c, key := range o.spelling {
		if !o.asked[c] && strings.HasPrefix(strings.ToLower(key), prefix) {
			out = append(out, key)
		}
	}
	slices.Sort(out)
	return out
}
