package main

import (
	"errors"
	"strings"
	"testing"
)

// TestConformance: each check is printed, with what to mend, and the exit status says whether all were passed.
func TestConformance(t *testing.T) {
	out, err := command(t, "ca", "conformance", "--", "sh", "-c", `read -r q
case "$q" in
*describe*) echo '{"version": 1, "name": "x", "signs": ["leaf"]}' ;;
*) echo '{"error": {"code": "denied", "message": "no"}}' ;;
esac`)
	if status := exitError(0); !errors.As(err, &status) || status != 1 {
		t.Errorf("%v, want exit status 1", err)
	}
	for _, want := range []string{
		"ok       describe says version 1\n", "failed   roots is answered", `the CA denied: "no"`, "to mend it: ", "not run  roots are certificates in PEM: roots is not answered\n", " checks: ",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("there is no %q in\n%s", want, out)
		}
	}
	for want, args := range map[string][]string{
		"name the plug-in": {}, "give one of them": {"--url", "unix:///x", "--", "true"}, "--trust-domain": {"--trust-domain", "A b", "--", "true"},
		"not found": {"--", "no-such-program"}, "clear text": {"--url", "http://x"},
	} {
		if _, err := command(t, append([]string{"ca", "conformance"}, args...)...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", args, err, want)
		}
	}
}
