package api

import (
	"strings"

	"github.com/hashicorp/go-bexpr"
)

const (
	// maxFilter and maxFilterDepth bound an expression, and maxFilterSteps the work of its parser, which takes four times as long for each
	// parenthesis in another: 8 ms for five. Consul has no bounds.
	maxFilter      = 4096
	maxFilterDepth = 5
	maxFilterSteps = 200_000
	// maxPatterns bounds the regular expressions in a filter, in bytes.
	maxPatterns = 256
)

// filtered is those of list that the expression is true of; all, if it is empty. The names of fields are those of T, as Consul's.
func filtered[T any](expression string, list []T) ([]T, error) {
	f, err := newFilter[T](expression)
	if err != nil || f == nil {
		return list, err
	}
	return execute(f, list)
}

// execute is those of list that f is true of. The library panics where a selector leads to what is not there; no question may end a
// connection.
func execute[T any](f *bexpr.Filter, list []T) (out []T, err error) {
	defer func() {
		if recover() != nil {
			out, err = nil, broken("the filter names what is not there")
		}
	}()
	some, err := f.Execute(list)
	if err != nil {
		return nil, broken("%s", err)
	}
	out, ok := some.([]T)
	if !ok {
		return nil, broken("filter: %T", some)
	}
	return out, nil
}

// newFilter reads an expression; nil if it is empty.
func newFilter[T any](expression string) (*bexpr.Filter, error) {
	switch {
	case expression == "":
		return nil, nil
	case len(expression) > maxFilter:
		return nil, broken("Failed to create boolean expression evaluator: it has %d bytes, and sallyport reads at most %d", len(expression), maxFilter)
	case depth(expression) > maxFilterDepth:
		return nil, broken("Failed to create boolean expression evaluator: it has parentheses more than %d deep, which sallyport does not read", maxFilterDepth)
	}
	parsed, err := bexpr.Parse("", []byte(expression), bexpr.MaxExpressions(maxFilterSteps))
	if err != nil {
		return nil, broken("Failed to create boolean expression evaluator: %s", err)
	}
	if size, counts := patterns(parsed); size > maxPatterns || counts {
		return nil, broken("Failed to create boolean expression evaluator: sallyport reads patterns of %d bytes in all, without {counts}: they are tried on each change", maxPatterns)
	}
	var of []T
	f, err := bexpr.CreateFilter(expression, nil, of)
	if err != nil {
		return nil, broken("%s", err)
	}
	return f, nil
}

// patterns is how long those of "matches" are together, and whether one counts repetitions: (a?){1000} is a program of megabytes.
func patterns(e any) (size int, counts bool) {
	switch e := e.(type) {
	case *bexpr.UnaryExpression:
		return patterns(e.Operand)
	case *bexpr.BinaryExpression:
		left, l := patterns(e.Left)
		right, r := patterns(e.Right)
		return left + right, l || r
	case *bexpr.MatchExpression:
		if (e.Operator == bexpr.MatchMatches || e.Operator == bexpr.MatchNotMatches) && e.Value != nil {
			return len(e.Value.Raw), strings.Contains(e.Value.Raw, "{")
		}
	}
	return 0, false
}

// depth is how deep parentheses are in parentheses.
func depth(expression string) (deepest int) {
	open := 0
	for _, c := range []byte(expression) {
		switch c {
		case '(':
			open++
			deepest = max(deepest, open)
		case ')':
			open--
		}
	}
	return deepest
}
