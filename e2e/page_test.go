//go:build e2e

package e2e

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// pageBlock is the fenced block in a language ("": none) of a page of docs that has a text, with what is put in the place of what it says: of the user's machine that of
// the test. All of it has to be there.
func pageBlock(t *testing.T, page, language, with string, replaced ...string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "docs", page))
	if err != nil {
		t.Fatal(err)
	}
	for _, block := range regexp.MustCompile("(?ms)^```([a-z]*)\n(.*?)^```$").FindAllStringSubmatch(string(text), -1) {
		if block[1] != language || !strings.Contains(block[2], with) {
			continue
		}
		for i := 0; i < len(replaced); i += 2 {
			if !strings.Contains(block[2], replaced[i]) {
				t.Fatalf("docs/%s: the block with %q has no %q", page, with, replaced[i])
			}
			block[2] = strings.ReplaceAll(block[2], replaced[i], replaced[i+1])
		}
		return block[2]
	}
	t.Fatalf("docs/%s has no block of %s with %q", page, language, with)
	return ""
}

// indented is a text whose lines begin with blanks.
func indented(text string, blanks int) string {
	return regexp.MustCompile(`(?m)^(.)`).ReplaceAllString(text, strings.Repeat(" ", blanks)+"$1")
}
