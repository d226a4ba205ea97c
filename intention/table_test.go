package intention_test

import (
	"strings"
	"testing"

	"github.com/sallyport/sallyport/identity"
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
				if !peer.Proved() {
					continue
				}
				got, connection := intention.Deny, intention.Deny
				if id, ok := peer.ID(); ok {
					got, connection = policy.DecideRequestID(id, peer.Request.Asked()).Action, policy.DecideID(id).Action
					if tcp := policy.ConnectionsOnly(); tcp.DecideID(id).Action != connection || tcp.DecideRequestID(id, peer.Request.Asked()).Action != connection {
						t.Errorf("%s → %s: of a service that speaks tcp connections and requests are not the same", peer, c.Destination)
					}
				}
				if connection != peer.WantTCP {
					t.Errorf("Decide(%s → %s) of a connection = %s, want %s", peer, c.Destination, connection, peer.WantTCP)
				}
				if id, err := identity.ParseURI(strings.Join(peer.URIs, "")); len(peer.URIs) == 1 && err == nil && policy.Decide(id).Action != connection {
					t.Errorf("Decide(%s → %s) is not DecideID", peer, c.Destination)
				}
				if got != peer.Want {
					t.Errorf("Decide(%s → %s) = %s, want %s", peer, c.Destination, got, peer.Want)
				}
			}
		})
	}
}
