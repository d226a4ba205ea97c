package api

import (
	"bytes"
	"cmp"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/intention"
)

// ownAuthorizeRequest is the body of /v1/sallyport/authorize: that of Consul's endpoint, and what a proxy knows of a request.
type ownAuthorizeRequest struct {
	connectAuthorizeRequest
	// ClientCertSHA256 is the digest of the certificate's DER in hexadecimal; empty: not known.
	ClientCertSHA256 string
	httpRequest
}

// httpRequest is a request as it came over the wire. All empty: the question is about a connection.
type httpRequest struct {
	Method string
	Path   string
	// Headers are by name, in any letter case. Nil: none.
	Headers map[string][]string
}

// ownAuthorizeAnswer is a decision with what it came from.
type ownAuthorizeAnswer struct {
	authorizeAnswer
	// Default says that no intention is about the source, so that the mesh's default decided.
	Default bool
	// Intention, Precedence and Origin are of the one that decided: "web => api (allow)", 9, "api.hcl:3". Empty: none did. Origin may be
	// of a revocation, too.
	Intention  string `json:",omitempty"`
	Precedence int    `json:",omitempty"`
	// Permission is which of the intention's permissions decided, counted from 1; 0: none did.
	Permission int    `json:",omitempty"`
	Origin     string `json:",omitempty"`
	// Note says why it denies although an allow is written; empty: it does what is written.
	Note string `json:",omitempty"`
	// Change is the number of the change that the answer knows of last.
	Change uint64
}

// ownAuthorize is authorize with requests, and with what decided.
func (s *Server) ownAuthorize(w http.ResponseWriter, r *http.Request, q *question) {
	a, err := s.ownAuthorized(w, r, q)
	s.common(w)
	if err != nil {
		s.deny(w, r, q, err)
		return
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false) // "web => api", for who reads it
	_ = e.Encode(a)        // of texts, numbers and bools
	s.write(w, r, q, &answer{code: http.StatusOK, body: bytes.TrimSuffix(b.Bytes(), []byte("\n"))})
}

func (s *Server) ownAuthorized(w http.ResponseWriter, r *http.Request, q *question) (ownAuthorizeAnswer, error) {
	var in ownAuthorizeRequest
	d := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxOwnBody))
	d.DisallowUnknownFields()
	err := d.Decode(&in)
	if err == nil && !ended(d) {
		err = errors.New("something follows the object")
	}
	if err == nil {
		err = in.check()
	}
	if wrong := (*json.UnmarshalTypeError)(nil); errors.As(err, &wrong) { // its text has Go's names
		err = fmt.Errorf("%s: a %s is of no use there", cmp.Or(wrong.Field, "the body"), wrong.Value)
	}
	if err != nil {
		return ownAuthorizeAnswer{}, failed(http.StatusBadRequest, "Request decode failed: %s", err)
	}
	v, target, source, err := s.mayAuthorize(r, q, &in.connectAuthorizeRequest)
	if err != nil {
		return ownAuthorizeAnswer{}, err
	}
	a := explained(v, decide(v, target, source, in.ClientCertSerial, in.ClientCertSHA256, in.request()))
	q.reason = a.Reason
	return a, nil
}

// ended reports whether nothing follows what a decoder has read.
func ended(d *json.Decoder) bool {
	_, err := d.Token()
	return errors.Is(err, io.EOF)
}

// explained is a decision of v, and which intention it comes from.
func explained(v *catalog.View, d intention.Decision) ownAuthorizeAnswer {
	a := ownAuthorizeAnswer{authorizeAnswer: authorizeAnswerOf(d), Default: d.Reason == intention.ByDefault, Change: v.Change().Number}
	if i := d.Intention; i != nil {
		a.Intention, a.Precedence, a.Origin = i.String(), i.Precedence(), i.Origin
		a.Note, a.Permission = i.WhyDenied(), d.Permission
	}
	if r := d.Revocation; r != nil {
		a.Origin = r.Origin
	}
	return a
}

// Bounds of a request that is asked about: what Envoy takes unless it is told otherwise.
const (
	maxRequest = 60 << 10 // bytes of method, path and headers
	maxHeaders = 100
	maxOwnBody = 2 * maxRequest // of the question; an object of many small fields takes some twenty times its length
	maxSerial  = 32             // bytes; RFC 5280 has 20
)

// check refuses what is not of the form that is documented. What has two readings is refused now, as rules will look at it one day.
func (in *ownAuthorizeRequest) check() error {
	if b, err := hexadecimal(in.ClientCertSerial); err != nil || len(b) == 0 || len(b) > maxSerial {
		return fmt.Errorf("ClientCertSerial %.100q: want the serial number of the certificate in hexadecimal, as 01:02:ab: it is what a certificate is revoked by", in.ClientCertSerial)
	}
	if b, err := hexadecimal(in.ClientCertSHA256); err != nil || len(b) != 0 && len(b) != 32 {
		return fmt.Errorf("ClientCertSHA256 %.100q: want the SHA-256 of the certificate's DER, 64 digits in hexadecimal", in.ClientCertSHA256)
	}
	return in.httpRequest.check()
}

// hexadecimal reads a number as certificates are shown, with or without colons.
func hexadecimal(text string) ([]byte, error) {
	text = strings.ReplaceAll(text, ":", "")
	if len(text)%2 == 1 {
		text = "0" + text
	}
	return hex.DecodeString(text)
}

func (in *httpRequest) check() error {
	if in.Method == "" && in.Path == "" && len(in.Headers) == 0 {
		return nil
	}
	size := len(in.Method) + len(in.Path)
	seen := make(map[string]bool, len(in.Headers))
	for name, values := range in.Headers {
		if !token(name) {
			return fmt.Errorf("Headers: %.100q is not the name of a header: letters, digits, and !#$%%&'*+-.^_`|~", name)
		}
		if seen[strings.ToLower(name)] {
			return fmt.Errorf("Headers: %.100q is there twice, in other letter case: name a header once, with all its values", name)
		}
		seen[strings.ToLower(name)] = true
		for _, value := range values {
			if strings.ContainsFunc(value, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }) {
				return fmt.Errorf("Headers: the value of %.100q has a control character", name)
			}
			size += len(name) + len(value)
		}
	}
	switch {
	case !token(in.Method):
		return fmt.Errorf("Method %.100q: want that of the request, as GET; Path and Headers need it", in.Method)
	case !strings.HasPrefix(in.Path, "/"):
		return fmt.Errorf("Path %.100q: want that of the request, which begins with /", in.Path)
	case strings.ContainsFunc(in.Path, func(r rune) bool { return r <= ' ' || r >= 0x7f || r == '#' }):
		return fmt.Errorf("Path %.100q: want it as it came over the wire: without blanks and #, and with all that is not ASCII as %%XX", in.Path)
	case len(in.Headers) > maxHeaders:
		return fmt.Errorf("Headers: %d of them, %d at most", len(in.Headers), maxHeaders)
	case size > maxRequest:
		return fmt.Errorf("method, path and headers have %d bytes, %d at most", size, maxRequest)
	}
	return nil
}

// token reports whether s is one (RFC 9110, 5.6.2).
func token(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return (r < '0' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z') && !strings.ContainsRune("!#$%&'*+-.^_`|~", r)
	})
}
