package files

import (
	"bytes"
	"errors"
	"io"

	"github.com/sallyport/sallyport/definition"
	"go.yaml.in/yaml/v3"
)

// maxAliased bounds how many values the aliases of a YAML file may come to.
const maxAliased = 10_000

// yamlReader turns the nodes of a YAML file into ours.
type yamlReader struct {
	file    string
	aliased int // values made inside of aliases
}

func parseYAML(file string, src []byte) ([]*definition.Node, *definition.SyntaxError) {
	r := &yamlReader{file: file}
	d := yaml.NewDecoder(bytes.NewReader(src))
	var documents []*definition.Node
	for {
		var y yaml.Node
		err := d.Decode(&y)
		if errors.Is(err, io.EOF) {
			return documents, nil
		}
		if err != nil {
			return nil, yamlSyntax(src, err)
		}
		if y.Kind != yaml.DocumentNode || len(y.Content) != 1 {
			continue
		}
		n, serr := r.node(y.Content[0], 0, false)
		if serr != nil {
			return nil, serr
		}
		if n.Kind != definition.Null { // what follows a last "---"
			documents = append(documents, n)
		}
	}
}

func (r *yamlReader) node(y *yaml.Node, depth int, aliased bool) (*definition.Node, *definition.SyntaxError) {
	if depth > definition.MaxDepth {
		return nil, definition.Syntax(y.Line, "nested more than %d deep", definition.MaxDepth)
	}
	if aliased {
		if r.aliased++; r.aliased > maxAliased {
			return nil, definition.Syntax(y.Line, "the aliases come to more than %d values", maxAliased)
		}
	}
	n := &definition.Node{At: definition.Position{File: r.file, Line: y.Line}}
	switch y.Kind {
	case yaml.AliasNode:
		target, err := r.node(y.Alias, depth+1, true)
		if err != nil {
			return nil, err
		}
		target.At = n.At // where it is used says more than where it was written
		return target, nil
	case yaml.ScalarNode:
		return n, r.scalar(n, y)
	case yaml.SequenceNode:
		n.Kind = definition.List
		for _, c := range y.Content {
			element, err := r.node(c, depth+1, aliased)
			if err != nil {
				return nil, err
			}
			n.List = append(n.List, element)
		}
		return n, nil
	case yaml.MappingNode:
		return n, r.mapping(n, y, depth, aliased)
	case yaml.DocumentNode:
	}
	return nil, definition.Syntax(y.Line, "cannot be read")
}

func (r *yamlReader) mapping(n *definition.Node, y *yaml.Node, depth int, aliased bool) *definition.SyntaxError {
	n.Kind = definition.Mapping
	for i := 0; i+1 < len(y.Content); i += 2 {
		k, v := y.Content[i], y.Content[i+1]
		if k.Kind != yaml.ScalarNode {
			return definition.Syntax(k.Line, "a key must be plain text")
		}
		if k.ShortTag() == "!!merge" {
			return definition.Syntax(k.Line, "merge keys (<<) are not supported: spell the keys out")
		}
		f := definition.Field{Key: k.Value, At: definition.Position{File: r.file, Line: k.Line}}
		var err *definition.SyntaxError
		if f.Value, err = r.node(v, depth+1, aliased); err != nil {
			return err
		}
		if f.Value.Kind == definition.Mapping {
			f.Value.At = f.At
		}
		n.Fields = append(n.Fields, f)
	}
	return nil
}

func (r *yamlReader) scalar(n *definition.Node, y *yaml.Node) *definition.SyntaxError {
	switch tag := y.ShortTag(); tag {
	case "!!null":
	case "!!str", "!!timestamp":
		n.Kind, n.Text = definition.Text, y.Value
	case "!!bool":
		if err := y.Decode(&n.Boolean); err != nil {
			return definition.Syntax(y.Line, "%q is no boolean: write true or false", y.Value)
		}
		n.Kind = definition.Boolean
	case "!!int", "!!float":
		var f float64
		if err := y.Decode(&f); err != nil {
			return definition.Syntax(y.Line, "%q is no number", y.Value)
		}
		n.Number(f)
	default:
		return definition.Syntax(y.Line, "the tag %s means nothing here", tag)
	}
	return nil
}
