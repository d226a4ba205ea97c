package files_test

// What is taken for one of the formats and is another, or is written as somewhere else: said in
// plain words, at the line that is to be mended.
func syntaxMistakes() []mistake {
	yaml := func(name, text, want string) mistake {
		return mistake{name: "yaml " + name, files: map[string]string{"a.yaml": text}, want: []string{"a.yaml:" + want}}
	}
	json := func(name, text, want string) mistake {
		return mistake{name: "json " + name, files: map[string]string{"a.json": text}, want: []string{"a.json:" + want}}
	}
	hcl := func(name, text, want string) mistake {
		return mistake{name: "hcl " + name, files: map[string]string{"a.hcl": text}, want: []string{"a.hcl:" + want}}
	}
	const (
		tab      = "indented with a tab: YAML takes spaces alone"
		indented = `does not go with the lines before it: YAML wants "key: value" or "- value", indented like what it stands beside`
		second   = `a second "key: value" where a value stands: indent it like the key before it, or put the value into quotes`
		quotes   = "a value cannot begin so: put it into quotes"
		hcl2     = " is of an expression, which HCL 2 has: files are HCL 1, as Consul's agent reads them: write the value itself"
		plain    = ": a string has to be in double quotes (and expressions, which HCL 2 has, are not read)"
		crd      = "write it as Consul's API has it: Kind \"service-intentions\", Name \"web\", and what is under spec beside them"
	)
	return []mistake{
		yaml("tab", "Kind: service-defaults\nName: web\nConfig:\n\tprotocol: tcp\n", "4: "+tab),
		yaml("tab in the line after a list", "Kind: service-intentions\nName: web\nSources:\n  - Name: api\n\tAction: allow\nMeta: {}\n", "5: "+tab),
		yaml("tab after spaces", "Kind: mesh\nTLS:\n  Incoming:\n  \tTLSMinVersion: TLSv1_2\n", "4: "+tab),
		yaml("tab after a list's dash", "Kind: service-intentions\nName: web\nSources:\n-\t- Name: api\n\t\tAction: allow\n", "4: "+tab),
		yaml("indentation far below", "Kind: service-intentions\nName: web\nSources:\n  - Name: api\n    Action: allow\n  - Name: db\n    Type: consul\n   Action: allow\nMeta: {}\n", "8: "+indented),
		yaml("list in a mapping", "Kind: mesh\n- Name: mesh\nMeta: {}\n", "2: "+indented),
		yaml("quote in quotes", "Kind: mesh\nMeta:\n  a: 'it's'\n  b: c\n", "3: "+indented),
		yaml("indented key", "Kind: mesh\n  Name: mesh\nMeta: {}\n", "2: "+second),
		yaml("first line", "Kind: mesh: x\nName: mesh\n", "1: "+second),
		yaml("sign", "Kind: mesh\nName: @mesh\n", "2: "+quotes),
		yaml("no colon", "Kind: mesh\nName mesh\nMeta: {}\n", "2: a key without a colon after it"),
		yaml("open quotes", "Kind: mesh\nName: \"mesh\nMeta: {}\n", "2: a string in quotes that is not closed"),
		yaml("open list", "Kind: mesh\nMeta: [a, b\nName: mesh\n", "2: a [ that is not closed, or a comma is missing"),
		yaml("open mapping", "Kind: mesh\nMeta: {a: b\nName: mesh\n", "2: a { that is not closed, or a comma is missing"),
		yaml("list beside its key", "Kind: mesh\nMeta: - a\n", "2: a list begins on a line of its own"),
		yaml("second document", "Kind: mesh\n---\nKind: proxy-defaults\n\tName: global\n", "4: "+tab),

		json("comma after the last", "{\n\"Kind\": \"mesh\",\n\"Meta\": {}, \n\n}\n", "3: a comma before }: JSON has none after the last one: remove it"),
		json("comma after the last of a list", "{\"service\": {\"name\": \"web\", \"tags\": [\n\"a\",\n\"b\",\n]}}\n", "3: a comma before ]: JSON has none after the last one: remove it"),
		json("comma missing", "{\n\"Kind\": \"mesh\"\n\"Name\": \"mesh\"\n}\n", `2: a comma is missing before "Name": "mesh"`),
		json("comma missing in a list", "{\"service\": {\"name\": \"web\", \"tags\": [\n\"a\"\n\"b\"\n]}}\n", `2: a comma is missing before "b"`),
		json("comma missing before a block", "{\"services\": [\n{\"name\": \"web\"}\n{\n\"name\": \"api\"}\n]}\n", "2: a comma is missing before {"),
		json("comma twice", "{\"Kind\": \"mesh\",,\n\"Name\": \"mesh\"}\n", "1: a comma with nothing before it: remove it"),
		json("comment", "{\n// why\n\"Kind\": \"mesh\"}\n", "2: JSON has no comments: remove it, or write the file as HCL or YAML"),
		json("comment of a shell", "{\n\"Kind\": \"mesh\" # why\n}\n", "2: JSON has no comments: remove it, or write the file as HCL or YAML"),
		json("single quotes", "{\n'Kind': 'mesh'}\n", `2: ' where JSON has "`),
		json("no quotes", "{\nKind: \"mesh\"}\n", `2: Kind: "mesh"}: a key has to be in double quotes`),
		json("equals sign", "{\n\"Kind\" = \"mesh\"}\n", "2: = where JSON has a colon"),
		json("colon missing", "{\n\"Kind\" \"mesh\"}\n", `2: a colon is missing before "mesh"}`),
		json("open quotes", "{\n\"Kind\": \"mesh,\n\"Name\": \"mesh\"}\n", "2: a string is not closed at the end of the line"),
		json("tab in a string", "{\n\"Kind\": \"me\tsh\"}\n", `2: a tab inside of a string: write it as \t`),
		json("wrong bracket", "{\"services\": [\n}\n", "2: invalid character '}' looking for beginning of value"),

		hcl("variable", "Kind = \"mesh\"\nName = var.mesh\n", "2: var.mesh"+hcl2),
		hcl("call", "service {\n  name = upper(\"web\")\n}\n", "2: upper()"+hcl2),
		hcl("sum", "service {\n  name = \"web\"\n  port = 80 + 1\n}\n", "3: +"+hcl2),
		hcl("condition", "service {\n  name = \"web\"\n  port = true ? 1 : 2\n}\n", "3: ?"+hcl2),
		hcl("for", "service {\n  name = \"web\"\n  tags = [for t in tags : t]\n}\n", "3: for"+plain),
		hcl("reference in a list", "service {\n  name = \"web\"\n  tags = [\"a\", local.tag]\n}\n", "3: local.tag"+hcl2),
		hcl("no quotes", "service {\n  name = web\n}\n", "2: web"+plain),
		hcl("single quotes", "service {\n  name = 'web'\n}\n", `2: ' where HCL has "`),
		hcl("colon", "service {\n  name: \"web\"\n}\n", "2: a colon where HCL has ="),
		hcl("template", "service {\n  name = \"${var.name}\"\n}\n", `2: name "${var.name}": nothing is filled in here: write the name itself`),
		hcl("Terraform", "resource \"consul_config_entry\" \"web\" {\n  name = \"web\"\n  config_json = jsonencode({ Sources = [] })\n}\n", "3: jsonencode()"+hcl2),

		yaml("of Kubernetes", "# ours\napiVersion: consul.hashicorp.com/v1alpha1\nkind: ServiceIntentions\nmetadata:\n  name: x\nspec:\n  destination:\n    name: web\n", "2: a Kubernetes resource (ServiceIntentions): "+crd),
		yaml("of Kubernetes, one of several", "Kind: mesh\n---\napiVersion: consul.hashicorp.com/v1alpha1\nkind: ServiceIntentions\nmetadata:\n  name: web\n", "3: a Kubernetes resource (ServiceIntentions): "+crd),
		yaml("of Kubernetes' own", "apiVersion: apps/v1\nkind: Deployment\nmetadata:\n  name: web\n",
			`1: a Kubernetes resource of kind "Deployment": here are Consul's service definitions and config entries of kind service-intentions, service-defaults, service-router, service-splitter, service-resolver, proxy-defaults, mesh, jwt-provider`),
	}
}
