package api

import (
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/intention"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// connectAuthorizeRequest is the body of /v1/agent/connect/authorize. Its name is in the texts of errors.
type connectAuthorizeRequest struct {
	Target           string
	ClientCertURI    string
	ClientCertSerial string
}

type authorizeAnswer struct {
	Authorized bool
	Reason     string
}

// inConsulsWords is for the errors of Go's decoder, which name the type.
var inConsulsWords = strings.NewReplacer("api.connectAuthorizeRequest", "structs.ConnectAuthorizeRequest", "connectAuthorizeRequest.", "ConnectAuthorizeRequest.")

// maxBody bounds the body of a question, as Consul does.
const maxBody = 512 << 10

// readTime is what a body may take on its way.
const readTime = 10 * time.Second

// authorize says whether the application of a service may take a connection of a certificate.
func (s *Server) authorize(w http.ResponseWriter, r *http.Request, q *question) {
	a, err := s.authorized(w, r, q)
	s.common(w)
	if err != nil {
		s.deny(w, r, q, err)
		return
	}
	b, _ := json.Marshal(a) // of texts and a bool
	s.write(w, r, q, &answer{code: http.StatusOK, body: b})
}

func (s *Server) authorized(w http.ResponseWriter, r *http.Request, q *question) (authorizeAnswer, error) {
	var in connectAuthorizeRequest
	if err := in.decode(w, r); err != nil {
		return authorizeAnswer{}, failed(http.StatusBadRequest, "Request decode failed: %s", inConsulsWords.Replace(err.Error()))
	}
	v, target, source, err := s.mayAuthorize(r, q, &in)
	if err != nil {
		return authorizeAnswer{}, err
	}
	a := authorizeAnswerOf(decide(v, target, source, in.ClientCertSerial, "", nil))
	q.reason = a.Reason
	return a, nil
}

// mayAuthorize is what a question is about and what it is answered from, or why it is not answered. The order of the checks is Consul's.
func (s *Server) mayAuthorize(r *http.Request, q *question, in *connectAuthorizeRequest) (v *catalog.View, target identity.Name, source identity.ID, err error) {
	q.target, q.source = in.Target, in.ClientCertURI
	if in.Target == "" {
		return nil, target, source, failed(http.StatusBadRequest, "Target service must be specified")
	}
	if source, err = sourceOf(in.ClientCertURI); err != nil {
		return nil, target, source, err
	}
	if st, e := s.current(); e == nil {
		if err = unlessNoService(source, st.view); err != nil {
			return nil, target, source, err
		}
	}
	if err = s.identify(r, q); err != nil {
		return nil, target, source, err
	}
	target = serviceNamed(in.Target)
	if err = s.config.Authority.Act(r.Context(), &q.caller, target, false); err != nil {
		return nil, target, source, err
	}
	st, err := s.current()
	if err != nil {
		return nil, target, source, err
	}
	if v = st.view; s.config.Knowing != nil {
		v, err = s.config.Knowing(r.Context(), q.caller.ID, target)
	}
	if err == nil {
		err = unlessNoService(source, v)
	}
	return v, target, source, err
}

// unlessNoService is the refusal of an identity of the mesh that is no service's: an agent's, a gateway's.
func unlessNoService(source identity.ID, v *catalog.View) error {
	if _, service := source.Service(); service || v.Mesh() == nil || source.TrustDomain() != v.Mesh().TrustDomain {
		return nil
	}
	return failed(http.StatusBadRequest, "ClientCertURI not a valid Service identifier")
}

// sourceOf reads the identity of a certificate, of whichever trust domain. Consul takes spellings that are no SPIFFE IDs; they are
// refused here.
func sourceOf(uri string) (identity.ID, error) {
	source, err := identity.ParseID(uri)
	if err == nil {
		return source, nil
	}
	if _, err := spiffeid.FromString(uri); err != nil {
		return "", failed(http.StatusBadRequest, "ClientCertURI not a valid Connect identifier")
	}
	return "", failed(http.StatusBadRequest, "ClientCertURI not a valid Service identifier")
}

// decide is what v says of a connection, or a request if r is not nil, of a certificate, of which the serial number and the SHA-256 may be empty or written
// in any way that Consul takes: what is no number is revoked by nobody.
func decide(v *catalog.View, target identity.Name, source identity.ID, serial, digest string, r *intention.Request) intention.Decision {
	if all := v.Revoked(); all.Len() > 0 {
		if r := all.Certificate(revokedForm(serial), strings.ToLower(strings.ReplaceAll(digest, ":", ""))); r != nil {
			return intention.Decision{Reason: intention.ByRevocation, Revocation: r}
		}
	}
	if r != nil {
		return v.DecideRequest(source, target, r)
	}
	return v.DecideID(source, target)
}

// revokedForm is a serial number as revocations have it.
func revokedForm(serial string) string {
	return strings.TrimLeft(strings.ToLower(strings.NewReplacer(":", "", "-", "", " ", "").Replace(serial)), "0")
}

func authorizeAnswerOf(d intention.Decision) authorizeAnswer {
	return authorizeAnswer{Authorized: d.Allowed(), Reason: reason(d)}
}

// reason is a decision in Consul's words, where it has some.
func reason(d intention.Decision) string {
	switch {
	case d.Intention != nil:
		i := d.Intention
		action := "DENY"
		if d.Allowed() {
			action = "ALLOW"
		}
		source := i.Source.Namespace + "/" + i.Source.Service
		if i.Source.ID != "" {
			source = string(i.Source.ID)
		}
		head := source + " => " + i.Destination.Namespace + "/" + i.Destination.Service + " (Precedence: " + strconv.Itoa(i.Precedence())
		if d.Reason != intention.ByIntention || d.Permission > 0 {
			return l7Reason(d, head)
		}
		return "Matched L4 intention: " + head + ", Action: " + action + ")"
	case d.Revocation != nil:
		return d.Revocation.Why()
	case d.Reason == intention.ByDefault:
		return "Default intention policy"
	default:
		return d.Reason.String()
	}
}
