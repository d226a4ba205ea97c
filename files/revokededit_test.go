package files_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/sallyport/sallyport/files"
	"github.com/sallyport/sallyport/intention"
)

// TestEditRevoked: what somebody wrote stays as it is, and what is added and taken out is.
func TestEditRevoked(t *testing.T) {
	t.Parallel()
	until := time.Date(2027, 1, 31, 12, 0, 0, 0, time.UTC)
	for name, c := range map[string]struct {
		src, drop string // drop is a serial number
		add       []intention.Revocation
		want      string
	}{
		"a new file": {
			add:  []intention.Revocation{{ID: revokedWeb, Serial: "1020", SHA256: digest, Until: until, Reason: "stolen"}},
			want: "# What is taken out is in force again.\nrevoked:\n    - spiffe_id: " + revokedWeb + "\n      serial: \"1020\"\n      sha256: " + digest + "\n      until: \"2027-01-31T12:00:00Z\"\n      reason: stolen\n",
		},
		"comments, blank lines and quotes stay": {
			src:  "# ours\n\nrevoked:\n# the first\n- serial: '1'   # one\n\n- serial: \"2\"\n  reason: |-\n    two\n\n# the end\n",
			add:  []intention.Revocation{{Serial: "3"}},
			want: "# ours\n\nrevoked:\n# the first\n- serial: '1'   # one\n\n- serial: \"2\"\n  reason: |-\n    two\n- serial: \"3\"\n\n# the end\n",
		},
		"the comment above goes": {
			src:  "# ours\nrevoked:\n  # the first\n  - serial: \"1\"\n\n  # the second\n  # of two\n  - serial: \"2\"\n    reason: two\n  # the third\n  - serial: \"3\"",
			drop: "2",
			add:  []intention.Revocation{{Serial: "4", By: "ann"}},
			want: "# ours\nrevoked:\n  # the first\n  - serial: \"1\"\n\n  # the third\n  - serial: \"3\"\n  - serial: \"4\"\n    by: ann\n",
		},
		"the only one": {
			src: "# ours\nrevoked:\n# the first\n- serial: \"1\"\n", drop: "1",
			want: "# ours\nrevoked:\n",
		},
		"and another in its place": {
			src: "revoked:\n- serial: \"1\"\n", drop: "1", add: []intention.Revocation{{Serial: "2"}},
			want: "revoked:\n- serial: \"2\"\n",
		},
		"a flow is written anew": {
			src: "revoked: [{serial: \"1\"}, {serial: \"2\"}] # ours\n", drop: "1", add: []intention.Revocation{{Serial: "3"}},
			want: "# What is taken out is in force again.\nrevoked:\n    - serial: \"2\"\n    - serial: \"3\"\n",
		},
		"a dash on its own line": {
			src: "revoked:\n-\n  serial: \"1\"\n-\n  serial: \"2\"\n", drop: "2",
			want: "# What is taken out is in force again.\nrevoked:\n    - serial: \"1\"\n",
		},
		"a list that became empty": {
			src: "# ours\n\nrevoked:\n", add: []intention.Revocation{{Serial: "3"}},
			want: "# ours\n\nrevoked:\n    - serial: \"3\"\n",
		},
		"an empty list": {
			src: "# ours\nrevoked: []\n", add: []intention.Revocation{{Serial: "3"}},
			want: "# ours\nrevoked:\n    - serial: \"3\"\n",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := files.EditRevoked(files.RevokedFile, []byte(c.src), func(r intention.Revocation) bool { return r.Serial == c.drop }, c.add)
			if diff := cmp.Diff(c.want, string(got)); err != nil || diff != "" {
				t.Errorf("%v\n%s", err, diff)
			}
			if _, err := files.ParseRevoked(files.RevokedFile, got); err != nil {
				t.Errorf("it cannot be read: %v", err)
			}
		})
	}
}

// TestEditRevokedRefuses: a file with a mistake is not touched, nor is one made.
func TestEditRevokedRefuses(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		src  string
		add  []intention.Revocation
		want string
	}{
		"a mistake in it":             {src: "revoked:\n- serial: 1x\n", want: "revoked.yaml:2"},
		"what cannot be printed":      {add: []intention.Revocation{{Serial: "1", Reason: "a\x1bb"}}, want: "cannot be printed"},
		"too many":                    {add: make([]intention.Revocation, 10_001), want: "10000 at most"},
		"too many with what is there": {src: "revoked:\n- serial: \"1\"\n", add: make([]intention.Revocation, 10_000), want: "10000 at most"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := files.EditRevoked(files.RevokedFile, []byte(c.src), nil, c.add)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %q: %q", err, c.want, got)
			}
		})
	}
}
