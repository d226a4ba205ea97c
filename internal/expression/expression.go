// Package expression reads boolean expressions in go-bexpr's language, which Consul filters with, and evaluates them. They are bounded in
// size and in the work that they take.
package expression

import (
	"errors"
	"fmt"
	"strings"

	"github.com/hashicorp/go-bexpr"
)

const (
	// maxSize and maxDepth bound an expression, and maxSteps the work of its parser, which takes four times as long for each parenthesis in
	// another: 8 ms for five. Consul has no bounds.
	maxSize  = 4096
	maxDepth = 5
	maxSteps = 200_000
	// maxPatterns bounds the regular expressions in it, in bytes.
	maxPatterns = 256
)

// errAbsent is what becomes of an evaluation in which the library panics: a selector leads to what is not there.
var errAbsent = errors.New("the filter names what is not there")

// Filter is an expression about values of T. It may be used by several goroutines at once.
type Filter[T any] struct{ evaluator *bexpr.Evaluator }

// Check is an error if text is none, or beyond the bounds; whether what it names exists is not looked at. The error names the line and
// column.
func Check(text string) error {
	switch {
	case len(text) > maxSize:
		return fmt.Errorf("it has %d bytes, and sallyport reads at most %d", len(text), maxSize)
	case depth(text) > maxDepth:
		return fmt.Errorf("it has parentheses more than %d deep, which sallyport does not read", maxDepth)
	}
	parsed, err := bexpr.Parse("", []byte(text), bexpr.MaxExpressions(maxSteps))
	if err != nil {
		return err
	}
	if size, counts := patterns(parsed); size > maxPatterns || counts {
		return fmt.Errorf("sallyport reads patterns of %d bytes in all, without {counts}: they are tried on each change", maxPatterns)
	}
	return nil
}

// New reads an expression about values of T, whose exported fields it names; tags `bexpr:"-"` exclude some.
func New[T any](text string) (*Filter[T], error) {
	if err := Check(text); err != nil {
		return nil, err
	}
	var of T
	e, err := bexpr.CreateEvaluatorForType(text, nil, of)
	if err != nil {
		return nil, err
	}
	return &Filter[T]{e}, nil
}

// Match reports whether the expression is true of v.
func (f *Filter[T]) Match(v T) (ok bool, err error) {
	defer func() {
		if recover() != nil {
			ok, err = false, errAbsent
		}
	}()
	return f.evaluator.Evaluate(v)
}

// Select is those of list that the expression is true of. It is never nil.
func (f *Filter[T]) Select(list []T) ([]T, error) {
	some := make([]T, 0, len(list))
	for _, v := range list {
		ok, err := f.Match(v)
		if err != nil {
			return nil, err
		}
		if ok {
			some = append(some, v)
		}
	}
	return some, nil
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
func depth(text string) (deepest int) {
	open := 0
	for _, c := range []byte(text) {
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
