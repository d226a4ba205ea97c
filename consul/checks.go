package consul

import (
	"cmp"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// A proxy with Expose.Checks has the agent send the HTTP and gRPC checks of its service to ports of
// the proxy, of which each is to lead to the path that the check asks for. Consul's own control
// plane looks the paths up inside of the agent; its API tells the port, and the path only in the
// output of the check, which begins with the URL that the agent has asked for (Consul,
// agent/checks; seen on 1.19.2). So a path is known once its check has run, and is remembered.

// agentCheck is one of the answer of /v1/agent/checks.
type agentCheck struct {
	CheckID     string
	ServiceID   string
	Status      string
	Type        string
	Output      string
	ExposedPort int
}

type checkKey struct {
	service, check string
	port           int
}

// checksEvery is how often the agent's checks are read. They cannot be watched.
const checksEvery = 5 * time.Second

// grpcHealthPath is what gRPC checks ask for (gRPC Health Checking Protocol).
const grpcHealthPath = "/grpc.health.v1.Health/Check"

func (c *agentCheck) key() checkKey { return checkKey{c.ServiceID, c.CheckID, c.ExposedPort} }

// path is what a check asks for; empty if the agent does not say.
func (c *agentCheck) path() string {
	switch c.Type {
	case "grpc":
		return grpcHealthPath
	case "http":
		// Whether the application answered is told after the URL: no answer can make one up.
		if u, err := askedURL(c.Output); err == nil && u.Scheme == "http" && u.Port() == strconv.Itoa(c.ExposedPort) {
			return cmp.Or(u.EscapedPath(), "/")
		}
	}
	return ""
}

// askedURL is the URL that the output of an HTTP check begins with: "HTTP GET http://…: 200 OK
// Output: …", or `Get "http://…": connection refused`.
func askedURL(output string) (*url.URL, error) {
	first, rest, _ := strings.Cut(output, " ")
	if first == "HTTP" {
		_, rest, _ = strings.Cut(rest, " ")
		text, _, ok := strings.Cut(rest, ": ")
		if !ok {
			return nil, fmt.Errorf("no URL in %.60q", output)
		}
		return url.Parse(text)
	}
	quoted, err := strconv.QuotedPrefix(rest)
	if err != nil {
		return nil, err
	}
	text, err := strconv.Unquote(quoted)
	if err != nil {
		return nil, err
	}
	return url.Parse(text)
}
