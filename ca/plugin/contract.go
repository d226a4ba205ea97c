package plugin

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/sallyport/sallyport/ca"
)

// version is that of the contract.
const version = 1

// Questions and kinds of certificates.
const (
	opDescribe, opRoots, opSign = "describe", "roots", "sign"
	intermediate, leaf          = "intermediate", "leaf"
)

func kindOf(isLeaf bool) string {
	if isLeaf {
		return leaf
	}
	return intermediate
}

// question is what a plug-in is asked.
type question struct {
	Version     int    `json:"version"`
	Op          string `json:"op"`
	ID          string `json:"id,omitempty"`
	Kind        string `json:"kind,omitempty"`
	TrustDomain string `json:"trust_domain"`
	URI         string `json:"uri,omitempty"`
	CSR         string `json:"csr,omitempty"`
	TTLSeconds  int64  `json:"ttl_seconds,omitempty"`
	SkewSeconds int64  `json:"not_before_skew_seconds,omitempty"`
	// Future is of no version: Conform has plug-ins ignore it.
	Future string `json:"conformance_unknown_field,omitempty"`
}

// marshal is a question as it is sent.
func (q question) marshal() []byte {
	b, err := json.Marshal(q)
	if err != nil { // strings and numbers alone
		panic(err)
	}
	return append(b, '\n')
}

// answer is what it says, to any question.
type answer struct {
	Version     int              `json:"version"`
	Name        string           `json:"name"`
	Signs       []string         `json:"signs"`
	MaxTTL      map[string]int64 `json:"max_ttl_seconds"`
	Concurrency int              `json:"concurrency"`

	Roots    []string `json:"roots"`
	Distrust []string `json:"distrust"`
	Refresh  int64    `json:"refresh_seconds"`

	Chain []string `json:"chain"`

	Error *refusal `json:"error"`
}

// refusal is that it does not do what it was asked.
type refusal struct {
	Code       string `json:"code"`
	Message    string `json:"message"`
	RetryAfter int64  `json:"retry_after_seconds"`
	Versions   []int  `json:"versions"`
}

// errPrivateKey is that an answer has what no answer may have.
var errPrivateKey = fmt.Errorf("%w: there is a private key in the answer, which nobody asked for: it has left its place, so take it for known, and mend the plug-in", ca.ErrInvalid)

// read reads an answer. What is in it is not in an error, but for the message of an error, as it may be anything.
func read(text []byte) (*answer, error) {
	var any map[string]any
	d := json.NewDecoder(bytes.NewReader(text))
	switch err := d.Decode(&any); {
	case hasPrivateKey(string(text)):
		return nil, errPrivateKey
	case err != nil || any == nil:
		return nil, fmt.Errorf("%w: it is not one JSON object: print that to stdout alone, and everything else to stderr", ca.ErrInvalid)
	case hasPrivateKey(any): // written with escapes
		return nil, errPrivateKey
	case d.InputOffset() != int64(len(bytes.TrimRight(text, " \t\r\n"))):
		return nil, fmt.Errorf("%w: something follows the JSON object: print that to stdout alone", ca.ErrInvalid)
	}
	var a answer
	if err := json.Unmarshal(text, &a); err != nil {
		if e, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
			return nil, fmt.Errorf("%w: the field %q is a %s", ca.ErrInvalid, e.Field, e.Value)
		}
		return nil, fmt.Errorf("%w: it cannot be read", ca.ErrInvalid)
	}
	if a.Error != nil {
		return nil, a.Error.err()
	}
	return &a, nil
}

// hasPrivateKey looks for a private key in PEM in whatever was decoded.
func hasPrivateKey(v any) bool {
	switch v := v.(type) {
	case string:
		return strings.Contains(v, "PRIVATE KEY-----")
	case []any:
		return slices.ContainsFunc(v, hasPrivateKey)
	case map[string]any:
		for key, e := range v {
			if hasPrivateKey(key) || hasPrivateKey(e) {
				return true
			}
		}
	}
	return false
}

// Error is what the plug-in says about it.
func (r *refusal) Error() string { return fmt.Sprintf("%.300q", r.Message) }

// err is a refusal in the words of package ca.
func (r *refusal) err() error {
	said := func(kind error) error { return fmt.Errorf("%w: %w", kind, r) }
	after := time.Duration(min(max(r.RetryAfter, 0), int64(maxRetry/time.Second))) * time.Second
	switch r.Code {
	case "denied":
		return said(ca.ErrDenied)
	case "invalid":
		return said(ca.ErrInvalid)
	case "unavailable":
		if after > 0 {
			return &later{said(ca.ErrUnavailable), after}
		}
		return said(ca.ErrUnavailable)
	case "pending":
		if after == 0 {
			after = defaultPending
		}
		return &later{said(ca.ErrPending), after}
	case "unsupported_version":
		return fmt.Errorf("%w: it does not speak version %d of the contract, but %v: %w", ca.ErrInvalid, version, r.Versions, r)
	case "unsupported_op":
		return fmt.Errorf("%w: it does not know the question: %w", ca.ErrInvalid, r)
	}
	return fmt.Errorf("%w: it has the error code %.50q, which the contract has not: %w", ca.ErrInvalid, r.Code, r)
}
