package consul

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/sallyport/sallyport/catalog"
)

func TestExposedPaths(t *testing.T) {
	const gone = ": its listener is not there"
	path := func(path string, listener, local uint16, p catalog.Protocol) catalog.ExposedPath {
		return catalog.ExposedPath{Path: path, ListenerPort: listener, LocalPort: local, Protocol: p, Origin: "service p"}
	}
	// A path that stands beside the one in question, which it must not take away.
	other := path("/other", 30000, 8080, catalog.HTTP)
	good := path("/healthz", 21600, 8081, catalog.HTTP)
	for name, c := range map[string]struct {
		path  string // further keys beside one of /healthz
		block string // further keys of the proxy
		want  string
		added []catalog.ExposedPath
	}{
		"as Consul has it": {`"ListenerPort": 21600, "LocalPathPort": 8081, "ParsedFromCheck": false`, "", "", []catalog.ExposedPath{good}},
		"http":             {`"ListenerPort": 21600, "LocalPathPort": 8081, "Protocol": "HTTP"`, "", "", []catalog.ExposedPath{good}},
		"http2":            {`"ListenerPort": 21600, "LocalPathPort": 8081, "Protocol": "http2"`, "", "", []catalog.ExposedPath{path("/healthz", 21600, 8081, catalog.HTTP2)}},
		"tcp":              {`"ListenerPort": 21600, "LocalPathPort": 8081, "Protocol": "tcp"`, "", `Protocol "tcp" of an exposed path is not known: http and http2 are` + gone, nil},
		"grpc":             {`"ListenerPort": 21600, "LocalPathPort": 8081, "Protocol": "grpc"`, "", `Protocol "grpc" of an exposed path is not known: http and http2 are` + gone, nil},
		"unknown protocol": {`"ListenerPort": 21600, "LocalPathPort": 8081, "Protocol": "spdy"`, "", `Protocol "spdy" of an exposed path is not known: http and http2 are` + gone, nil},
		"no listener":      {`"LocalPathPort": 8081`, "", "it has no listener_port" + gone, nil},
		"listener's port":  {`"ListenerPort": 70000, "LocalPathPort": 8081`, "", "ListenerPort is 70000: it must be 1 to 65535" + gone, nil},
		"no local port":    {`"ListenerPort": 21600`, "", "it has no local_path_port" + gone, nil},
		"of a check":       {`"ListenerPort": 21600, "LocalPathPort": 8081, "ParsedFromCheck": true`, "", "it is said to be a check's, and Expose.Checks is not set" + gone, nil},
		"another protocol": {`"ListenerPort": 21600, "LocalPathPort": 8080, "Protocol": "http2"`, "", "another path says that port 8080 does not speak http2" + gone, nil},
	} {
		t.Run(name, func(t *testing.T) {
			s := sidecarOf(t, c.block+`, "Expose": {"Paths": [{"Path": "/other", "ListenerPort": 30000, "LocalPathPort": 8080}, null, {"Path": "/healthz", `+c.path+`}]}`)
			if s.proxy.Refused != "" {
				t.Fatal("the proxy is refused")
			}
			if diff := cmp.Diff(append(c.added, other), s.proxy.Exposed); diff != "" {
				t.Errorf("exposed (-want +got):\n%s", diff)
			}
			if c.want != "" {
				c.want = `proxy p: service p: the exposed path "/healthz": ` + c.want
			}
			if got := texts(s.problems); got != c.want {
				t.Errorf("problems %q, want %q", got, c.want)
			}
		})
	}
	s := sidecarOf(t, `, "Expose": {"Paths": [{"Path": "healthz", "ListenerPort": 21600, "LocalPathPort": 8081}]}`)
	if want := `proxy p: service p: the exposed path "healthz": Path "healthz" cannot be exposed: it must begin with "/"` + gone; texts(s.problems) != want || len(s.proxy.Exposed) != 0 {
		t.Errorf("problems %q, exposed %v; want %q", texts(s.problems), s.proxy.Exposed, want)
	}
	// What a check's path is the agent tells.
	s = sidecarOf(t, `, "Expose": {"Checks": true, "Paths": [{"Path": "/other", "ListenerPort": 30000, "LocalPathPort": 8080}, {"Path": "/c", "ListenerPort": 21500, "LocalPathPort": 8080, "ParsedFromCheck": true}]}`)
	if texts(s.problems) != "" || s.proxy.Refused != "" || !s.checks {
		t.Errorf("refused %q, checks %v, problems %q", s.proxy.Refused, s.checks, texts(s.problems))
	}
	if diff := cmp.Diff([]catalog.ExposedPath{other}, s.proxy.Exposed); diff != "" {
		t.Errorf("exposed beside checks (-want +got):\n%s", diff)
	}
}
