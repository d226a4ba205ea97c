package files

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/hashicorp/hcl/hcl/ast"
	"github.com/hashicorp/hcl/hcl/parser"
	"github.com/hashicorp/hcl/hcl/scanner"
	hclstrconv "github.com/hashicorp/hcl/hcl/strconv"
	"github.com/hashicorp/hcl/hcl/token"
	"github.com/sallyport/sallyport/definition"
)

// parseHCL reads HCL 1, the version that Consul's files are in.
func parseHCL(file string, src []byte) (documents []*definition.Node, err *definition.SyntaxError) {
	// The library panics on some malformed texts; a file must not end the program.
	defer func() {
		if recover() != nil {
			documents, err = nil, definition.Syntax(1, "cannot be read as HCL")
		}
	}()
	if crlf := []byte("\r\n"); bytes.Contains(src, crlf) {
		src = bytes.ReplaceAll(src, crlf, crlf[1:])
	}
	if err := scanHCL(src); err != nil {
		return nil, err
	}
	f, perr := parser.Parse(src)
	if perr != nil {
		if p, ok := errors.AsType[*parser.PosError](perr); ok {
			return nil, definition.Syntax(p.Pos.Line, "%s", p.Err)
		}
		return nil, definition.Syntax(1, "%s", perr)
	}
	root, ok := f.Node.(*ast.ObjectList)
	if !ok {
		return nil, definition.Syntax(1, "cannot be read as HCL")
	}
	n := &definition.Node{At: definition.Position{File: file, Line: 1}}
	if err := hclMapping(n, root); err != nil {
		return nil, err
	}
	return []*definition.Node{n}, nil
}

// scanHCL finds what the parser must not see or would let pass: braces nested so deep that its recursion ends the program,
// braces that do not match, and values that are missing: it drops a key without a word if the file ends behind its "=", as
// a file does that is just being written.
func scanHCL(src []byte) *definition.SyntaxError {
	var failed *definition.SyntaxError
	s := scanner.New(src)
	s.Error = func(pos token.Pos, msg string) {
		if failed == nil {
			failed = definition.Syntax(pos.Line, "%s", hclWords(src, pos, msg))
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
		if inList := len(open) > 0 && open[len(open)-1].Type == token.LBRACK; t.Type == token.IDENT && (inList || last.Type == token.ASSIGN) ||
			t.Type == token.ADD || t.Type == token.SUB {
			if end := t.Pos.Offset + len(t.Text); end < len(src) && src[end] == '(' {
				t.Text += "()"
			}
			return definition.Syntax(t.Pos.Line, "%s", expression(t.Text))
		}
		if last.Type == token.ASSIGN {
			switch t.Type { //nolint:exhaustive // anything else begins a value
			case token.EOF, token.ASSIGN, token.COMMA, token.RBRACE, token.RBRACK:
				return definition.Syntax(last.Pos.Line, "the value is missing after =")
			}
		}
		switch t.Type { //nolint:exhaustive // the others open and close nothing
		case token.ILLEGAL:
			return definition.Syntax(t.Pos.Line, "illegal character")
		case token.LBRACE, token.LBRACK:
			open = append(open, t)
			if len(open) > definition.MaxDepth {
				return definition.Syntax(t.Pos.Line, "nested more than %d deep", definition.MaxDepth)
			}
		case token.RBRACE, token.RBRACK:
			if len(open) == 0 || open[len(open)-1].Type == token.LBRACE != (t.Type == token.RBRACE) {
				return definition.Syntax(t.Pos.Line, "%s closes nothing", t.Text)
			}
			open = open[:len(open)-1]
		case token.EOF:
			if len(open) > 0 {
				return definition.Syntax(open[len(open)-1].Pos.Line, "%s is not closed", open[len(open)-1].Text)
			}
			return nil
		}
		last = t
	}
}

// expression says of a word or a character that it belongs to one, or lacks its quotes.
func expression(text string) string {
	if strings.ContainsAny(text, "().+-*/%?!<>&|") {
		return fmt.Sprintf("%.40s is of an expression, which HCL 2 has: files are HCL 1, as Consul's agent reads them: write the value itself", text)
	}
	return fmt.Sprintf("%.40s: a string has to be in double quotes (and expressions, which HCL 2 has, are not read)", text)
}

// hclWords is an error of the scanner in words.
func hclWords(src []byte, pos token.Pos, msg string) string {
	if msg != "illegal char" || pos.Offset >= len(src) {
		return msg
	}
	switch c := src[pos.Offset]; c {
	case '(', ')', '?', '!', '*', '%', '>', '&', '|':
		return expression(string(c))
	case ':':
		return "a colon where HCL has ="
	case '\'':
		return `' where HCL has "`
	case ';':
		return "a semicolon: values stand on lines of their own"
	}
	return "illegal character"
}

func hclMapping(n *definition.Node, l *ast.ObjectList) *definition.SyntaxError {
	n.Kind = definition.Mapping
	for _, item := range l.Items {
		if len(item.Keys) == 0 {
			return definition.Syntax(n.At.Line, "a value without a key")
		}
		first := item.Keys[0].Token
		key, err := hclText(first)
		if err != nil {
			return err
		}
		if len(item.Keys) > 1 {
			return definition.Syntax(first.Pos.Line, "%s %s: blocks have no label here: write it as a key inside of the block", key, item.Keys[1].Token.Text)
		}
		at := definition.Position{File: n.At.File, Line: first.Pos.Line}
		v, err := hclValue(item.Val, at.File)
		if err != nil {
			return err
		}
		if v.Kind == definition.Mapping {
			v.At = at
		}
		n.Fields = append(n.Fields, definition.Field{Key: key, Value: v, At: at})
	}
	return nil
}

func hclValue(v ast.Node, file string) (*definition.Node, *definition.SyntaxError) {
	switch v := v.(type) {
	case *ast.LiteralType:
		return hclLiteral(v.Token, file)
	case *ast.ListType:
		n := &definition.Node{Kind: definition.List, At: definition.Position{File: file, Line: v.Lbrack.Line}}
		for _, e := range v.List {
			element, err := hclValue(e, file)
			if err != nil {
				return nil, err
			}
			n.List = append(n.List, element)
		}
		return n, nil
	case *ast.ObjectType:
		n := &definition.Node{At: definition.Position{File: file, Line: v.Lbrace.Line}}
		return n, hclMapping(n, v.List)
	}
	return nil, definition.Syntax(1, "cannot be read as HCL")
}

func hclLiteral(t token.Token, file string) (*definition.Node, *definition.SyntaxError) {
	n := &definition.Node{At: definition.Position{File: file, Line: t.Pos.Line}}
	switch t.Type {
	case token.BOOL:
		n.Kind, n.Boolean = definition.Boolean, t.Text == "true"
	case token.NUMBER:
		i, err := strconv.ParseInt(t.Text, 0, 64)
		if err != nil {
			return nil, definition.Syntax(t.Pos.Line, "%s is too large a number", t.Text)
		}
		n.Kind, n.Integer = definition.Integer, i
	case token.FLOAT:
		f, err := strconv.ParseFloat(t.Text, 64)
		if err != nil {
			return nil, definition.Syntax(t.Pos.Line, "%s is no number", t.Text)
		}
		n.Number(f)
	case token.HEREDOC:
		s, ok := t.Value().(string)
		if !ok {
			return nil, definition.Syntax(t.Pos.Line, "cannot be read as HCL")
		}
		n.Kind, n.Text = definition.Text, s
	default:
		s, err := hclText(t)
		if err != nil {
			return nil, err
		}
		n.Kind, n.Text = definition.Text, s
	}
	return n, nil
}

func hclText(t token.Token) (string, *definition.SyntaxError) {
	if t.Type != token.STRING {
		return t.Text, nil
	}
	s, err := hclstrconv.Unquote(t.Text)
	if err != nil {
		return "", definition.Syntax(t.Pos.Line, "%s is not a well-formed string", t.Text)
	}
	if strings.ContainsRune(s, '\uFFFD') && !strings.ContainsRune(t.Text, '\uFFFD') {
		return "", definition.Syntax(t.Pos.Line, "%s is not valid UTF-8", t.Text)
	}
	return s, nil
}
