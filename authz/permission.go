package authz

import (
	"strings"
	"sync"
	"sync/atomic"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/intention"
	"google.golang.org/protobuf/types/known/structpb"
)

// asked is a request as permissions look at it.
type asked struct {
	http *authv3.AttributeContext_HttpRequest
	// lacking: the listener, one of before permissions, does not send all headers.
	lacking bool
	// tokens are what the good ones of those say that the policy asks for, by the provider.
	tokens map[string]map[string]any
}

// jwtFilter is the name under which Envoy sends what verified tokens say, and payloadKey where those of a provider are.
const (
	jwtFilter  = "envoy.filters.http.jwt_authn"
	payloadKey = "jwt_payload_"
)

// tokensOf are what the good tokens of a request say, as the rules have it: Envoy has verified them, and here it counts, as there, that the
// issuer is the provider's.
func tokensOf(view *catalog.View, policy *intention.Policy, sent *corev3.Metadata) (all map[string]map[string]any) {
	claims := sent.GetFilterMetadata()[jwtFilter].GetFields()
	if len(claims) == 0 {
		return nil
	}
	for _, name := range policy.Providers() {
		provider, said := view.TokenProvider(name), claims[payloadKey+name].GetStructValue()
		if !provider.Known() || said == nil {
			continue
		}
		if iss, ok := said.GetFields()["iss"].GetKind().(*structpb.Value_StringValue); !ok || iss.StringValue != provider.Issuer {
			continue
		}
		if all == nil {
			all = map[string]map[string]any{}
		}
		all[name] = said.AsMap()
	}
	return all
}

// decide is what decide says of the request, as rules in its Envoy would see it. In the request's own fields Envoy has "!" for each byte that is
// in no UTF-8, so method and path are taken from the headers, which have them as they are.
func (a *asked) decide(decide func(*intention.Request) intention.Decision) intention.Decision {
	method, _ := a.header(":method")
	path, _ := a.header(":path")
	return decide(&intention.Request{Method: method, Path: path, Header: a.header, Tokens: a.tokens})
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
