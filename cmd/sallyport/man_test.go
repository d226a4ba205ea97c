package main

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/cpuguy83/go-md2man/v2/md2man"
	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
	"github.com/spf13/pflag"
)

var manDir = flag.String("man", "", "directory to write the man pages to, for make dist")

// TestManPages makes them, into -man where that is given.
func TestManPages(t *testing.T) {
	dir := *manDir
	if dir == "" {
		dir = t.TempDir()
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	date := time.Unix(0, 0).UTC() // two builds of one commit are equal
	if s := os.Getenv("SOURCE_DATE_EPOCH"); s != "" {
		var seconds int64
		if _, err := fmt.Sscan(s, &seconds); err != nil {
			t.Fatal(err)
		}
		date = time.Unix(seconds, 0).UTC()
	}
	root := rootForDocs(t)
	header := doc.GenManHeader{Section: "1", Date: &date, Source: "sallyport", Manual: "sallyport"}
	if err := doc.GenManTree(root, &header, dir); err != nil {
		t.Fatal(err)
	}
	for name, page := range filePages(t) {
		title := fmt.Sprintf("%% %q 5 %q %q %q\n", strings.ToUpper(strings.TrimSuffix(name, ".5")), date.Format("Jan 2006"), "sallyport", "file formats")
		if err := os.WriteFile(filepath.Join(dir, name), md2man.Render([]byte(title+page)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	commands(root, func(c *cobra.Command) {
		name := strings.ReplaceAll(c.CommandPath(), " ", "-") + ".1"
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Error(err)
			return
		}
		c.LocalFlags().VisitAll(func(f *pflag.Flag) {
			if !bytes.Contains(text, []byte("--"+f.Name)) {
				t.Errorf("%s does not say --%s", name, f.Name)
			}
		})
	})
}

// filePages are the man pages of the files that sallyport reads, as Markdown.
func filePages(t *testing.T) map[string]string {
	t.Helper()
	return map[string]string{"sallyport.yaml.5": configurationMan(t), "sallyport-catalog.5": catalogMan(t)}
}

// configurationMan is what configuration.md says, in the form of man pages.
func configurationMan(t *testing.T) string {
	t.Helper()
	var b strings.Builder
	b.WriteString(`# NAME
sallyport.yaml - configuration of sallyport serve

# SYNOPSIS
/etc/sallyport/sallyport.yaml, or the file that **--config** or **SALLYPORT_CONFIG** names, whose ending (.yaml, .yml, .toml, .json) says how it is read.

# DESCRIPTION
A key is the name of a flag of **sallyport serve** with "_" for "-", and of the variable **SALLYPORT_KEY**. A flag wins over a variable, a variable over the file. Keys and variables that are not known and values that
are wrong are errors, all of which are told at once. Times have a unit: 90s, 20m or 72h. /usr/share/sallyport/serve.schema.json is a JSON schema of the file, for editors.

# KEYS
`)
	for _, k := range keys(t) {
		kind := k.kind
		if c := choices[k.name]; c != nil {
			kind = strings.TrimPrefix(strings.Join(c, ", "), ", ")
		}
		fmt.Fprintf(&b, "**%s** (%s", k.name, kind)
		if k.fallback != "" {
			fmt.Fprintf(&b, "; default %s", k.fallback)
		}
		fmt.Fprintf(&b, ")\n: %s\n\n", k.usage)
	}
	b.WriteString("# EXAMPLE\n```\ncatalog: /etc/sallyport/catalog\ndata: /var/lib/sallyport\nleaf_ttl: 24h\n```\n\n# SEE ALSO\n**sallyport-serve(1)**, **sallyport-catalog(5)**\n")
	return b.String()
}

// catalogMan is docs/files.md in the form of man pages.
func catalogMan(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("../../docs/files.md")
	if err != nil {
		t.Fatal(err)
	}
	_, page, ok := strings.Cut(string(text), "\n")
	if !ok || !strings.HasPrefix(string(text), "# ") {
		t.Fatal("docs/files.md has no title")
	}
	page = regexp.MustCompile(`\[([^\]]+)\]\([^)]*\)`).ReplaceAllString(page, "$1") // links lead nowhere from here
	page = regexp.MustCompile("(?m)^## (.*)$").ReplaceAllStringFunc(page, func(h string) string { return "# " + strings.ToUpper(strings.TrimPrefix(h, "## ")) })
	page = strings.ReplaceAll(page, "\n### ", "\n## ")
	// A terminal is no place for wide tables. Each has two columns, and a row is an entry.
	page = regexp.MustCompile(`(?m)^\|.*\|\n\|(?:---\|)+\n`).ReplaceAllString(page, "")
	page = regexp.MustCompile(`(?m)^\| (.*?) \| ?(.*?) ?\|$`).ReplaceAllStringFunc(page, func(row string) string {
		cells := strings.SplitN(strings.Trim(row, "| "), " | ", 2)
		what := strings.TrimSpace(strings.Join(cells[1:], ""))
		if what == "" {
			what = "–"
		}
		return strings.TrimSpace(cells[0]) + "\n: " + what + "\n"
	})
	return "# NAME\nsallyport-catalog - the files that a mesh is read from\n\n# SYNOPSIS\nDIR/\\*.hcl, DIR/\\*.json, DIR/\\*.yaml, DIR/\\*.yml\n\n# DESCRIPTION\n" +
		strings.TrimSpace(page) + "\n\n# SEE ALSO\n**sallyport-validate(1)**, **sallyport-serve(1)**, **sallyport.yaml(5)**\n"
}

// TestFilePages: each key has its entry, each key of the catalog is there, and nothing of Markdown is
// left.
func TestFilePages(t *testing.T) {
	pages := map[string]string{}
	for name, page := range filePages(t) {
		pages[name] = string(md2man.Render([]byte(`% "X" 5` + "\n" + page)))
		for _, section := range []string{".SH NAME", ".SH SYNOPSIS", ".SH DESCRIPTION", ".SH SEE ALSO"} {
			if !strings.Contains(pages[name], section) {
				t.Errorf("%s has no %s", name, section)
			}
		}
		if m := regexp.MustCompile("(?m)^(##|```|\\|).*|\\]\\(").FindString(pages[name]); m != "" {
			t.Errorf("%s: %q is Markdown", name, m)
		}
	}
	for _, k := range keys(t) {
		if !strings.Contains(pages["sallyport.yaml.5"], "\n.TP\n\\fB"+k.name+"\\fP (") {
			t.Errorf("sallyport.yaml(5) has no entry of %s", k.name)
		}
	}
	text, err := os.ReadFile("../../docs/files.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile("`([a-z_]{6,})`").FindAllStringSubmatch(string(text), -1) {
		if !strings.Contains(strings.ReplaceAll(pages["sallyport-catalog.5"], `\_`, "_"), m[1]) {
			t.Errorf("sallyport-catalog(5) does not say %s", m[1])
		}
	}
}
