package snapshot

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"regexp"
	"regexp/syntax"
	"slices"
	"strings"
	"testing"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"github.com/sallyport/sallyport/internal/envoytest"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/structpb"
)

// segmentChars are the characters of a SPIFFE path segment, spelled apart from the code that it
// tests.
const segmentChars = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._"

func isSegment(s string) bool {
	return s != "" && s != "." && s != ".." && strings.Trim(s, segmentChars) == ""
}

// FuzzComplement holds the expression to its plain meaning: a segment that is none of the names.
func FuzzComplement(f *testing.F) {
	f.Add("bad", "bad", uint64(1))
	f.Add("bad b ba badly", "bade", uint64(2))
	f.Add("a-b a.b a_b", "a*b", uint64(3))
	f.Add(". .. ...", "....", uint64(4))
	f.Add("", ".", uint64(5))
	f.Fuzz(func(t *testing.T, list, name string, seed uint64) {
		if len(list) > 2000 {
			return // a longer list says no more
		}
		var names []string
		for n := range strings.FieldsSeq(list) {
			if isSegment(n) {
				names = append(names, n)
			}
		}
		re, err := regexp.Compile(`\A(?:` + complement(names) + `)\z`)
		var wrong *syntax.Error
		switch {
		case errors.As(err, &wrong) && (wrong.Code == syntax.ErrNestingDepth || wrong.Code == syntax.ErrLarge):
			return // too long a name; programSize says so too, and such an expression is not sent
		case err != nil:
			t.Fatalf("complement(%q): %v", names, err)
		}
		try := func(n string) {
			want := isSegment(n) && !slices.Contains(names, n)
			if got := re.MatchString(n); got != want {
				t.Fatalf("complement(%q) matches %q = %v, want %v\n%s", names, n, got, want, re)
			}
		}
		try(name)
		r := rand.New(rand.NewPCG(seed, 0))
		for _, n := range append(slices.Clone(names), name) {
			i, c := r.IntN(len(n)+1), string(segmentChars[r.IntN(len(segmentChars))])
			for _, near := range []string{n, n + c, c + n, n[:i], n[i:], n[:i] + c + n[i:], n + n, strings.ToUpper(n), n + "/", n + ",", n + "\n"} {
				try(near)
			}
		}
	})
}

func TestComplementAll(t *testing.T) {
	// Every character is a name: nothing of one character is left.
	var names []string
	for _, c := range segmentChars {
		names = append(names, string(c))
	}
	re := regexp.MustCompile(`\A(?:` + complement(names) + `)\z`)
	for _, n := range names {
		if re.MatchString(n) {
			t.Errorf("%q matches", n)
		}
		if !re.MatchString(n + "x") {
			t.Errorf("%q does not match", n+"x")
		}
	}
}

// TestEnvoyCountsNoMoreThanProgramSize has Envoys compile expressions under the bound that
// programSize gives: it must never be too low, or a secret would be refused that Build took for
// good. That it is not far too high is checked too: three times is the most.
func TestEnvoyCountsNoMoreThanProgramSize(t *testing.T) {
	s := scope{datacenters: []string{"dc1", "dc2"}}
	s.TrustDomain, s.Name = testTrustDomain(), nameOf("db")
	many := func(n int) (out []string) {
		for i := range n {
			out = append(out, fmt.Sprintf("team%02d-service-%02d", i%7, i))
		}
		return out
	}
	r := rand.New(rand.NewPCG(1, 1))
	var odd []string
	for range 60 {
		var b strings.Builder
		for range 1 + r.IntN(30) {
			b.WriteByte(segmentChars[r.IntN(len(segmentChars))])
		}
		odd = append(odd, b.String())
	}
	var alike []string
	for n := range 12 {
		alike = append(alike, strings.Repeat("a", n+1))
	}
	var letters []string
	for _, c := range segmentChars[:60] {
		letters = append(letters, string(c), string(c)+"-"+string(c))
	}
	for name, names := range map[string][]string{
		"none": nil, "one": {"bad"}, "ten": many(10), "fifty": many(50), "most": many(maxComplement),
		"random": odd, "alike": alike, "letters": letters, "long": {strings.Repeat("x", 100)},
	} {
		t.Run(name, func(t *testing.T) {
			expr := s.expression(complement(names))
			size := programSize(expr)
			t.Logf("%d names: %d bytes, program size %d or less", len(names), len(expr), size)
			for _, version := range []string{envoytest.Oldest, envoytest.Newest} {
				if err := envoytest.Validate(t, version, compiling(t, expr, size)); err != nil {
					t.Errorf("the bound %d is too low: %v", size, err)
				}
				if err := envoytest.Validate(t, version, compiling(t, expr, size/3)); err == nil || !strings.Contains(err.Error(), "program size") {
					t.Errorf("Envoy %s compiles within %d what programSize says to be %d: %v", version, size/3, size, err)
				}
			}
		})
	}
}

// compiling is a bootstrap for which Envoy compiles expr as the name of a peer.
func compiling(t *testing.T, expr string, limit int) *bootstrapv3.Bootstrap {
	t.Helper()
	context, err := anypb.New(&tlsv3.UpstreamTlsContext{CommonTlsContext: &tlsv3.CommonTlsContext{
		ValidationContextType: &tlsv3.CommonTlsContext_ValidationContext{ValidationContext: &tlsv3.CertificateValidationContext{
			TrustedCa:                 &corev3.DataSource{Specifier: &corev3.DataSource_InlineString{InlineString: testRoot(t)}},
			MatchTypedSubjectAltNames: []*tlsv3.SubjectAltNameMatcher{uri(matching(expr))},
		}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	layer, err := structpb.NewStruct(map[string]any{"re2.max_program_size.error_level": limit})
	if err != nil {
		t.Fatal(err)
	}
	return &bootstrapv3.Bootstrap{
		LayeredRuntime: &bootstrapv3.LayeredRuntime{Layers: []*bootstrapv3.RuntimeLayer{{
			Name: "base", LayerSpecifier: &bootstrapv3.RuntimeLayer_StaticLayer{StaticLayer: layer},
		}}},
		StaticResources: &bootstrapv3.Bootstrap_StaticResources{Clusters: []*clusterv3.Cluster{{
			Name: "a",
			TransportSocket: &corev3.TransportSocket{
				Name:       tlsSocket,
				ConfigType: &corev3.TransportSocket_TypedConfig{TypedConfig: context},
			},
		}}},
	}
}
