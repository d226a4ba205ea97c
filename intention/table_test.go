package intention_test

import (
	"testing"

	"github.com/sallyport/sallyport/intention"
	"github.com/sallyport/sallyport/internal/decisiontable"
)

// TestDecideTable holds Decide to the table of decisions.
func TestDecideTable(t *testing.T) {
	cases, err := decisiontable.Load("testdata/decisions.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if len(cases) < 50 {
		t.Errorf("the table has %d cases; some are lost", len(cases))
	}
	for _, c := range cases {
		t.Run(c.Name, func(t *testing.T) {
			policy := c.Policy()
			for _, peer := range c.Peers {
				got := intention.Deny
				if id, ok := peer.Identity(); ok {
					got = policy.Decide(id).Action
				}
				if got != peer.Want {
					t.Errorf("Decide(%s → %s) = %s, want %s", peer, c.Destination, got, peer.Want)
				}
			}
		})
	}
}
