package main

import (
	"cmp"
	"fmt"
	"strings"

	"github.com/sallyport/sallyport/admin"
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/intention"
)

// requestOf is a request that somebody asks about; nil: it is none.
func requestOf(r admin.CheckRequest) (*intention.Request, error) {
	if r.Method == "" && r.Path == "" && len(r.Headers) == 0 {
		return nil, nil //nolint:nilnil // none is the nil one
	}
	headers := map[string][]string{}
	for _, h := range r.Headers {
		name, value, ok := strings.Cut(h, ":")
		name = strings.ToLower(strings.TrimSpace(name))
		if !ok || name == "" || strings.ContainsAny(name, " \t") {
			return nil, fmt.Errorf("header %.60q: want a name and a value, as 'x-role: admin'", h)
		}
		if name == "host" {
			name = ":authority"
		}
		headers[name] = append(headers[name], strings.TrimSpace(value))
	}
	return &intention.Request{Method: cmp.Or(r.Method, "GET"), Path: cmp.Or(r.Path, "/"), Header: func(name string) (string, bool) {
		v, ok := headers[name]
		return strings.Join(v, ","), ok
	}}, nil
}

// speaksTCP reports whether the proxies of a service speak tcp alone, so that nobody sends it requests.
func speaksTCP(v *catalog.View, service identity.Name) (tcp bool) {
	for w := range v.Of(service) {
		if w.Proxy.Inbound.Protocol.L7() {
			return false
		}
		tcp = true
	}
	return tcp
}
