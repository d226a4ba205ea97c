package files_test

// followedMistakes are those from which others would follow, which are no mistakes of their own.
func followedMistakes() []mistake {
	return []mistake{
		one("name misspelt", "service {\nnamme = \"web\"\nport = 1\n}", `a.hcl:2: unknown key "namme" in service: did you mean name?`),
		one("port misspelt", "service {\nname = \"web\"\nprot = 1\nconnect { sidecar_service {} }\n}", `a.hcl:3: unknown key "prot" in service: did you mean port?`),
		one("port of the wrong type", "service {\nname = \"web\"\nport = \"one\"\nconnect { sidecar_service {} }\n}", "a.hcl:3: port must be a whole number, not a string"),
		one("port out of range", "service {\nname = \"web\"\nport = 70000\nconnect { sidecar_service {} }\n}", "a.hcl:3: port is 70000: it must be 1 to 65535"),
		one("socket misspelt", "service {\nname = \"web\"\nsocket_pth = \"/run/x\"\nconnect { sidecar_service {} }\n}", `a.hcl:3: unknown key "socket_pth" in service: did you mean socket_path?`),
		one("socket that is no path", "service {\nname = \"web\"\nsocket_path = \"x\"\nconnect { sidecar_service {} }\n}", `a.hcl:3: socket_path "x" must be an absolute path`),
		one("proxy's port misspelt", "service {\nname = \"web\"\nconnect { sidecar_service { proxy {\nlocal_port = 1\n} } }\n}", `a.hcl:4: unknown key "local_port" in proxy: did you mean local_service_port?`),
		one("destination misspelt", "service {\nname = \"web\"\nport = 1\nconnect { sidecar_service { proxy { upstreams = [{\ndestination = \"api\"\nlocal_bind_port = 2\n}] } } }\n}",
			`a.hcl:5: unknown key "destination" in upstream: did you mean destination_name?`),
		one("bind port misspelt", "service {\nname = \"web\"\nport = 1\nconnect { sidecar_service { proxy { upstreams = [{\ndestination_name = \"api\"\nbind_port = 2\n}] } } }\n}",
			`a.hcl:6: unknown key "bind_port" in upstream: did you mean local_bind_port?`),
		one("proxy's destination misspelt", "service {\nkind = \"connect-proxy\"\nname = \"p\"\nport = 1\nproxy {\ndestination_service = \"web\"\n}\n}",
			`a.hcl:6: unknown key "destination_service" in proxy: did you mean destination_service_name?`),
		one("Kind misspelt", "Knd = \"service-intentions\"\nName = \"api\"\nSources = [{ Name = \"web\" Action = \"allow\" }]", `a.hcl:1: unknown key "Knd" in the file: did you mean Kind?`),
		one("Sources misspelt", "Kind = \"service-intentions\"\nName = \"api\"\nSource = [{ Name = \"web\" Action = \"allow\" }]", `a.hcl:3: unknown key "Source" in service-intentions: did you mean Sources?`),
		one("source's name misspelt", entry("service-intentions", "api", "Sources = [{\nNamme = \"web\"\nAction = \"allow\"\n}]"), `a.hcl:4: unknown key "Namme" in source: did you mean Name?`),
		one("two mistakes are two", "service {\nnamme = \"web\"\nprot = 1\n}", `a.hcl:2: unknown key "namme" in service: did you mean name?`, `a.hcl:3: unknown key "prot" in service: did you mean port?`),
		one("exposed path misspelt", "service {\nname = \"web\"\nport = 1\nconnect { sidecar_service { proxy { expose { paths = [{\npth = \"/x\"\nlistener_prt = 2\nlocal_path_port = 3\n}] } } } }\n}",
			`a.hcl:5: unknown key "pth" in exposed path: did you mean path?`, `a.hcl:6: unknown key "listener_prt" in exposed path: did you mean listener_port?`),
	}
}
