package chain

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/internal/expression"
)

// checker gathers the mistakes of an entry.
type checker struct {
	Mistake // with what all of them have in common
	list    []*Mistake
}

// say adds a mistake. Path is below that of the checker.
func (c *checker) say(path []string, format string, args ...any) {
	m := c.Mistake
	m.Path = slices.Concat(c.Path, path)
	c.list = append(c.list, m.say(format, args...))
}

func at(path ...any) (list []string) {
	for _, p := range path {
		list = append(list, fmt.Sprint(p))
	}
	return list
}

// Check says what is wrong with the router, whatever other entries say, in Consul's words; the first is the one that Consul says.
func (r *Router) Check() []*Mistake {
	c := checker{Mistake: Mistake{Kind: RouterKind, Service: r.Service, Origin: r.Origin}}
	for i := range r.Routes {
		route := &r.Routes[i]
		if c.Path, c.Origin = at("Routes", i), r.Origin; route.Origin != "" {
			c.Origin = route.Origin
		}
		route.check(&c, fmt.Sprintf("Route[%d]", i))
	}
	return c.list
}

func (r *Route) check(c *checker, name string) {
	rewritable := false
	if m := r.Match; m != nil {
		rewritable = m.PathExact != "" || m.PathPrefix != ""
		m.check(c, name)
	}
	d := r.Destination
	if d == nil {
		return
	}
	for i, word := range d.RetryOn {
		if !slices.Contains(retryConditions, word) {
			c.say(at("Destination", "RetryOn", i), "%s contains an invalid retry condition: %q", name, word)
		}
	}
	if d.PrefixRewrite != "" && !rewritable {
		c.say(at("Destination", "PrefixRewrite"), "%s cannot make use of PrefixRewrite without configuring either PathExact or PathPrefix", name)
	}
}

// What Consul takes.
var (
	retryConditions = []string{
		"5xx", "gateway-error", "reset", "connect-failure", "envoy-ratelimited", "retriable-4xx", "refused-stream",
		"cancelled", "deadline-exceeded", "internal", "resource-exhausted", "unavailable",
	}
	methods    = []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "CONNECT", "OPTIONS", "TRACE"}
	policies   = []string{"", "random", "round_robin", "least_request", "ring_hash", "maglev"}
	hashFields = []string{"header", "cookie", "query_parameter"}
)

func (m *HTTPMatch) check(c *checker, name string) {
	for _, p := range []struct{ key, path string }{{"PathExact", m.PathExact}, {"PathPrefix", m.PathPrefix}} {
		if p.path != "" && !strings.HasPrefix(p.path, "/") {
			c.say(at("Match", "HTTP", p.key), "%s %s doesn't start with '/': %q", name, p.key, p.path)
		}
	}
	if given(m.PathExact != "", m.PathPrefix != "", m.PathRegex != "") > 1 {
		c.say(at("Match", "HTTP"), "%s should only contain at most one of PathExact, PathPrefix, or PathRegex", name)
	}
	for i, h := range m.Header {
		path := at("Match", "HTTP", "Header", i)
		if h.Name == "" {
			c.say(append(path, "Name"), "%s Header[%d] missing required Name field", name, i)
		}
		if given(h.Present, h.Exact != "", h.Prefix != "", h.Suffix != "", h.Contains != "", h.Regex != "") != 1 {
			c.say(path, "%s Header[%d] should only contain one of Present, Exact, Prefix, Suffix, or Regex", name, i)
		}
	}
	for i, q := range m.QueryParam {
		path := at("Match", "HTTP", "QueryParam", i)
		if q.Name == "" {
			c.say(append(path, "Name"), "%s QueryParam[%d] missing required Name field", name, i)
		}
		if given(q.Present, q.Exact != "", q.Regex != "") != 1 {
			c.say(path, "%s QueryParam[%d] should only contain one of Present, Exact, or Regex", name, i)
		}
	}
	for i, method := range m.Methods {
		switch {
		case !slices.Contains(methods, method):
			c.say(at("Match", "HTTP", "Methods", i), "%s Methods contains an invalid method %q", name, method)
		case slices.Contains(m.Methods[:i], method):
			c.say(at("Match", "HTTP", "Methods", i), "%s Methods contains %q more than once", name, method)
		}
	}
}

// given is how many of them are true.
func given(parts ...bool) (n int) {
	for _, p := range parts {
		if p {
			n++
		}
	}
	return n
}

// Check says what is wrong with the splitter, as (*Router).Check does.
func (s *Splitter) Check() []*Mistake {
	c := checker{Mistake: Mistake{Kind: SplitterKind, Service: s.Service, Origin: s.Origin}}
	if len(s.Splits) == 0 {
		c.say(at("Splits"), "no splits configured")
		return c.list
	}
	sum := 0
	seen := map[[2]string]bool{}
	for i, split := range s.Splits {
		sum += int(math.Round(split.Weight * 100))
		to := [2]string{split.Service, split.Subset}
		if to[0] == "" {
			to[0] = s.Service.Service
		}
		// Two legs with other headers are two ways to one destination.
		if split.RequestHeaders != nil || split.ResponseHeaders != nil {
			continue
		}
		if seen[to] {
			c.say(at("Splits", i), "split destination occurs more than once: service=%q, subset=%q, namespace=\"\", partition=\"\"", to[0], to[1])
		}
		seen[to] = true
	}
	if sum != 100*100 {
		c.say(at("Splits"), "the sum of all split weights must be 100, not %f", float32(sum)/100)
	}
	return c.list
}

// Check says what is wrong with the resolver, as (*Router).Check does.
func (r *Resolver) Check() []*Mistake {
	c := checker{Mistake: Mistake{Kind: ResolverKind, Service: r.Service, Origin: r.Origin}}
	for _, name := range slices.Sorted(maps.Keys(r.Subsets)) {
		if wrong := checkSubset(name); wrong != "" {
			c.say(at("Subsets", name), "%s", wrong)
		}
		if filter := r.Subsets[name].Filter; filter != "" {
			if err := expression.Check(filter); err != nil {
				c.say(at("Subsets", name, "Filter"), "Filter for subset %q is not a valid expression: %v", name, err)
			}
		}
	}
	if r.DefaultSubset != "" && !r.has(r.DefaultSubset) {
		c.say(at("DefaultSubset"), "DefaultSubset %q is not a valid subset", r.DefaultSubset)
	}
	if r.Redirect != nil {
		r.checkRedirect(&c)
	}
	for _, name := range slices.Sorted(maps.Keys(r.Failover)) {
		r.checkFailover(&c, name, r.Failover[name])
	}
	if r.ConnectTimeout < 0 {
		c.say(at("ConnectTimeout"), "Bad ConnectTimeout '%s', must be >= 0", r.ConnectTimeout)
	}
	if r.RequestTimeout < 0 {
		c.say(at("RequestTimeout"), "Bad RequestTimeout '%s', must be >= 0", r.RequestTimeout)
	}
	if l := r.LoadBalancer; l != nil {
		c.Path = at("LoadBalancer")
		l.check(&c)
	}
	return c.list
}

func (r *Resolver) has(subset string) bool {
	_, ok := r.Subsets[subset]
	return ok
}

// itself reports whether a service that the resolver names is its own.
func (r *Resolver) itself(service string) bool {
	return service == "" || identity.NewName(service).Fold().Service == r.Service.Fold().Service
}

const longestSubset = 63

// checkSubset says what is wrong with a subset's name; empty: nothing.
func checkSubset(name string) string {
	switch {
	case name == "":
		return "Subset defined with empty name"
	case len(name) > longestSubset:
		return fmt.Sprintf("Subset %q is invalid: must be non-empty and 63 characters or fewer", name)
	case strings.HasPrefix(name, "-"), strings.HasSuffix(name, "-"),
		strings.ContainsFunc(name, func(c rune) bool { return c != '-' && (c < '0' || c > '9') && (c < 'a' || c > 'z') }):
		return fmt.Sprintf("Subset %q is invalid: must be 63 characters or fewer, begin or end with lower case alphanumeric characters, and contain lower case alphanumeric "+
			"characters or '-' in between", name)
	}
	return ""
}

func (r *Resolver) checkRedirect(c *checker) {
	d := r.Redirect
	switch {
	case len(r.Failover) > 0:
		c.say(at("Redirect"), "Redirect and Failover cannot both be set")
	case *d == Redirect{}:
		c.say(at("Redirect"), "Redirect is empty")
	case d.Peer != "" && d.Subset != "":
		c.say(at("Redirect", "ServiceSubset"), "Redirect.Peer cannot be set with Redirect.ServiceSubset")
	case d.Peer != "" && d.Datacenter != "":
		c.say(at("Redirect", "Datacenter"), "Redirect.Peer cannot be set with Redirect.Datacenter")
	case d.Peer != "" && d.Service == "":
		c.say(at("Redirect", "Peer"), "Redirect.Peer defined without Redirect.Service")
	case d.Subset != "" && d.Service == "":
		c.say(at("Redirect", "ServiceSubset"), "Redirect.ServiceSubset defined without Redirect.Service")
	case d.Subset != "" && r.itself(d.Service) && !r.has(d.Subset):
		c.say(at("Redirect", "ServiceSubset"), "Redirect.ServiceSubset %q is not a valid subset of %q", d.Subset, r.Service.Service)
	}
}

func (r *Resolver) checkFailover(c *checker, name string, f Failover) {
	bad := fmt.Sprintf("Bad Failover[%q]", name)
	if name != "*" && !r.has(name) {
		c.say(at("Failover", name), "%s: not a valid subset subset", bad)
	}
	if f.Service == "" && f.Subset == "" && len(f.Datacenters) == 0 && len(f.Targets) == 0 {
		c.say(at("Failover", name), "%s: one of Service, ServiceSubset, Namespace, Targets, SamenessGroup, or Datacenters is required", bad)
	}
	if f.Subset != "" && r.itself(f.Service) && !r.has(f.Subset) {
		c.say(at("Failover", name, "ServiceSubset"), "%s: ServiceSubset %q is not a valid subset of %q", bad, f.Subset, f.Service)
	}
	if len(f.Targets) > 0 {
		switch {
		case len(f.Datacenters) > 0:
			c.say(at("Failover", name, "Targets"), "%s: Targets cannot be set with Datacenters", bad)
		case f.Subset != "":
			c.say(at("Failover", name, "Targets"), "%s: Targets cannot be set with ServiceSubset", bad)
		case f.Service != "":
			c.say(at("Failover", name, "Targets"), "%s: Targets cannot be set with Service", bad)
		}
	}
	for i, dc := range f.Datacenters {
		if dc == "" {
			c.say(at("Failover", name, "Datacenters", i), "%s.Datacenters: found empty datacenter", bad)
		}
	}
	for i, t := range f.Targets {
		path := at("Failover", name, "Targets", i)
		bad := bad + ".Targets[" + strconv.Itoa(i) + "]"
		switch {
		case t.Peer != "" && t.Subset != "":
			c.say(path, "%s: Peer cannot be set with ServiceSubset", bad)
		case t.Peer != "" && t.Datacenter != "":
			c.say(path, "%s: Peer cannot be set with Datacenter", bad)
		case t.Subset != "" && r.itself(t.Service) && !r.has(t.Subset):
			c.say(append(path, "ServiceSubset"), "%s: ServiceSubset %q is not a valid subset of %q", bad, t.Subset, r.Service.Service)
		}
	}
}

func (l *LoadBalancer) check(c *checker) {
	if !slices.Contains(policies, l.Policy) {
		c.say(at("Policy"), "Bad LoadBalancer policy: %q is not supported", l.Policy)
		return
	}
	if l.RingHash != nil && l.Policy != "ring_hash" {
		c.say(at("RingHashConfig"), "Bad LoadBalancer configuration. RingHashConfig specified for incompatible load balancing policy %q", l.Policy)
	}
	if l.LeastRequest != nil && l.Policy != "least_request" {
		c.say(at("LeastRequestConfig"), "Bad LoadBalancer configuration. LeastRequestConfig specified for incompatible load balancing policy %q", l.Policy)
	}
	if len(l.HashPolicies) > 0 && !l.hashes() {
		c.say(at("HashPolicies"), "Bad LoadBalancer configuration: HashPolicies specified for non-hash-based Policy: %q", l.Policy)
	}
	for i, h := range l.HashPolicies {
		if wrong := h.check(); wrong != "" {
			c.say(at("HashPolicies", i), "Bad LoadBalancer HashPolicy[%d]: %s", i, wrong)
		}
	}
}

// check says what is wrong with the policy; empty: nothing.
func (h *HashPolicy) check() string {
	switch {
	case h.Field != "" && !slices.Contains(hashFields, h.Field):
		return fmt.Sprintf("%q is not a supported field", h.Field)
	case h.SourceIP && h.Field != "":
		return fmt.Sprintf("A single hash policy cannot hash both a source address and a %q", h.Field)
	case h.SourceIP && h.FieldValue != "":
		return "A FieldValue cannot be specified when hashing SourceIP"
	case h.Field != "" && h.FieldValue == "":
		return fmt.Sprintf("Field %q was specified without a FieldValue", h.Field)
	case h.FieldValue != "" && h.Field == "":
		return "FieldValue requires a Field to apply to"
	case h.Cookie != nil && h.Field != "cookie":
		return fmt.Sprintf("cookie_config provided for %q", h.Field)
	case h.Cookie != nil && h.Cookie.Session && h.Cookie.TTL != 0:
		return "a session cookie cannot have an associated TTL"
	}
	return ""
}
