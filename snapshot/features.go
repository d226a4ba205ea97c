package snapshot

import (
	"fmt"
	"net/netip"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"github.com/sallyport/sallyport/identity"
	"google.golang.org/protobuf/types/known/structpb"
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
	// ExclusivePorts: its listeners share their ports with no other Envoy's. One that an earlier
	// release started has them shared, and refuses a change of that.
	ExclusivePorts bool
	// Metrics is what the bootstrap says of its metrics listener. No resource depends on it.
	Metrics Metrics
}

// Metrics are where an Envoy has its metrics listener, which only a new start can change. The zero
// value is one that does not say.
type Metrics struct {
	Known   bool
	Address string // ip:port; empty: it has none
}

// Differs says in a sentence for operators what a new start would change, if the proxy is to have
// its metrics at want, ip:port or empty for nowhere; empty: nothing, or it is not known.
func (m Metrics) Differs(want string) string {
	const key = "envoy_prometheus_bind_addr"
	switch {
	case !m.Known || m.Address == want:
		return ""
	case want == "":
		return fmt.Sprintf("its metrics are still open at %s, though %s is gone: start its Envoy anew", m.Address, key)
	case m.Address == "":
		return fmt.Sprintf("it has no metrics at %s yet, which %s says: start its Envoy anew", want, key)
	}
	return fmt.Sprintf("its metrics are at %s still, though %s says %s: start its Envoy anew", m.Address, key, want)
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
	f.ExclusivePorts = ours[identity.MetadataExclusivePorts].GetBoolValue()
	if v, ok := ours[identity.MetadataMetrics].GetKind().(*structpb.Value_StringValue); ok {
		_, err := netip.ParseAddrPort(v.StringValue) // it is shown to operators
		f.Metrics = Metrics{Known: err == nil || v.StringValue == "", Address: v.StringValue}
	}
	return f
}
