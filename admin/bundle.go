package admin

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/url"
	"time"
)

// TrustDomain is what is known of one other trust domain.
type TrustDomain struct {
	Name string `json:"name"`
	// File is where it is defined.
	File string `json:"file"`
	// Source is the URL of its bundle endpoint, whose profile Profile is, or the file of its bundle; Profile is empty then.
	Source  string `json:"source"`
	Profile string `json:"profile,omitempty"`
	// Roots is how many roots are used; 0: nobody of it can be let in.
	Roots int `json:"roots"`
	// Sequence is the bundle's number; nil: it has none.
	Sequence *uint64 `json:"sequence,omitempty"`
	// RefreshSeconds is how often it is asked for, or looked at.
	RefreshSeconds int `json:"refresh_seconds,omitempty"`
	// Confirmed is when the source said it last; zero: not yet.
	Confirmed time.Time `json:"confirmed,omitzero"`
	// Stale says that nobody has confirmed it for three refreshes, or that nothing of it can be used.
	Stale bool `json:"stale,omitempty"`
	// Problem is why there is nothing newer, or why not all of it is used; empty: all is well.
	Problem string `json:"problem,omitempty"`
}

// TrustDomainBundle is the bundle of a trust domain.
type TrustDomainBundle struct {
	TrustDomain string `json:"trust_domain"`
	// Document is the bundle in the SPIFFE format, PEM its certificates.
	Document json.RawMessage `json:"document"`
	PEM      string          `json:"pem"`
}

// ImportRequest is a bundle that is to be another trust domain's.
type ImportRequest struct {
	TrustDomain string `json:"trust_domain"`
	// Text is a document in the SPIFFE format, or certificates in PEM.
	Text string `json:"text"`
	// Try says that nothing is to be changed: what would be is told.
	Try bool `json:"try,omitempty"`
}

// ImportResponse is what an import changes: certificates in words.
type ImportResponse struct {
	Added   []string `json:"added"`
	Removed []string `json:"removed"`
	Kept    []string `json:"kept"`
	// OldSequence and Sequence are the numbers of the bundles; nil: it has none.
	OldSequence *uint64 `json:"old_sequence,omitempty"`
	Sequence    *uint64 `json:"sequence,omitempty"`
}

// BundleEndpoint is how others get the mesh's bundle.
type BundleEndpoint struct {
	TrustDomain string `json:"trust_domain"`
	// URL is empty where there is none.
	URL     string `json:"url,omitempty"`
	Profile string `json:"profile,omitempty"`
	// SPIFFEID is what the endpoint proves to be; empty unless the profile is https_spiffe.
	SPIFFEID       string `json:"spiffe_id,omitempty"`
	Sequence       uint64 `json:"sequence"`
	RefreshSeconds int    `json:"refresh_seconds"`
}

// maxImport bounds a request with a bundle, in which a line's end has two bytes.
const maxImport = 4 << 20

func handleBundles(mux *http.ServeMux, api API, log *slog.Logger) {
	mux.HandleFunc("GET /v1/bundle", func(w http.ResponseWriter, r *http.Request) {
		out, err := api.TrustDomain(r.FormValue("trust_domain"))
		reply(w, out, err)
	})
	mux.HandleFunc("GET /v1/bundle/endpoint", func(w http.ResponseWriter, _ *http.Request) {
		out, err := api.BundleEndpoint()
		reply(w, out, err)
	})
	mux.HandleFunc("POST /v1/bundle/import", func(w http.ResponseWriter, r *http.Request) {
		peer, in, err := requestOf[ImportRequest](w, r, maxImport)
		if err != nil {
			reply(w, nil, err)
			return
		}
		out, err := api.ImportBundle(in)
		if log := audited(log, peer).With("trust_domain", in.TrustDomain); err != nil {
			log.Warn("bundle not imported", "err", err)
		} else if !in.Try {
			log.Info("bundle imported", "gained", out.Added, "lost", out.Removed)
		}
		reply(w, out, err)
	})
}

// Bundle asks for the bundle of a trust domain; the mesh's own if name is empty.
func (c *Client) Bundle(ctx context.Context, name string) (TrustDomainBundle, error) {
	return call[TrustDomainBundle](ctx, c, http.MethodGet, "/v1/bundle?"+url.Values{"trust_domain": {name}}.Encode(), nil)
}

// BundleEndpoint asks how others get the mesh's bundle.
func (c *Client) BundleEndpoint(ctx context.Context) (BundleEndpoint, error) {
	return call[BundleEndpoint](ctx, c, http.MethodGet, "/v1/bundle/endpoint", nil)
}

// ImportBundle has a bundle be that of another trust domain.
func (c *Client) ImportBundle(ctx context.Context, r ImportRequest) (ImportResponse, error) {
	return call[ImportResponse](ctx, c, http.MethodPost, "/v1/bundle/import", r)
}
