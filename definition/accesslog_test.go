package definition

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/sallyport/sallyport/catalog"
)

func TestAccessLogs(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		text string // of AccessLogs
		want catalog.AccessLogs
		said string // a part of the one mistake; there are no logs then
	}{
		"nothing":             {`{}`, catalog.AccessLogs{}, ""},
		"off":                 {`{"Enabled": false, "Type": "file", "Path": "/x"}`, catalog.AccessLogs{Sink: catalog.LogFile, Path: "/x"}, ""},
		"stdout":              {`{"Enabled": true}`, catalog.AccessLogs{Enabled: true}, ""},
		"stderr":              {`{"Enabled": true, "Type": "stderr", "DisableListenerLogs": true}`, catalog.AccessLogs{Enabled: true, Sink: catalog.LogStderr, WithoutListener: true}, ""},
		"file and text":       {`{"Enabled": true, "Type": "file", "Path": "/x", "TextFormat": "%PROTOCOL% 100%%"}`, catalog.AccessLogs{Enabled: true, Sink: catalog.LogFile, Path: "/x", Text: "%PROTOCOL% 100%%"}, ""},
		"json":                {`{"Enabled": true, "JSONFormat": "{\"a\": {\"b\": \"%REQ(X)%\"}, \"n\": 1}"}`, catalog.AccessLogs{Enabled: true, JSON: `{"a": {"b": "%REQ(X)%"}, "n": 1}`}, ""},
		"another type":        {`{"Enabled": true, "Type": "disk"}`, catalog.AccessLogs{}, "invalid access log type: disk"},
		"a file without path": {`{"Enabled": true, "Type": "file"}`, catalog.AccessLogs{}, "path must be specified when using file type access logs"},
		"a path without file": {`{"Enabled": true, "Path": "/x"}`, catalog.AccessLogs{}, "path is only valid for file type access logs"},
		"a path of somewhere": {`{"Enabled": true, "Type": "file", "Path": "x.log"}`, catalog.AccessLogs{}, `Path "x.log" must be absolute`},
		"two formats":         {`{"Enabled": true, "JSONFormat": "{}", "TextFormat": "a"}`, catalog.AccessLogs{}, "cannot specify both access log JSONFormat and TextFormat"},
		"broken json":         {`{"Enabled": true, "JSONFormat": "{x"}`, catalog.AccessLogs{}, "invalid access log json for JSON format: invalid character 'x'"},
		"json of a list":      {`{"Enabled": true, "JSONFormat": "[1]"}`, catalog.AccessLogs{}, "invalid access log json for JSON format: json: cannot unmarshal array"},
		"json of nothing":     {`{"Enabled": true, "JSONFormat": "null"}`, catalog.AccessLogs{}, "it must be an object"},
		"json too deep":       {`{"Enabled": true, "JSONFormat": "` + strings.Repeat(`{\"a\":`, 30) + `1` + strings.Repeat(`}`, 30) + `"}`, catalog.AccessLogs{}, "it is nested too deep"},
		"a lone percent sign": {`{"Enabled": true, "TextFormat": "100%"}`, catalog.AccessLogs{}, "a lone %"},
		"no such command":     {`{"Enabled": true, "JSONFormat": "{\"a\": [\"%BOGUS%\"]}"}`, catalog.AccessLogs{}, "a: %BOGUS% is no command that Envoys know"},
		"a long format":       {`{"Enabled": true, "TextFormat": "` + strings.Repeat("a", maxFormat+1) + `"}`, catalog.AccessLogs{}, "at most 8192"},
		"a number as a type":  {`{"Enabled": true, "Type": 1}`, catalog.AccessLogs{}, "must be a string"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, lenient := range []bool{false, true} {
				n := &Node{}
				if err := json.Unmarshal([]byte(`{"AccessLogs": `+test.text+`}`), n); err != nil {
					t.Fatal(err)
				}
				var said []string
				r := Reader{Lenient: lenient, Report: func(m Mistake) { said = append(said, m.Text) }}
				got := r.Decoder(n, "proxy-defaults").AccessLogs("AccessLogs")
				if diff := cmp.Diff(test.want, got.Value); diff != "" || got.Set != (test.said == "") {
					t.Errorf("lenient %t: set %t, -want +got\n%s", lenient, got.Set, diff)
				}
				if all := strings.Join(said, "\n"); len(said) > 1 || (len(said) == 0) != (test.said == "") || !strings.Contains(all, test.said) {
					t.Errorf("lenient %t: said %q, want %q", lenient, all, test.said)
				}
			}
		})
	}
}
