package decisiontable

import (
	"fmt"
	"strings"

	"github.com/sallyport/sallyport/intention"
)

// Request is what a peer asks for.
type Request struct {
	Method, Path string
	// Headers are names, in lower case, and values.
	Headers [][2]string
}

// parseRequest reads "GET /a", "GET /a; x-role: guest; x-role: b".
func parseRequest(text string) (*Request, error) {
	parts := strings.Split(text, "; ")
	method, path, ok := strings.Cut(parts[0], " ")
	if !ok {
		return nil, fmt.Errorf("%q is no request: GET /a; x-role: guest", text)
	}
	r := &Request{Method: method, Path: path}
	for _, h := range parts[1:] {
		name, value, ok := strings.Cut(h, ":")
		if !ok || name != strings.ToLower(name) {
			return nil, fmt.Errorf("%q is no header in lower case", h)
		}
		r.Headers = append(r.Headers, [2]string{name, strings.TrimPrefix(value, " ")})
	}
	return r, nil
}

func (r *Request) String() string {
	s := r.Method + " " + r.Path
	var sText strings.Builder
	for _, h := range r.Headers {
		sText.WriteString("; " + h[0] + ": " + h[1])
	}
	s += sText.String()
	return s
}

// H1 is the request in HTTP/1.1, after which the connection ends; that of the nil Request is GET /.
func (r *Request) H1() string {
	if r == nil {
		r = &Request{Method: "GET", Path: "/"}
	}
	s := r.Method + " " + r.Path + " HTTP/1.1\r\nHost: web\r\n"
	var sText strings.Builder
	for _, h := range r.Headers {
		sText.WriteString(h[0] + ": " + h[1] + "\r\n")
	}
	s += sText.String()
	if r.Method != "GET" && r.Method != "HEAD" {
		s += "Content-Length: 0\r\n"
	}
	return s + "Connection: close\r\n\r\n"
}

// Asked is the request as Decide has it; that of the nil Request is GET /.
func (r *Request) Asked() *intention.Request {
	if r == nil {
		r = &Request{Method: "GET", Path: "/"}
	}
	return &intention.Request{Method: r.Method, Path: r.Path, Header: func(name string) (string, bool) {
		if name == ":authority" {
			return "web", true // as H1 has it
		}
		var values []string
		for _, h := range r.Headers {
			if h[0] == name {
				values = append(values, h[1])
			}
		}
		return strings.Join(values, ","), values != nil
	}}
}

// permission is one as the table has it.
type permission struct {
	Action     string   `yaml:"action"`
	PathExact  string   `yaml:"path_exact"`
	PathPrefix string   `yaml:"path_prefix"`
	PathRegex  string   `yaml:"path_regex"`
	Methods    []string `yaml:"methods"`
	Headers    []struct {
		Name       string `yaml:"name"`
		Present    bool   `yaml:"present"`
		Exact      string `yaml:"exact"`
		Prefix     string `yaml:"prefix"`
		Suffix     string `yaml:"suffix"`
		Contains   string `yaml:"contains"`
		Regex      string `yaml:"regex"`
		IgnoreCase bool   `yaml:"ignore_case"`
		Invert     bool   `yaml:"invert"`
	} `yaml:"headers"`
}

func permissionsOf(list []permission) (*intention.Permissions, error) {
	var all []intention.Permission
	for _, p := range list {
		act, err := action(p.Action)
		if err != nil {
			return nil, err
		}
		of := intention.Permission{Action: act, PathExact: p.PathExact, PathPrefix: p.PathPrefix, PathRegex: p.PathRegex, Methods: p.Methods}
		for _, h := range p.Headers {
			of.Headers = append(of.Headers, intention.HeaderMatch(h))
		}
		all = append(all, of)
	}
	return intention.NewPermissions(all)
}
