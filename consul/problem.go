package consul

import (
	"log/slog"

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

	waits bool // something is not known yet, and will be in a moment as a rule
}

// aclsEntry is the Entry of the Problem that there are no ACLs.
const aclsEntry = "ACLs"

// attrs are p in a log: what is empty is not there.
func (p Problem) attrs() (out []slog.Attr) {
	for _, a := range []slog.Attr{
		slog.String("proxy", string(p.Proxy)), slog.String("destination", p.Upstream),
		slog.String("origin", p.Entry), slog.String("err", p.Text),
	} {
		if a.Value.String() != "" {
			out = append(out, a)
		}
	}
	return out
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
