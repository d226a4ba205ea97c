package api

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
)

// decode reads the body of a question. What the error says is encoding/json's.
func (in *connectAuthorizeRequest) decode(w http.ResponseWriter, r *http.Request) error {
	body := http.MaxBytesReader(w, r.Body, maxBody)
	if r.ContentLength > 0 && r.ContentLength <= largeBody {
		b := make([]byte, r.ContentLength)
		n, err := io.ReadFull(body, b)
		text := string(b[:n])
		if err == nil && in.plain(text) {
			return nil
		}
		*in = connectAuthorizeRequest{}
		body = io.NopCloser(io.MultiReader(strings.NewReader(text), body))
	}
	d := json.NewDecoder(body)
	d.DisallowUnknownFields()
	return d.Decode(in)
}

// plain reads the body that clients send: an object of the three fields, spelled as they are here, with strings of printable ASCII without
// escapes. It is false for all else, which is for encoding/json, as is every error: reading this one takes it as long as all the rest of the
// question takes sallyport.
func (in *connectAuthorizeRequest) plain(body string) bool {
	rest, ok := strings.CutPrefix(blanks(body), "{")
	for ok {
		var key, value string
		if key, rest, ok = plainString(blanks(rest)); !ok {
			return false
		}
		if rest, ok = strings.CutPrefix(blanks(rest), ":"); !ok {
			return false
		}
		if value, rest, ok = plainString(blanks(rest)); !ok {
			return false
		}
		switch key {
		case "Target":
			in.Target = value
		case "ClientCertURI":
			in.ClientCertURI = value
		case "ClientCertSerial":
			in.ClientCertSerial = value
		default:
			return false
		}
		rest = blanks(rest)
		if strings.HasPrefix(rest, "}") {
			return true // what follows is not looked at
		}
		rest, ok = strings.CutPrefix(rest, ",")
	}
	return false
}

// blanks is s without JSON's white space before it.
func blanks(s string) string { return strings.TrimLeft(s, " \t\r\n") }

// plainString is the string that s begins with, and what follows it.
func plainString(s string) (value, rest string, ok bool) {
	if s == "" || s[0] != '"' {
		return "", "", false
	}
	for i := 1; i < len(s); i++ {
		switch c := s[i]; {
		case c == '"':
			return s[1:i], s[i+1:], true
		case c == '\\' || c < ' ' || c > '~':
			return "", "", false
		}
	}
	return "", "", false
}
