package api

import (
	"strconv"
	"strings"

	"github.com/sallyport/sallyport/intention"
)

// permissionAnswer is a permission as Consul's API has it.
type permissionAnswer struct {
	Action string
	HTTP   httpPermissionAnswer
}

type httpPermissionAnswer struct {
	PathExact  string         `json:",omitempty"`
	PathPrefix string         `json:",omitempty"`
	PathRegex  string         `json:",omitempty"`
	Header     []headerAnswer `json:",omitempty"`
	Methods    []string       `json:",omitempty"`
}

type headerAnswer struct {
	Name       string
	Present    bool   `json:",omitempty"`
	Exact      string `json:",omitempty"`
	Prefix     string `json:",omitempty"`
	Suffix     string `json:",omitempty"`
	Contains   string `json:",omitempty"`
	Regex      string `json:",omitempty"`
	IgnoreCase bool   `json:",omitempty"`
	Invert     bool   `json:",omitempty"`
}

// effectOf is the action of an intention, or in its place the permissions that are in force.
func effectOf(i *intention.Intention) (action string, permissions []permissionAnswer) {
	if i.WhyDenied() != "" || i.Permissions == nil {
		return i.Effect().String(), nil
	}
	for _, p := range i.Permissions.List() {
		a := permissionAnswer{p.Action.String(), httpPermissionAnswer{PathExact: p.PathExact, PathPrefix: p.PathPrefix, PathRegex: p.PathRegex, Methods: p.Methods}}
		for _, h := range p.Headers {
			a.HTTP.Header = append(a.HTTP.Header, headerAnswer(h))
		}
		permissions = append(permissions, a)
	}
	return "", permissions
}

// l7Reason is a decision that permissions made, in Consul's words as far as it has some.
func l7Reason(d intention.Decision, head string) string {
	text := "Matched L7 intention: " + head + ", Permissions: " + strconv.Itoa(d.Intention.Permissions.Len())
	switch {
	case d.Permission > 0:
		text += ", Permission: " + strconv.Itoa(d.Permission) + ", Action: " + strings.ToUpper(d.Action.String())
	case d.Reason != intention.RequestsOnly:
		return text + "): " + d.Reason.String()
	}
	return text + ")"
}

// request is what permissions look at; nil: the question is about a connection.
func (in *httpRequest) request() *intention.Request {
	if in.Method == "" {
		return nil
	}
	return &intention.Request{Method: in.Method, Path: in.Path, Header: func(name string) (string, bool) {
		for n, values := range in.Headers {
			if strings.EqualFold(n, name) || name == ":authority" && strings.EqualFold(n, "host") {
				return strings.Join(values, ","), true
			}
		}
		return "", false
	}}
}
