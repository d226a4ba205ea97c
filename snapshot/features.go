package snapshot

import (
	"fmt"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"github.com/sallyport/sallyport/identity"
)

// Features are the abilities of an Envoy that the resources depend on. It is comparable. The zero
// value is Envoy 1.36 with a foreign bootstrap: an Envoy that does not state its version gets the
// stricter forms.
type Features struct {
	// Version is the Envoy's, for messages: "1.40.0". Empty: not known.
	Version string
	// ConnectMode: tcp_proxy can dial the application after the handshake rather than at once
	// (1.37).
	ConnectMode bool
	// DrainClose: tcp_proxy can end connections of a draining chain at their next byte (1.39).
	DrainClose bool
	// RegexSize is re2.max_program_size.error_level of the bootstrap: how long a compiled
	// expression may be. 100 is Envoy's default.
	RegexSize int
	// DrainTime is Envoy's --drain-time-s, which bounds a revocation; 10 minutes is Envoy's
	// default.
	DrainTime time.Duration
}

// FeaturesOf reads the features from the node of an Envoy's first request. node may be nil.
func FeaturesOf(node *corev3.Node) Features {
	f := Features{RegexSize: 100, DrainTime: 10 * time.Minute}
	if v := node.GetUserAgentBuildVersion().GetVersion(); v != nil {
		f.Version = fmt.Sprintf("%d.%d.%d", v.GetMajorNumber(), v.GetMinorNumber(), v.GetPatch())
		minor := v.GetMinorNumber()
		if v.GetMajorNumber() > 1 {
			minor = 1 << 31
		}
		f.ConnectMode = minor >= 37
		f.DrainClose = minor >= 39
	}
	ours := node.GetMetadata().GetFields()[identity.MetadataKey].GetStructValue().GetFields()
	if n := ours[identity.MetadataRegexSize].GetNumberValue(); n >= 100 && n <= 1<<20 {
		f.RegexSize = int(n)
	}
	if n, ok := ours[identity.MetadataDrainSeconds]; ok && n.GetNumberValue() >= 0 && n.GetNumberValue() <= 86400 {
		f.DrainTime = time.Duration(n.GetNumberValue() * float64(time.Second))
	}
	return f
}
