package snapshot_test

import (
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"

	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/chain"
	"github.com/sallyport/sallyport/snapshot"
)

// FuzzChain: whatever a chain says, the proxy that dials by it is served, and nothing panics: what cannot be is left out of it.
func FuzzChain(f *testing.F) {
	for seed := range uint64(500) {
		f.Add(seed, seed%4 > 0)
	}
	names := slices.Sorted(maps.Keys(clusterCases))
	f.Fuzz(func(t *testing.T, seed uint64, l7 bool) {
		r := rand.New(rand.NewPCG(seed, 2))
		m := clusterCases[names[r.IntN(len(names))]]()
		m.protocol = catalog.HTTP
		if m.routers == nil && r.IntN(2) == 0 {
			m.routers = []chain.Router{{Service: named("api"), Routes: []chain.Route{{
				Match:       &chain.HTTPMatch{PathPrefix: "/a", Header: []chain.HeaderMatch{{Name: "x", Exact: "1"}}, QueryParam: []chain.QueryMatch{{Name: "q", Present: true}}, Methods: []string{"GET"}},
				Destination: &chain.Destination{PrefixRewrite: "/b", RetryOn: []string{"5xx"}, RequestHeaders: &chain.HeaderModifiers{Set: map[string]string{"a": "b"}, Remove: []string{"c"}}},
			}}}}
		}
		in := m.input(t)
		c := in.Upstreams[0].Chain
		if c == nil {
			return
		}
		for range 1 + r.IntN(6) {
			spoilOne(r, reflect.ValueOf(c.Chain).Elem())
		}
		bound := &catalog.Chain{Chain: c.Chain, Endpoints: map[string]*catalog.Endpoints{}}
		for id := range c.Targets {
			bound.Endpoints[id] = &catalog.Endpoints{List: []catalog.Endpoint{at("10.0.0.1"), sick(at("10.0.0.2"))}}
		}
		service := *in.Upstreams[0].Service
		if service.Protocol = catalog.HTTP; !l7 {
			service.Protocol = catalog.TCP
		}
		in.Upstreams[0].Service, in.Upstreams[0].Chain = &service, bound
		if _, err := snapshot.Build(in); err != nil {
			t.Errorf("a chain keeps the proxy from being served: %v", err)
		}
	})
}

// spoilOne changes something in v, however deep.
func spoilOne(r *rand.Rand, v reflect.Value) {
	switch v.Kind() {
	case reflect.Struct:
		spoilOne(r, v.Field(r.IntN(v.NumField())))
	case reflect.Pointer:
		if v.IsNil() || r.IntN(6) == 0 {
			if v.CanSet() && r.IntN(3) == 0 {
				v.SetZero()
			}
			return
		}
		spoilOne(r, v.Elem())
	case reflect.Slice:
		n := v.Len()
		if n == 0 {
			return
		}
		switch r.IntN(6) {
		case 0:
			v.Set(reflect.Append(v, v.Index(r.IntN(n))))
		case 1:
			v.Set(v.Slice(1, n))
		default:
			spoilOne(r, v.Index(r.IntN(n)))
		}
	case reflect.Map:
		keys := v.MapKeys()
		if len(keys) == 0 {
			return
		}
		slices.SortFunc(keys, func(a, b reflect.Value) int {
			if a.String() < b.String() {
				return -1
			}
			return 1
		})
		k := keys[r.IntN(len(keys))]
		x := reflect.New(v.Type().Elem()).Elem()
		x.Set(v.MapIndex(k))
		switch r.IntN(6) {
		case 0:
			v.SetMapIndex(k, reflect.Value{})
		case 1:
			other := reflect.New(v.Type().Key()).Elem()
			other.Set(k)
			spoilOne(r, other)
			v.SetMapIndex(other, x)
		default:
			spoilOne(r, x)
			v.SetMapIndex(k, x)
		}
	case reflect.String:
		v.SetString([]string{"", "a b", "\xff", "/", "%", "x", "api", "resolver:api.default.default.dc1", "random", "ring_hash", "a\nb", v.String() + v.String()}[r.IntN(12)])
	case reflect.Bool:
		v.SetBool(!v.Bool())
	case reflect.Int, reflect.Int64:
		v.SetInt([]int64{0, -1, 1, 1 << 62, -1 << 63}[r.IntN(5)])
	case reflect.Uint32, reflect.Uint64:
		v.SetUint([]uint64{0, 1, 1 << 31}[r.IntN(3)])
	case reflect.Float64:
		v.SetFloat([]float64{0, -1, 50, 101, 1e300}[r.IntN(5)])
	default:
		panic("a field of a kind that this test does not know: " + v.Type().String())
	}
}
