package consul

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// TestTokenless: who gave no token is told so where the agent says no; who gave one, or asks with a caller's, is asked about its rights.
func TestTokenless(t *testing.T) {
	t.Setenv("CONSUL_HTTP_TOKEN", "")
	t.Setenv("CONSUL_HTTP_TOKEN_FILE", "")
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "Permission denied", http.StatusForbidden) }))
	defer s.Close()
	for name, tc := range map[string]struct {
		config  Config
		request request
		want    string
	}{
		"none":       {Config{}, request{path: "/v1/agent/self"}, "no token was given"},
		"one":        {Config{Token: "x"}, request{path: "/v1/agent/self"}, "does the token have the rights"},
		"a caller's": {Config{}, request{path: "/v1/agent/self", caller: true}, "does the token have the rights"},
	} {
		tc.config.Address = s.URL
		c, err := tc.config.connect()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.do(t.Context(), tc.request); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want %q", name, err, tc.want)
		}
	}
}
