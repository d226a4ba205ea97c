package attest_test

import (
	"strings"
	"testing"

	"github.com/sallyport/sallyport/attest"
)

func TestParse(t *testing.T) {
	for text, want := range map[string]string{
		"unix:uid:1000":                                                "",
		"unix:user:web":                                                "",
		"unix:uid:1000 , unix:path:/usr/bin/web":                       "unix:uid:1000,unix:path:/usr/bin/web",
		"unix:path:/opt/a:b,unix:user:web":                             "",
		"systemd:id:web.service,unix:user:web":                         "",
		"unix:uid:1000,systemd:id:session-1.scope":                     "",
		"unix:gid:0,unix:group:web,unix:uid:1":                         "",
		"unix:uid:1,unix:uid:1":                                        "unix:uid:1",
		"unix:uid:4294967294":                                          "",
		"unix:uid:1,unix:user:web":                                     "",
		"unix:uid:1,unix:supplementary_gid:2":                          "",
		"unix:uid:1,unix:supplementary_group:a":                        "",
		"unix:uid:1,unix:supplementary_gid:2,unix:gid:7":               "",
		"unix:uid:1,unix:supplementary_gid:2,unix:gid:2":               "",
		"unix:uid:1,unix:supplementary_gid:2,unix:user:a":              "",
		"unix:uid:1,unix:supplementary_gid:2,systemd:id:a.b.service":   "",
		"unix:uid:1,unix:supplementary_gid:2,unix:supplementary_gid:3": "",
	} {
		if want == "" {
			want = text
		}
		if s, err := attest.Parse(text); err != nil || s.String() != want || s.IsZero() {
			t.Errorf("Parse(%q) = %v, %v; want %s", text, s, err, want)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for text, want := range map[string]string{
		"":                                     "empty selector",
		"unix:uid:1000,":                       "empty selector",
		"unix:path:/usr/bin/web":               "names no user",
		"systemd:id:web.service":               "names no user",
		"unix:gid:1000":                        "names no user",
		"unix:uid:0":                           "root is nobody",
		"unix:uid:00":                          "not a number",
		"unix:user:root":                       "root is nobody",
		"unix:uid:-1":                          "not a number",
		"unix:uid:+1":                          "not a number",
		"unix:uid:01":                          "not a number",
		"unix:uid:web":                         "use unix:user for a name",
		"unix:gid:web,unix:uid:1":              "use unix:group for a name",
		"unix:uid:4294967295":                  "not a number",
		"unix:uid:99999999999":                 "not a number",
		"unix:uid":                             "no value",
		"unix:uid:":                            "no value",
		"unix":                                 "no selector",
		"uid:1000":                             "no selector",
		"UNIX:uid:1000":                        "no selector",
		"k8s:ns:default":                       "no selector",
		"unix:sha256:00,unix:uid:1":            "no selector",
		"unix:uid:1,unix:uid:2":                "no process is both",
		"unix:uid:1,unix:path:/a,unix:path:/b": "no process is both",
		"unix:uid:1,unix:path:web":             "not an absolute path",
		"unix:uid:1,unix:path:/usr/../bin/web": "not an absolute path",
		"unix:uid:1,unix:path:/usr/bin/":       "not an absolute path",
		"unix:uid:1,systemd:id:web":            "not the name of a unit",
		"unix:uid:1,systemd:id:.service":       "not the name of a unit",
		"unix:uid:1,systemd:id:a/b.service":    "not the name of a unit",
		"unix:uid:1,unix:path:/a\x00":          "control character",
		"unix:uid:1\n":                         "",
		"unix:uid:1,unix:path:/" + long:        "selectors of",
	} {
		s, err := attest.Parse(text)
		switch {
		case want == "" && err != nil:
			t.Errorf("Parse(%.40q): %v", text, err)
		case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
			t.Errorf("Parse(%.40q) = %v, %v; want %q", text, s, err, want)
		case want != "" && !s.IsZero():
			t.Errorf("Parse(%.40q) gives %v with an error", text, s)
		}
	}
}

var long = strings.Repeat("a", 8<<10)

func TestUID(t *testing.T) {
	byNumber, err := attest.Parse("unix:gid:2,unix:uid:1")
	if err != nil {
		t.Fatal(err)
	}
	if uid, ok := byNumber.UID(); uid != 1 || !ok {
		t.Errorf("UID = %d, %v", uid, ok)
	}
	byName, err := attest.Parse("unix:user:web")
	if err != nil {
		t.Fatal(err)
	}
	if uid, ok := byName.UID(); ok {
		t.Errorf("UID = %d, of a name", uid)
	}
}

func FuzzParse(f *testing.F) {
	for _, seed := range []string{"unix:uid:1000, unix:path:/usr/bin/web", "systemd:id:web.service,unix:user:web", "unix::,:", "unix:uid:1,,"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		s, err := attest.Parse(text)
		if err != nil {
			if !s.IsZero() {
				t.Errorf("%q: %v with an error", text, s)
			}
			return
		}
		again, err := attest.Parse(s.String())
		if err != nil || again.String() != s.String() {
			t.Errorf("%q: %q becomes %q, %v", text, s, again, err)
		}
	})
}
