package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode"

	"go.yaml.in/yaml/v3"
)

// alertRules are the expressions of the rule file in the guides.
func alertRules(t *testing.T) map[string]string {
	t.Helper()
	text, err := os.ReadFile("../../docs/guides/alerts.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Groups []struct {
			Rules []struct {
				Alert string `yaml:"alert"`
				Expr  string `yaml:"expr"`
			} `yaml:"rules"`
		} `yaml:"groups"`
	}
	if err := yaml.Unmarshal(text, &file); err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, g := range file.Groups {
		for _, r := range g.Rules {
			out[r.Alert] = r.Expr
		}
	}
	if len(out) == 0 {
		t.Fatal("there are no alerts")
	}
	return out
}

// TestAlertsNameMetrics: an alert on a metric or on a label's value that does not exist is one that
// is never raised. Envoy's names are held to a real one by the end-to-end tests.
func TestAlertsNameMetrics(t *testing.T) {
	registered := registeredMetrics(t)
	selector := regexp.MustCompile(`\b(sallyport_[a-z_]+)(?:\{([^}]*)\})?`)
	matcher := regexp.MustCompile(`([a-z_]+)(=~|=|!=|!~)"([^"]*)"`)
	named := 0
	for alert, expr := range alertRules(t) {
		for _, s := range selector.FindAllStringSubmatch(expr, -1) {
			named++
			m := registered[s[1]]
			if m == nil {
				base := strings.TrimSuffix(s[1], "_bucket")
				if m = registered[base]; m == nil || m.kind != "histogram" {
					t.Errorf("%s: there is no metric %s", alert, s[1])
					continue
				}
			}
			for _, l := range matcher.FindAllStringSubmatch(s[2], -1) {
				for v := range strings.SplitSeq(l[3], "|") {
					if !slices.Contains(m.labels[l[1]], v) {
						t.Errorf("%s: %s never has %s=%q (it has %q)", alert, s[1], l[1], v, m.labels[l[1]])
					}
				}
			}
		}
	}
	if named < 10 {
		t.Errorf("%d metrics of sallyport were found in the alerts", named)
	}
}

// TestAlertsAreExplained: the guide has a reason for each alert, and no other.
func TestAlertsAreExplained(t *testing.T) {
	text, err := os.ReadFile("../../docs/guides/watching.md")
	if err != nil {
		t.Fatal(err)
	}
	rules := alertRules(t)
	var explained []string
	for _, m := range regexp.MustCompile("(?m)^\\| `([A-Z][A-Za-z]+)` \\|").FindAllStringSubmatch(string(text), -1) {
		explained = append(explained, m[1])
		if rules[m[1]] == "" {
			t.Errorf("watching.md explains %s, which alerts.yaml does not have", m[1])
		}
	}
	for alert := range rules {
		if !slices.Contains(explained, alert) {
			t.Errorf("watching.md does not say why %s", alert)
		}
	}
}

// TestDocumentedMetrics: no page names a metric that is not there.
func TestDocumentedMetrics(t *testing.T) {
	registered := registeredMetrics(t)
	eachPage(t, func(path, text string) {
		keys := []string{"sallyport_uid", "sallyport_spiffe_id"} // of what is registered, not metrics
		for _, name := range regexp.MustCompile("`(sallyport_[a-z_]+_[a-z]+)`").FindAllStringSubmatch(text, -1) {
			if registered[name[1]] == nil && !slices.Contains(keys, name[1]) {
				t.Errorf("%s: there is no metric %s", path, name[1])
			}
		}
	})
}

// TestDocumentedCommands gives every command line of sallyport in the pages to the command line
// itself: commands, flags and the number of arguments have to be right.
func TestDocumentedCommands(t *testing.T) {
	found := 0
	eachPage(t, func(path, text string) {
		for n, line := range commandLines(text) {
			found++
			root := rootForDocs(t)
			c, rest, err := root.Find(line)
			if err == nil {
				err = c.ParseFlags(rest)
			}
			if err == nil {
				err = c.ValidateArgs(c.Flags().Args())
			}
			if err == nil {
				err = c.ValidateRequiredFlags()
			}
			if err == nil {
				err = c.ValidateFlagGroups()
			}
			if err != nil {
				t.Errorf("%s: command %d: sallyport %s: %v", path, n+1, strings.Join(line, " "), err)
			}
		}
	})
	if found < 15 {
		t.Errorf("%d command lines were found in the pages", found)
	}
}

// commandLines are the arguments of sallyport in the lines of a page's fenced blocks that call it.
func commandLines(text string) [][]string {
	var out [][]string
	fenced := false
	joined := strings.ReplaceAll(text, "\\\n", " ")
	for line := range strings.Lines(joined) {
		if strings.HasPrefix(line, "```") {
			fenced = !fenced
			continue
		}
		if !fenced {
			continue
		}
		line = strings.TrimPrefix(strings.TrimSpace(line), "$ ")
		line = strings.TrimPrefix(line, "sudo ")
		line = strings.TrimPrefix(line, "-u envoy ")
		if !strings.HasPrefix(line, "sallyport ") || strings.HasPrefix(line, "sallyport:") {
			continue
		}
		line, _, _ = strings.Cut(line, " #")
		line, _, _ = strings.Cut(line, " | ")
		line, _, _ = strings.Cut(line, "  ") // what it does stands behind
		line, _, _ = strings.Cut(line, " > ")
		line = regexp.MustCompile(`'[^']*'`).ReplaceAllString(line, "quoted") // a shell makes one argument of it
		line = strings.TrimSuffix(strings.TrimSpace(line), "&")
		out = append(out, strings.Fields(line)[1:])
	}
	return out
}

// eachPage calls f for every page that people write, and for those that are generated.
func eachPage(t *testing.T, f func(path, text string)) {
	t.Helper()
	pages := []string{"../../README.md", "../../CONTRIBUTING.md", "../../CHANGELOG.md", "../../e2e/compose/README.md"}
	err := filepath.WalkDir("../../docs", func(path string, _ fs.DirEntry, err error) error {
		if strings.HasSuffix(path, ".md") && path != filepath.Join(reference, "commands.md") {
			pages = append(pages, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range pages {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		f(strings.TrimPrefix(path, "../../"), string(text))
	}
}

// TestLinks: every relative link of a page leads to a file, and to a heading of it where it says
// which.
func TestLinks(t *testing.T) {
	found := 0
	eachPage(t, func(path, text string) {
		for _, m := range regexp.MustCompile(`\]\(([^)#:]*)(?:#([^)]*))?\)`).FindAllStringSubmatch(text, -1) {
			found++
			page := text
			if m[1] != "" {
				target := filepath.Join("../..", filepath.Dir(path), m[1])
				if _, err := os.Stat(target); err != nil {
					t.Errorf("%s: the link to %s leads nowhere", path, m[1])
					continue
				}
				if m[2] != "" {
					b, err := os.ReadFile(target)
					if err != nil {
						t.Errorf("%s: the link to %s: %v", path, m[0], err)
					}
					page = string(b)
				}
			}
			if m[2] != "" && !slices.Contains(anchors(page), m[2]) {
				t.Errorf("%s: the link to %s#%s leads to no heading", path, m[1], m[2])
			}
		}
	})
	if found < 40 {
		t.Errorf("%d links were found in the pages", found)
	}
}

// anchors are what a page's headings are called in links.
func anchors(text string) (all []string) {
	for _, h := range regexp.MustCompile("(?m)^#+ (.*)$").FindAllStringSubmatch(text, -1) {
		slug := strings.Map(func(r rune) rune {
			switch {
			case r == ' ':
				return '-'
			case r == '-' || r == '_' || unicode.IsLetter(r) || unicode.IsDigit(r):
				return unicode.ToLower(r)
			}
			return -1
		}, h[1])
		all = append(all, slug)
	}
	return all
}

// TestWorkedExample: what CONTRIBUTING.md says of a field's way through the code is there.
func TestWorkedExample(t *testing.T) {
	page, err := os.ReadFile("../../CONTRIBUTING.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := regexp.MustCompile("(?m)^\\| `([a-z0-9_/.-]+)` \\| `([^`]+)` \\|").FindAllStringSubmatch(string(page), -1)
	if len(rows) < 10 {
		t.Fatalf("the worked example has %d stations", len(rows))
	}
	for _, row := range rows {
		text, err := os.ReadFile(filepath.Join("../..", row[1]))
		if err != nil {
			t.Error(err)
		} else if !strings.Contains(string(text), row[2]) {
			t.Errorf("CONTRIBUTING.md: %s has no %q", row[1], row[2])
		}
	}
}
