package attest

import (
	"os/user"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestUnknown: names that nobody has here are told, numbers and names that somebody has are not.
func TestUnknown(t *testing.T) {
	g, err := user.LookupGroupId("0")
	if err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string][]string{
		"unix:uid:4000000":                             nil,
		"unix:uid:4000000, unix:group:" + g.Name:       nil,
		"unix:user:nosuch-user":                        {`"unix:user:nosuch-user" names a user that is not on this machine`},
		"unix:uid:1, unix:supplementary_group:no-such": {`"unix:supplementary_group:no-such" names a group that is not on this machine`},
	} {
		s, err := Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, s.Unknown()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", text, diff)
		}
	}
}
