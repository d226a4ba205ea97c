package chain_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/go-bexpr"
	"github.com/sallyport/sallyport/chain"
)

func TestFilter(t *testing.T) {
	full := &chain.Instance{
		Service: chain.InstanceService{ID: "a-1", Service: "a", Tags: []string{"blue"}, Address: "10.0.0.1", Port: 8080, Meta: map[string]string{"version": "2"}},
		Checks:  []chain.InstanceCheck{{CheckID: "service:a-1", Status: "warning"}},
	}
	for text, want := range map[string]string{
		``:                             "true true",
		`Service.Meta.version == 2`:    "true false",
		`Service.Meta["version"] == 2`: "true false",
		`Service.Meta.version != 2`:    "false true",
		`version in Service.Meta`:      "true false",
		`blue in Service.Tags and Service.ID matches "^a-"`:     "true false",
		`Service.Port == 8080 or Service.Address == "10.0.0.2"`: "true false",
		`Checks.Status == warning`:                              "true false",
		`Checks is empty`:                                       "false true",
		`Node.Meta.zone == a or Node.Datacenter == dc1`:         "false false",
		`Service.Proxy.Upstreams.DestinationName == x`:          "false false",
		`Service.Meta.version = 2`:                              `not a valid expression: 1:22 (21): no match found, expected: "!=", "==", "contains", "in", "is", "matches", "not" or [ \t\r\n]`,
		`Service.Version == 2`:                                  `not a valid expression: Selector "Service.Version" is not valid`,
		`Service.Port == http`:                                  `not a valid expression: Failed to coerce value "http" for selector "Service.Port": strconv.ParseInt: parsing "http": invalid syntax`,
		`Service.Meta.a == "` + strings.Repeat("x", 5000) + `"`: `not a valid expression: it has 5020 bytes, and sallyport reads at most 4096`,
	} {
		f, err := chain.ParseFilter(text)
		var got string
		if err != nil {
			got = err.Error()
		} else {
			var gotText strings.Builder
			for _, i := range []*chain.Instance{full, {}} {
				ok, err := f.Match(i)
				if err != nil {
					t.Errorf("%s: %v", text, err)
				}
				gotText.WriteString(fmt.Sprint(ok, " "))
			}
			got += gotText.String()
			got = strings.TrimSuffix(got, " ")
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: %s", text, diff)
		}
	}
}

// Each field, by each operator that it has, can be asked of an instance of which nothing is known.
func TestEveryField(t *testing.T) {
	fields, err := bexpr.GenerateFieldConfigurations(&chain.Instance{})
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
			form := map[bexpr.MatchOperator]string{
				bexpr.MatchEqual: "%s == 0", bexpr.MatchNotEqual: "%s != 0", bexpr.MatchIn: "0 in %s", bexpr.MatchNotIn: "0 not in %s", bexpr.MatchIsEmpty: "%s is empty",
				bexpr.MatchIsNotEmpty: "%s is not empty", bexpr.MatchMatches: "%s matches `0`", bexpr.MatchNotMatches: "%s not matches `0`",
			}[operator]
			text := fmt.Sprintf(form, strings.Join(names, "."))
			f, err := chain.ParseFilter(text)
			if err == nil {
				_, err = f.Match(&chain.Instance{})
			}
			if err != nil {
				t.Errorf("%s: %v", text, err)
			}
			asked++
		}
		return true
	})
	if asked < 100 {
		t.Errorf("%d", asked)
	}
}
