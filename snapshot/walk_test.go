package snapshot_test

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"

	matcherv3 "github.com/cncf/xds/go/xds/type/matcher/v3"
	envoyannotations "github.com/envoyproxy/go-control-plane/envoy/annotations"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"github.com/google/go-cmp/cmp"
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/internal/xdstest"
	"github.com/sallyport/sallyport/snapshot"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
)

type xdsRegex = matcherv3.RegexMatcher

// change calls f with m and every message in it, also those packed in an Any, and packs again those
// in which f changed something. It reports whether it changed anything.
func change(t testing.TB, m proto.Message, f func(proto.Message) bool) bool {
	t.Helper()
	changed := false
	if a, ok := m.(*anypb.Any); ok {
		inner, err := a.UnmarshalNew()
		if err != nil {
			t.Fatal(err)
		}
		if change(t, inner, f) {
			if err := a.MarshalFrom(inner); err != nil {
				t.Fatal(err)
			}
			return true
		}
		return false
	}
	if f(m) {
		changed = true
	}
	m.ProtoReflect().Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case fd.IsMap() && fd.MapValue().Message() != nil:
			v.Map().Range(func(_ protoreflect.MapKey, e protoreflect.Value) bool {
				changed = change(t, e.Message().Interface(), f) || changed
				return true
			})
		case fd.IsList() && fd.Message() != nil:
			for i := range v.List().Len() {
				changed = change(t, v.List().Get(i).Message().Interface(), f) || changed
			}
		case !fd.IsMap() && !fd.IsList() && fd.Message() != nil:
			changed = change(t, v.Message().Interface(), f) || changed
		}
		return true
	})
	return changed
}

// TestEverythingIsValid looks at every message of every golden, also inside Anys: constraints,
// which Build looks at itself, deprecated fields and values, fields that nobody knows, keys, and
// the shapes that switch authorization off.
func TestEverythingIsValid(t *testing.T) {
	seen := map[protoreflect.FullName]int{}
	for _, c := range cases(t) {
		t.Run(c.golden, func(t *testing.T) {
			for _, r := range all(c.resources) {
				if bytes.Contains(r.Resource.Value, []byte("PRIVATE KEY")) || bytes.Contains(r.Resource.Value, []byte("BEGIN ")) {
					t.Errorf("%s holds a key or a certificate", r.Name)
				}
				change(t, r, func(m proto.Message) bool {
					seen[m.ProtoReflect().Descriptor().FullName()]++
					examine(t, c.in, r.Name, m)
					return false
				})
			}
		})
	}
	// The walk goes into Anys within Anys, or it would not have come here.
	for _, name := range []protoreflect.FullName{
		"envoy.config.rbac.v3.Action", "envoy.extensions.filters.http.router.v3.Router", "envoy.extensions.filters.http.rbac.v3.RBACPerRoute",
		"envoy.extensions.filters.network.rbac.v3.RBAC", "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext", "xds.type.matcher.v3.RegexMatcher",
	} {
		if seen[name] == 0 {
			t.Errorf("no %s was looked at", name)
		}
	}
}

// deprecations lists the fields and enum values of m itself, not of messages in it, that are
// deprecated.
func deprecations(m proto.Message) (out []string) {
	m.ProtoReflect().Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		o := fd.Options().(*descriptorpb.FieldOptions)
		if o.GetDeprecated() || o != nil && proto.HasExtension(o, envoyannotations.E_DeprecatedAtMinorVersion) {
			out = append(out, string(fd.FullName()))
		}
		if fd.Enum() == nil || fd.IsMap() {
			return true
		}
		values := []protoreflect.EnumNumber{}
		if fd.IsList() {
			for i := range v.List().Len() {
				values = append(values, v.List().Get(i).Enum())
			}
		} else {
			values = append(values, v.Enum())
		}
		for _, n := range values {
			e := fd.Enum().Values().ByNumber(n)
			if e == nil {
				out = append(out, fmt.Sprintf("%s: %d", fd.FullName(), n))
			} else if e.Options().(*descriptorpb.EnumValueOptions).GetDeprecated() {
				out = append(out, string(e.FullName()))
			}
		}
		return true
	})
	return out
}

// TestDeprecations: a walk that finds nothing would pass for ever.
func TestDeprecations(t *testing.T) {
	for want, m := range map[string]proto.Message{
		"envoy.config.cluster.v3.Cluster.dns_refresh_rate":  &clusterv3.Cluster{Name: "a", DnsRefreshRate: durationpb.New(1)},
		"envoy.config.core.v3.V2":                           &corev3.ConfigSource{ResourceApiVersion: corev3.ApiVersion_V2},
		"envoy.config.core.v3.ApiConfigSource.api_type: 99": &corev3.ApiConfigSource{ApiType: 99},
		"": &clusterv3.Cluster{Name: "a", ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_EDS}},
	} {
		if got := strings.Join(deprecations(m), " "); got != want {
			t.Errorf("deprecations(%v) = %q, want %q", m, got, want)
		}
	}
}

func examine(t *testing.T, in snapshot.Input, resource string, m proto.Message) {
	t.Helper()
	r := m.ProtoReflect()
	if v, ok := m.(interface{ ValidateAll() error }); ok {
		if err := v.ValidateAll(); err != nil {
			t.Errorf("%s: %v", resource, err)
		}
	}
	if len(r.GetUnknown()) > 0 {
		t.Errorf("%s: unknown fields in %s", resource, r.Descriptor().FullName())
	}
	for _, d := range deprecations(m) {
		t.Errorf("%s: %s is deprecated", resource, d)
	}
	set := func(path ...protoreflect.Name) bool {
		r := r
		for i, name := range path {
			fd := r.Descriptor().Fields().ByName(name)
			if fd == nil || !r.Has(fd) {
				return false
			}
			if i < len(path)-1 {
				r = r.Get(fd).Message()
			}
		}
		return true
	}
	switch name := r.Descriptor().FullName(); name {
	case "envoy.extensions.filters.http.rbac.v3.RBACPerRoute":
		if !set("rbac", "matcher") || set("rbac", "rules") {
			t.Errorf("%s: %s without a matcher, or with rules beside it", resource, name)
		}
	case "envoy.extensions.filters.network.rbac.v3.RBAC":
		open := in.Proxy.Inbound.Enforcement == catalog.ExtAuthz || !strings.HasPrefix(resource, "intentions/")
		if set("rules") || !open && !set("matcher") {
			t.Errorf("%s: %s with rules, which are ORed, or without a matcher", resource, name)
		}
	case "envoy.extensions.filters.http.rbac.v3.RBAC":
		if set("rules") == set("matcher") {
			t.Errorf("%s: %s with neither rules nor a matcher, or with both", resource, name)
		}
	case "envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute":
		if set("disabled") {
			t.Errorf("%s: ext_authz is disabled", resource)
		}
	case "envoy.config.route.v3.VirtualHost":
		host := m.(*routev3.VirtualHost)
		for name, a := range host.TypedPerFilterConfig {
			off := a.MessageIs(&routev3.FilterConfig{})
			if off && (name != "envoy.filters.http.ext_authz" || in.Proxy.Inbound.Enforcement != catalog.RBAC) {
				t.Errorf("%s: %s is taken out, and enforcement is %s", resource, name, in.Proxy.Inbound.Enforcement)
			}
		}
	case "envoy.extensions.filters.http.ext_authz.v3.ExtAuthz", "envoy.extensions.filters.network.ext_authz.v3.ExtAuthz":
		if set("failure_mode_allow") || !set("grpc_service", "timeout") {
			t.Errorf("%s: ext_authz allows what it could not ask about, or waits for ever", resource)
		}
	case "xds.type.matcher.v3.RegexMatcher":
		if !set("google_re2") {
			t.Errorf("%s: an expression of a matcher without an engine", resource)
		}
	case "envoy.extensions.transport_sockets.tls.v3.CertificateValidationContext":
		if !set("match_typed_subject_alt_names") {
			t.Errorf("%s: a validation context that lets in everybody", resource)
		}
	case "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext":
		if !set("require_client_certificate") || !set("disable_stateless_session_resumption") || !set("disable_stateful_session_resumption") {
			t.Errorf("%s: a listener that does without a certificate, or without a fresh one", resource)
		}
	case "envoy.config.core.v3.ConfigSource":
		b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
		if err != nil || string(b) != "\x22\x00\x30\x02\x1a\x00" {
			t.Errorf("%s: a ConfigSource of its own: %x, %v", resource, b, err)
		}
	}
}

// TestSecretsAreNamed: exactly the secrets that the resources name are said to be needed. One too
// few keeps Envoy from starting.
func TestSecretsAreNamed(t *testing.T) {
	for _, c := range cases(t) {
		named := map[string]bool{}
		for _, r := range all(c.resources) {
			change(t, r, func(m proto.Message) bool {
				if m.ProtoReflect().Descriptor().Name() == "SdsSecretConfig" {
					named[m.ProtoReflect().Get(m.ProtoReflect().Descriptor().Fields().ByName("name")).String()] = true
				}
				return false
			})
		}
		for i, s := range c.resources.Secrets {
			if !named[s.Name] {
				t.Errorf("%s: secret %s is needed by nobody", c.golden, s.Name)
			}
			delete(named, s.Name)
			if i > 0 && strings.Compare(c.resources.Secrets[i-1].Name, s.Name) >= 0 {
				t.Errorf("%s: secrets are not sorted", c.golden)
			}
			leaf := strings.HasPrefix(s.Name, "leaf/")
			if leaf != !s.Leaf.ID().IsZero() || leaf != (s.Version == "") || (s.Name == "roots" || !s.TrustDomain.IsZero() || leaf) != (len(s.Peers) == 0) {
				t.Errorf("%s: secret %+v", c.golden, s)
			}
		}
		for n := range named {
			t.Errorf("%s: secret %s is named and not listed", c.golden, n)
		}
	}
}

// leadsTo are the clusters, but for the application's main one, that listeners and routes lead to.
func leadsTo(t *testing.T, r *snapshot.Resources) map[string]map[string]bool {
	t.Helper()
	out := map[string]map[string]bool{}
	for _, r := range slices.Concat(r.ByType[listeners], r.ByType[routes]) {
		change(t, r.GetResource(), func(m proto.Message) bool {
			name := m.ProtoReflect().Descriptor().Name()
			if name != "TcpProxy" && name != "RouteAction" {
				return false
			}
			to := m.ProtoReflect().Get(m.ProtoReflect().Descriptor().Fields().ByName("cluster")).String()
			if to != "local_app" {
				out[r.GetName()] = map[string]bool{to: true}
			}
			return false
		})
	}
	for _, l := range r.ByType[listeners] {
		for _, name := range xdstest.References(l)[routes] {
			if to := out[name]; to != nil {
				out[l.GetName()] = to
			}
		}
	}
	return out
}

// TestReferences: exactly the routes and filters are there that listeners name. One too few keeps
// Envoy from starting.
func TestReferences(t *testing.T) {
	for _, c := range cases(t) {
		named := map[string]map[string]bool{routes: {}, extensions: {}}
		for _, l := range c.resources.ByType[listeners] {
			for url, names := range xdstest.References(l) {
				for _, name := range names {
					if named[url] != nil {
						named[url][name] = true
					}
				}
			}
		}
		for url, names := range named {
			have := map[string]bool{}
			for _, r := range c.resources.ByType[url] {
				have[r.GetName()] = true
			}
			if d := cmp.Diff(names, have); d != "" {
				t.Errorf("%s: %s named (-), there (+):\n%s", c.golden, url, d)
			}
		}
		leads := map[string]map[string]bool{}
		for name, to := range c.resources.Clusters {
			leads[name] = map[string]bool{}
			for _, cluster := range to {
				leads[name][cluster] = true
			}
		}
		if d := cmp.Diff(leadsTo(t, c.resources), leads); d != "" {
			t.Errorf("%s: what leads to clusters (-), Clusters (+):\n%s", c.golden, d)
		}
		if c.resources.ByType[listeners].Get(c.resources.Inbound) == nil {
			t.Errorf("%s: there is no listener %s", c.golden, c.resources.Inbound)
		}
	}
}
