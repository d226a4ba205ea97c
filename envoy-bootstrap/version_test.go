package bootstrap_test

import (
	"strings"
	"testing"

	bootstrap "github.com/sallyport/sallyport/envoy-bootstrap"
)

func TestParseVersion(t *testing.T) {
	for text, want := range map[string]string{
		"\nenvoy  version: 9e5580933739775e8bce696a57a2e1bc99368f23/1.40.0/Clean/RELEASE/BoringSSL\n\n": "1.40.0",
		"envoy  version: bad8280de85c25b147a90c1d9b8a8c67a13e7134/1.36.4/Modified/DEBUG/BoringSSL":      "1.36.4",
		"envoy  version: 0000000000000000000000000000000000000000/1.41.0-dev/Clean/RELEASE/BoringSSL":   "1.41.0",
		"1.40.0":   "1.40.0",
		"v1.38.3":  "1.38.3",
		"1.40":     "1.40.0",
		"1.39.1-x": "1.39.1",
	} {
		got, err := bootstrap.ParseVersion(text)
		if err != nil || got.String() != want {
			t.Errorf("ParseVersion(%q) = %v, %v, want %s", text, got, err, want)
		}
	}
	for _, text := range []string{"", "envoy", "1", "1.", "a1.40.0", "1.40.0.1", "1.4000", "1.40.0 or so", "true (GNU coreutils) 8.32\n", "GNU bash, version five"} {
		if got, err := bootstrap.ParseVersion(text); err == nil || !strings.Contains(err.Error(), "no version of Envoy") {
			t.Errorf("ParseVersion(%q) = %v, %v, want that it is none", text, got, err)
		}
	}
}

func TestSecurityFloor(t *testing.T) {
	for _, tt := range []struct {
		version, floor string
		supported      bool
	}{
		{"1.35.9", "1.36.10", false},
		{"1.36.0", "1.36.10", true},
		{"1.36.10", "1.36.10", true},
		{"1.37.5", "1.37.6", true},
		{"1.38.4", "1.38.4", true},
		{"1.39.0", "1.39.1", true},
		{"1.40.0", "1.40.0", true},
		{"1.41.2", "1.41.2", true},
		{"2.0.0", "2.0.0", true},
	} {
		v, err := bootstrap.ParseVersion(tt.version)
		if err != nil {
			t.Fatal(err)
		}
		if got := v.SecurityFloor().String(); got != tt.floor {
			t.Errorf("SecurityFloor of %s = %s, want %s", v, got, tt.floor)
		}
		if got := v.Supported(); got != tt.supported {
			t.Errorf("Supported of %s = %t, want %t", v, got, tt.supported)
		}
	}
}
