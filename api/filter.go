package api

import (
	"github.com/sallyport/sallyport/internal/expression"
)

// filtered is those of list that the expression is true of; all, if it is empty. The names of fields are those of T, as Consul's.
func filtered[T any](text string, list []T) ([]T, error) {
	f, err := newFilter[T](text)
	if err != nil || f == nil {
		return list, err
	}
	return execute(f, list)
}

// execute is those of list that f is true of.
func execute[T any](f *expression.Filter[T], list []T) ([]T, error) {
	if f == nil {
		return list, nil
	}
	some, err := f.Select(list)
	if err != nil {
		return nil, broken("%s", err)
	}
	return some, nil
}

// newFilter reads an expression; nil if it is empty.
func newFilter[T any](text string) (*expression.Filter[T], error) {
	if text == "" {
		return nil, nil
	}
	f, err := expression.New[T](text)
	if err != nil {
		return nil, broken("Failed to create boolean expression evaluator: %s", err)
	}
	return f, nil
}
