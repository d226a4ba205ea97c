package files_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/sallyport/sallyport/files"
)

// withSidecar is a service on a port, with a sidecar and the lines of one more key.
func withSidecar(name, port, lines string) string {
	return "service {\n  name = \"" + name + "\"\n  port = " + port + "\n" + lines + "\n  connect { sidecar_service {} }\n}\n"
}

func TestValidateWarns(t *testing.T) {
	t.Parallel()
	web, api := withSidecar("web", "8080", ""), withSidecar("api", "8081", "")
	const allow = "Sources = [\n{ Name = \"web\" Action = \"allow\" }]"
	for name, c := range map[string]struct {
		files map[string]string
		want  []string
	}{
		"nothing": {files: map[string]string{"web.hcl": web, "api.hcl": api, "i.hcl": entry("service-intentions", "api", allow)}},
		"permissions of what has no requests": {
			files: map[string]string{"web.hcl": web, "api.hcl": api, "i.hcl": entry("service-intentions", "api", "Sources = [\n{ Name = \"web\" Permissions = [{ Action = \"allow\" HTTP { PathPrefix = \"/\" } }] }]")},
			want: []string{`i.hcl:4: permissions of web for api, which is tcp (no service-defaults say otherwise): nothing in it is known to be a request, so they deny it all: ` +
				`give it service-defaults with Protocol = "http"`},
		},
		"permissions of requests": {
			files: map[string]string{
				"web.hcl": web, "api.hcl": api, "p.hcl": entry("service-defaults", "api", "Protocol = \"http\""),
				"i.hcl": entry("service-intentions", "api", "Sources = [\n{ Name = \"web\" Permissions = [{ Action = \"allow\" HTTP { PathPrefix = \"/\" } }] }]"),
			},
		},
		"wildcards": {files: map[string]string{
			"api.hcl": api, "i.hcl": entry("service-intentions", "*", "Sources = [{ Name = \"*\" Action = \"deny\" }]"),
		}},
		"destination": {
			files: map[string]string{"web.hcl": web, "api.hcl": api, "i.hcl": entry("service-intentions", "apo", allow)},
			want:  []string{"i.hcl:1: intentions for apo: no service apo is defined here: did you mean api?"},
		},
		"destination in another letter case, which does not count": {
			files: map[string]string{"web.hcl": web, "api.hcl": withSidecar("API", "8081", ""), "i.hcl": entry("service-intentions", "api", allow)},
			want: []string{`api.hcl:1: "API" and "api" (i.hcl:1) differ by letter case alone, which does not count in a destination: ` +
				`what the intentions of either say holds for both, and where both have some only what both allow. Spell them alike: the next release refuses this`},
		},
		"source": {
			files: map[string]string{"web.hcl": web, "api.hcl": api, "i.hcl": entry("service-intentions", "api", allow[:len(allow)-1]+",\n{ Name = \"wbe\" Action = \"allow\" },\n{ Name = \"completely-different\" Action = \"deny\" }]")},
			want: []string{
				"i.hcl:5: source wbe: no service wbe is defined here: did you mean web?",
				"i.hcl:6: source completely-different: no service completely-different is defined here",
			},
		},
		"source in another letter case, which counts": {
			files: map[string]string{"web.hcl": withSidecar("Web", "8080", ""), "api.hcl": api, "i.hcl": entry("service-intentions", "api", allow)},
			want:  []string{"i.hcl:4: source web: no service web is defined here: did you mean Web?"},
		},
		"source without a sidecar": {
			files: map[string]string{"web.hcl": inService("port = 8080"), "api.hcl": api, "i.hcl": entry("service-intentions", "api", allow)},
			want:  []string{"i.hcl:4: source web: the service has no sidecar and is not native (web.hcl:1), without which it cannot show who it is"},
		},
		"source that is native, and one whose processes are named": {
			files: map[string]string{
				"web.hcl": inService("port = 8080\nconnect { native = true }"), "api.hcl": api, "job.hcl": "service {\nname = \"job\"\nmeta { sallyport_selectors = \"unix:uid:1000\" }\n}\n",
				"i.hcl": entry("service-intentions", "api", allow[:len(allow)-1]+",\n{ Name = \"job\" Action = \"allow\" }]"),
			},
		},
		"native without a port": {
			files: map[string]string{"web.hcl": inService("connect { native = true }"), "job.hcl": "service {\nname = \"job\"\nsocket_path = \"/run/job.sock\"\nconnect { native = true }\n}\n"},
			want: []string{
				"job.hcl:3: service job is native and on a socket: it can dial others, and nobody can dial it, as that takes a port",
				"web.hcl:1: service web is native and has no port: it can dial others, and nobody can dial it",
			},
		},
		"native with what is a sidecar's affair": {
			files: map[string]string{
				"web.hcl": inService("port = 8080\nconnect { native = true }"), "d.hcl": entry("service-defaults", "web", "Protocol = \"http\"\nMaxInboundConnections = 7\nConfig { revocation = \"drain\" }\nUpstreamConfig { Defaults { ConnectTimeoutMs = 5 } }"),
				"api.hcl": strings.Replace(api, "connect {", "connect {\nnative = true", 1), "e.hcl": entry("service-defaults", "api", "MaxInboundConnections = 7"),
			},
			want: []string{"d.hcl:4: max_inbound_connections, revocation, UpstreamConfig in service-defaults of web: that is a sidecar's affair, and the service is native and has none (web.hcl:1)"},
		},
		"two services on one port": {
			files: map[string]string{"web.hcl": web, "api.hcl": withSidecar("api", "8080", "")},
			want:  []string{"web.hcl:3: port 8080 of 127.0.0.1 is that of api too (api.hcl:3): two applications cannot both listen on it"},
		},
		"two services on one port, one without a sidecar": {
			files: map[string]string{"web.hcl": web, "db.hcl": "service {\n  name = \"db\"\n  port = 8080\n}\n"},
			want:  []string{"db.hcl:3: port 8080 of 127.0.0.1 is that of web too (web.hcl:3): two applications cannot both listen on it"},
		},
		"two services on one port of two machines": {
			files: map[string]string{"web.hcl": web, "api.hcl": withSidecar("api", "8080", "address = \"10.0.0.2\"")},
		},
		"two sidecars of one service": {
			files: map[string]string{"web.hcl": web, "canary.hcl": "service {\nkind = \"connect-proxy\"\nname = \"canary\"\nport = 20000\nproxy {\ndestination_service_name = \"web\"\ndestination_service_id = \"web\"\nlocal_service_port = 8080\n}\n}\n"},
		},
		"files that are not read": {
			files: map[string]string{
				"web.hcl": web, "api.HCL": "", "old.hcl.bak": "", "main.tf": "", "README.md": "", "NOTES.TXT": "", ".hidden.hcl": "", "web.hcl~": "", "#web.hcl#": "",
				"more/api.hcl": api, "doc/api.html": "", ".git/config.json": "",
			},
			want: []string{
				"api.HCL: is not read: the names of files that are end in .hcl, .json, .yaml or .yml",
				"main.tf: is not read: the names of files that are end in .hcl, .json, .yaml or .yml",
				"more: is a directory, and what is in it is not read: move the files beside the others",
				"old.hcl.bak: is not read: the names of files that are end in .hcl, .json, .yaml or .yml",
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var got []string
			_, err := files.Validate(files.Config{
				Dir: write(t, c.files), TrustDomain: trustDomain,
				Warned: func(p files.Problem) { got = append(got, p.String()) },
			})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("warnings (-want +got):\n%s", diff)
			}
		})
	}
}

// A file that cannot be read hides no mistake of the others but those that it may take away.
func TestValidateAmongReadable(t *testing.T) {
	t.Parallel()
	dir := write(t, map[string]string{
		"broken.hcl": "service {\n",
		"web.hcl":    withSidecar("web", "8080", "")[:len(withSidecar("web", "8080", ""))-len("  connect { sidecar_service {} }\n}\n")] + "connect { sidecar_service {\nport = 20000\n} }\n}\n",
		"api.hcl":    "service {\n  name = \"api\"\n  port = 8081\nconnect { sidecar_service {\nport = 20000\n} }\n}\n",
		"proxy.hcl":  "service {\nkind = \"connect-proxy\"\nname = \"p\"\nport = 20001\nproxy {\ndestination_service_name = \"in-the-broken-file\"\nlocal_service_port = 1\n}\n}\n",
		"http.hcl":   inProxyOf("cache", "config { protocol = \"http\" }"),
	})
	_, err := files.Load(files.Config{Dir: dir, TrustDomain: trustDomain})
	all, ok := errors.AsType[files.Errors](err)
	if !ok {
		t.Fatal(err)
	}
	want := "broken.hcl:1: { is not closed\n" +
		"web.hcl:6: the public listener of web-sidecar-proxy and the public listener of api-sidecar-proxy (api.hcl:5) cannot both listen on port 20000 of 0.0.0.0"
	if diff := cmp.Diff(strings.Split(want, "\n"), strings.Split(all.Error(), "\n")); diff != "" {
		t.Errorf("problems (-want +got):\n%s", diff)
	}
}

// inProxyOf is inProxy of another service.
func inProxyOf(name, lines string) string {
	return strings.Replace(strings.Replace(inProxy(lines), `"web"`, `"`+name+`"`, 1), "8080", "8082", 1)
}
