package api

import (
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// question is a request as the rules for all endpoints leave it.
type question struct {
	route *route
	// name is what follows the path of a route that is a prefix, unescaped.
	name string
	// query has all parameters, token and those of blocking among them.
	query  url.Values
	caller Caller
	pretty bool
	// target and source are what a body names, reason is why that is allowed or denied; empty: nothing.
	target, source, reason string
	// index is what the asker knows; 0: nothing, so the answer does not wait. wait is for how long; 0: it was not said.
	index uint64
	wait  time.Duration
}

// filter is the expression that the answer is filtered with; empty: none.
func (q *question) filter() string { return q.query.Get("filter") }

// has reports whether a parameter is there, whatever its value.
func (q *question) has(name string) bool {
	_, ok := q.query[name]
	return ok
}

// says are the parameters that say what is asked. Of the others no answer depends, but for how and when it is given.
var says = map[string]bool{
	"by": true, "compile-dc": true, "destination": true, "filter": true, "name": true, "node-meta": true, "passing": true, "peer": true,
	"pem": true, "sg": true, "source": true, "source-type": true, "tag": true,
}

// key tells questions with different answers apart.
func (q *question) key() string {
	var b strings.Builder
	b.WriteString(q.route.path)
	b.WriteString(q.name)
	b.WriteByte(0)
	b.WriteString(q.caller.scope())
	if len(q.query) == 0 {
		return b.String()
	}
	names := make([]string, 0, len(q.query))
	for name := range q.query {
		if says[name] {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		for _, value := range q.query[name] {
			b.WriteByte(0)
			b.WriteString(name)
			b.WriteByte('=')
			b.WriteString(url.QueryEscape(value))
		}
	}
	return b.String()
}

// kept is q without what is secret or the asker's alone, for as long as its answer is kept.
func (q *question) kept() *question {
	k := *q
	k.caller.Token = ""
	k.query = make(url.Values, len(q.query))
	for name, values := range q.query {
		if says[name] {
			k.query[name] = values
		}
	}
	return &k
}

// tokenOf is the token of a request, in Consul's order: ?token=, X-Consul-Token, Authorization: Bearer.
func tokenOf(r *http.Request, query url.Values) string {
	if t := query.Get("token"); t != "" {
		return t
	}
	if t := r.Header.Get("X-Consul-Token"); t != "" {
		return t
	}
	scheme, t, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if strings.EqualFold(scheme, "Bearer") {
		return strings.TrimSpace(t)
	}
	return ""
}

// maxWait bounds every wait. Consul has none for what its agent caches; a client that is answered what it knows asks again.
const maxWait = 10 * time.Minute

// parse reads what all endpoints have in common. The order of the checks is Consul's.
func (q *question) parse(r *http.Request) error {
	if err := enterprise(q, r); err != nil {
		return err
	}
	if len(q.query) == 0 && r.Header.Get("Cache-Control") == "" {
		return nil
	}
	q.pretty = q.has("pretty")
	if s := q.query.Get("wait"); s != "" {
		d, err := time.ParseDuration(s)
		if err != nil {
			return failed(http.StatusBadRequest, "Invalid wait time")
		}
		q.wait = min(max(d, 0), maxWait)
	}
	if s := q.query.Get("index"); s != "" {
		n, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			return failed(http.StatusBadRequest, "Invalid index")
		}
		q.index = n
	}
	if s := q.query.Get("max_stale"); s != "" {
		if _, err := time.ParseDuration(s); err != nil {
			return failed(http.StatusBadRequest, "Invalid max_stale value %q", s)
		}
	}
	if q.has("consistent") {
		for _, other := range []string{"stale", "cached"} {
			if q.has(other) {
				return failed(http.StatusBadRequest, "Cannot specify ?%s with ?consistent, conflicting semantics.", other)
			}
		}
	}
	for part := range strings.SplitSeq(r.Header.Get("Cache-Control"), ",") {
		name, value, ok := strings.Cut(strings.TrimSpace(part), "=")
		if !ok || name != "max-age" && name != "stale-if-error" {
			continue
		}
		if n, err := strconv.ParseUint(value, 10, 32); err != nil || int64(n) < 0 {
			return failed(http.StatusBadRequest, "Invalid Cache-Control header.")
		}
	}
	return nil
}

// enterprise refuses what only Consul Enterprise has.
func enterprise(q *question, r *http.Request) error {
	if q.route.anyNamespace {
		return nil
	}
	for _, e := range []struct{ parameter, header, feature string }{
		{"ns", "X-Consul-Namespace", "Namespaces are"},
		{"partition", "X-Consul-Partition", "Partitions are"},
	} {
		if q.query.Get(e.parameter) != "" {
			return failed(http.StatusBadRequest, `Invalid query parameter: %q - %s a Consul Enterprise feature`, e.parameter, e.feature)
		}
		if r.Header.Get(e.header) != "" {
			return failed(http.StatusBadRequest, `Invalid header: %q - %s a Consul Enterprise feature`, e.header, e.feature)
		}
	}
	return nil
}

// datacenter refuses questions about another datacenter than that of the mesh.
func (q *question) datacenter(own string) error {
	for _, name := range []string{"dc", "datacenter"} {
		if dc := q.query.Get(name); dc != "" && dc != own {
			return failed(http.StatusInternalServerError, "No path to datacenter")
		}
	}
	return nil
}
