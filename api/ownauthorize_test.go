package api

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/intention"
)

// TestOwnAuthorize: who is told what decided, and what is refused.
func TestOwnAuthorize(t *testing.T) {
	r := start(t)
	r.intend("*", "legacy", intention.Deny)
	r.settle(t)
	uri := "spiffe://" + trustDomain.Name() + "/ns/default/dc/dc1/svc/"
	ask := func(token, source, rest string) reply {
		t.Helper()
		return r.ask(t, "POST", "/v1/sallyport/authorize", token, fmt.Sprintf(`{"Target":"api","ClientCertURI":%q,"ClientCertSerial":"01:02:AB"%s}`, uri+source, rest))
	}
	for source, want := range map[string]ownAuthorizeAnswer{
		"web": {
			authorizeAnswer: authorizeAnswer{Authorized: true, Reason: "Matched L4 intention: default/web => default/api (Precedence: 9, Action: ALLOW)"},
			Intention:       "web => api (allow)", Precedence: 9, Origin: "test",
		},
		"legacy": {
			authorizeAnswer: authorizeAnswer{Reason: "Matched L4 intention: default/legacy => default/* (Precedence: 6, Action: DENY)"},
			Intention:       "legacy => * (deny)", Precedence: 6, Origin: "test",
		},
		"db": {authorizeAnswer: authorizeAnswer{Reason: "Default intention policy"}, Default: true},
	} {
		want.Change = r.view.Change().Number
		a := ask("api", source, `,"Method":"GET","Path":"/a?b=c","Headers":{"X-A":["1","2\t3"]},"ClientCertSHA256":"`+strings.Repeat("ab", 32)+`"`)
		var got ownAuthorizeAnswer
		if err := json.Unmarshal([]byte(a.body), &got); err != nil {
			t.Fatalf("%d %s: %v", a.code, a.body, err)
		}
		if diff := cmp.Diff(want, got, cmp.AllowUnexported(ownAuthorizeAnswer{})); diff != "" {
			t.Errorf("%s: -want +got:\n%s", source, diff)
		}
		consul := r.ask(t, "POST", "/v1/agent/connect/authorize", "api", fmt.Sprintf(`{"Target":"api","ClientCertURI":%q}`, uri+source))
		if b, _ := json.Marshal(want.authorizeAnswer); consul.body != string(b) {
			t.Errorf("%s: Consul's endpoint says %s", source, consul.body)
		}
	}
	for rest, want := range map[string]string{
		`,"Nonsense":1`:                      `json: unknown field "Nonsense"`,
		`,"Method":1`:                        "Method: a number is of no use there",
		`} {`:                                "something follows the object",
		`,"ClientCertSerial":""`:             "want the serial number",
		`,"ClientCertSerial":"xy"`:           "want the serial number",
		`,"ClientCertSHA256":"ab"`:           "64 digits",
		`,"Path":"/a"`:                       "Method",
		`,"Headers":{"a":["b"]}`:             "Method",
		`,"Method":"GET"`:                    "begins with /",
		`,"Method":"GET","Path":"a"`:         "begins with /",
		`,"Method":"GET","Path":"*"`:         "begins with /",
		`,"Method":"GET","Path":"http://x/"`: "begins with /",
		`,"Method":"G T","Path":"/"`:         "Method",
		`,"Method":"GET","Path":"/a b"`:      "over the wire",
		`,"Method":"GET","Path":"/a\u0000"`:  "over the wire",
		`,"Method":"GET","Path":"/a\r\n"`:    "over the wire",
		`,"Method":"GET","Path":"/a#b"`:      "over the wire",
		`,"Method":"GET","Path":"/é"`:        "over the wire",
		`,"Method":"GET","Path":"/` + strings.Repeat("a", maxRequest) + `"`:                           "at most",
		`,"Method":"GET","Path":"/","Headers":{":path":["/x"]}`:                                       "name of a header",
		`,"Method":"GET","Path":"/","Headers":{"a":["b\r\nc"]}`:                                       "control character",
		`,"Method":"GET","Path":"/","Headers":{"a":["b\u0000"]}`:                                      "control character",
		`,"Method":"GET","Path":"/","Headers":{"a":["b"],"A":["c"]}`:                                  "twice",
		`,"Method":"GET","Path":"/","Headers":{"a":"b"}`:                                              "a string is of no use",
		`,"Method":"GET","Path":"/","Headers":{"a":["` + strings.Repeat("b", maxRequest) + `"]}`:      "at most",
		`,"Method":"GET","Path":"/","Headers":{` + strings.Repeat(`"%d":[],`, maxHeaders) + `"a":[]}`: "100 at most",
	} {
		if n := strings.Count(rest, "%d"); n > 0 {
			numbers := make([]any, n)
			for i := range numbers {
				numbers[i] = i
			}
			rest = fmt.Sprintf(rest, numbers...)
		}
		if a := ask("api", "web", rest); a.code != 400 || !strings.Contains(a.body, want) {
			t.Errorf("%.100s = %d %q, want 400 %q", rest, a.code, a.body, want)
		}
	}
	for token, want := range map[string]string{"web": "Permission denied", "reader": "Permission denied", "": "Permission denied", "bogus": "ACL not found"} {
		if a := ask(token, "web", ""); a.code != 403 || !strings.HasPrefix(a.body, want) {
			t.Errorf("as %q: %d %q, want 403 %q", token, a.code, a.body, want)
		}
	}
}

// TestAuthorizeNotKnown: as long as it is not known what is said of a target nobody is let in, whatever is published; who may not ask
// has nothing asked for.
func TestAuthorizeNotKnown(t *testing.T) {
	r := start(t)
	r.settle(t)
	var asked []string
	var refusal error
	r.config.Knowing = func(_ context.Context, caller string, destination identity.Name) (*catalog.View, error) {
		asked = append(asked, caller+" "+destination.Service)
		return r.view, refusal
	}
	ask := func(path, token, more string) *httptest.ResponseRecorder {
		req := httptest.NewRequestWithContext(t.Context(), "POST", path, strings.NewReader(`{"Target":"api","ClientCertURI":"spiffe://`+trustDomain.Name()+`/ns/default/dc/dc1/svc/web"`+more+`}`))
		req.Host = "localhost"
		req.Header.Set("X-Consul-Token", token)
		w := httptest.NewRecorder()
		r.ServeHTTP(w, req)
		return w
	}
	for _, tc := range []struct {
		token   string
		refusal error
		code    int
		body    string
	}{
		{"api", nil, 200, `"Authorized":true`},
		{"api", Refused(500, "failed getting intention match: no"), 500, "failed getting intention match: no"},
		{"api", Refused(429, "too many"), 429, "too many"},
		{"web", nil, 403, "Permission denied"},
	} {
		refusal = tc.refusal
		for path, more := range map[string]string{"/v1/agent/connect/authorize": "", "/v1/sallyport/authorize": `,"ClientCertSerial":"01"`} {
			if a := ask(path, tc.token, more); a.Code != tc.code || !strings.Contains(a.Body.String(), tc.body) {
				t.Errorf("%s as %s: %d %s, want %d %s", path, tc.token, a.Code, a.Body, tc.code, tc.body)
			}
		}
	}
	if want := "api api"; len(asked) != 6 || asked[0] != want {
		t.Errorf("asked for %q, want six times %q", asked, want)
	}
}
