package files

import (
	"bytes"
	"errors"
	"strconv"
	"strings"

	"github.com/hashicorp/hcl/hcl/ast"
	"github.com/hashicorp/hcl/hcl/parser"
	"github.com/hashicorp/hcl/hcl/scanner"
	hclstrconv "github.com/hashicorp/hcl/hcl/strconv"
	"github.com/hashicorp/hcl/hcl/token"
)

// parseHCL reads HCL 1, the version that Consul's files are in.
func parseHCL(file string, src []byte) (documents []*node, err *syntaxError) {
	// The library panics on some malformed texts; a file must not end the program.
	defer func() {
		if recover() != nil {
			documents, err = nil, syntax(1, "cannot be read as HCL")
		}
	}()
	src = bytes.ReplaceAll(src, []byte("\r\n"), []byte("\n"))
	if err := scanHCL(src); err != nil {
		return nil, err
	}
	f, perr := parser.Parse(src)
	if perr != nil {
		if p, ok := errors.AsType[*parser.PosError](perr); ok {
			return nil, syntax(p.Pos.Line, "%s", p.Err)
		}
		return nil, syntax(1, "%s", perr)
	}
	root, ok := f.Node.(*ast.ObjectList)
	if !ok {
		return nil, syntax(1, "cannot be read as HCL")
	}
	n := &node{at: position{file: file, line: 1}}
	if err := hclMapping(n, root); err != nil {
		return nil, err
	}
	return []*node{n}, nil
}

// scanHCL finds what the parser must not see or would let pass: braces nested so deep that its recursion ends the program,
// braces that do not match, and values that are missing: it drops a key without a word if the file ends behind its "=", as
// a file does that is just being written.
func scanHCL(src []byte) *syntaxError {
	var failed *syntaxError
	s := scanner.New(src)
	s.Error = func(pos token.Pos, msg string) {
		if failed == nil {
			failed = syntax(pos.Line, "%s", msg)
		}
	}
	var open []token.Token
	var last token.Token
	for {
		t := s.Scan()
		if failed != nil {
			return failed
		}
		if t.Type == token.COMMENT {
			continue
		}
		if last.Type == token.ASSIGN {
			switch t.Type { //nolint:exhaustive // anything else begins a value
			case token.EOF, token.ASSIGN, token.COMMA, token.RBRACE, token.RBRACK:
				return syntax(last.Pos.Line, "the value is missing after =")
			}
		}
		switch t.Type { //nolint:exhaustive // the others open and close nothing
		case token.ILLEGAL:
			return syntax(t.Pos.Line, "illegal character")
		case token.LBRACE, token.LBRACK:
			open = append(open, t)
			if len(open) > maxDepth {
				return syntax(t.Pos.Line, "nested more than %d deep", maxDepth)
			}
		case token.RBRACE, token.RBRACK:
			if len(open) == 0 || open[len(open)-1].Type == token.LBRACE != (t.Type == token.RBRACE) {
				return syntax(t.Pos.Line, "%s closes nothing", t.Text)
			}
			open = open[:len(open)-1]
		case token.EOF:
			if len(open) > 0 {
				return syntax(open[len(open)-1].Pos.Line, "%s is not closed", open[len(open)-1].Text)
			}
			return nil
		}
		last = t
	}
}

func hclMapping(n *node, l *ast.ObjectList) *syntaxError {
	n.kind = mapping
	for _, item := range l.Items {
		if len(item.Keys) == 0 {
			return syntax(n.at.line, "a value without a key")
		}
		first := item.Keys[0].Token
		key, err := hclText(first)
		if err != nil {
			return err
		}
		if len(item.Keys) > 1 {
			return syntax(first.Pos.Line, "%s %s: blocks have no label here: write it as a key inside of the block", key, item.Keys[1].Token.Text)
		}
		at := position{file: n.at.file, line: first.Pos.Line}
		v, err := hclValue(item.Val, at.file)
		if err != nil {
			return err
		}
		if v.kind == mapping {
			v.at = at
		}
		n.fields = append(n.fields, field{key: key, value: v, at: at})
	}
	return nil
}

func hclValue(v ast.Node, file string) (*node, *syntaxError) {
	switch v := v.(type) {
	case *ast.LiteralType:
		return hclLiteral(v.Token, file)
	case *ast.ListType:
		n := &node{kind: list, at: position{file: file, line: v.Lbrack.Line}}
		for _, e := range v.List {
			element, err := hclValue(e, file)
			if err != nil {
				return nil, err
			}
			n.list = append(n.list, element)
		}
		return n, nil
	case *ast.ObjectType:
		n := &node{at: position{file: file, line: v.Lbrace.Line}}
		return n, hclMapping(n, v.List)
	}
	return nil, syntax(1, "cannot be read as HCL")
}

func hclLiteral(t token.Token, file string) (*node, *syntaxError) {
	n := &node{at: position{file: file, line: t.Pos.Line}}
	switch t.Type {
	case token.BOOL:
		n.kind, n.boolean = boolean, t.Text == "true"
	case token.NUMBER:
		i, err := strconv.ParseInt(t.Text, 0, 64)
		if err != nil {
			return nil, syntax(t.Pos.Line, "%s is too large a number", t.Text)
		}
		n.kind, n.integer = integer, i
	case token.FLOAT:
		f, err := strconv.ParseFloat(t.Text, 64)
		if err != nil {
			return nil, syntax(t.Pos.Line, "%s is no number", t.Text)
		}
		n.number(f)
	case token.HEREDOC:
		s, ok := t.Value().(string)
		if !ok {
			return nil, syntax(t.Pos.Line, "cannot be read as HCL")
		}
		n.kind, n.text = text, s
	default:
		s, err := hclText(t)
		if err != nil {
			return nil, err
		}
		n.kind, n.text = text, s
	}
	return n, nil
}

func hclText(t token.Token) (string, *syntaxError) {
	if t.Type != token.STRING {
		return t.Text, nil
	}
	s, err := hclstrconv.Unquote(t.Text)
	if err != nil {
		return "", syntax(t.Pos.Line, "%s is not a well-formed string", t.Text)
	}
	if strings.ContainsRune(s, '\uFFFD') && !strings.ContainsRune(t.Text, '\uFFFD') {
		return "", syntax(t.Pos.Line, "%s is not valid UTF-8", t.Text)
	}
	return s, nil
}
