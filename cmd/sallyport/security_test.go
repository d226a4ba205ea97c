package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestSecurityTable holds docs/security.md to the tests that there are, and to rows that say something.
func TestSecurityTable(t *testing.T) {
	text, err := os.ReadFile("../../docs/security.md")
	if err != nil {
		t.Fatal(err)
	}
	exist := map[string]bool{}
	declared := regexp.MustCompile(`(?m)^func (Test\w+)\(`)
	err = filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() && strings.HasPrefix(d.Name(), ".") && d.Name() != ".." {
			return filepath.SkipDir
		}
		if !strings.HasSuffix(path, "_test.go") {
			return nil
		}
		b, err := os.ReadFile(path)
		for _, m := range declared.FindAllSubmatch(b, -1) {
			exist[string(m[1])] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	named := regexp.MustCompile("`(Test\\w+)`")
	for _, m := range named.FindAllStringSubmatch(string(text), -1) {
		if !exist[m[1]] {
			t.Errorf("there is no test %s", m[1])
		}
	}
	var rows []string
	for line := range strings.Lines(string(text)) {
		cells := strings.Split(strings.TrimSpace(line), "|")
		if len(cells) < 3 || strings.HasPrefix(line, "|---") {
			continue
		}
		if len(cells) != 7 {
			t.Errorf("%d cells, want 5: %s", len(cells)-2, line)
			continue
		}
		rows = append(rows, strings.TrimSpace(cells[1]))
		for _, cell := range cells[2:6] {
			if strings.TrimSpace(cell) == "" {
				t.Errorf("a cell is empty: %s", line)
			}
		}
		if strings.TrimSpace(cells[2]) != "finding" && strings.TrimSpace(cells[2]) != "fault" && !named.MatchString(cells[3]) {
			t.Errorf("no test: %s", line)
		}
	}
	for row := range strings.FieldsSeq("D1 D2 D3 D4 D5 D6 D7 D8 D9 D10 D11 L1 L2 L3 L5 L6 L7 L8 L9 F01 F02 F03 F04 F07 F08 F12 F13 F15 F17 F28 F29") {
		if !slices.Contains(rows, row) {
			t.Errorf("no row %s", row)
		}
	}
}
