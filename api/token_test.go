package api

import (
	"strings"
	"testing"

	"github.com/sallyport/sallyport/intention"
)

// TestTokensTold: what an intention asks of tokens is told as Consul's API has it: who reads that it allows has to see that it asks for one.
func TestTokensTold(t *testing.T) {
	m := mesh()
	asks := func(n int, claim string, list ...intention.Permission) {
		r := intention.TokenRequirement{Provider: "okta", Claims: []intention.Claim{{Path: []string{"perms", claim}, Value: "v"}}}
		if err := m.Intentions[n].Ask(list, intention.NewTokens([]intention.TokenRequirement{r})); err != nil {
			t.Fatal(err)
		}
	}
	asks(0, "a")
	m.Intentions[1].Action, m.Intentions[1].Held = intention.Deny, ""
	asks(1, "b", intention.Permission{Action: intention.Allow, PathExact: "/", JWT: []intention.TokenRequirement{{Provider: "corp"}}})
	v := m.View()
	for path, wants := range map[string][]string{
		"api": {
			`"Action":"allow","JWT":{"Providers":[{"Name":"okta","VerifyClaims":[{"Path":["perms","a"],"Value":"v"}]}]}`,
			`"Permissions":[{"Action":"allow","HTTP":{"PathExact":"/"},"JWT":{"Providers":[{"Name":"corp"}]}}],"JWT":{"Providers":[{"Name":"okta","VerifyClaims":[{"Path":["perms","b"],"Value":"v"}]}]}`,
		},
	} {
		got, err := answerTo(t, v, intentionMatch, "?by=destination&name="+path)
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range wants {
			if !strings.Contains(got, want) {
				t.Errorf("%s lacks %s", got, want)
			}
		}
	}
}
