package api

import (
	"fmt"
	"strings"
	"testing"

	"github.com/hashicorp/go-bexpr"
)

// TestEveryField asks for each field that a filter may name, by each operator that it has, of answers in which nothing is set: all can be
// answered.
func TestEveryField(t *testing.T) {
	n := &node{name: "n1"}
	everyField(t, []*healthAnswer{{Node: &nodeAnswer{}, Service: &serviceAnswer{Weights: &weights{}}}, {
		Node: &nodeAnswer{}, Service: &serviceAnswer{Weights: &weights{}, Proxy: proxyAnswer{Upstreams: make([]upstreamAnswer, 1), Expose: exposeAnswer{Paths: make([]pathAnswer, 1)}}}, Checks: []healthCheck{n.check()},
	}})
	everyField(t, []*serviceNode{{}})
	everyField(t, []*serviceAnswer{{Weights: &weights{}}})
	everyField(t, []healthCheck{{}})
	everyField(t, []*nodeAnswer{{}})
	everyField(t, []intentionAnswer{{}})
	everyField(t, []*defaultsFields{{}})
}

func everyField[T any](t *testing.T, list []T) {
	t.Helper()
	var one T
	fields, err := bexpr.GenerateFieldConfigurations(one)
	if err != nil {
		t.Fatal(err)
	}
	asked := 0
	fields.Walk(func(path bexpr.FieldPath, field *bexpr.FieldConfiguration) bool {
		names := make([]string, len(path))
		for i, name := range path {
			if names[i] = string(name); name == bexpr.FieldNameAny {
				names[i] = "any"
			}
		}
		for _, operator := range field.SupportedOperations {
			selector := strings.Join(names, ".")
			expression := map[bexpr.MatchOperator]string{
				bexpr.MatchEqual: "%s == 0", bexpr.MatchNotEqual: "%s != 0", bexpr.MatchIn: "0 in %s", bexpr.MatchNotIn: "0 not in %s", bexpr.MatchIsEmpty: "%s is empty",
				bexpr.MatchIsNotEmpty: "%s is not empty", bexpr.MatchMatches: "%s matches `0`", bexpr.MatchNotMatches: "%s not matches `0`",
			}[operator]
			if _, err := filtered(fmt.Sprintf(expression, selector), list); err != nil {
				t.Errorf("%T: "+expression+": %v", one, selector, err)
			}
			asked++
		}
		return true
	})
	if asked == 0 {
		t.Errorf("%T: no field", one)
	}
}

// FuzzFilter holds that no expression ends the program, or takes long.
func FuzzFilter(f *testing.F) {
	for _, seed := range []string{"Service.Port==1", "a.b[\"c\"] is empty", "not (x in y or Node.Meta.a matches `(`)", "((((((", "Checks.Status != critical and Service.Tags contains \"\\x00\"", "Service.Weights.Passing==-1"} {
		f.Add(seed)
	}
	f.Fuzz(func(_ *testing.T, expression string) {
		_, _ = filtered(expression, []*healthAnswer{{Node: &nodeAnswer{}, Service: &serviceAnswer{Weights: &weights{}}}})
	})
}
