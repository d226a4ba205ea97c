package authz

import (
	"strings"
	"sync"
	"sync/atomic"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/sallyport/sallyport/intention"
)

// asked is a request as permissions look at it.
type asked struct {
	http *authv3.AttributeContext_HttpRequest
	// lacking: a header was asked for, and the listener, one of before permissions, sends none of the application's.
	lacking bool
}

// decide is what decide says of the request, as rules in its Envoy would see it.
func (a *asked) decide(decide func(*intention.Request) intention.Decision) intention.Decision {
	return decide(&intention.Request{Method: a.http.GetMethod(), Path: a.http.GetPath(), Header: a.header})
}

// header is the value of a header; the values of one that is there several times are joined by ",", as rules have them.
func (a *asked) header(name string) (value string, ok bool) {
	list := a.http.GetHeaderMap().GetHeaders()
	var more []string
	complete := false
	for _, h := range list {
		complete = complete || h.GetKey() == ":method"
		switch {
		case h.GetKey() != name:
		case !ok:
			value, ok = headerValue(h.GetRawValue(), h.GetValue()), true
		default:
			more = append(more, headerValue(h.GetRawValue(), h.GetValue()))
		}
	}
	if !complete { // all headers, and so those that are parts of the request line, or x-request-id alone
		a.lacking = true
	}
	if more != nil {
		value += "," + strings.Join(more, ",")
	}
	return value, ok
}

func headerValue(raw []byte, value string) string {
	if len(raw) > 0 {
		return string(raw)
	}
	return value
}

// maxPermissions is how many permissions are counted apart. All others are counted as "other".
const maxPermissions = 1000

// permissionCounters count decisions by the permission.
type permissionCounters struct {
	vec   *prometheus.CounterVec
	known sync.Map // of permissionKey to prometheus.Counter
	n     atomic.Int64
}

// permissionKey is a permission of an intention, as long as that is what it is.
type permissionKey struct {
	label   string
	allowed bool
}

func newPermissionCounters() *permissionCounters {
	c := &permissionCounters{vec: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "sallyport_authz_permission_decisions_total",
		Help: "Decisions of the ext_authz server that a permission of an intention made, by its name: \"web => api #2\"; \"#path\" are paths that are not canonical, \"other\" all beyond a thousand.",
	}, []string{"decision", "permission"})}
	for _, decision := range []string{"allow", "deny"} {
		c.vec.WithLabelValues(decision, "other") // so that it is there from the start
	}
	return c
}

func (c *permissionCounters) count(v verdict) {
	key := permissionKey{v.intention.Label(v.permission), v.allowed}
	counter, ok := c.known.Load(key)
	if !ok {
		if c.n.Add(1) > maxPermissions {
			key.label = "other"
		}
		decision := "deny"
		if v.allowed {
			decision = "allow"
		}
		counter = c.vec.WithLabelValues(decision, key.label)
		if key.label != "other" {
			c.known.Store(key, counter)
		}
	}
	counter.(prometheus.Counter).Inc() //nolint:forcetypeassert // nothing else is put there
}
