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
	// done is closed when nobody waits any more.
	done  <-chan struct{}
	known *headerTexts // nil: none was asked for
}

// headerTexts are the headers that were asked for, as each permission may ask again: the first ones and all others.
type headerTexts struct {
	first [4]headerText
	n     int
	more  map[string]headerText
}

// headerText is a header's value, if there is one; of which header, name says.
type headerText struct {
	name, value string
	ok          bool
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
	return decide(&intention.Request{Method: method, Path: path, Header: a.header, Tokens: a.tokens, Done: a.done})
}

// header is the value of a header; the values of one that is there several times are joined by ",", as rules have them. It is made once.
func (a *asked) header(name string) (value string, ok bool) {
	if a.known == nil {
		a.known = &headerTexts{}
	}
	k := a.known
	for i := range k.n {
		if h := &k.first[i]; h.name == name {
			return h.value, h.ok
		}
	}
	h, found := k.more[name]
	switch {
	case found:
	case k.n < len(k.first):
		h = a.look(name)
		k.first[k.n] = h
		k.n++
	default:
		if k.more == nil {
			k.more = map[string]headerText{}
		}
		h = a.look(name)
		k.more[name] = h
	}
	return h.value, h.ok
}

func (a *asked) look(name string) headerText {
	h := headerText{name: name}
	var more []string
	complete := false
	for _, sent := range a.http.GetHeaderMap().GetHeaders() {
		complete = complete || sent.GetKey() == ":method"
		switch {
		case sent.GetKey() != name:
		case !h.ok:
			h.value, h.ok = headerValue(sent.GetRawValue(), sent.GetValue()), true
		default:
			more = append(more, headerValue(sent.GetRawValue(), sent.GetValue()))
		}
	}
	if !complete { // all headers, and so those that are parts of the request line, or x-request-id alone
		a.lacking = true
	}
	if more != nil {
		h.value += "," + strings.Join(more, ",")
	}
	return h
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
