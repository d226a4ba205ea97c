package files_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/sallyport/sallyport/files"
)

// in wraps lines into a service with a sidecar; they stand in the proxy block, from line 6 on.
func inProxy(lines string) string {
	return "service {\n  name = \"web\"\n  port = 8080\n  connect {\n    sidecar_service { proxy {\n" + lines + "\n}}}}\n"
}

// upstream is an upstream with the lines, which begin on line 9.
func inUpstream(lines string) string {
	return inProxy("upstreams {\ndestination_name = \"api\"\nlocal_bind_port = 9191\n" + lines + "\n}")
}

// inExposed is an exposed path with the lines, which begin on line 8.
func inExposed(lines string) string {
	return inProxy("expose {\npaths = [{\n" + lines + "\n}]\n}")
}

// service is a service with the lines, which begin on line 3.
func inService(lines string) string {
	return "service {\n  name = \"web\"\n" + lines + "\n}\n"
}

// entry is a config entry with the lines, which begin on line 3.
func entry(kind, name, lines string) string {
	return "Kind = \"" + kind + "\"\nName = \"" + name + "\"\n" + lines + "\n"
}

type mistake struct {
	name  string
	files map[string]string
	want  []string
}

func one(name, text string, want ...string) mistake {
	return mistake{name: name, files: map[string]string{"a.hcl": text}, want: want}
}

func mistakes() []mistake {
	sidecar := "connect {\nsidecar_service {}\n}"
	long := strings.Repeat("x", 300)
	return []mistake{
		// Syntax.
		one("hcl", "service {\n  name = \"web\"\n  port = \n}\n", "a.hcl:3: the value is missing after ="),
		one("hcl cut off", "Kind = \"service-intentions\"\nName =", "a.hcl:2: the value is missing after ="),
		one("hcl not closed", "service {\n  name = \"web\"\n", "a.hcl:1: { is not closed"),
		one("hcl closed twice", "service {\n  name = \"web\"\n}\n}\n", "a.hcl:4: } closes nothing"),
		one("hcl string", "service {\n  name = \"web\n}\n", "a.hcl:2: literal not terminated"),
		one("hcl label", "service \"web\" {\n  port = 1\n}\n", `a.hcl:1: service "web": blocks have no label here: write it as a key inside of the block`),
		one("hcl number", inService("port = 99999999999999999999"), "a.hcl:3: 99999999999999999999 is too large a number"),
		one("hcl deep", "a = "+strings.Repeat("[", 100)+strings.Repeat("]", 100), "a.hcl:1: nested more than 64 deep"),
		one("json in hcl", "{\n\"service\": {\"name\": \"web\",\n\"prot\": 1}}", `a.hcl:3: unknown key "prot" in service: did you mean port?`),
		{"json", map[string]string{"a.json": "{\n  \"service\": {\n    \"name\": \"web\",\n  }\n}"}, []string{"a.json:3: a comma before }: JSON has none after the last one: remove it"}},
		{"json cut off", map[string]string{"a.json": "{\n  \"service\": {\n    \"name\": \"web\""}, []string{"a.json:3: the JSON value is not complete"}},
		{"json rest", map[string]string{"a.json": "{}\n{}"}, []string{"a.json:2: more after the end of the JSON value: one file holds one value"}},
		{"json array", map[string]string{"a.json": "[]"}, []string{"a.json:1: the file must be a block, not a list"}},
		{"json twice", map[string]string{"a.json": "{\"service\": {\n\"name\": \"web\",\n\"Name\": \"api\"}}"}, []string{"a.json:3: Name is given twice in service (first at line 2)"}},
		{"json deep", map[string]string{"a.json": strings.Repeat("[", 100)}, []string{"a.json:1: nested more than 64 deep"}},
		{"json number", map[string]string{"a.json": "{\"service\": {\"name\": \"web\",\n\"port\": 1e999}}"}, []string{"a.json:2: 1e999 is too large a number"}},
		{"yaml", map[string]string{"a.yaml": "service:\n  name: web\n name: api\n"}, []string{`a.yaml:3: does not go with the lines before it: YAML wants "key: value" or "- value", indented like what it stands beside`}},
		{"yaml twice", map[string]string{"a.yaml": "service:\n  name: web\n  name: api\n"}, []string{"a.yaml:3: name is given twice in service (first at line 2)"}},
		{"yaml merge", map[string]string{"a.yml": "service:\n  <<: {name: web}\n"}, []string{"a.yml:2: merge keys (<<) are not supported: spell the keys out"}},
		{"yaml tag", map[string]string{"a.yml": "service:\n  name: !secret web\n"}, []string{"a.yml:2: the tag !secret means nothing here"}},
		{"yaml bomb", map[string]string{"a.yml": "a: &a [x,x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b,*b]\n" +
			"d: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: [*d,*d,*d,*d,*d,*d,*d,*d,*d,*d]\n"}, []string{"a.yml:1: the aliases come to more than 10000 values"}},
		{"yaml cycle", map[string]string{"a.yml": "a: &a [*a]\n"}, []string{"a.yml:1: nested more than 64 deep"}},
		{"yaml key", map[string]string{"a.yml": "service:\n  [a]: b\n"}, []string{"a.yml:2: a key must be plain text"}},
		{"kubernetes", map[string]string{"a.yml": "apiVersion: consul.hashicorp.com/v1alpha1\nkind: ServiceIntentions\n"}, []string{`a.yml:1: a Kubernetes resource (ServiceIntentions): write it as Consul's API has it: Kind "service-intentions", Name "", and what is under spec beside them`}},
		one("empty", " \n\t\n", "a.hcl:1: the file is empty: remove it, or leave a comment in it if that is meant"),
		one("utf-8", "service {\n  name = \"w\xffb\"\n}\n", "a.hcl:2: is not valid UTF-8"),
		one("utf-8 escaped", "service {\n  name = \"w\\xffb\"\n}\n", `a.hcl:2: "w\xffb" is not valid UTF-8`),
		one("zero byte", "service {\n  name = \"w\x00b\"\n}\n", "a.hcl:2: holds a zero byte"),
		{
			"none",
			map[string]string{"a.txt": "", ".a.hcl": "x", "a.hcl~": "x", "#a.hcl#": "x", ".a.hcl.swp": "x"},
			[]string{"DIR: no definitions: the directory has no file *.hcl, *.json, *.yaml or *.yml (a file that holds a comment alone is enough for a mesh without services)"},
		},
		{"all files", map[string]string{"a.hcl": "x", "b.json": "x", "c.hcl": inService("prot = 1")}, []string{
			"a.hcl:1: key 'x' expected start of object ('{') or assignment ('=')",
			"b.json:1: invalid character 'x' looking for beginning of value",
			`c.hcl:3: unknown key "prot" in service: did you mean port?`,
		}},
		{"too large", map[string]string{"a.hcl": "# " + strings.Repeat("x", 10<<20)}, []string{"a.hcl: is larger than 10485760 bytes: split it"}},

		// The file as a whole.
		one("agent configuration", "datacenter = \"dc1\"\n", `a.hcl:1: unknown key "datacenter" in the file: a file holds service, services or config_entries, or one config entry with its Kind`),
		one("service twice", "service { name = \"web\" }\nservice { name = \"api\" }\n", "a.hcl:2: service is given twice in the file: call the blocks services"),
		one("entry twice", "Kind = \"mesh\"\nKind = \"mesh\"\n", "a.hcl:2: a second config entry in one file: put it into a file of its own, or all into config_entries { bootstrap = [ ... ] }"),
		one("not a block", "service = 5\n", "a.hcl:1: service must be a block, not a number"),
		one("top-level check", "check { name = \"x\" }\n", "a.hcl:1: check in the file is not supported yet"),
		one("kind", "Kind = \"tcp-route\"\n", `a.hcl:1: config entries of kind "tcp-route" are not supported yet`),
		one("unknown kind", "Kind = \"x\"\n", `a.hcl:1: unknown kind "x": config entries of kind service-intentions, service-defaults, service-router, service-splitter, service-resolver, proxy-defaults, mesh, jwt-provider are read, and services in service { ... }`),
		one("misspelt kind", "Kind = \"service-default\"\n", `a.hcl:1: unknown kind "service-default": did you mean service-defaults?`),
		one("entry without kind", "config_entries {\n bootstrap = [\n { name = \"web\" }\n]\n}", "a.hcl:3: config entry has no Kind"),

		// Services.
		one("no name", "service {\n  port = 1\n}\n", "a.hcl:1: service has no name"),
		one("empty name", "service {\n  name = \"\"\n}\n", "a.hcl:1: service has no name"),
		one("name", "service {\n  name = \"a b\"\n}\n", `a.hcl:2: name "a b" cannot be a service's name: letters, digits, '.', '-' and '_' are allowed`),
		one("wildcard name", "service {\n  name = \"*\"\n}\n", `a.hcl:2: name "*": a wildcard cannot be used here`),
		one("name type", "service {\n  name = 5\n}\n", "a.hcl:2: name must be a string, not a number"),
		one("long name", "service {\n  name = \""+long+"\"\n}\n", "a.hcl:2: name has 300 characters: at most 256 are allowed"),
		one("name too long for TLS", "service {\n  name = \""+long[:240]+"\"\n}\n",
			"a.hcl:1: the name of the service is too long: its server name \""+long[:40]+"\"... would have 271 bytes, and TLS takes 255"),
		one("id", inService("id = \"../x\""), `a.hcl:3: id "../x": 1 to 256 letters, digits, '-', '_', '.', ':' and '@' are allowed`),
		one("port 0", inService("port = 0"), "a.hcl:3: port is 0: it must be 1 to 65535"),
		one("port 70000", inService("port = 70000"), "a.hcl:3: port is 70000: it must be 1 to 65535"),
		one("port type", inService("port = \"8080\""), "a.hcl:3: port must be a whole number, not a string"),
		one("port fraction", inService("port = 1.5"), "a.hcl:3: port must be a whole number, not a fraction"),
		one("address", inService("address = \"[::1]\""), `a.hcl:3: address "[::1]" is neither an IP address (without brackets or zone) nor a host name`),
		one("address zone", inService("address = \"fe80::1%eth0\""), `a.hcl:3: address "fe80::1%eth0" is neither an IP address (without brackets or zone) nor a host name`),
		one("address any", inService("address = \"0.0.0.0\""), "a.hcl:3: address 0.0.0.0 cannot be dialled: give an address that can (where to listen is bind_address in the proxy's config)"),
		one("address numbers", inService("address = \"300.1.1.1\""), `a.hcl:3: address "300.1.1.1" is neither an IP address (without brackets or zone) nor a host name`),
		one("socket and port", inService("port = 1\nsocket_path = \"/run/x\""), "a.hcl:4: service has a socket_path and an address or port: it can have one of them"),
		one("relative socket", inService("socket_path = \"x\""), `a.hcl:3: socket_path "x" must be an absolute path`),
		one("long socket", inService("socket_path = \"/"+long+"\""), "a.hcl:3: socket_path has 301 bytes: a socket's path takes at most 107"),
		one("weights", inService("weights {\n  passing = 0\n  warning = -1\n}"), "a.hcl:4: passing is 0: it must be 1 to 65535", "a.hcl:5: warning is -1: it must be 0 to 65535"),
		one("status", inService("check {\n  status = \"ok\"\n}"), `a.hcl:4: status "ok" of check is not known: passing, warning and critical are`),
		one("check key", inService("checks = [{\n  statsu = \"ok\"\n}]"), `a.hcl:4: unknown key "statsu" in check: did you mean status?`),
		one("check without interval", inService("checks = [{\n  http = \"http://localhost\"\n}, {\n  tcp = \"localhost:1\"\n  interval = \"10s\"\n}]"), "a.hcl:3: check with http has no interval"),
		one("check of nothing", inService("check {}"), "a.hcl:3: check says nothing: give it a status, or how the status is found out (http, tcp, ttl, …)"),
		one("check with a name", inService("check { name = \"up\" }"), "a.hcl:3: check says nothing: give it a status, or how the status is found out (http, tcp, ttl, …)"),
		one("check times", inService("checks = [{\n  ttl = \"abc\"\n}, {\n  udp = \"localhost:1\"\n  interval = \"10\"\n  timeout = 5\n}]"),
			`a.hcl:4: ttl is "abc": it must be a time like "500ms" or "10s"`, `a.hcl:7: interval is "10": it must be a time like "500ms" or "10s"`,
			`a.hcl:8: timeout must be a string with a unit, like "10s", not a number`),
		one("check of two kinds", inService("checks = [{\n  http = \"http://localhost\"\n  interval = \"10s\"\n  ttl = \"10s\"\n}, {\n  alias_service = \"api\"\n  ttl = \"10s\"\n}, {\n  grpc = \"localhost:1\"\n  alias_service = \"api\"\n}]"),
			"a.hcl:6: check has a ttl and an interval: it can have one of them", "a.hcl:9: check has a ttl and alias_service: it can have one of them",
			"a.hcl:10: check has grpc and alias_service: it can have one of them"),
		one("tags of one", inService("tags = \"foo\""), "a.hcl:3: tags must be a list of strings, not a string"),
		one("tags", inService("tags = [1]"), "a.hcl:3: tags must be a list of strings, not a number"),
		one("meta", inService("meta {\n  \"a b\" = \"x\"\n  n = 1\n  l = \""+strings.Repeat("x", 600)+"\"\n}"),
			`a.hcl:4: meta key "a b": 1 to 128 letters, digits, '-' and '_' are allowed`, `a.hcl:5: meta value of "n" must be a string, not a number`,
			`a.hcl:6: meta value of "l" has 600 bytes: at most 512 are allowed`),
		one("meta twice", inService("meta {\n  a = \"x\"\n  a = \"y\"\n}"), `a.hcl:5: "a" is given twice in meta`),
		one("meta type", inService("meta = \"x\""), "a.hcl:3: meta must be a block, not a string"),
		one("much meta", inService("meta {\n"+strings.Join(strings.Split(strings.Repeat("x", 65), ""), " = \"\"\n")+" = \"\"\n}"), "a.hcl:3: meta has 65 pairs: at most 64 are allowed"),
		one("tag override", inService("enable_tag_override = \"yes\""), "a.hcl:3: enable_tag_override must be true or false, not a string"),
		one("blocks and a list", "services = [{ name = \"web\" }]\nservices { name = \"api\" }\n", "a.hcl:1: services is given more than once in the file: write one list"),
		one("namespace", inService("namespace = \"team\""), `a.hcl:3: namespace "team" in service is not supported yet`),
		one("token", inService("token = \"secret\""), "a.hcl:3: token in service: files need no ACL tokens: remove it"),
		one("gateway", inService("kind = \"mesh-gateway\""), `a.hcl:3: kind "mesh-gateway" is not supported yet`),
		one("service kind", inService("kind = \"proxy\""), `a.hcl:3: kind "proxy" of service is not known: connect-proxy is, or none`),
		one("native", inService("connect {\n  native = \"yes\"\n}"), "a.hcl:4: native must be true or false, not a string"),
		one("a sidecar where a native application is", inService("connect {\n  native = true\n}\n port = 8443")+"services {\nname = \"api\"\nport = 80\nconnect { sidecar_service { port = 8443 } }\n}\n",
			"a.hcl:11: the public listener of api-sidecar-proxy cannot listen on port 8443 of 0.0.0.0: the native application web does (a.hcl:1)"),
		one("proxy of a service", inService("proxy {\nmode = \"direct\"\n}"), `a.hcl:3: proxy is for registrations of kind "connect-proxy": put it into connect { sidecar_service { ... } }`),
		one("tagged addresses", inService("tagged_addresses {\n  lan = { address = \"1.1.1.1\" }\n}"), "a.hcl:3: tagged_addresses in service is not supported yet"),
		one("selectors", inService("meta {\n  team = \"shop\"\n  sallyport_selectors = \"unix:uid:web\"\n}"), `a.hcl:5: sallyport_selectors: "unix:uid:web": the value is not a number from 0 to 4294967294: use unix:user for a name`),
		one("selectors without a user", inService("meta = { sallyport_selectors = \"unix:path:/usr/bin/web\" }"), `a.hcl:3: sallyport_selectors: "unix:path:/usr/bin/web" names no user, and what else a process shows counts only as far as its user is trusted: add unix:uid:… or unix:user:…`),
		one("selectors of a sidecar", inService("port = 1\nconnect {\n sidecar_service {\n meta { sallyport_selectors = \"unix:uid:1000\" }\n}\n}"), `a.hcl:6: sallyport_selectors in a sidecar's registration: it counts in the service's own alone: move it there`),
		one("duplicate ids", "services { name = \"web\" }\nservices { name = \"web\" }\n", `a.hcl:2: the ID "web" is taken (a.hcl:1): IDs of services and proxies must differ`),
		{
			"duplicate ids of files",
			map[string]string{"a.hcl": inService(""), "b.json": `{"service": {"name": "web"}}`},
			[]string{`b.json:1: the ID "web" is taken (a.hcl:1): IDs of services and proxies must differ`},
		},

		// Proxies.
		one("nothing to connect to", inService(sidecar), "a.hcl:4: nothing to hand connections to: give service web a port or a socket_path, or the proxy a local_service_port"),
		one("sidecar id", inService("port = 1\nconnect {\nsidecar_service {\nid = \"x\"\n}\n}"), `a.hcl:6: id of sidecar_service is always "web-sidecar-proxy", as in Consul: remove it`),
		one("sidecar kind", inService("port = 1\nconnect {\nsidecar_service {\nkind = \"mesh-gateway\"\n}\n}"), `a.hcl:6: kind of sidecar_service is always connect-proxy, not "mesh-gateway"`),
		one("sidecar of a proxy", "services { name = \"web\" }\nservices {\nkind = \"connect-proxy\"\nname = \"p\"\nport = 1\nproxy { destination_service_name = \"web\" local_service_port = 2 }\nconnect {}\n}\n",
			"a.hcl:7: a connect-proxy has no sidecar of its own: remove connect"),
		one("nested connect", inService("port = 1\nconnect {\nsidecar_service {\nconnect {}\n}\n}"), "a.hcl:6: connect cannot be nested in sidecar_service"),
		one("missing service", "service {\n  kind = \"connect-proxy\"\n  name = \"p\"\n  port = 1\n  proxy {\n    destination_service_name = \"web\"\n local_service_port = 1\n  }\n}\n",
			`a.hcl:6: destination_service_name "web": there is no service of that name`),
		one("missing instance", inProxy("destination_service_id = \"web-2\""), `a.hcl:6: destination_service_id "web-2": there is no service with that ID`),
		one("another service's instance", "services { name = \"api\" }\nservices {\nname = \"web\"\nport = 1\nconnect { sidecar_service { proxy {\ndestination_service_name = \"api\"\ndestination_service_id = \"web\"\n}}}}\n",
			`a.hcl:6: destination_service_name is "api", but the service with the ID "web" is called "web"`),
		one("no destination", "service {\n  kind = \"connect-proxy\"\n  name = \"p\"\n  port = 1\n}\n", "a.hcl:1: a connect-proxy needs proxy { destination_service_name }"),
		one("no port", "services { name = \"web\" }\nservices {\n  kind = \"connect-proxy\"\n  name = \"p\"\n  proxy { destination_service_name = \"web\" local_service_port = 1 }\n}\n",
			"a.hcl:2: a connect-proxy needs a port (only a sidecar_service is given one)"),
		one("local address", inProxy("local_service_address = \"app:80\""), `a.hcl:6: local_service_address "app:80" is neither an IP address (without brackets or zone) nor a host name`),
		one("local socket and port", inProxy("local_service_socket_path = \"/run/x\"\nlocal_service_port = 1"),
			"a.hcl:6: proxy has a local_service_socket_path and a local_service_address or local_service_port: it can have one of them"),
		one("transparent", inProxy("mode = \"transparent\""), `a.hcl:6: mode "transparent" in proxy is not supported yet`),
		one("expose checks", inProxy("expose {\n  checks = true\n}"), "a.hcl:7: checks is not supported from files, for nothing runs checks here: expose the path that is asked for in paths"),
		one("expose checks type", inProxy("expose {\n  checks = 1\n}"), "a.hcl:7: checks must be true or false, not a number"),
		one("expose key", inProxy("expose {\n  path = []\n}"), `a.hcl:7: unknown key "path" in expose: did you mean paths?`),
		one("expose type", inProxy("expose = 5"), "a.hcl:6: expose must be a block, not a number"),
		one("exposed key", inExposed("path = \"/a\"\nlistener_port = 9000\nlocal_path_port = 1\nport = 2"), `a.hcl:11: unknown key "port" in exposed path`),
		one("exposed without path", inExposed("listener_port = 9000\nlocal_path_port = 1"), "a.hcl:7: exposed path has no path"),
		one("exposed relative", inExposed("path = \"a\"\nlistener_port = 9000\nlocal_path_port = 1"), `a.hcl:8: path "a" cannot be exposed: it must begin with "/"`),
		one("exposed query", inExposed("path = \"/a?b\"\nlistener_port = 9000\nlocal_path_port = 1"), `a.hcl:8: path "/a?b" cannot be exposed: it must be a path without a query, escapes and characters that need them`),
		one("exposed dots", inExposed("path = \"/a/../b\"\nlistener_port = 9000\nlocal_path_port = 1"), `a.hcl:8: path "/a/../b" cannot be exposed: it must be without "//", "/./" and "/../": paths are compared as they are sent, and clients leave these out`),
		one("exposed without ports", inExposed("path = \"/a\""), "a.hcl:7: exposed path /a has no listener_port", "a.hcl:7: exposed path /a has no local_path_port"),
		one("exposed ports", inExposed("path = \"/a\"\nlistener_port = 0\nlocal_path_port = 65536"),
			"a.hcl:9: listener_port is 0: it must be 1 to 65535", "a.hcl:10: local_path_port is 65536: it must be 1 to 65535"),
		one("exposed protocol", inExposed("path = \"/a\"\nlistener_port = 9000\nlocal_path_port = 1\nprotocol = \"tcp\""), `a.hcl:11: protocol "tcp" of an exposed path is not known: http and http2 are`),
		one("exposed from a check", inExposed("path = \"/a\"\nlistener_port = 9000\nlocal_path_port = 1\nparsed_from_check = true"),
			"a.hcl:11: parsed_from_check is not supported from files, for nothing runs checks here: remove it"),
		one("exposed twice", inExposed("path = \"/a\"\nlistener_port = 9000\nlocal_path_port = 1\n}, {\npath = \"/a\"\nlistener_port = 9001\nlocal_path_port = 1"),
			"a.hcl:11: path /a of port 1 is exposed twice (first at a.hcl:7)"),
		one("exposed protocols", inExposed("path = \"/a\"\nlistener_port = 9000\nlocal_path_port = 1\n}, {\npath = \"/b\"\nlistener_port = 9001\nlocal_path_port = 1\nprotocol = \"http2\""),
			"a.hcl:11: path /b says that port 1 speaks http2, and path /a (a.hcl:7) that it speaks http"),
		one("exposed on one port", inExposed("path = \"/a\"\nlistener_port = 9000\nlocal_path_port = 1\n}, {\npath = \"/b\"\nlistener_port = 9000\nlocal_path_port = 1"),
			"a.hcl:11: the exposed path /b of web-sidecar-proxy and the exposed path /a of web-sidecar-proxy (a.hcl:7) cannot both listen on port 9000 of 0.0.0.0"),
		one("exposed on the public port", inProxy("config { bind_port = 9000 }\nexpose { paths = [{\npath = \"/a\"\nlistener_port = 9000\nlocal_path_port = 1\n}]}"),
			"a.hcl:7: the exposed path /a of web-sidecar-proxy and the public listener of web-sidecar-proxy (a.hcl:6) cannot both listen on port 9000 of 0.0.0.0"),
		one("exposed on an upstream's port", inProxy("upstreams = [{\ndestination_name = \"web\"\nlocal_bind_port = 9000\n}]\nexpose { paths = [{\npath = \"/a\"\nlistener_port = 9000\nlocal_path_port = 1\n}]}"),
			"a.hcl:6: upstream web of web-sidecar-proxy and the exposed path /a of web-sidecar-proxy (a.hcl:10) cannot both listen on port 9000 of 127.0.0.1"),
		one("exposed on the metrics' port", inProxy("config { envoy_prometheus_bind_addr = \"127.0.0.1:9000\" }\nexpose { paths = [{\npath = \"/a\"\nlistener_port = 9000\nlocal_path_port = 1\n}]}"),
			"a.hcl:7: the exposed path /a of web-sidecar-proxy and envoy_prometheus_bind_addr of web-sidecar-proxy (a.hcl:6) cannot both listen on port 9000 of 127.0.0.1"),
		one("mesh gateway", inProxy("mesh_gateway {\n  mode = \"local\"\n}"), `a.hcl:7: mode "local" in mesh_gateway is not supported yet`),
		one("escape hatch", inProxy("config {\n  envoy_public_listener_json = \"{}\"\n}"), "a.hcl:7: envoy_public_listener_json in config is not supported yet"),
		one("config key", inProxy("config {\n  local_conect_timeout_ms = 1\n}"), `a.hcl:7: unknown key "local_conect_timeout_ms" in config: did you mean local_connect_timeout_ms?`),
		one("timeout", inProxy("config {\n  local_connect_timeout_ms = -1\n}"), "a.hcl:7: local_connect_timeout_ms is -1: it must be 0 to 31536000000"),
		one("timeout text", inProxy("config {\n  local_connect_timeout_ms = \"5s\"\n}"), `a.hcl:7: local_connect_timeout_ms is "5s", which is not a whole number`),
		one("protocol", inProxy("config {\n  protocol = \"mysql\"\n}"), `a.hcl:7: protocol "mysql" is not known: tcp, http, http2 and grpc are`),
		one("contradicted protocol", inProxy("config {\n  protocol = \"http\"\n}"), "a.hcl:7: protocol http contradicts that of service web, which is tcp (no service-defaults say otherwise): say it in service-defaults"),
		one("balance", inProxy("config {\n  balance_inbound_connections = \"x\"\n}"), `a.hcl:7: balance_inbound_connections "x" is not known: exact_balance is`),
		one("bind address", inProxy("config {\n  bind_address = \"web\"\n}"), `a.hcl:7: bind_address "web" must be an IP address, without brackets or zone`),
		one("prometheus", inProxy("config {\n  envoy_prometheus_bind_addr = \":9102\"\n}"), `a.hcl:7: envoy_prometheus_bind_addr ":9102" must be an IP address and a port, like "0.0.0.0:9102"`),
		one("enforcement", inProxy("config {\n  intention_enforcement = \"none\"\n}"), `a.hcl:7: intention_enforcement "none" is not known: rbac, ext_authz and both are`),
		one("revocation", inProxy("config {\n  revocation = \"never\"\n}"), `a.hcl:7: revocation "never" is not known: drain, new and next-request are`),
		one("revocation of tcp", inProxy("config {\n  revocation = \"next-request\"\n}"), `a.hcl:7: revocation "next-request" is not for protocol tcp, which web has: use "drain" or "new"`),
		{
			"revocation of http",
			map[string]string{"a.hcl": inProxy("config {\n  revocation = \"new\"\n}"), "b.hcl": entry("service-defaults", "web", "Protocol = \"http\"")},
			[]string{`a.hcl:7: revocation "new" is not for protocol http, which web has: use "next-request" or "drain"`},
		},
		one("server first", inProxy("config {\n  server_first = true\n intention_enforcement = \"ext_authz\"\n}"),
			`a.hcl:8: ext_authz cannot protect web, whose server speaks first (server_first at a.hcl:7): it decides at the client's first byte. Use intention_enforcement = "both"`),
		{
			"server first by default",
			map[string]string{"a.hcl": inProxy("config {\n  server_first = true\n}"), "b.hcl": entry("proxy-defaults", "global", "Config {\n  intention_enforcement = \"ext_authz\"\n}")},
			[]string{`b.hcl:4: ext_authz cannot protect web, whose server speaks first (server_first at a.hcl:7): it decides at the client's first byte. Use intention_enforcement = "both"`},
		},
		{
			"server first of http",
			map[string]string{"a.hcl": inProxy("config {\n  server_first = true\n}"), "b.hcl": entry("service-defaults", "web", "Protocol = \"http\"")},
			[]string{"a.hcl:7: server_first is for services of protocol tcp; web is http (service-defaults at b.hcl:3)"},
		},
		one("user", inProxy("config {\n  sallyport_uid = \"no such user\"\n}"), `a.hcl:7: sallyport_uid "no such user" is no user of this machine: give the name of one, or a number`),
		one("negative user", inProxy("config {\n  sallyport_uid = -1\n}"), "a.hcl:7: sallyport_uid is -1: it must be 0 to 4294967294"),

		// Upstreams.
		one("no destination name", inProxy("upstreams {\n  local_bind_port = 1\n}"), "a.hcl:6: upstream has no destination_name"),
		one("no bind", inProxy("upstreams {\n  destination_name = \"api\"\n}"), "a.hcl:6: upstream api needs local_bind_port or local_bind_socket_path"),
		one("port and socket", inUpstream("local_bind_socket_path = \"/run/x\""), "a.hcl:9: upstream api has a local_bind_socket_path and a local_bind_address or local_bind_port: it can have one of them"),
		one("socket mode", inProxy("upstreams {\ndestination_name = \"api\"\nlocal_bind_socket_path = \"/run/x\"\nlocal_bind_socket_mode = \"0888\"\n}"),
			`a.hcl:9: local_bind_socket_mode "0888" must be permission bits in octal, like "0700"`),
		one("socket mode type", inProxy("upstreams {\ndestination_name = \"api\"\nlocal_bind_socket_path = \"/run/x\"\nlocal_bind_socket_mode = 0700\n}"),
			`a.hcl:9: local_bind_socket_mode must be a string in octal, like "0700", not a number`),
		one("prepared query", inUpstream("destination_type = \"prepared_query\""), `a.hcl:9: destination_type "prepared_query" in upstream is not supported yet`),
		one("peer", inUpstream("destination_peer = \"x\""), `a.hcl:9: destination_peer "x" in upstream is not supported yet`),
		one("upstream namespace", inUpstream("destination_namespace = \"x\""), `a.hcl:9: destination_namespace "x" in upstream is not supported yet`),
		one("datacenter", inUpstream("datacenter = \"dc2\""), `a.hcl:9: datacenter "dc2" is not this one (dc1): files know the services of no other; beside Consul they can be dialled`),
		one("upstream config", inUpstream("config {\nenvoy_listener_json = \"{}\"\nlimits {\nmax_conections = 1\n}\npassive_health_check {\ninterval = 10\nmax_ejection_percent = 101\n}\n}"),
			"a.hcl:10: envoy_listener_json in config is not supported yet", `a.hcl:12: unknown key "max_conections" in limits: did you mean max_connections?`,
			`a.hcl:15: interval is 10, and a number counts nanoseconds: write a time like "500ms" or "10s"`, "a.hcl:16: max_ejection_percent is 101: it must be 0 to 100"),
		one("upstream protocol", inUpstream("config {\nprotocol = \"http\"\n}"),
			"a.hcl:10: protocol http contradicts that of the upstream api, which is tcp (no service-defaults say otherwise): say it in service-defaults of api"),
		one("time", inUpstream("config {\npassive_health_check {\ninterval = \"10\"\nbase_ejection_time = \"-1s\"\n}\n}"),
			`a.hcl:11: interval is "10": it must be a time like "500ms" or "10s"`, `a.hcl:12: base_ejection_time is "-1s": it must be a time like "500ms" or "10s"`),
		one("mode without socket", inUpstream("local_bind_socket_mode = \"0700\""), "a.hcl:9: local_bind_socket_mode is for an upstream with local_bind_socket_path"),
		one("same destination", inProxy("upstreams {\ndestination_name = \"api\"\nlocal_bind_port = 1\n}\nupstreams {\ndestination_name = \"api\"\nlocal_bind_port = 2\n}"),
			"a.hcl:10: upstream api is given twice (first at a.hcl:6)"),
		one("same upstream port", inProxy("upstreams {\ndestination_name = \"a\"\nlocal_bind_port = 1\n}\nupstreams {\ndestination_name = \"b\"\nlocal_bind_port = 1\n}"),
			"a.hcl:10: upstream b of web-sidecar-proxy and upstream a of web-sidecar-proxy (a.hcl:6) cannot both listen on port 1 of 127.0.0.1"),
		one("same upstream socket", inProxy("upstreams {\ndestination_name = \"a\"\nlocal_bind_socket_path = \"/a\"\n}\nupstreams {\ndestination_name = \"b\"\nlocal_bind_socket_path = \"/a\"\n}"),
			"a.hcl:10: upstream b of web-sidecar-proxy and upstream a of web-sidecar-proxy (a.hcl:6) cannot both listen on /a"),

		// Listeners of one machine, and of several.
		one("same sidecar port", "services {\nname = \"web\"\nport = 1\nconnect { sidecar_service {\nport = 20000\n} }\n}\nservices {\nname = \"api\"\nport = 2\nconnect { sidecar_service {\nport = 20000\n} }\n}\n",
			"a.hcl:5: the public listener of web-sidecar-proxy and the public listener of api-sidecar-proxy (a.hcl:12) cannot both listen on port 20000 of 0.0.0.0"),
		one("same address of two hosts", "services {\nname = \"web\"\nport = 1\naddress = \"a\"\nconnect { sidecar_service {\nport = 20000\nproxy { config {\nbind_address = \"10.0.0.1\" } }\n} }\n}\n"+
			"services {\nname = \"api\"\nport = 2\naddress = \"10.0.0.1\"\nconnect { sidecar_service {\nport = 20000\n} }\n}\n",
			"a.hcl:6: the public listener of web-sidecar-proxy and the public listener of api-sidecar-proxy (a.hcl:16) cannot both listen on 10.0.0.1:20000"),
		one("application's port", inService("port = 8080\nconnect { sidecar_service {\nport = 8080\n} }"),
			"a.hcl:5: the public listener of web-sidecar-proxy cannot listen on port 8080 of 127.0.0.1: service web itself does (a.hcl:3)"),
		one("application's port as bind_port", inProxy("local_service_port = 9000\nconfig {\nbind_address = \"127.0.0.1\"\nbind_port = 9000\n}"),
			"a.hcl:9: the public listener of web-sidecar-proxy cannot listen on port 9000 of 127.0.0.1: service web itself does (a.hcl:6)"),
		one("application's port of an upstream", inProxy("upstreams {\ndestination_name = \"api\"\nlocal_bind_port = 8080\n}"),
			"a.hcl:6: upstream api of web-sidecar-proxy cannot listen on port 8080 of 127.0.0.1: service web itself does (a.hcl:3)"),
		{"prometheus of all", map[string]string{
			"a.hcl": "services {\nname = \"web\"\nport = 1\nconnect { sidecar_service {} }\n}\nservices {\nname = \"api\"\nport = 2\nconnect { sidecar_service {} }\n}\n",
			"b.hcl": entry("proxy-defaults", "global", "Config {\nenvoy_prometheus_bind_addr = \"0.0.0.0:9102\"\n}"),
		}, []string{"b.hcl:4: envoy_prometheus_bind_addr of web-sidecar-proxy and envoy_prometheus_bind_addr of api-sidecar-proxy (b.hcl:4) cannot both listen on port 9102 of 0.0.0.0"}},

		// Intentions.
		one("no sources", entry("service-intentions", "api", ""), "a.hcl:1: service-intentions need at least one source"),
		one("intention name", "Kind = \"service-intentions\"\nSources = [{ Name = \"web\" Action = \"allow\" }]", "a.hcl:1: service-intentions has no Name"),
		one("part of a wildcard", entry("service-intentions", "api-*", "Sources = [{ Name = \"web\" Action = \"allow\" }]"), `a.hcl:2: Name "api-*": the wildcard * can only stand alone`),
		one("source name", entry("service-intentions", "api", "Sources = [\n{ Action = \"allow\" },\n{ Name = \"w*\" Action = \"allow\" },\n{ Name = \"a/b\" Action = \"allow\" }]"),
			"a.hcl:4: source has no Name", `a.hcl:5: Name "w*": the wildcard * can only stand alone`, `a.hcl:6: Name "a/b" cannot be a service's name: letters, digits, '.', '-' and '_' are allowed`),
		one("no action", entry("service-intentions", "api", "Sources = [\n{ Name = \"web\" }]"), "a.hcl:4: source has no Action"),
		one("action", entry("service-intentions", "api", "Sources = [{\nName = \"web\"\nAction = \"Allow\" }]"), `a.hcl:5: Action "Allow" is not known: allow and deny are, in lower case`),
		one("action and permissions", entry("service-intentions", "api", "Sources = [{\nName = \"web\"\nAction = \"deny\"\nPermissions = [{ Action = \"allow\" }]\n}]"), "a.hcl:5: Sources[0].Action must be omitted if Permissions are specified"),
		one("permissions of all", entry("service-intentions", "*", "Sources = [\n{ Name = \"web\" Permissions = [{ Action = \"allow\" HTTP { PathPrefix = \"/\" } }] }]"),
			"a.hcl:4: Sources[0].Permissions cannot be specified on intentions with wildcarded destinations"),
		one("permission without action", permissions("{\nHTTP { PathExact = \"/a\" } }"), "a.hcl:5: Sources[0].Permissions[0].Action must be set to 'allow' or 'deny'"),
		one("action of a permission", permissions("{\nAction = \"Allow\"\nHTTP { PathExact = \"/a\" } }"), "a.hcl:6: Sources[0].Permissions[0].Action must be set to 'allow' or 'deny'"),
		one("permission without HTTP", permissions("{ Action = \"allow\" HTTP { PathExact = \"/a\" } }, {\nAction = \"deny\" }"), "a.hcl:5: Sources[0].Permissions[1].HTTP is required"),
		one("empty HTTP", permissions("{ Action = \"allow\"\nHTTP {} }"), "a.hcl:6: Sources[0].Permissions[0].HTTP should not be empty"),
		one("two paths", permissions("{ Action = \"allow\"\nHTTP { PathExact = \"/a\"\nPathPrefix = \"/b\" } }"),
			"a.hcl:6: Sources[0].Permissions[0].HTTP should only contain at most one of PathExact, PathPrefix, or PathRegex"),
		one("path", permissions("{ Action = \"allow\"\nHTTP { PathExact = \"a\" } }"), `a.hcl:6: Sources[0].Permissions[0].HTTP.PathExact doesn't start with '/': "a"`),
		one("prefix", permissions("{ Action = \"allow\"\nHTTP { PathPrefix = \"a\" } }"), `a.hcl:6: Sources[0].Permissions[0].HTTP.PathPrefix doesn't start with '/': "a"`),
		one("path that is none", permissions("{ Action = \"deny\"\nHTTP { PathExact = \"/a//b\" } }"), `a.hcl:6: Sources[0].Permissions[0].HTTP.PathExact "/a//b" is met by no request: where a permission looks at paths, those are denied `+
			`that are not canonical (with "//", ".", "..", "\", ";", "#", what is not ASCII, or encoded what need not be), and the query is no part of them`),
		one("expression", permissions("{ Action = \"allow\"\nHTTP { PathRegex = \"/a(\" } }"),
			"a.hcl:5: Sources[0].Permissions[0].HTTP.PathRegex \"/a(\" is no regular expression: error parsing regexp: missing closing ): `/a(`"),
		one("anchor", permissions("{ Action = \"allow\"\nHTTP { PathRegex = \"/a\\\\b.*\" } }"),
			`a.hcl:5: Sources[0].Permissions[0].HTTP.PathRegex "/a\\b.*" has an anchor or \b inside: it has to match the whole text, so leave them away`),
		one("large expression", permissions("{ Action = \"allow\"\nHTTP { PathRegex = \"/(a{1,20}){1,30}b{1,999}\" } }"), `a.hcl:5: Sources[0].Permissions[0].HTTP.PathRegex "/(a{1,20}){1,30}b{1,999}" is too large: it comes to 3199 instructions, `+
			`and 2000 are the most: repeat less, or write several permissions`),
		one("methods", permissions("{ Action = \"allow\"\nHTTP { Methods = [\"get\", \"GET\", \"FOO\"] } }"),
			`a.hcl:6: Sources[0].Permissions[0].HTTP.Methods contains "GET" more than once`, `a.hcl:6: Sources[0].Permissions[0].HTTP.Methods contains an invalid method "FOO"`),
		one("header without name", permissions("{ Action = \"allow\"\nHTTP { Header = [{ Present = true }] } }"), "a.hcl:6: Sources[0].Permissions[0].HTTP.Header[0] missing required Name field"),
		one("header's name", permissions("{ Action = \"allow\"\nHTTP { Header = [{ Name = \"a b\" Present = true }] } }"),
			"a.hcl:6: Sources[0].Permissions[0].HTTP.Header[0].Name \"a b\" is not the name of a header: letters, digits, and !#$%&'*+-.^_`|~"),
		one("header that is none", permissions("{ Action = \"allow\"\nHTTP { Header = [{ Name = \":Path\" Exact = \"/\" }] } }"),
			`a.hcl:5: Sources[0].Permissions[0].HTTP.Header[0]: Name ":Path" is no header but a part of the request: use PathExact, PathPrefix, PathRegex and Methods`),
		one("header of two", permissions("{ Action = \"allow\"\nHTTP { Header = [{ Name = \"a\" Exact = \"b\" Present = true }, { Name = \"b\" Invert = true }] } }"),
			"a.hcl:6: Sources[0].Permissions[0].HTTP.Header[0] should only contain one of Present, Exact, Prefix, Suffix, Contains, or Regex",
			"a.hcl:6: Sources[0].Permissions[0].HTTP.Header[1] should only contain one of Present, Exact, Prefix, Suffix, Contains, or Regex"),
		one("letter case of an expression", permissions("{ Action = \"allow\"\nHTTP { Header = [{ Name = \"a\" Regex = \"b\" IgnoreCase = true }] } }"),
			"a.hcl:6: Sources[0].Permissions[0].HTTP.Header[0] should set one of Exact, Prefix, Suffix, or Contains when using IgnoreCase"),
		one("unknown key of a permission", permissions("{ Action = \"allow\"\nHTTP { PathExact = \"/a\" }\nPath = \"/b\" }"), "a.hcl:7: unknown key \"Path\" in permission"),
		one("JWT of a permission", permissions("{ Action = \"allow\"\nHTTP { PathExact = \"/a\" }\nJWT { Providers = [{ Name = \"p\" }] } }"), "a.hcl:3: Referenced JWT Provider does not exist. Provider Name: p"),
		one("foreign upstream", inProxy("upstreams {\nspiffe_id = \"spiffe://td-b.example/x\"\nlocal_bind_port = 9191\n}"),
			"a.hcl:6: upstream spiffe://td-b.example/x needs address: it is in no catalog, so where it is has to be said",
			"a.hcl:6: upstream spiffe://td-b.example/x needs port: it is in no catalog, so where it is has to be said"),
		one("foreign upstream of the own trust domain", inProxy("upstreams {\nspiffe_id = \"spiffe://mesh.test/x\"\naddress = \"10.0.0.1\"\nport = 443\nlocal_bind_port = 9191\n}"),
			"a.hcl:6: upstream spiffe://mesh.test/x is of this mesh's own trust domain: give the service by destination_name"),
		one("foreign upstream and service", inProxy("upstreams {\nspiffe_id = \"spiffe://td-b.example/x\"\naddress = \"10.0.0.1\"\nport = 443\nlocal_bind_port = 9191\ndestination_name = \"api\"\n}"),
			"a.hcl:11: upstream has spiffe_id and destination_name: it is one of them"),
		one("foreign source with a name", entry("service-intentions", "api", "Sources = [\n{ Name = \"web\" SpiffeID = \"spiffe://td-b.example/x\" Action = \"allow\" }]"),
			"a.hcl:4: source has SpiffeID and Name: a source is one of them"),
		one("foreign source with a wildcard", entry("service-intentions", "api", "Sources = [\n{ spiffe_id = \"spiffe://td-b.example/*\" Action = \"allow\" }]"),
			`a.hcl:4: spiffe_id "spiffe://td-b.example/*": a workload of another trust domain is named exactly, without a wildcard`),
		one("foreign source as in Consul", entry("service-intentions", "api", "Sources = [{ Name = \"web\" Action = \"allow\" }]\nMeta {\nsallyport_spiffe_id_web = \"spiffe://td-b.example/x\"\n}"),
			"a.hcl:5: Meta sallyport_spiffe_id_web is for entries in Consul, which has no field for it: here give the source as spiffe_id, in the place of its Name"),
		one("foreign source of no ID", entry("service-intentions", "api", "Sources = [\n{ spiffe_id = \"\" Action = \"deny\" }]"),
			`a.hcl:4: spiffe_id is not the SPIFFE ID of a workload, as spiffe://td-b.example/ns/prod/sa/web: "": cannot be empty`),
		one("foreign upstream of no ID", inProxy("upstreams {\nspiffe_id = \"\"\naddress = \"10.0.0.1\"\nport = 443\nlocal_bind_port = 9191\n}"),
			`a.hcl:7: spiffe_id is not the SPIFFE ID of a workload, as spiffe://td-b.example/ns/prod/sa/web: "": cannot be empty`),
		one("foreign source that is a trust domain", entry("service-intentions", "api", "Sources = [\n{ spiffe_id = \"spiffe://td-b.example\" Action = \"allow\" }]"),
			`a.hcl:4: spiffe_id is not the SPIFFE ID of a workload, as spiffe://td-b.example/ns/prod/sa/web: "spiffe://td-b.example": it names a trust domain and no workload of it: it has no path`),
		one("foreign source of the own trust domain", entry("service-intentions", "api", "Sources = [\n{ spiffe_id = \"spiffe://mesh.test/x\" Action = \"allow\" }]"),
			"a.hcl:4: source spiffe://mesh.test/x is of this mesh's own trust domain: give the service by its Name"),
		one("foreign source of all services", entry("service-intentions", "*", "Sources = [\n{ spiffe_id = \"spiffe://td-b.example/x\" Action = \"allow\" }]"),
			"a.hcl:4: source spiffe://td-b.example/x is of another trust domain, and these intentions are about all services: name the ones that it may connect to"),
		one("foreign source twice", entry("service-intentions", "api", "Sources = [\n{ spiffe_id = \"spiffe://td-b.example/x\" Action = \"allow\" },\n{ spiffe_id = \"spiffe://td-b.example/x\" Action = \"deny\" }]"),
			"a.hcl:5: source spiffe://td-b.example/x is given twice (first at a.hcl:4)"),
		{"foreign source of a server that speaks first", map[string]string{
			"a.hcl": inProxy("config { server_first = true }"),
			"b.hcl": entry("service-intentions", "web", "Sources = [\n{ spiffe_id = \"spiffe://td-b.example/x\" Action = \"allow\" },\n{ spiffe_id = \"spiffe://td-b.example/y\" Action = \"deny\" }]"),
		}, []string{"b.hcl:4: source spiffe://td-b.example/x is of another trust domain, and web speaks first (server_first at a.hcl:6): Envoy lets in who shows a second name of another domain, " +
			"and ends the connection at its first byte, when the server has spoken. Deny it, or have it connect to a service that waits for its client"}},
		one("source twice", entry("service-intentions", "api", "Sources = [\n{ Name = \"web\" Action = \"allow\" },\n{ Name = \"web\" Action = \"deny\" }]"), "a.hcl:5: source web is given twice (first at a.hcl:4)"),
		{"destination twice", map[string]string{
			"a.hcl": entry("service-intentions", "api", "Sources = [{ Name = \"web\" Action = \"allow\" }]"),
			"b.hcl": entry("service-intentions", "api", "Sources = [{ Name = \"db\" Action = \"allow\" }]"),
		}, []string{"b.hcl:1: service-intentions for api are given twice (first at a.hcl:1): put all sources into one entry"}},
		one("source peer", entry("service-intentions", "api", "Sources = [{\nName = \"web\"\nAction = \"allow\"\nPeer = \"p\"\n}]"), `a.hcl:6: Peer "p" in source is not supported yet`),
		one("source key", entry("service-intentions", "api", "Sources = [{\nName = \"web\"\nActon = \"allow\"\n}]"), `a.hcl:5: unknown key "Acton" in source: did you mean Action?`),
		one("source type", entry("service-intentions", "api", "Sources = [{\nName = \"web\"\nAction = \"allow\"\nType = \"x\"\n}]"), `a.hcl:6: Type "x" of source is not known: "consul" is`),
		one("jwt", entry("service-intentions", "api", "Sources = [{ Name = \"web\" Action = \"allow\" }]\nJWT { Providers = [{ Name = \"x\" }] }"), "a.hcl:3: Referenced JWT Provider does not exist. Provider Name: x"),

		// The other entries.
		one("defaults name", "Kind = \"service-defaults\"\n", "a.hcl:1: service-defaults has no Name"),
		one("defaults wildcard", entry("service-defaults", "*", ""), `a.hcl:2: Name "*": a wildcard cannot be used here`),
		one("defaults protocol", entry("service-defaults", "web", "Protocol = \"HTPP\""), `a.hcl:3: Protocol "HTPP" is not known: tcp, http, http2 and grpc are`),
		one("defaults against config", entry("service-defaults", "web", "Protocol = \"http\"\nConfig { protocol = \"tcp\" }"), "a.hcl:4: protocol tcp contradicts Protocol http of the same entry"),
		one("defaults destination", entry("service-defaults", "web", "Destination { Port = 1 }"), "a.hcl:3: Destination in service-defaults is not supported yet"),
		one("defaults overrides", entry("service-defaults", "web", "UpstreamConfig {\nDefaults { Name = \"x\" }\nOverrides = [\n{ ConnectTimeoutMs = 1 },\n{ Name = \"a\" },\n{ Name = \"a\" }]\n}"),
			"a.hcl:4: Defaults hold for all upstreams and have no Name: use Overrides", "a.hcl:6: Overrides has no Name", "a.hcl:8: Overrides of a are given twice"),
		{
			"defaults twice",
			map[string]string{"a.hcl": entry("service-defaults", "web", ""), "b.yaml": "Kind: service-defaults\nName: web\n"},
			[]string{"b.yaml:1: service-defaults of web are given twice (first at a.hcl:1)"},
		},
		one("proxy-defaults name", entry("proxy-defaults", "local", ""), `a.hcl:2: the Name of proxy-defaults must be "global", not "local"`),
		one("proxy-defaults access logs", entry("proxy-defaults", "global", "AccessLogs {\nEnabled = true\nType = \"disk\"\n}"), "a.hcl:5: AccessLogs: invalid access log type: disk: stdout, stderr and file are known"),
		one("proxy-defaults access logs, a key", entry("proxy-defaults", "global", "AccessLogs { Enable = true }"), "a.hcl:3: unknown key \"Enable\" in AccessLogs: did you mean Enabled?"),
		{
			"proxy-defaults twice",
			map[string]string{"a.hcl": entry("proxy-defaults", "global", ""), "b.hcl": entry("proxy-defaults", "global", "")},
			[]string{"b.hcl:1: proxy-defaults are given twice (first at a.hcl:1)"},
		},
		one("tls", "Kind = \"mesh\"\nTLS {\nIncoming {\nTLSMinVersion = \"TLSv1_1\"\nCipherSuites = [\"x\"]\n}\nOutgoing {\nTLSMinVersion = \"1.2\"\nTLSMaxVersion = \"TLSv1_2\"\n}\n}",
			"a.hcl:4: TLSMinVersion TLSv1_1 is not secure: TLSv1_2 and TLSv1_3 are taken", "a.hcl:5: CipherSuites in Incoming is not supported yet",
			`a.hcl:8: TLSMinVersion "1.2" is not known: TLS_AUTO, TLSv1_2 and TLSv1_3 are`,
			`a.hcl:9: TLSMaxVersion "TLSv1_2": TLS_AUTO and TLSv1_3 are taken, as TLS 1.3 cannot be switched off`),
		one("mesh name", "Kind = \"mesh\"\nName = \"x\"", `a.hcl:2: the Name of the mesh entry is "mesh", not "x"`),
		{"mesh twice", map[string]string{"a.hcl": "Kind = \"mesh\"", "b.hcl": "Kind = \"mesh\""}, []string{"b.hcl:1: the mesh entry is given twice (first at a.hcl:1)"}},
		one("mesh", "Kind = \"mesh\"\nTransparentProxy { MeshDestinationsOnly = true }\nHTTP { Incoming { RequestNormalization { MergeSlashes = true } } }",
			"a.hcl:2: TransparentProxy in mesh is not supported yet", "a.hcl:3: Incoming in HTTP is not supported yet"),
	}
}

// TestProblems holds that each mistake is found, alone, at its place.
func TestProblems(t *testing.T) {
	t.Parallel()
	for _, m := range slices.Concat(mistakes(), syntaxMistakes(), followedMistakes()) {
		t.Run(m.name, func(t *testing.T) {
			t.Parallel()
			dir := write(t, m.files)
			_, err := files.Load(files.Config{Dir: dir, TrustDomain: trustDomain})
			var all files.Errors
			if !errors.As(err, &all) {
				t.Fatalf("Load: %v, want %q", err, m.want)
			}
			var got []string
			for _, p := range all {
				got = append(got, strings.ReplaceAll(p.String(), dir, "DIR"))
			}
			if diff := cmp.Diff(m.want, got); diff != "" {
				t.Errorf("problems (-want +got):\n%s", diff)
			}
		})
	}
}

// TestOddFiles holds that what is no readable regular file is named, and never waited for.
func TestOddFiles(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		make func(path string) error
		want string
	}{
		{"dangling symlink", func(p string) error { return os.Symlink("nowhere", p) }, "b.hcl: no such file or directory"},
		{"symlink to itself", func(p string) error { return os.Symlink("b.hcl", p) }, "b.hcl: too many levels of symbolic links"},
		{"fifo", makeFIFO, "b.hcl: is not a regular file"},
		{"device", func(p string) error { return os.Symlink("/dev/zero", p) }, "b.hcl: is not a regular file"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			dir := write(t, map[string]string{"a.hcl": inService("")})
			if err := c.make(filepath.Join(dir, "b.hcl")); err != nil {
				t.Fatal(err)
			}
			_, err := files.Load(files.Config{Dir: dir})
			if err == nil || err.Error() != c.want {
				t.Errorf("Load: %v, want %s", err, c.want)
			}
		})
	}
	t.Run("subdirectory", func(t *testing.T) {
		t.Parallel()
		dir := write(t, map[string]string{"a.hcl": inService("")})
		if err := os.Mkdir(filepath.Join(dir, "b.hcl"), 0o700); err != nil {
			t.Fatal(err)
		}
		if _, err := files.Load(files.Config{Dir: dir}); err != nil {
			t.Errorf("Load: %v, want subdirectories left alone", err)
		}
	})
	t.Run("no directory", func(t *testing.T) {
		t.Parallel()
		dir := filepath.Join(t.TempDir(), "none")
		_, err := files.Load(files.Config{Dir: dir})
		if want := dir + ": catalog directory: no such file or directory: make it, or name another"; err == nil || err.Error() != want {
			t.Errorf("Load: %v, want %s", err, want)
		}
	})
}

// permissions is an entry in which a source has some, which begin in line 5.
func permissions(list string) string {
	return "Kind = \"service-intentions\"\nName = \"api\"\nSources = [{\nName = \"web\" Permissions = [\n" + list + "]\n}]\n"
}
