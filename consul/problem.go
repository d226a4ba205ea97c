package consul

import (
	"github.com/sallyport/sallyport/definition"
	"github.com/sallyport/sallyport/identity"
)

// Problem is one thing that is not as Consul's users may expect.
type Problem struct {
	// Proxy is the proxy that lacks something; empty: it concerns none alone.
	Proxy identity.ProxyID
	// Upstream is the destination of the upstream that is not there; empty: it is not about an
	// upstream.
	Upstream string
	// Entry is where it is said: "service web-sidecar-proxy", "service-resolver/api", "mesh/mesh".
	Entry string
	// Text says what is wrong and what comes of it.
	Text string
}

// String is the problem in one line.
func (p Problem) String() string {
	s := p.Entry + ": " + p.Text
	switch {
	case p.Upstream != "":
		return "proxy " + string(p.Proxy) + ", upstream " + p.Upstream + ": " + s
	case p.Proxy != "":
		return "proxy " + string(p.Proxy) + ": " + s
	}
	return s
}

// lenient reads what Consul has: what is not understood is added to problems, as p with
// another text each time, and the rest counts.
func lenient(problems *[]Problem, p Problem) *definition.Reader {
	return &definition.Reader{Lenient: true, Report: func(m definition.Mistake) {
		p.Text = m.Text
		*problems = append(*problems, p)
	}}
}
