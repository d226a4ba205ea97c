package admin

import "time"

// TokenKeys is a source of keys that verify tokens.
type TokenKeys struct {
	// Source is its address, or the file.
	Source string `json:"source"`
	// Keys is how many there are.
	Keys int `json:"keys"`
	// Confirmed is when the source said them last. Zero: never.
	Confirmed time.Time `json:"confirmed,omitzero"`
	// Problem is what is wrong; empty: nothing.
	Problem string `json:"problem,omitempty"`
}
