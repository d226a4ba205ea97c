package xds

import (
	"strings"
	"testing"
)

// TestNACKRemedy: what is wrong with an address is said with what mends it.
func TestNACKRemedy(t *testing.T) {
	t.Parallel()
	for message, want := range map[string][2]string{
		"Error adding/updating listener(s) public_listener:127.0.0.1:21000: cannot bind '127.0.0.1:21000': Address already in use\n": {
			"127.0.0.1:21000", "end what has 127.0.0.1:21000, or choose another port",
		},
		"cannot bind '[::1]:21000': Address already in use":           {"[::1]:21000", "end what has [::1]:21000"},
		"cannot bind '127.0.0.1:80': Permission denied":               {"", "above 1023"},
		"cannot bind '192.0.2.1:80': Cannot assign requested address": {"", "network namespace"},
		"cannot bind '192.0.2.1:80': No buffer space available":       {},
		"Proto constraint validation failed":                          {},
	} {
		n := &NACK{Message: message}
		if got := n.InUse(); got != want[0] {
			t.Errorf("%q: in use is %q, want %q", message, got, want[0])
		}
		if got := n.Remedy(); !strings.Contains(got, want[1]) || (got == "") != (want[1] == "") {
			t.Errorf("%q: the remedy is %q, want %q", message, got, want[1])
		}
	}
}
