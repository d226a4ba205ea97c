//go:build e2e && linux

package e2e

import (
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// guide is a page of docs/guides. A test that types its commands and uses its files does so out of the page, so that neither says what the other does not.
type guide struct {
	t        *testing.T
	files    map[string]string
	commands map[string]bool // false until one is used
}

// readGuide reads a page. Fenced blocks with a language are files, named in a comment in their first line; of those without, each line is a command.
func readGuide(t *testing.T, name string) *guide {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "docs", "guides", name))
	if err != nil {
		t.Fatal(err)
	}
	g := &guide{t: t, files: map[string]string{}, commands: map[string]bool{}}
	for _, block := range regexp.MustCompile("(?ms)^```([a-z]*)\n(.*?)^```$").FindAllStringSubmatch(string(text), -1) {
		if block[1] == "" {
			for line := range strings.Lines(block[2]) {
				line, _, _ = strings.Cut(line, "  #")
				g.commands[strings.TrimSpace(line)] = false
			}
			continue
		}
		first, rest, _ := strings.Cut(block[2], "\n")
		file, ok := strings.CutPrefix(first, "# ")
		if !ok {
			t.Fatalf("%s: a block of %s does not say what file it is", name, block[1])
		}
		g.files[file] = rest
	}
	return g
}

// file is the content of a file that the page has.
func (g *guide) file(name string) string {
	g.t.Helper()
	text, ok := g.files[name]
	if !ok {
		g.t.Fatalf("the guide has no file %s, only %q", name, slices.Sorted(maps.Keys(g.files)))
	}
	return text
}

// command is a command of the page: it fails the test if the page does not have it.
func (g *guide) command(line string) string {
	g.t.Helper()
	if _, ok := g.commands[line]; !ok {
		g.t.Fatalf("the guide has no command %q, only %q", line, slices.Sorted(maps.Keys(g.commands)))
	}
	g.commands[line] = true
	return line
}

// finish fails the test if it has left out a command.
func (g *guide) finish() {
	g.t.Helper()
	for line, used := range g.commands {
		if !used {
			g.t.Errorf("the guide has a command that nobody has typed: %s", line)
		}
	}
}
