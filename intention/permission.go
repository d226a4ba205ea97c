package intention

// Permission is a condition on requests and what holds of those that meet it. Of an intention's permissions the first one that a request
// meets decides; of a request that meets none the default policy does. A permission without conditions is met by all requests. Of a
// service that speaks tcp there are no requests: permissions deny there.
type Permission struct {
	Action Action
	// PathExact, PathPrefix and PathRegex are of the path without the query; one of them at most is set. A regular expression has to match
	// the whole path.
	PathExact, PathPrefix, PathRegex string `json:",omitempty"`
	// Methods are in upper case, as they are compared; empty: all.
	Methods []string `json:",omitempty"`
	// Headers are all to hold.
	Headers []HeaderMatch `json:",omitempty"`
	// JWT are the tokens of which one has to be there; empty: none has to. A denying permission does not look at tokens.
	JWT []TokenRequirement `json:",omitempty"`
}

// HeaderMatch is a condition on a request's header. One of Present, Exact, Prefix, Suffix, Contains and Regex is set. A header that is
// missing meets none, and no inverted one either, but an inverted Present.
type HeaderMatch struct {
	Name                                   string // in any letter case
	Present                                bool   `json:",omitempty"`
	Exact, Prefix, Suffix, Contains, Regex string `json:",omitempty"`
	IgnoreCase                             bool   `json:",omitempty"` // not of Regex
	Invert                                 bool   `json:",omitempty"`
}

// TokenRequirement is a JWT that a request has to bring: one that the provider has issued, and of which all claims hold.
type TokenRequirement struct {
	Provider string  // the name of a jwt-provider entry
	Claims   []Claim `json:",omitempty"`
}

// Claim is what a token has to say at a path. A list there says it if one of its elements does.
type Claim struct {
	Path  []string
	Value string
}
