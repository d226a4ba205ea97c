package chain

import (
	"time"

	"github.com/sallyport/sallyport/identity"
)

// Router is a service-router entry.
type Router struct {
	Service identity.Name
	Routes  []Route
	Meta    map[string]string
	Origin  string // where it was read: "api.hcl:1", "service-router/api"
}

// Route is one route of a router. The first that matches a request counts.
type Route struct {
	Match       *HTTPMatch   // nil: all requests
	Destination *Destination // nil: the router's own service
	Origin      string       `json:"-"`
	// Unknown are keys of the match that are not known here, where a chain is read (Read): which requests the route is for is not known.
	Unknown []string `json:"-"`
}

// HTTPMatch says which requests a route is for: all of what is set has to hold. At most one of the paths is set.
type HTTPMatch struct {
	PathExact, PathPrefix, PathRegex string
	CaseInsensitive                  bool // paths but the regex
	Header                           []HeaderMatch
	QueryParam                       []QueryMatch
	Methods                          []string // in upper case; empty: all
}

// HeaderMatch is a condition on a request's header. One of Present, Exact, Prefix, Suffix, Contains and Regex is set.
type HeaderMatch struct {
	Name                                   string
	Present                                bool
	Exact, Prefix, Suffix, Contains, Regex string
	IgnoreCase /* not of Regex */, Invert  bool
}

// QueryMatch is a condition on a parameter of the query. One of Present, Exact and Regex is set.
type QueryMatch struct {
	Name         string
	Present      bool
	Exact, Regex string
}

// Destination is where a route leads and how.
type Destination struct {
	Service               string // empty: the router's own
	Subset                string
	PrefixRewrite         string
	RequestTimeout        time.Duration // 0: none is written; negative: no timeout
	IdleTimeout           time.Duration // likewise
	NumRetries            uint32
	RetryOnConnectFailure bool
	RetryOn               []string
	RetryOnStatusCodes    []uint32
	RequestHeaders        *HeaderModifiers
	ResponseHeaders       *HeaderModifiers
}

// HeaderModifiers change headers. Set replaces what there is; Add is beside it.
type HeaderModifiers struct {
	Add, Set map[string]string
	Remove   []string
}

// Splitter is a service-splitter entry.
type Splitter struct {
	Service identity.Name
	Splits  []Split
	Meta    map[string]string
	Origin  string
}

// Split is one leg of a splitter.
type Split struct {
	Weight          float64 // in percent
	Service         string  // empty: the splitter's own
	Subset          string
	RequestHeaders  *HeaderModifiers
	ResponseHeaders *HeaderModifiers
}

// Resolver is a service-resolver entry.
type Resolver struct {
	Service        identity.Name
	DefaultSubset  string
	Subsets        map[string]Subset
	Redirect       *Redirect
	Failover       map[string]Failover // by subset, or "*"
	ConnectTimeout time.Duration       // 0: none is written
	RequestTimeout time.Duration
	LoadBalancer   *LoadBalancer
	Meta           map[string]string
	Origin         string
}

// Subset is a part of a service's instances.
type Subset struct {
	Filter      string // an expression; empty: all
	OnlyPassing bool
}

// Redirect has another service, subset or datacenter answer.
type Redirect struct{ Service, Subset, Datacenter, Peer string }

// Failover says who answers when nobody else does. Targets excludes the other fields.
type Failover struct {
	Service, Subset string
	Datacenters     []string
	Targets         []FailoverTarget
}

// FailoverTarget is one of Failover's.
type FailoverTarget struct{ Service, Subset, Datacenter, Peer string }

// LoadBalancer is how one of a target's instances is chosen.
type LoadBalancer struct {
	// Policy is "", "random", "round_robin", "least_request", "ring_hash" or "maglev".
	Policy       string
	RingHash     *RingHash     // nil: Envoy's defaults
	LeastRequest *LeastRequest // likewise
	HashPolicies []HashPolicy
}

// RingHash bounds the size of a ring; 0: Envoy's defaults.
type RingHash struct{ MinimumRingSize, MaximumRingSize uint64 }

// LeastRequest is how many instances are compared; 0: Envoy's default, 2.
type LeastRequest struct{ ChoiceCount uint32 }

// HashPolicy is what of a request is hashed: the source's address, or a Field ("header", "cookie", "query_parameter") named FieldValue.
type HashPolicy struct {
	Field, FieldValue string
	Cookie            *CookieConfig
	SourceIP          bool
	Terminal          bool // nothing more is hashed if this is there
}

// CookieConfig has Envoy set the cookie that it hashes.
type CookieConfig struct {
	Session bool // until the browser ends
	TTL     time.Duration
	Path    string
}

// Defaults are what service-defaults (and proxy-defaults) say of a service that chains depend on.
type Defaults struct {
	Protocol    string // "": tcp
	ExternalSNI string
	GatewayMode string
	Origin      string
}
