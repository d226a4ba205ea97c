package files

import (
	"bytes"
	"errors"
	"io"
	"regexp"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// maxAliased bounds how many values the aliases of a YAML file may come to.
const maxAliased = 10_000

// yamlReader turns the nodes of a YAML file into ours.
type yamlReader struct {
	file    string
	aliased int // values made inside of aliases
}

func parseYAML(file string, src []byte) ([]*node, *syntaxError) {
	r := &yamlReader{file: file}
	d := yaml.NewDecoder(bytes.NewReader(src))
	var documents []*node
	for {
		var y yaml.Node
		err := d.Decode(&y)
		if errors.Is(err, io.EOF) {
			return documents, nil
		}
		if err != nil {
			return nil, yamlSyntax(err)
		}
		if y.Kind != yaml.DocumentNode || len(y.Content) != 1 {
			continue
		}
		n, serr := r.node(y.Content[0], 0, false)
		if serr != nil {
			return nil, serr
		}
		if n.kind != null { // what follows a last "---"
			documents = append(documents, n)
		}
	}
}

var yamlLine = regexp.MustCompile(`^line (\d+): `)

// yamlSyntax takes the line out of the library's error, which has it only in its text.
func yamlSyntax(err error) *syntaxError {
	msg := strings.TrimPrefix(err.Error(), "yaml: ")
	if m := yamlLine.FindStringSubmatch(msg); m != nil {
		line, _ := strconv.Atoi(m[1]) // digits; on overflow Atoi gives the largest int
		return syntax(line, "%s", strings.TrimPrefix(msg, m[0]))
	}
	return syntax(1, "%s", msg)
}

func (r *yamlReader) node(y *yaml.Node, depth int, aliased bool) (*node, *syntaxError) {
	if depth > maxDepth {
		return nil, syntax(y.Line, "nested more than %d deep", maxDepth)
	}
	if aliased {
		if r.aliased++; r.aliased > maxAliased {
			return nil, syntax(y.Line, "the aliases come to more than %d values", maxAliased)
		}
	}
	n := &node{at: position{file: r.file, line: y.Line}}
	switch y.Kind {
	case yaml.AliasNode:
		target, err := r.node(y.Alias, depth+1, true)
		if err != nil {
			return nil, err
		}
		target.at = n.at // where it is used says more than where it was written
		return target, nil
	case yaml.ScalarNode:
		return n, r.scalar(n, y)
	case yaml.SequenceNode:
		n.kind = list
		for _, c := range y.Content {
			element, err := r.node(c, depth+1, aliased)
			if err != nil {
				return nil, err
			}
			n.list = append(n.list, element)
		}
		return n, nil
	case yaml.MappingNode:
		return n, r.mapping(n, y, depth, aliased)
	case yaml.DocumentNode:
	}
	return nil, syntax(y.Line, "cannot be read")
}

func (r *yamlReader) mapping(n *node, y *yaml.Node, depth int, aliased bool) *syntaxError {
	n.kind = mapping
	for i := 0; i+1 < len(y.Content); i += 2 {
		k, v := y.Content[i], y.Content[i+1]
		if k.Kind != yaml.ScalarNode {
			return syntax(k.Line, "a key must be plain text")
		}
		if k.ShortTag() == "!!merge" {
			return syntax(k.Line, "merge keys (<<) are not supported: spell the keys out")
		}
		f := field{key: k.Value, at: position{file: r.file, line: k.Line}}
		var err *syntaxError
		if f.value, err = r.node(v, depth+1, aliased); err != nil {
			return err
		}
		if f.value.kind == mapping {
			f.value.at = f.at
		}
		n.fields = append(n.fields, f)
	}
	return nil
}

func (r *yamlReader) scalar(n *node, y *yaml.Node) *syntaxError {
	switch tag := y.ShortTag(); tag {
	case "!!null":
	case "!!str", "!!timestamp":
		n.kind, n.text = text, y.Value
	case "!!bool":
		if err := y.Decode(&n.boolean); err != nil {
			return syntax(y.Line, "%q is no boolean: write true or false", y.Value)
		}
		n.kind = boolean
	case "!!int", "!!float":
		var f float64
		if err := y.Decode(&f); err != nil {
			return syntax(y.Line, "%q is no number", y.Value)
		}
		n.number(f)
	default:
		return syntax(y.Line, "the tag %s means nothing here", tag)
	}
	return nil
}
