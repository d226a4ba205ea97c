package files

import (
	"bytes"
	"errors"
	"io"
	"regexp"
	"strconv"
	"strings"

	"github.com/sallyport/sallyport/definition"
	"go.yaml.in/yaml/v3"
)

var yamlLine = regexp.MustCompile(`^line (\d+): `)

// yamlWords are what the library's errors mean to somebody who does not know how it is made.
var yamlWords = []struct{ error, words string }{
	{"mapping values are not allowed", `a second "key: value" where a value stands: indent it like the key before it, or put the value into quotes`},
	{"found character that cannot start any token", "a value cannot begin so: put it into quotes"},
	{"could not find expected ':'", "a key without a colon after it"},
	{"found unexpected end of stream", "a string in quotes that is not closed"},
	{"did not find expected ',' or ']'", "a [ that is not closed, or a comma is missing"},
	{"did not find expected ',' or '}'", "a { that is not closed, or a comma is missing"},
	{"block sequence entries are not allowed", "a list begins on a line of its own"},
}

// yamlSyntax is the library's error at the line that is to be mended, in plain words.
func yamlSyntax(src []byte, err error) *definition.SyntaxError {
	msg := strings.TrimPrefix(err.Error(), "yaml: ")
	line := 0
	if m := yamlLine.FindStringSubmatch(msg); m != nil {
		line, _ = strconv.Atoi(m[1]) // digits; on overflow Atoi gives the largest int
		msg = strings.TrimPrefix(msg, m[0])
	}
	at, text := offending(src)
	switch {
	case bytes.ContainsRune(text[:len(text)-len(bytes.TrimLeft(text, " \t-"))], '\t'):
		return definition.Syntax(at, "indented with a tab: YAML takes spaces alone")
	case strings.HasPrefix(msg, "did not find expected key"), strings.HasPrefix(msg, "did not find expected '-' indicator"):
		return definition.Syntax(at, `does not go with the lines before it: YAML wants "key: value" or "- value", indented like what it stands beside`)
	case strings.HasPrefix(msg, "did not find expected ',' or"):
		line++ // of the parser's own errors the library counts from 0
	}
	for _, w := range yamlWords {
		if strings.HasPrefix(msg, w.error) {
			msg = w.words
		}
	}
	return definition.Syntax(line, "%s", msg)
}

// offending is the line, from 1, up to which src has to be read for the error to show. The library
// names the line where what contains it begins.
func offending(src []byte) (line int, text []byte) {
	lines := bytes.SplitAfter(src, []byte("\n"))
	line = readUntilWrong(lines)
	if line > 1 && readUntilWrong(lines[:line-1]) > 0 { // it had looked one line ahead
		line--
	}
	if line == 0 {
		return 0, nil
	}
	return line, lines[line-1]
}

// readUntilWrong is how many lines are read until one shows to be wrong; 0: none does.
func readUntilWrong(lines [][]byte) int {
	r := &lineReader{lines: lines}
	d := yaml.NewDecoder(r)
	for {
		var y yaml.Node
		switch err := d.Decode(&y); {
		case errors.Is(err, io.EOF):
			return 0
		case err != nil:
			return r.read
		}
	}
}

// lineReader gives one line at a time.
type lineReader struct {
	lines [][]byte
	read  int
	rest  []byte // of a line that did not fit
}

func (l *lineReader) Read(b []byte) (int, error) {
	if len(l.rest) == 0 {
		if l.read == len(l.lines) {
			return 0, io.EOF
		}
		l.rest = l.lines[l.read]
		l.read++
	}
	n := copy(b, l.rest)
	l.rest = l.rest[n:]
	return n, nil
}
