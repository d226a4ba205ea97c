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
	JWT    *jwtAnswer `json:",omitempty"`
}

// jwtAnswer is what is asked of tokens as Consul's API has it.
type jwtAnswer struct{ Providers []jwtProviderAnswer }

type jwtProviderAnswer struct {
	Name         string
	VerifyClaims []claimAnswer `json:",omitempty"`
}

type claimAnswer struct {
	Path  []string `json:",omitempty"`
	Value string   `json:",omitempty"`
}

func tokensAnswer(all []intention.TokenRequirement) *jwtAnswer {
	if len(all) == 0 {
		return nil
	}
	j := &jwtAnswer{}
	for _, t := range all {
		p := jwtProviderAnswer{Name: t.Provider}
		for _, c := range t.Claims {
			p.VerifyClaims = append(p.VerifyClaims, claimAnswer(c))
		}
		j.Providers = append(j.Providers, p)
	}
	return j
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
	if i.Permissions.Len() == 0 { // with a token
		return i.Action.String(), nil
	}
	for _, p := range i.Permissions.List() {
		a := permissionAnswer{p.Action.String(), httpPermissionAnswer{PathExact: p.PathExact, PathPrefix: p.PathPrefix, PathRegex: p.PathRegex, Methods: p.Methods}, tokensAnswer(p.JWT)}
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
