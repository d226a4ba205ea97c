package catalog_test

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/sallyport/sallyport/catalog"
)

func TestCheckPath(t *testing.T) {
	for path, want := range map[string]bool{
		"/": true, "/healthz": true, "/healthz/": true, "/v1/health.d/~x_y-z;a=b": true, "/grpc.health.v1.Health/Check": true,
		"": false, "healthz": false, "*": false, "//": false, "/a//b": false, "/a/../b": false, "/a/.": false, "/a/./": false, "/..": false,
		"/a?x": false, "/a#x": false, "/a%2fb": false, `/a\b`: false, "/a b": false, "/ä": false, "/a\n": false, "/a\x00": false, "/\xff": false,
	} {
		if err := catalog.CheckPath(path); (err == nil) != want {
			t.Errorf("CheckPath(%q) = %v, want that it can be exposed: %v", path, err, want)
		}
	}
}

func TestCompareExposed(t *testing.T) {
	want := []catalog.ExposedPath{
		{Path: "/b", ListenerPort: 1, LocalPort: 1}, {Path: "/a", ListenerPort: 2, LocalPort: 9}, {Path: "/b", ListenerPort: 2, LocalPort: 1}, {Path: "/b", ListenerPort: 2, LocalPort: 2},
	}
	got := slices.Clone(want)
	shuffle(got)
	slices.SortFunc(got, catalog.CompareExposed)
	if !slices.Equal(got, want) {
		t.Errorf("sorted: %v, want %v", got, want)
	}
}

func shuffle[T any](s []T) { rand.Shuffle(len(s), func(i, j int) { s[i], s[j] = s[j], s[i] }) }
