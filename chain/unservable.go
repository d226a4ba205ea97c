package chain

import (
	"fmt"
	"maps"
	"regexp/syntax"
	"slices"
	"strings"
)

// Of what Consul takes, Envoy refuses some, and with it all routes or the whole cluster that it is part of; and on some it breaks each
// request. The methods named Unservable say which, so that in files it is an error, and beside Consul the one route or leg is left out.
// What they look at is also what came from a Consul that checks less than the Check methods do.

// maxRegex bounds expressions, in bytes, and maxProgram what they are compiled to, in instructions as Go counts them. Envoys count
// otherwise, and have their own bound in their bootstrap.
const (
	maxRegex   = 1024
	maxProgram = 5000
	// maxText bounds names and values. Envoy's bound on the names of parameters is the narrowest.
	maxText = 1024
)

// Unservable says what is wrong with the router's routes. See Check for the order.
func (r *Router) Unservable() []*Mistake {
	c := checker{Mistake: Mistake{Kind: RouterKind, Service: r.Service}}
	for i := range r.Routes {
		route := &r.Routes[i]
		if c.Path, c.Origin = at("Routes", i), r.Origin; route.Origin != "" {
			c.Origin = route.Origin
		}
		route.unservable(&c, fmt.Sprintf("Route[%d]", i))
	}
	return c.list
}

// Unservable says why a route of a compiled chain cannot be served. Paths are below the route.
func (r *Route) Unservable() []*Mistake {
	c := checker{Mistake: Mistake{Kind: RouterKind, Origin: r.Origin}}
	r.unservable(&c, "the route")
	return c.list
}

// Unservable says what is wrong with the splitter's legs.
func (s *Splitter) Unservable() []*Mistake {
	c := checker{Mistake: Mistake{Kind: SplitterKind, Service: s.Service, Origin: s.Origin}}
	sum := 0.0
	for i := range s.Splits {
		c.Path = at("Splits", i)
		s.Splits[i].unservable(&c, fmt.Sprintf("Split[%d]", i))
		sum += max(s.Splits[i].Weight, 0)
	}
	c.Path = nil
	if len(s.Splits) > 0 && sum < 0.01 {
		c.say(at("Splits"), "all splits have a weight of 0, so no request can be answered")
	}
	return c.list
}

// Unservable says why a leg of a compiled chain cannot be served. Paths are below the leg.
func (s *Split) Unservable() []*Mistake {
	c := checker{Mistake: Mistake{Kind: SplitterKind}}
	s.unservable(&c, "the split")
	return c.list
}

func (s *Split) unservable(c *checker, name string) {
	if !(s.Weight >= 0 && s.Weight <= 100) {
		c.say(at("Weight"), "%s has a Weight of %v: it must be 0 to 100", name, s.Weight)
	}
	s.RequestHeaders.unservable(c, name, "RequestHeaders")
	s.ResponseHeaders.unservable(c, name, "ResponseHeaders")
}

// Unservable says what is wrong with the resolver's load balancer, and with filters that name fields which no instance has.
func (r *Resolver) Unservable() []*Mistake {
	c := checker{Mistake: Mistake{Kind: ResolverKind, Service: r.Service, Origin: r.Origin}}
	for _, name := range slices.Sorted(maps.Keys(r.Subsets)) {
		if _, err := ParseFilter(r.Subsets[name].Filter); err != nil {
			c.say(at("Subsets", name, "Filter"), "Filter for subset %q is %v", name, err)
		}
	}
	if l := r.LoadBalancer; l != nil {
		c.Path = at("LoadBalancer")
		l.unservable(&c)
	}
	return c.list
}

// Bounds and defaults of Envoy.
const (
	defaultMinRing = 1024
	maxRing        = 8 << 20
	minChoices     = 2
)

func (l *LoadBalancer) unservable(c *checker) {
	if !slices.Contains(policies, l.Policy) {
		c.say(at("Policy"), "LoadBalancer policy %q is not known", l.Policy)
	}
	if r := l.RingHash; r != nil {
		low, high := r.MinimumRingSize, r.MaximumRingSize
		if low == 0 {
			low = defaultMinRing
		}
		if high == 0 {
			high = maxRing
		}
		switch {
		case low > maxRing || high > maxRing:
			c.say(at("RingHashConfig"), "RingHashConfig: a ring has at most %d entries", maxRing)
		case low > high:
			c.say(at("RingHashConfig"), "RingHashConfig: MinimumRingSize (%d; 1024 if it is not given) is greater than MaximumRingSize (%d)", low, high)
		}
	}
	if r := l.LeastRequest; r != nil && r.ChoiceCount != 0 && r.ChoiceCount < minChoices {
		c.say(at("LeastRequestConfig", "ChoiceCount"), "LeastRequestConfig: ChoiceCount is %d: it must be %d or more", r.ChoiceCount, minChoices)
	}
	for i, h := range l.HashPolicies {
		if wrong := h.unservable(); wrong != "" {
			c.say(at("HashPolicies", i), "LoadBalancer HashPolicy[%d]: %s", i, wrong)
		}
	}
}

// unservable says what is wrong with the policy; empty: nothing.
func (h *HashPolicy) unservable() string {
	switch {
	case h.SourceIP:
		return ""
	case h.Field == "":
		return "it says nothing to hash: give Field and FieldValue, or SourceIP"
	case !slices.Contains(hashFields, h.Field):
		return fmt.Sprintf("%q is not a supported field", h.Field)
	case h.FieldValue == "":
		return fmt.Sprintf("Field %q was specified without a FieldValue", h.Field)
	case h.Field == "header" && !isHeader(strings.TrimPrefix(h.FieldValue, ":")), h.Field == "cookie" && !isHeader(h.FieldValue):
		return fmt.Sprintf("FieldValue %q cannot be the name of a %s", h.FieldValue, h.Field)
	case len(h.FieldValue) > maxText:
		return fmt.Sprintf("FieldValue has %d bytes: at most %d", len(h.FieldValue), maxText)
	case h.Cookie != nil && h.Cookie.TTL < 0:
		return fmt.Sprintf("the TTL of a cookie is %s: it must be >= 0", h.Cookie.TTL)
	case h.Cookie != nil && (strings.Contains(h.Cookie.Path, ";") || !isValue(h.Cookie.Path)):
		return fmt.Sprintf("%q cannot be the path of a cookie", h.Cookie.Path)
	}
	return ""
}

func (r *Route) unservable(c *checker, name string) {
	for _, key := range r.Unknown {
		c.say(at("Match"), "%s matches by %s, which sallyport does not know", name, key)
	}
	if m := r.Match; m != nil {
		m.unservable(c, name)
	}
	d := r.Destination
	if d == nil {
		return
	}
	if p := d.PrefixRewrite; p != "" && !strings.HasPrefix(p, "/") {
		c.say(at("Destination", "PrefixRewrite"), "%s PrefixRewrite doesn't start with '/', so every request would be broken: %q", name, p)
	} else if !isPath(p) {
		c.say(at("Destination", "PrefixRewrite"), "%s PrefixRewrite has a character that no path can have: %q", name, p)
	}
	for i, word := range d.RetryOn {
		if !slices.Contains(retryConditions, word) && !slices.Contains(moreRetryConditions, word) {
			c.say(at("Destination", "RetryOn", i), "%s has a retry condition that Envoy does not know: %q", name, word)
		}
	}
	d.RequestHeaders.unservable(c, name, "Destination", "RequestHeaders")
	d.ResponseHeaders.unservable(c, name, "Destination", "ResponseHeaders")
}

// moreRetryConditions are Envoy's beside Consul's.
var moreRetryConditions = []string{"reset-before-request", "retriable-status-codes", "retriable-headers", "http3-post-connect-failure"}

func (m *HTTPMatch) unservable(c *checker, name string) {
	regex := func(path []string, expression string) {
		if wrong := wrongRegex(expression); wrong != "" {
			c.say(path, "%s %s: %s", name, label(path), wrong)
		}
	}
	if given(m.PathExact != "", m.PathPrefix != "", m.PathRegex != "") > 1 {
		c.say(at("Match", "HTTP"), "%s has more than one of PathExact, PathPrefix and PathRegex", name)
	}
	regex(at("Match", "HTTP", "PathRegex"), m.PathRegex)
	for i, h := range m.Header {
		path := at("Match", "HTTP", "Header", i)
		if !isHeader(strings.TrimPrefix(h.Name, ":")) {
			c.say(append(path, "Name"), "%s Header[%d]: %q cannot be the name of a header", name, i, h.Name)
		}
		if given(h.Present, h.Exact != "", h.Prefix != "", h.Suffix != "", h.Contains != "", h.Regex != "") != 1 {
			c.say(path, "%s Header[%d] has none or several of Present, Exact, Prefix, Suffix, Contains and Regex", name, i)
		}
		if h.IgnoreCase && (h.Regex != "" || h.Present) {
			c.say(append(path, "IgnoreCase"), "%s Header[%d]: IgnoreCase is for Exact, Prefix, Suffix and Contains; write (?i) in front of a Regex", name, i)
		}
		regex(append(path, "Regex"), h.Regex)
	}
	for i, q := range m.QueryParam {
		path := at("Match", "HTTP", "QueryParam", i)
		if q.Name == "" || len(q.Name) > maxText {
			c.say(append(path, "Name"), "%s QueryParam[%d]: a Name has 1 to %d bytes", name, i, maxText)
		}
		if given(q.Present, q.Exact != "", q.Regex != "") != 1 {
			c.say(path, "%s QueryParam[%d] has none or several of Present, Exact and Regex", name, i)
		}
		regex(append(path, "Regex"), q.Regex)
	}
	for i, method := range m.Methods {
		if !isHeader(method) {
			c.say(at("Match", "HTTP", "Methods", i), "%s: %q cannot be a method", name, method)
		}
	}
}

// label is the end of a path, for messages: PathRegex, Header[1] Regex.
func label(path []string) string {
	if n := len(path); n > 4 {
		return fmt.Sprintf("%s[%s] %s", path[n-3], path[n-2], path[n-1])
	}
	return path[len(path)-1]
}

// wrongRegex is why an expression is refused; empty: it is not. Go's language is RE2's.
func wrongRegex(expression string) string {
	if len(expression) > maxRegex {
		return fmt.Sprintf("the regular expression has %d bytes: at most %d", len(expression), maxRegex)
	}
	r, err := syntax.Parse(expression, syntax.Perl)
	if err != nil {
		return fmt.Sprintf("not a regular expression of RE2's: %v", err)
	}
	p, err := syntax.Compile(r.Simplify())
	switch {
	case err != nil:
		return err.Error()
	case len(p.Inst) > maxProgram:
		return fmt.Sprintf("the regular expression is too large: %d instructions, where %d are taken", len(p.Inst), maxProgram)
	}
	return ""
}

func (m *HeaderModifiers) unservable(c *checker, name string, path ...string) {
	if m == nil {
		return
	}
	for _, list := range []struct {
		key    string
		values map[string]string
	}{{"Add", m.Add}, {"Set", m.Set}} {
		for _, header := range slices.Sorted(maps.Keys(list.values)) {
			to := slices.Concat(path, []string{list.key, header})
			if wrong := unchangeable(header); wrong != "" {
				c.say(to, "%s %s.%s: %s", name, path[len(path)-1], list.key, wrong)
				continue
			}
			if lower := strings.ToLower(header); lower == "content-length" || lower == "transfer-encoding" {
				c.say(to, "%s %s.%s: %q says how long a message is, so every one would be broken", name, path[len(path)-1], list.key, header)
				continue
			}
			if wrong := wrongValue(list.values[header]); wrong != "" {
				c.say(to, "%s %s.%s of %q: %s", name, path[len(path)-1], list.key, header, wrong)
			}
		}
	}
	for i, header := range m.Remove {
		if wrong := unchangeable(header); wrong != "" {
			c.say(slices.Concat(path, at("Remove", i)), "%s %s.Remove: %s", name, path[len(path)-1], wrong)
		}
	}
}

// unchangeable says why a header cannot be set or removed; empty: it can.
func unchangeable(header string) string {
	switch {
	case strings.HasPrefix(header, ":"), strings.EqualFold(header, "host"):
		return fmt.Sprintf("%q cannot be changed: Envoy refuses host and names that begin with ':'", header)
	case !isHeader(header):
		return fmt.Sprintf("%q cannot be the name of a header", header)
	}
	return ""
}

// isHeader reports whether s can be the name of a header (RFC 9110, token).
func isHeader(s string) bool {
	for i := range len(s) {
		c := s[i]
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		if !letter && strings.IndexByte("!#$%&'*+-.^_`|~", c) < 0 {
			return false
		}
	}
	return s != "" && len(s) <= maxText
}

// isValue reports whether s can be the value of a header: no controls but tabs.
func isValue(s string) bool {
	return !strings.ContainsFunc(s, func(c rune) bool { return c < ' ' && c != '\t' || c == 0x7f })
}

// isPath reports whether s can be the beginning of a request's path.
func isPath(s string) bool {
	return !strings.ContainsFunc(s, func(c rune) bool { return c <= ' ' || c >= 0x7f || c == '#' })
}
