package files

import (
	"bytes"
	"unicode/utf8"

	"github.com/sallyport/sallyport/definition"
)

// parse reads the documents of a file. The format follows from the file's name, but a file .hcl may hold JSON, as with
// Consul's agent.
func parse(file string, src []byte) ([]*definition.Node, *definition.SyntaxError) {
	return parseIn(format(file), file, src)
}

// parseIn is parse of a format that does not follow from the name.
func parseIn(format, file string, src []byte) ([]*definition.Node, *definition.SyntaxError) {
	documents, err := parseAs(format, file, src)
	return documents, discreet(file, src, err)
}

func parseAs(format, file string, src []byte) ([]*definition.Node, *definition.SyntaxError) {
	src = bytes.TrimPrefix(src, []byte("\xef\xbb\xbf"))
	for line, rest := 1, src; ; line++ {
		head, after, more := bytes.Cut(rest, []byte("\n"))
		if !utf8.Valid(head) {
			return nil, definition.Syntax(line, "is not valid UTF-8")
		}
		if bytes.IndexByte(head, 0) >= 0 {
			return nil, definition.Syntax(line, "holds a zero byte")
		}
		if !more {
			break
		}
		rest = after
	}
	trimmed := bytes.TrimSpace(src)
	if len(trimmed) == 0 {
		// What an interrupted write leaves behind must not pass for a mesh without services.
		return nil, definition.Syntax(1, "the file is empty: remove it, or leave a comment in it if that is meant")
	}
	switch format {
	case "json":
		return parseJSON(file, src)
	case "yaml":
		return parseYAML(file, src)
	default:
		if trimmed[0] == '{' {
			return parseJSON(file, src)
		}
		return parseHCL(file, src)
	}
}

func parseJSON(file string, src []byte) ([]*definition.Node, *definition.SyntaxError) {
	n, err := definition.ParseJSON(file, src)
	return []*definition.Node{n}, err
}
