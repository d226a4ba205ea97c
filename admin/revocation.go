package admin

import (
	"context"
	"log/slog"
	"net/http"
	"time"
)

// Revocation is what is revoked: a certificate if Serial or SHA256 is set, else the identity ID.
type Revocation struct {
	// ID is the SPIFFE ID, of a certificate its holder's; empty: not known.
	ID     string `json:"spiffe_id,omitempty"`
	Serial string `json:"serial,omitempty"` // hexadecimal: "01:02"
	SHA256 string `json:"sha256,omitempty"` // of the DER, in hexadecimal
	// Until is when it ends by itself; zero: not before it is undone.
	Until time.Time `json:"until,omitzero"`
	// Reason, By and At are as the one who revoked it said; Origin is where it is written: "revoked.yaml:3".
	Reason string    `json:"reason,omitempty"`
	By     string    `json:"by,omitempty"`
	At     time.Time `json:"at,omitzero"`
	Origin string    `json:"origin,omitempty"`
}

// Revocations are those in force, and where they are written.
type Revocations struct {
	// Where is "the catalog directory /etc/…" or "Consul's key …".
	Where string       `json:"where"`
	All   []Revocation `json:"revoked"`
	// Problem is why what is written there may be something else: it cannot be read. Empty: it is not.
	Problem string `json:"problem,omitempty"`
}

// RevocationRequest asks that a certificate or an identity be nobody's any more, or, to undo that, somebody's again. Either ID is set, or
// Serial, SHA256 or both.
type RevocationRequest struct {
	ID string `json:"spiffe_id,omitempty"`
	// Serial is the number in hexadecimal, or its beginning, SHA256 the digest of the DER.
	Serial string `json:"serial,omitempty"`
	SHA256 string `json:"sha256,omitempty"`
	// Holder and Ends are what stands in the certificate, where who asks has it.
	Holder string    `json:"holder,omitempty"`
	Ends   time.Time `json:"ends,omitzero"`
	// Until is when the revocation is to end; zero: with the certificate, of an identity not before it is undone.
	Until  time.Time `json:"until,omitzero"`
	Reason string    `json:"reason,omitempty"`
	// Undo asks for the opposite.
	Undo bool `json:"undo,omitempty"`
	// Written says that who asks has written it, as the control plane may not: it reads what is written, and says what that did.
	Written bool `json:"written,omitempty"`
	// Token is Consul's, of who asks, with which the list is written; empty: the control plane's own.
	Token string `json:"token,omitempty"`
}

// LogValue keeps the token out of logs.
func (r RevocationRequest) LogValue() slog.Value { return slog.StringValue(r.String()) }

// String keeps the token out of whatever prints a request.
func (r RevocationRequest) String() string {
	switch {
	case r.ID != "":
		return r.ID
	case r.Serial != "":
		return "certificate " + r.Serial
	}
	return "certificate of SHA-256 " + r.SHA256
}

// RevocationResponse says what became of a RevocationRequest.
type RevocationResponse struct {
	// What is that which is revoked now, or no more.
	What []Revocation `json:"what"`
	// Issued says that the certificate was issued by this control plane.
	Issued bool `json:"issued"`
	// Change is the number of the catalog's change that it was, for Client.Change; 0: none yet.
	Change uint64 `json:"change,omitempty"`
	// Services are those whose sidecars on this node let it in or had let it in, and do something else now.
	Services []RevokedAt `json:"services,omitempty"`
	// UsedBy are those to whom this control plane gives the certificate: "proxy web-sidecar-proxy". Rotated are the new leafs that they
	// have in its place.
	UsedBy  []string      `json:"used_by,omitempty"`
	Rotated []RotatedLeaf `json:"rotated,omitempty"`
	// Notes say what else who asked should know.
	Notes []string `json:"notes,omitempty"`
	// Unwritten is the catalog directory that the control plane may not write to, and has not: nothing has changed. Who asks may. Why is
	// the reason.
	Unwritten string `json:"unwritten,omitempty"`
	Why       string `json:"why,omitempty"`
}

// RevokedAt is a service that what is revoked may not connect to any more.
type RevokedAt struct {
	Service string `json:"service"`
	// Enforcement is who refuses it: "rbac", "ext_authz" or "both". Live is what becomes of live connections: "drain", "new" or
	// "next-request".
	Enforcement string `json:"enforcement"`
	Live        string `json:"live"`
	Sidecars    int    `json:"sidecars"`
}

func handleRevocations(mux *http.ServeMux, api API, log *slog.Logger) {
	mux.HandleFunc("GET /v1/revocation/list", func(w http.ResponseWriter, _ *http.Request) { reply(w, api.Revoked(), nil) })
	mux.HandleFunc("POST /v1/revocation", func(w http.ResponseWriter, r *http.Request) {
		peer, in, err := request[RevocationRequest](w, r)
		if err != nil {
			reply(w, nil, err)
			return
		}
		out, err := api.ChangeRevoked(r.Context(), peer, in)
		log := audited(log, peer).With("source", in.ID, "serial", in.Serial, "reason", in.Reason)
		verb := map[bool]string{false: "revocation", true: "end of a revocation"}[in.Undo]
		switch {
		case err != nil:
			log.Warn("what is revoked not changed", "status", verb, "err", err)
		case out.Unwritten == "":
			log.Info("what is revoked changed", "status", verb, "count", len(out.What))
		}
		reply(w, out, err)
	})
}

// Revoked asks what is revoked.
func (c *Client) Revoked(ctx context.Context) (Revocations, error) {
	return call[Revocations](ctx, c, http.MethodGet, "/v1/revocation/list", nil)
}

// ChangeRevoked has a certificate or an identity be revoked, or no more, and returns when the control plane refuses it, or does not.
func (c *Client) ChangeRevoked(ctx context.Context, r RevocationRequest) (RevocationResponse, error) {
	return call[RevocationResponse](ctx, c, http.MethodPost, "/v1/revocation", r)
}
