package api

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// bodies are those of questions: first those that are read without encoding/json.
var bodies = []struct {
	body  string
	plain bool
}{
	{`{"Target":"db","ClientCertURI":"spiffe://td/ns/default/dc/dc1/svc/web","ClientCertSerial":"01:02"}`, true},
	{" {\t\"Target\" :\r\n\"db\" , \"ClientCertURI\":\"\"}", true},
	{`{"Target":"a","Target":"b"} and more`, true},
	{`{"target":"db"}`, false},
	{`{"Target":"d\u0062"}`, false},
	{`{"Target":"dé"}`, false},
	{"{\"Target\":\"d\xff\"}", false},
	{"{\"Target\":\"d\x01\"}", false},
	{`{"Target":"db","Nonsense":"x"}`, false},
	{`{"Target":"db",}`, false},
	{`{"Target":"db","Nonsense`, false},
	{`{"Target":"db" "ClientCertURI":"x"}`, false},
	{`{"Target":7}`, false},
	{`{"Target":null}`, false},
	{`{}`, false},
	{`null`, false},
	{`["Target"]`, false},
	{``, false},
	{"\u00a0{\"Target\":\"db\"}", false},
}

func decoded(body string) (in connectAuthorizeRequest, text string) {
	r := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(body))
	if err := in.decode(httptest.NewRecorder(), r); err != nil {
		text = err.Error()
	}
	return in, text
}

func byJSON(body string) (in connectAuthorizeRequest, text string) {
	d := json.NewDecoder(strings.NewReader(body))
	d.DisallowUnknownFields()
	if err := d.Decode(&in); err != nil {
		text = err.Error()
	}
	return in, text
}

// TestAuthorizeBody: a body means what encoding/json says, whoever reads it, and so do errors.
func TestAuthorizeBody(t *testing.T) {
	for _, c := range bodies {
		var in connectAuthorizeRequest
		if got := in.plain(c.body); got != c.plain {
			t.Errorf("%q is plain: %v, want %v", c.body, got, c.plain)
		}
		got, text := decoded(c.body)
		if want, wantText := byJSON(c.body); got != want || text != wantText {
			t.Errorf("%q: %+v, %s; want %+v, %s", c.body, got, text, want, wantText)
		}
	}
	long := `{"Target":"` + strings.Repeat("x", largeBody) + `"}`
	if got, text := decoded(long); len(got.Target) != largeBody || text != "" {
		t.Errorf("a long one: %d bytes, %s", len(got.Target), text)
	}
	r := httptest.NewRequest(http.MethodPost, "/", io.LimitReader(strings.NewReader(bodies[0].body), 9))
	r.ContentLength = int64(len(bodies[0].body))
	var in connectAuthorizeRequest
	if err := in.decode(httptest.NewRecorder(), r); err == nil || in != (connectAuthorizeRequest{}) {
		t.Errorf("one that is cut off: %+v, %v", in, err)
	}
}

// FuzzAuthorizeBody looks for a body that means something else than encoding/json says.
func FuzzAuthorizeBody(f *testing.F) {
	for _, c := range bodies {
		f.Add(c.body)
	}
	f.Fuzz(func(t *testing.T, body string) {
		got, text := decoded(body)
		if want, wantText := byJSON(body); got != want || text != wantText {
			t.Errorf("%q: %+v, %s; want %+v, %s", body, got, text, want, wantText)
		}
	})
}
