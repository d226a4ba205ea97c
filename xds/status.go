package xds

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/snapshot"
)

// maxNACKText bounds the kept part of Envoy's messages, in bytes.
const maxNACKText = 2000

// NACK is what an Envoy refused. It is immutable.
type NACK struct {
	// Type is the short name of the resources' type: "listener".
	Type    string `json:"type"`
	TypeURL string `json:"type_url"`
	// Resources are the names of the resources in the refused response; several as long as it is
	// not known which of them Envoy refuses.
	Resources []string `json:"resources"`
	// Message is Envoy's own text, cut to 2000 bytes.
	Message string    `json:"message"`
	Time    time.Time `json:"time"`
	// Standing: Envoy still refuses the present version of one of the resources. It is sent again
	// at growing intervals.
	Standing bool `json:"standing"`
	// Origin is where the address is said that Envoy cannot listen on; empty: it is something else, or
	// that is not known. Server leaves it to who knows the listeners.
	Origin string `json:"origin,omitempty"`
}

// Rejection is why a stream in a proxy's name was refused or ended. It is immutable.
type Rejection struct {
	Time   time.Time `json:"time"`
	Reason string    `json:"reason"`
}

// ProxyStatus is the state of one proxy of the catalog.
type ProxyStatus struct {
	ID          identity.ProxyID `json:"id"`
	Instance    string           `json:"instance"`
	Service     string           `json:"service"`
	Origin      string           `json:"origin,omitempty"` // where the proxy is defined: "web.hcl:3"
	Protocol    string           `json:"protocol"`
	Enforcement string           `json:"enforcement"`
	Revocation  string           `json:"revocation"`
	// RevocationBound is, in words, how long a live connection can outlive a revocation of its
	// access: "30 s", "600 s".
	RevocationBound string `json:"revocation_bound"`

	// Left says that the catalog does not have the proxy, while it has a stream: its Envoy keeps
	// what it had. Only its ID and what streams say are known of it.
	Left bool `json:"left_catalog,omitempty"`
	// Connected is whether there is at least one stream.
	Connected bool `json:"connected"`
	// EnvoyVersion is that of the newest stream; empty if it is not known or there is none.
	EnvoyVersion string `json:"envoy_version,omitempty"`
	// InSync is whether all streams have accepted all that their proxy is to have. False without a
	// stream.
	InSync bool `json:"in_sync"`
	// Streams are the open ones, oldest first. An Envoy has one; two are an Envoy that is being
	// replaced.
	Streams []StreamStatus `json:"streams"`
	// LastACK is when an Envoy of the proxy last accepted something; zero: not since the control
	// plane started.
	LastACK time.Time `json:"last_ack,omitzero"`
	// LastNACK is the last refusal, whether it stands or not; nil: none since the control plane
	// started.
	LastNACK *NACK `json:"last_nack,omitempty"`
	// LastRejection is of the last stream in the proxy's name, if that was refused or ended; nil: it
	// was let in, or there was none since the control plane started.
	LastRejection *Rejection `json:"last_rejection,omitempty"`
	// LeafExpires is when the first of the leafs in use ends; zero: none is in use.
	LeafExpires time.Time `json:"leaf_expires,omitzero"`
	// Waiting says why the newest configuration is not sent to some stream, BuildError why it could
	// not be made; the Envoy keeps the last one. Empty: neither is the case.
	Waiting    string `json:"waiting,omitempty"`
	BuildError string `json:"build_error,omitempty"`
	// Warnings say where the proxy's Envoy gets less than the configuration asks for.
	Warnings []string `json:"warnings,omitempty"`
}

// StreamStatus is the state of one stream.
type StreamStatus struct {
	// EnvoyVersion is empty if it is not known.
	EnvoyVersion string `json:"envoy_version,omitempty"`
	// Network names the network namespace that Envoy runs in; empty if it is not known.
	Network string    `json:"network,omitempty"`
	Since   time.Time `json:"since"`
	// Token is the one that the stream was opened with; nil if the control plane did not make it.
	Token  *TokenStatus `json:"token,omitempty"`
	InSync bool         `json:"in_sync"`
	// Waiting says why the newest configuration is not sent, or not all of it: a secret that is
	// missing; what Envoy has not accepted of the clusters that routes lead to, or of the rules that
	// a revocation's end of live connections comes after. Empty: nothing is waited for.
	Waiting string `json:"waiting,omitempty"`
	// BuildError says why the newest configuration could not be made; the Envoy keeps the last one,
	// but for who may connect. Empty: it could.
	BuildError string `json:"build_error,omitempty"`
	// Refused are the names of resources whose present version Envoy refuses. They are sent again
	// at growing intervals.
	Refused []string `json:"refused,omitempty"`
	// Generation is that of Envoy's inbound filter chain; 0: it has none, or the proxy's revocation
	// is not "drain".
	Generation uint64 `json:"generation,omitempty"`
	// RevocationPending: access was revoked, and Envoy has not accepted yet the generation that
	// ends live connections.
	RevocationPending bool `json:"revocation_pending,omitempty"`
	// RevocationAt is when that generation is sent, as live connections of the service were ended
	// moments ago; who lost access cannot make new ones meanwhile. Zero: nothing is waited for.
	RevocationAt time.Time `json:"revocation_at,omitzero"`
	// DrainsUntil is when the last live connections from before a revocation end; zero: none has
	// been since the stream was opened.
	DrainsUntil time.Time `json:"drains_until,omitzero"`
	LastACK     time.Time `json:"last_ack,omitzero"`
	LeafExpires time.Time `json:"leaf_expires,omitzero"`
	LastNACK    *NACK     `json:"last_nack,omitempty"`
	Warnings    []string  `json:"warnings,omitempty"`
	// Leafs are those in use, sorted by name.
	Leafs []LeafStatus `json:"leafs,omitempty"`
	// Types say what was sent of each type that Envoy asked for.
	Types []TypeStatus `json:"types,omitempty"`
	drain time.Duration
}

// LeafStatus is a leaf certificate in use.
type LeafStatus struct {
	// ID is its SPIFFE ID, Serial its number in hexadecimal digits.
	ID        string    `json:"id"`
	Serial    string    `json:"serial"`
	NotBefore time.Time `json:"not_before"`
	NotAfter  time.Time `json:"not_after"`
}

// TypeStatus is what an Envoy has of one type of resources.
type TypeStatus struct {
	// Type is the type's short name: "listener".
	Type string `json:"type"`
	// Resources is how many Envoy was sent or listed itself, and still has.
	Resources int `json:"resources"`
	// Sent and ACKed are of the last response and of the last ACK; zero: there was none.
	Sent  time.Time `json:"sent,omitzero"`
	ACKed time.Time `json:"acked,omitzero"`
}

// Status returns the state of all proxies of the catalog, and of those that have left it and are
// still connected, sorted by ID. The caller owns the result. It does no I/O.
func (s *Server) Status() []ProxyStatus {
	view, ok := s.views.Load()
	if !ok || view.Mesh() == nil {
		return []ProxyStatus{}
	}
	all := []ProxyStatus{}
	for p := range view.Proxies() {
		all = append(all, s.status(p))
	}
	for _, p := range s.strangers(view) {
		st := s.status(p)
		st.Service = "" // what its token says of it need not be so any more
		st.Left, st.InSync, st.Protocol, st.Enforcement, st.Revocation, st.RevocationBound = true, false, "", "", "", ""
		all = append(all, st)
	}
	slices.SortFunc(all, func(a, b ProxyStatus) int { return cmp.Compare(a.ID, b.ID) })
	return all
}

// Proxy is the state of one proxy of the catalog; ok is false if it has none of that ID. It does no I/O.
func (s *Server) Proxy(id identity.ProxyID) (p ProxyStatus, ok bool) {
	view, ok := s.views.Load()
	if !ok || view.Proxy(id) == nil {
		return ProxyStatus{}, false
	}
	return s.status(view.Proxy(id).Proxy), true
}

// strangers are the proxies with streams that view does not have.
func (s *Server) strangers(view *catalog.View) (out []*catalog.Proxy) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, p := range s.proxies {
		if view.Proxy(id) == nil && len(p.sessions) > 0 {
			out = append(out, &catalog.Proxy{ID: id})
		}
	}
	return out
}

func (s *Server) status(p *catalog.Proxy) ProxyStatus {
	out := ProxyStatus{
		ID: p.ID, Instance: p.Instance, Service: p.Service.String(), Origin: p.Origin, Protocol: p.Inbound.Protocol.String(),
		Enforcement: p.Inbound.Enforcement.String(), Revocation: p.Inbound.Revocation.String(),
		Streams: []StreamStatus{},
	}
	var sessions []*session
	s.mu.Lock()
	if r := s.proxies[p.ID]; r != nil {
		out.LastACK, out.LastNACK, out.LastRejection = r.lastACK, r.lastNACK, r.rejected
		for n := range r.sessions {
			sessions = append(sessions, n)
		}
	}
	s.mu.Unlock()
	for _, n := range sessions {
		t := n.status()
		if w := n.features.Metrics.Differs(p.Bootstrap.PrometheusBindAddr); w != "" {
			t.Warnings = append(slices.Clip(t.Warnings), w)
		}
		if !n.features.ExclusivePorts {
			t.Warnings = append(slices.Clip(t.Warnings), "other Envoys of its user can share its ports, as its bootstrap is of an earlier release: run `sallyport bootstrap --proxy-id "+string(p.ID)+"` again and start its Envoy anew, or restart `sallyport envoy`")
		}
		if f := t.Token; f != nil && f.Unbound {
			t.Warnings = append(slices.Clip(t.Warnings), fmt.Sprintf("its token is of a release that bound it to neither service nor user, and is good until %s: run `sallyport bootstrap --proxy-id %s` again, or restart `sallyport envoy`", f.Expires.Format(time.RFC3339), p.ID))
		}
		out.Streams = append(out.Streams, t)
	}
	slices.SortFunc(out.Streams, func(a, b StreamStatus) int { return a.Since.Compare(b.Since) })
	out.Connected = len(out.Streams) > 0
	out.InSync = out.Connected
	drain := time.Duration(-1)
	for _, t := range out.Streams {
		out.InSync = out.InSync && t.InSync
		out.LastACK = later(out.LastACK, t.LastACK)
		out.LeafExpires = first(out.LeafExpires, t.LeafExpires)
		if t.LastNACK != nil && (out.LastNACK == nil || out.LastNACK.Time.Before(t.LastNACK.Time)) {
			out.LastNACK = t.LastNACK
		}
		for _, w := range t.Warnings {
			if !slices.Contains(out.Warnings, w) {
				out.Warnings = append(out.Warnings, w)
			}
		}
		out.EnvoyVersion = t.EnvoyVersion
		out.Waiting = cmp.Or(out.Waiting, t.Waiting)
		out.BuildError = cmp.Or(out.BuildError, t.BuildError)
		drain = max(drain, t.drain)
	}
	out.RevocationBound = revocationBound(p.Inbound.Revocation, drain)
	return out
}

// State is the state in a few words: "in sync", "not connected", "refuses 1 resource".
func (p ProxyStatus) State() string {
	refused := 0
	for _, t := range p.Streams {
		refused = max(refused, len(t.Refused))
	}
	switch {
	case p.Left:
		return "not in the catalog"
	case !p.Connected:
		return "not connected"
	case p.BuildError != "":
		return "keeps its last configuration"
	case p.Waiting != "":
		return "waiting: " + p.Waiting
	case refused == 1:
		return "refuses 1 resource"
	case refused > 1:
		return fmt.Sprintf("refuses %d resources", refused)
	case p.InSync:
		return "in sync"
	}
	return "updating"
}

// revocationBound is how long a live connection can outlive a revocation of its access. drain is
// negative if no Envoy is connected.
func revocationBound(r catalog.Revocation, drain time.Duration) string {
	switch {
	case r == catalog.NextRequest:
		return "the next request; requests that are being answered may end as they like"
	case r == catalog.NewConnections:
		return "without bound: live connections stay"
	case drain < 0:
		return "the drain time of its Envoy"
	case drain == snapshot.FeaturesOf(nil).DrainTime: // also assumed where it is not known
		return fmt.Sprintf("≤ %.0f s", drain.Seconds())
	}
	return fmt.Sprintf("%.0f s", drain.Seconds())
}

// status is the state of the session's stream.
func (s *session) status() StreamStatus {
	expires := s.leafs.Expires()
	var leafs []LeafStatus
	for _, v := range s.leafs.InUse() {
		c := v.Certificates[0]
		leafs = append(leafs, LeafStatus{ID: v.String(), Serial: fmt.Sprintf("%x", c.SerialNumber), NotBefore: c.NotBefore, NotAfter: c.NotAfter})
	}
	slices.SortFunc(leafs, func(a, b LeafStatus) int { return cmp.Compare(a.ID, b.ID) })
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.report
	out := StreamStatus{
		EnvoyVersion: s.features.Version, Network: s.network, Since: s.opened, Token: s.token(), InSync: s.target != nil && r.inSync && r.waiting == "" && r.failure == "",
		Waiting: r.waiting, BuildError: r.failure, Generation: r.applied, DrainsUntil: r.drainsUntil,
		LastACK: r.lastACK, LeafExpires: expires, Leafs: leafs, Warnings: r.warnings, drain: s.features.DrainTime,
	}
	if r.lastNACK != nil {
		n := *r.lastNACK
		out.LastNACK = &n
	}
	for k, t := range s.subs {
		if t.asked {
			out.Types = append(out.Types, TypeStatus{Type: kind(k).String(), Resources: len(t.held), Sent: t.sentAt, ACKed: t.ackedAt})
		}
	}
	if s.target != nil {
		out.Waiting = cmp.Or(out.Waiting, s.waitingFor())
		out.RevocationAt = r.renameAt
		out.RevocationPending = !r.renameAt.IsZero() || s.target.generation != 0 && s.target.generation != r.applied
		for k := range kinds {
			names := s.refused(k)
			out.Refused = append(out.Refused, names...)
			if n := out.LastNACK; n != nil && n.Type == k.String() {
				n.Standing = slices.ContainsFunc(n.Resources, func(name string) bool { return slices.Contains(names, name) })
			}
		}
	}
	return out
}

// report is what the status has of a stream beyond the state of its session.
type report struct {
	waiting     string // why there is no target, or only an old one
	failure     string // why the newest configuration was not made
	warnings    []string
	renameAt    time.Time // when access was revoked, and the generation for it is still to come; zero: none is
	inSync      bool      // Envoy has all of the target
	applied     uint64    // the generation that Envoy has ACKed, with the judges of that time
	drainsUntil time.Time
	lastACK     time.Time
	lastNACK    *NACK
}

// wait notes what the session waits for.
func (s *session) wait(what string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.report.waiting = what
}

// describe notes when a rename is due; zero: none is.
func (s *session) describe(renameAt time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.report.renameAt = renameAt
}

// outcome notes the result of a build for the session. waiting is why it was not sent; empty if it
// was.
func (s *session) outcome(b *build, waiting string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.report.waiting, s.report.failure, s.report.warnings = waiting, "", nil
	if b.err != nil {
		s.report.failure = b.err.Error()
	}
	if b.good != nil {
		s.report.warnings = b.good.Warnings
	} else if b.err != nil {
		s.report.waiting = ""
	}
}

// cut shortens a foreign text to about n bytes.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "") + "…"
}
