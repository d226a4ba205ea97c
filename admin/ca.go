package admin

import (
	"context"
	"net/http"
	"slices"
	"time"
)

// CA says who signs, by which roots, and how far the replacement of a root has come.
type CA struct {
	// Provider is who signs now: "builtin", a configured name, or "consul".
	Provider    string `json:"provider"`
	TrustDomain string `json:"trust_domain,omitempty"`
	// Followed says that others replace the roots: Consul's servers.
	Followed bool `json:"followed,omitempty"`
	// Roots are those in the bundle, the active one first.
	Roots []CARoot `json:"roots"`
	// Rotation is nil while no root is being replaced.
	Rotation *Rotation `json:"rotation,omitempty"`
	// IntermediateEnds is the end of the intermediate that signs leafs, IntermediateRenewal when it is replaced; zero: there is none of
	// ours. LeafEnds is when the first leaf in use ends, which is replaced before; zero: none is in use.
	IntermediateEnds    time.Time `json:"intermediate_ends,omitzero"`
	IntermediateRenewal time.Time `json:"intermediate_renewal,omitzero"`
	LeafEnds            time.Time `json:"leaf_ends,omitzero"`
	// Problem is why the provider does not sign, or what ends soon; empty: nothing is wrong.
	Problem string `json:"problem,omitempty"`
}

// CARoot is a root of the mesh.
type CARoot struct {
	SHA256    string    `json:"sha256"` // hexadecimal
	Provider  string    `json:"provider"`
	State     string    `json:"state"` // "prepared", "active", "old"
	NotBefore time.Time `json:"not_before"`
	NotAfter  time.Time `json:"not_after"`
}

// Rotation is the replacement of a root.
type Rotation struct {
	Phase string `json:"phase"` // "prepare", "activate", "retire"
	From  string `json:"from"`  // a provider, as To
	To    string `json:"to"`
	// Started is when it began, Since when its phase did; zero: others began it.
	Started time.Time `json:"started,omitzero"`
	Since   time.Time `json:"since,omitzero"`
	// CrossSigned says that the old root has signed the new one, so that who is not told of it goes on.
	CrossSigned bool `json:"cross_signed,omitempty"`
	// Waiting are those for whom the next phase waits, sorted by name; NotBefore is when it begins if there are none.
	Waiting   []Holder  `json:"waiting,omitempty"`
	NotBefore time.Time `json:"not_before,omitzero"`
	// Overridden are those who are not waited for.
	Overridden []string `json:"overridden,omitempty"`
	// EndsConnections says that all live connections end when the old root has left.
	EndsConnections bool `json:"ends_connections,omitempty"`
}

// Holder is somebody with a leaf, who holds a rotation up.
type Holder struct {
	// Name is "proxy web-sidecar-proxy", "token 7QK…", "uid 1000".
	Name string `json:"name"`
	// Application says that it is no proxy, but has fetched a leaf.
	Application bool `json:"application,omitempty"`
	Connected   bool `json:"connected"`
	// Ends is when its last leaf ends, after which it is not waited for.
	Ends   time.Time `json:"ends"`
	Reason string    `json:"reason"`
}

// RotateCARequest asks for the replacement of the root, or for one that is running to wait for less, or to end.
type RotateCARequest struct {
	// To is the provider that signs afterwards; empty: the one that signs now.
	To string `json:"to,omitempty"`
	// Override are proxies, or names of Holders, that are not waited for. Dangerous says that their connections may fail.
	Override  []string `json:"override,omitempty"`
	Dangerous bool     `json:"dangerous,omitempty"`
	// Distrust waits for nobody who is not connected.
	Distrust bool `json:"distrust,omitempty"`
	// EndConnections ends all live connections when the old root has left.
	EndConnections bool `json:"end_connections,omitempty"`
	// Cancel takes back a rotation that only prepares. Nothing else is asked for with it.
	Cancel bool `json:"cancel,omitempty"`
}

// flags are what r asks for beside a rotation, in words.
func (r RotateCARequest) flags() (out []string) {
	for text, set := range map[string]bool{"dangerous": r.Dangerous, "distrust": r.Distrust, "end-connections": r.EndConnections, "cancel": r.Cancel} {
		if set {
			out = append(out, text)
		}
	}
	slices.Sort(out)
	return out
}

// CA asks for the state of the certificate authority.
func (c *Client) CA(ctx context.Context) (CA, error) {
	return call[CA](ctx, c, http.MethodGet, "/v1/ca", nil)
}

// RotateCA begins to replace the root, or has the rotation that is running wait for less. It returns the state after it.
func (c *Client) RotateCA(ctx context.Context, r RotateCARequest) (CA, error) {
	return call[CA](ctx, c, http.MethodPost, "/v1/ca/rotate", r)
}
