package ca

import (
	"crypto/x509"
	"time"
)

// Phase is how far the replacement of a root has come.
type Phase string

// The phases, in their order.
const (
	// Idle is that no root is being replaced.
	Idle Phase = ""
	// Preparing: the new root is in every bundle, and nothing is signed under it.
	Preparing Phase = "prepare"
	// Activating: leafs are signed under the new root, with the old root's signature of it in their chains if there is one.
	Activating Phase = "activate"
	// Retiring: the old root and its signature leave.
	Retiring Phase = "retire"
)

// Holder is somebody who holds up a rotation: who has a leaf that has not ended.
type Holder struct {
	// Name is as in the record of leafs: "proxy web-sidecar-proxy", "token 7QK…", "uid 1000".
	Name string
	// Application is that it is no proxy: it has what it was given until it asks again. It is not waited for before the activation where
	// the old root signs the new one.
	Application bool
	// Connected is false for one of which nothing is heard now.
	Connected bool
	// Ends is when the last of its leafs ends, which releases the rotation from waiting for it.
	Ends time.Time
	// Reason is what it has not done, for people.
	Reason string
}

// Gate knows what each holder of a leaf has accepted, whether it is connected or not: after a restart nobody is connected. It outlives
// restarts.
type Gate interface {
	// Untold are the holders of leafs that have not ended which have not accepted a bundle with all of roots, by name.
	Untold(roots []*x509.Certificate) []Holder
	// Outdated are the holders of a leaf that has not ended and was not signed under root, unless they have accepted a later one that
	// was, by name.
	Outdated(root *x509.Certificate) []Holder
	// Changed returns a channel that is closed when the answers may be others. Take it before asking.
	Changed() <-chan struct{}
}

// RootStatus is one root of the mesh.
type RootStatus struct {
	// SHA256 is that of its DER, in hexadecimal.
	SHA256 string
	// Provider signs under it: "builtin", or a configured name.
	Provider string
	// State is "prepared", "active" or "old".
	State               string
	NotBefore, NotAfter time.Time
}

// RotationStatus is a rotation that has not ended.
type RotationStatus struct {
	Phase Phase
	// From and To are the providers.
	From, To string
	// Started is when it was prepared, Since when its phase began.
	Started, Since time.Time
	// CrossSigned is that the old root has signed the new one, so that those who were not told of it go on.
	CrossSigned bool
	// Waiting are those for whom the next phase waits, NotBefore is when it begins at the earliest; zero: when nobody is waited for.
	Waiting   []Holder
	NotBefore time.Time
	// Overridden are those who are not waited for, as somebody said.
	Overridden []string
}

// Status is what `sallyport ca status` tells of the CA.
type Status struct {
	// Provider is who signs now.
	Provider string
	// Roots are those in the bundle, the active one first.
	Roots []RootStatus
	// Rotation is nil while no root is being replaced.
	Rotation *RotationStatus
	// IntermediateEnds and IntermediateRenewal are of the one that signs leafs; zero where there is none of ours.
	IntermediateEnds, IntermediateRenewal time.Time
	// Problem is all that is wrong now: that a provider does not sign, that something ends soon, that the disk fails. Empty: nothing is.
	Problem string
}
