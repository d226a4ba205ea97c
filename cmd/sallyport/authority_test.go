package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestHadCA: what only a control plane with a CA leaves says that there was one; Consul's leaves no
// such trace.
func TestHadCA(t *testing.T) {
	for _, tt := range []struct {
		files []string
		want  string // what the error names; empty: there is none
	}{
		{nil, ""},
		{[]string{"change"}, ""},
		{[]string{"token.key"}, "token.key"},
		{[]string{"token.key", "last-known-good.json"}, "token.key"},
		{[]string{"revoked-tokens.json"}, "revoked-tokens.json"},
		{[]string{"sidecar-ports.json"}, "sidecar-ports.json"},
		{[]string{"generations-2.json", "change"}, "generations-2.json"},
		{[]string{"generations.json"}, "generations.json"},
		{[]string{"generations-2.json", "last-known-good.json"}, ""},
		{[]string{"generations-2.json", "last-known-good.json.bad"}, ""},
	} {
		dir := t.TempDir()
		for _, name := range tt.files {
			if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		err := hadCA(dir)
		if (err == nil) != (tt.want == "") || err != nil && (!strings.Contains(err.Error(), filepath.Join(dir, tt.want)) || !strings.Contains(err.Error(), "empty --data")) {
			t.Errorf("%v: %v, want %q named", tt.files, err, tt.want)
		}
	}
}
