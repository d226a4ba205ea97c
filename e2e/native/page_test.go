//go:build e2e

package native

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/internal/meshtest"
)

// page is a page of docs whose programs are run as they stand there.
type page struct {
	t        *testing.T
	dir      string   // has its files; every user may read it
	commands []string // lines of its blocks without a language
}

// readPage reads a page and writes its files into a directory. A file is a fenced block whose first line is a comment that begins with the file's name.
func readPage(t *testing.T, name string) *page {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", filepath.FromSlash(name)))
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "page-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	p := &page{t: t, dir: dir}
	named := regexp.MustCompile(`^(?:#|//|<!--) ([A-Za-z0-9_./-]+\.[a-z]+)\b`)
	for _, block := range regexp.MustCompile("(?ms)^```([a-z]*)\n(.*?)^```$").FindAllStringSubmatch(string(text), -1) {
		if block[1] == "" {
			p.commands = append(p.commands, strings.Split(strings.TrimSpace(block[2]), "\n")...)
		} else if file := named.FindStringSubmatch(block[2]); file != nil {
			path := filepath.Join(dir, filepath.FromSlash(file[1]))
			if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(block[2]), 0o644)); err != nil {
				t.Fatal(err)
			}
		}
	}
	return p
}

// types runs a command of the page, which has to succeed, and returns what it prints.
func (p *page) types(line string, environ ...string) string {
	p.t.Helper()
	if !slices.Contains(p.commands, line) {
		p.t.Fatalf("the page has no command %q, only %q", line, p.commands)
	}
	cmd := exec.Command("sh", "-c", line)
	cmd.Dir, cmd.Env = p.dir, slices.Concat(meshtest.Environ(), environ)
	out, err := cmd.CombinedOutput()
	if err != nil {
		p.t.Fatalf("%s: %v\n%s", line, err, out)
	}
	return string(out)
}
