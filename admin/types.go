// Package admin is the control plane's own API: JSON over HTTP on a Unix socket (admin.sock), for
// the commands that ask a running control plane. Who may connect is what the socket's mode says;
// who may have a token is judged by the uid of the process at the other end.
package admin

import (
	"log/slog"
	"strings"
	"time"

	"github.com/sallyport/sallyport/xds"
)

// TokenRequest asks for a proxy's token and for what else its bootstrap needs. Exactly one of
// SidecarFor, the ID of a service instance, and ProxyID is set.
type TokenRequest struct {
	SidecarFor string        `json:"sidecar_for,omitempty"`
	ProxyID    string        `json:"proxy_id,omitempty"`
	TTL        time.Duration `json:"ttl,omitempty"` // nanoseconds; 0: the control plane's default
}

// TokenResponse is a token and what a bootstrap is made of.
type TokenResponse struct {
	Token string `json:"token,omitempty"`
	// TokenID names the token, to who looks for it in the log or revokes it.
	TokenID string    `json:"token_id,omitempty"`
	Expires time.Time `json:"expires,omitzero"`
	// OwnToken says that there is no Token here: the proxy has one of its own (Consul's ACL token),
	// which the caller has to know.
	OwnToken bool `json:"own_token,omitempty"`

	ProxyID     string `json:"proxy_id"`
	Service     string `json:"service"`
	Namespace   string `json:"namespace"`
	Partition   string `json:"partition"`
	Datacenter  string `json:"datacenter"`
	TrustDomain string `json:"trust_domain"`
	Origin      string `json:"origin"` // where the proxy is defined: "web.hcl:3"

	// XDSSocket is the path of the socket that Envoys on this machine use.
	XDSSocket string `json:"xds_socket"`
	// XDSAddress is host:port of the TLS endpoint for Envoys elsewhere; empty if there is none.
	XDSAddress string `json:"xds_address,omitempty"`
	// XDSCA is the PEM of the roots that the TLS endpoint's certificate is verified with, XDSURI
	// its URI SAN.
	XDSCA  string `json:"xds_ca,omitempty"`
	XDSURI string `json:"xds_uri,omitempty"`

	// ACLsOff says that a proxy that brings its own token needs none.
	ACLsOff bool `json:"acls_off,omitempty"`

	PrometheusBindAddr string `json:"prometheus_bind_addr,omitempty"`
	// StatsTags are labels that all of Envoy's metrics have: "team=shop".
	StatsTags []string `json:"stats_tags,omitempty"`
	// Listeners are what the proxy's Envoy will bind: "127.0.0.1:21000", or the path of a Unix
	// socket.
	Listeners []Listener `json:"listeners"`
}

// Listener is an address that an Envoy will bind.
type Listener struct {
	Name    string `json:"name"`              // "public_listener", or the upstream's name
	Address string `json:"address,omitempty"` // host:port
	Socket  string `json:"socket,omitempty"`
	Origin  string `json:"origin,omitempty"`
}

// LogValue keeps the token out of logs.
func (r TokenResponse) LogValue() slog.Value {
	return slog.GroupValue(slog.String("proxy", r.ProxyID), slog.Time("expires", r.Expires))
}

// String keeps the token out of whatever prints a response.
func (r TokenResponse) String() string { return "token of " + r.ProxyID }

// ApplicationTokenRequest asks for a token of the HTTP API: for the applications of a service, or for a reader.
type ApplicationTokenRequest struct {
	Service string        `json:"service,omitempty"`
	Reader  bool          `json:"reader,omitempty"`
	TTL     time.Duration `json:"ttl,omitempty"` // nanoseconds; 0: the control plane's default
}

// ApplicationTokenResponse is a token of the HTTP API.
type ApplicationTokenResponse struct {
	Token   string    `json:"token"`
	TokenID string    `json:"token_id"`
	Expires time.Time `json:"expires"`
	Socket  string    `json:"socket"` // of the HTTP API
}

// RevokeRequest asks that tokens be taken no more: one, by its ID, or all of a proxy, by its ID, its
// instance or its service. Exactly one of the two is set.
type RevokeRequest struct {
	TokenID string `json:"token_id,omitempty"`
	Proxy   string `json:"proxy,omitempty"`
	// Applications is the service all of whose applications' tokens are meant.
	Applications string `json:"applications,omitempty"`
}

// RevokeResponse says what was revoked.
type RevokeResponse struct {
	TokenID string `json:"token_id,omitempty"`
	ProxyID string `json:"proxy_id,omitempty"`
	// Applications is the service whose applications' tokens were revoked.
	Applications string `json:"applications,omitempty"`
	// Unknown says that the catalog has no such proxy.
	Unknown bool `json:"unknown,omitempty"`
	// Streams is how many were ended.
	Streams int `json:"streams"`
}

// RotateResponse says which leafs are new.
type RotateResponse struct {
	Service string `json:"service"`
	// Leafs are those of the sidecars that are connected, by proxy.
	Leafs []RotatedLeaf `json:"leafs"`
}

// RotatedLeaf is the new leaf of a proxy.
type RotatedLeaf struct {
	Proxy string `json:"proxy"`
	// ID is the SPIFFE ID in it. OldSerial is that of the leaf before, Serial its own, both in
	// hexadecimal digits.
	ID        string    `json:"id"`
	OldSerial string    `json:"old_serial"`
	Serial    string    `json:"serial"`
	NotBefore time.Time `json:"not_before"`
	NotAfter  time.Time `json:"not_after"`
}

// JudgeRequest asks whether a proxy would be served with a token of its own.
type JudgeRequest struct {
	ProxyID string `json:"proxy_id"`
	Token   string `json:"token"`
	// Remote says that its Envoy is on another machine.
	Remote bool `json:"remote,omitempty"`
}

// LogValue keeps the token out of logs.
func (r JudgeRequest) LogValue() slog.Value { return slog.StringValue(r.String()) }

// String keeps the token out of whatever prints a request.
func (r JudgeRequest) String() string { return "own token of " + r.ProxyID }

// CheckRequest is a request that a source may send, or not. The zero CheckRequest is none: what is asked is about a connection.
type CheckRequest struct {
	Method, Path string
	Headers      []string // each as "name: value"
}

// CheckResponse is the answer to "may source connect to destination?".
type CheckResponse struct {
	Allowed     bool   `json:"allowed"`
	Source      string `json:"source"`
	Destination string `json:"destination"`
	// Reason is why, in words: "intention", "default policy", "foreign trust domain", …
	Reason string `json:"reason"`
	// Intention and Origin name the intention that decided and where it was read; empty if none
	// did.
	Intention  string `json:"intention,omitempty"`
	Origin     string `json:"origin,omitempty"`
	Precedence int    `json:"precedence,omitempty"`
	// Permission is which of the intention's permissions decided, counted from 1; 0: none did.
	Permission int `json:"permission,omitempty"`
	// TakenAt is when Origin's file said so, which has been written since and could not be taken;
	// zero: it says so now.
	TakenAt time.Time `json:"taken_at,omitzero"`
	// Waiting are the files that say what could not be taken, and may be another answer.
	Waiting []string `json:"waiting,omitempty"`
	// Held is what the intention waits for before it may allow: it denies until then. Empty: it does
	// not wait.
	Held string `json:"held,omitempty"`
	// Note says what else a reader should know: that the intention is of a kind that is not
	// supported and denies for that.
	Note string `json:"note,omitempty"`
	// Remedy is what to write, and where, to allow what is denied by default; empty: something else decided.
	Remedy string `json:"remedy,omitempty"`
}

// Explain is the answer in one line.
func (r CheckResponse) Explain() string {
	word := "Denied"
	if r.Allowed {
		word = "Allowed"
	}
	by := r.Reason
	if r.Intention != "" {
		by = "the intention " + r.Intention
	}
	s := word + ": " + r.Source + " => " + r.Destination + ", by " + by
	if r.Origin != "" {
		s += " at " + r.Origin
	}
	if !r.TakenAt.IsZero() {
		s += " (as taken at " + clock(r.TakenAt, time.Now()) + ")"
	}
	if r.Note != "" {
		s += " (" + r.Note + ")"
	}
	if len(r.Waiting) > 0 {
		s += "; newer contents wait until they can be taken: " + strings.Join(r.Waiting, ", ")
	}
	return s
}

// clock is a time of day, with the day if that is not now's.
func clock(t, now time.Time) string {
	t = t.Local()
	if t.Format(time.DateOnly) != now.Local().Format(time.DateOnly) {
		return t.Format("15:04 on 2006-01-02")
	}
	return t.Format("15:04")
}

// Status is the state of a control plane.
type Status struct {
	Version     string    `json:"version"`
	PID         int       `json:"pid"`
	Started     time.Time `json:"started"`
	TrustDomain string    `json:"trust_domain"`
	Datacenter  string    `json:"datacenter"`
	Catalog     Catalog   `json:"catalog"`
	// NotReady are the reasons why the control plane is not ready; empty when it is.
	NotReady []string `json:"not_ready,omitempty"`
	// Change is the number of the newest change of the catalog, and ChangeSeen when it was noticed.
	Change     uint64    `json:"change,omitempty"`
	ChangeSeen time.Time `json:"change_seen,omitzero"`
	// Unrecorded is why it could not be written whose live connections have been ended; empty: it
	// was.
	Unrecorded string `json:"unrecorded,omitempty"`
	// Refusals are whom the control plane refused before it knew who that was, and what is no Envoy.
	Refusals xds.Refusals      `json:"refusals"`
	Proxies  []xds.ProxyStatus `json:"proxies"`
	// Instances are the applications that are known without a sidecar, and those that are native, sorted by ID.
	Instances []Instance `json:"instances,omitempty"`
	// Callers are those who ask the HTTP API and the Workload API for themselves, sorted by name.
	Callers []Caller `json:"callers,omitempty"`
	// AcceptsTLS12 says that proxies accept peers that speak TLS 1.2 (those under Consul's own
	// control plane), and TLS12 counts their handshakes, by proxy. The command that asks fills it
	// in for the Envoys that it can ask; of the others nothing is known, and they are left out.
	AcceptsTLS12 bool              `json:"accepts_tls12,omitempty"`
	TLS12        map[string]uint64 `json:"tls12_handshakes,omitempty"`
	// Applications are those that do not answer their sidecars, by proxy.
	Applications map[string]Application `json:"applications,omitempty"`
	// Roots are the CA's certificates that leafs are verified with.
	Roots []Root `json:"roots,omitempty"`
	// RevokedCertificates and RevokedIdentities are how many are revoked now.
	RevokedCertificates int `json:"revoked_certificates,omitempty"`
	RevokedIdentities   int `json:"revoked_identities,omitempty"`
	// Rotation is the replacement of a root that is running; nil: none is.
	Rotation *Rotation `json:"rotation,omitempty"`
	// Clock is why the clock of this machine seems to be wrong, Disk why the data directory cannot
	// be relied on; empty: no reason is known.
	Clock string `json:"clock,omitempty"`
	Disk  string `json:"disk,omitempty"`
	// TrustDomains are the others whose bundles are known or waited for, sorted, and BadTrustDomains what is wrong with files that define
	// them.
	TrustDomains []TrustDomain `json:"trust_domains,omitempty"`
	// TokenKeys are where the keys that verify tokens (jwt-provider) come from, sorted.
	TokenKeys       []TokenKeys `json:"token_keys,omitempty"`
	BadTrustDomains []string    `json:"bad_trust_domains,omitempty"`
	// DataDir is the directory of the control plane's state.
	DataDir string `json:"data_dir"`
}

// Instance is an application that has no sidecar, or needs none.
type Instance struct {
	ID      string `json:"id"`
	Service string `json:"service"`
	// Address is "10.0.0.1:8443", ":8443" at its node's address, or the path of a Unix socket; empty: it says none.
	Address string `json:"address,omitempty"`
	// Native says that it speaks mutual TLS itself.
	Native bool `json:"native,omitempty"`
	// Status is that of its checks; empty: it is not known here.
	Status string `json:"status,omitempty"`
	Origin string `json:"origin"` // where it is defined: "web.hcl:3"
}

// Caller is somebody who asks the HTTP API or the Workload API, or has leafs of them.
type Caller struct {
	// Name is "token 7QK…", "uid 1000", "10.1.2.3"; By are the sockets that it uses now: "http.sock", "TCP", "workload.sock".
	Name string   `json:"name"`
	By   []string `json:"by,omitempty"`
	// Services are those in whose name it may act, or has leafs, sorted.
	Services []string `json:"services,omitempty"`
	// Connections are those that are open, Waiting the questions that wait for a change and the streams.
	Connections int `json:"connections"`
	Waiting     int `json:"waiting"`
	// Leafs are those that it has, the one that ends first at the beginning.
	Leafs []CallerLeaf `json:"leafs,omitempty"`
}

// CallerLeaf is a leaf that a caller has.
type CallerLeaf struct {
	Service string    `json:"service"`
	Serial  string    `json:"serial"` // hexadecimal: "01:02"
	Ends    time.Time `json:"ends"`
}

// InstanceDetail is all that is known of an application without a sidecar.
type InstanceDetail struct {
	Instance
	// Identity is the SPIFFE ID of its service.
	Identity string `json:"identity"`
	// DialledBy are the proxies that dial its service, sorted by ID.
	DialledBy []string `json:"dialled_by,omitempty"`
	// Rules say who may connect, the rule for all others last.
	Rules []Rule `json:"rules"`
}

// Root is a CA's certificate.
type Root struct {
	Serial    string    `json:"serial"` // hexadecimal
	NotBefore time.Time `json:"not_before"`
	NotAfter  time.Time `json:"not_after"`
	// Active says that leafs are signed under it now.
	Active bool `json:"active,omitempty"`
}

// Application is what a sidecar sees of an application that does not answer: `sallyport envoy`
// reads it from its Envoy's counters, and tells the control plane.
type Application struct {
	ProxyID string `json:"proxy_id"`
	// Answers says that it answers again; the other fields are zero then.
	Answers bool `json:"answers,omitempty"`
	// Since is when an attempt to connect first failed since the last that did not, and Failed how
	// many have.
	Since  time.Time `json:"since,omitzero"`
	Failed uint64    `json:"failed,omitempty"`
	// Address is where the sidecar looks for it: "127.0.0.1:8080", or the path of a Unix socket.
	// The control plane fills it in.
	Address string `json:"address,omitempty"`
	// Origin is where that is said: "web.hcl:5". The control plane fills it in.
	Origin string `json:"origin,omitempty"`
}

// Catalog is the state of the source of the catalog.
type Catalog struct {
	Source string `json:"source"` // "files: /etc/sallyport/catalog", "consul agent localhost:8500"
	// LastLoaded is when the contents were last known to be what the source has, changed or not.
	LastLoaded time.Time `json:"last_loaded,omitzero"`
	// StaleSince is since when something could not be read again; zero: it is all as the source has
	// it.
	StaleSince time.Time `json:"stale_since,omitzero"`
	Services   int       `json:"services"`
	Intentions int       `json:"intentions"`
	// Problems are why newer contents were not taken, one mistake each.
	Problems []string `json:"problems,omitempty"`
	// NotTaken are the files of which what they said before is in force, or nothing.
	NotTaken []NotTaken `json:"not_taken,omitempty"`
	// Denied are what the control plane's own token may not do.
	Denied []string `json:"denied,omitempty"`
	// Refused are the parts of proxies that are not served, as they name what is another's.
	Refused []string `json:"refused,omitempty"`
	// Warnings are what is odd in the contents that were taken, Denied and Refused included.
	Warnings []string `json:"warnings,omitempty"`
}

// NotTaken is a file of the catalog whose contents could not be taken.
type NotTaken struct {
	File string `json:"file"`
	// TakenAt is when what is in force of it was taken; zero: nothing is.
	TakenAt time.Time `json:"taken_at,omitzero"`
	// Since is when it was first found that way, and Problem the first mistake.
	Since   time.Time `json:"since"`
	Problem string    `json:"problem"`
}

// String is the file and what is in force of it, in words.
func (n NotTaken) String() string {
	now := time.Now()
	s := n.File + " is not taken since " + clock(n.Since, now)
	if n.TakenAt.IsZero() {
		return s
	}
	return s + ", as taken at " + clock(n.TakenAt, now) + " it is in force"
}

// Proxy is all that the control plane knows of one proxy.
type Proxy struct {
	Status xds.ProxyStatus `json:"status"`
	// Identity is the SPIFFE ID that the proxy has.
	Identity string `json:"identity"`
	// Application is where it looks for its application.
	Application string     `json:"application"`
	Listeners   []Listener `json:"listeners"`
	Upstreams   []Upstream `json:"upstreams"`
	// Rules say who may connect, the rule for all others last.
	Rules []Rule `json:"rules"`
}

// Upstream is where a proxy's upstream leads.
type Upstream struct {
	Name   string `json:"name"`
	Listen string `json:"listen"` // "127.0.0.1:9191", or the path of a Unix socket
	// Expects is the SPIFFE ID that an endpoint has to prove; empty: its target says that.
	Expects   string     `json:"expects"`
	Protocol  string     `json:"protocol"`
	Endpoints []Endpoint `json:"endpoints"`
	// Targets are those that the upstream's discovery chain leads to, sorted by ID; then there are no Endpoints. Empty: it has none.
	Targets []UpstreamTarget `json:"targets,omitempty"`
	// Registered is how many instances are registered here, with sidecars or without.
	Registered int    `json:"registered,omitempty"`
	Origin     string `json:"origin,omitempty"`
}

// UpstreamTarget is one target of a discovery chain.
type UpstreamTarget struct {
	ID string `json:"id"` // as Consul calls it: "v1.api.default.default.dc1"
	// Expects is the SPIFFE ID that an endpoint has to prove; empty: it is of another cluster.
	Expects   string     `json:"expects,omitempty"`
	Endpoints []Endpoint `json:"endpoints"`
}

// Endpoint is one sidecar that an upstream leads to.
type Endpoint struct {
	Address string `json:"address"` // host:port
	Healthy bool   `json:"healthy"`
	Weight  uint32 `json:"weight"`
}

// Rule is what holds for one source, or for all.
type Rule struct {
	Source      string `json:"source"` // "*": all that no other rule names
	Destination string `json:"destination"`
	Allowed     bool   `json:"allowed"`
	Precedence  int    `json:"precedence,omitempty"`
	// Origin is where the rule was read; empty: it is the default policy.
	Origin string `json:"origin,omitempty"`
	// Note says that the rule has something that is not supported and denies for that.
	Note string `json:"note,omitempty"`
}

// LeafQuery says which leafs are asked for. What is empty takes all.
type LeafQuery struct {
	// Name is a service, an instance or proxy of one, or a caller: "token 7QK…", "uid 1000".
	Name string
	// Serial and SHA256 are in hexadecimal, in any case and with or without colons; eight digits or more of the beginning are enough.
	Serial, SHA256 string
}

// Leaf is a leaf that was issued and has not ended.
type Leaf struct {
	Service string `json:"service"`
	ID      string `json:"id"` // the SPIFFE ID
	// Caller is who it was made for: "proxy web-sidecar-proxy", "token 7QK…", "uid 1000".
	Caller string    `json:"caller"`
	Serial string    `json:"serial"` // hexadecimal: "01:02"
	SHA256 string    `json:"sha256"` // of the DER, in hexadecimal
	Issued time.Time `json:"issued"`
	Ends   time.Time `json:"ends"`
	// InUse says that the control plane gives it to callers now, UsedBy to which; sidecars of one service share a leaf.
	InUse  bool     `json:"in_use"`
	UsedBy []string `json:"used_by,omitempty"`
}
