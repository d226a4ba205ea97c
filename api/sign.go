package api

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/sallyport/sallyport/identity"
)

// Sign signs a certificate request in PEM for the identity of a service, in the name of a caller, and records the leaf. It returns the
// leaf and after it each certificate that signed the one before, without the root. Of an error that Refused made the text is the answer's.
type Sign func(ctx context.Context, c identity.Caller, id identity.Service, request []byte) ([]*x509.Certificate, error)

// Bounds of signing. Each leaf that is signed is kept in a record until its end, so one caller must not fill it.
const (
	maxRequestBody = 64 << 10
	// burst is how many leafs a caller is given at once, and refill how long it takes until it may have one more.
	burst  = 100
	refill = 5 * time.Second
	// maxSigning is how many are signed at one time.
	maxSigning = 4
)

// sign answers with a leaf for the key of a certificate request, to who may act in the service's name.
func (s *Server) sign(w http.ResponseWriter, r *http.Request, q *question) {
	a, err := s.signed(w, r, q)
	s.common(w)
	if err != nil {
		s.deny(w, r, q, err)
		return
	}
	s.write(w, r, q, a)
}

func (s *Server) signed(w http.ResponseWriter, r *http.Request, q *question) (*answer, error) {
	if s.config.Sign == nil {
		return nil, failed(http.StatusNotImplemented, "Consul's agent signs no certificate requests, it makes the keys of leafs itself: ask GET /v1/agent/connect/ca/leaf/%s", q.name)
	}
	request, errRequest := csrOf(http.MaxBytesReader(w, r.Body, maxRequestBody))
	id, err := s.mayHold(r, q) // after the body, which may take its time
	if err != nil {
		return nil, err
	}
	if errRequest != nil {
		return nil, failed(http.StatusBadRequest, "Request decode failed: %s", errRequest)
	}
	if wait := s.signings.take(q.caller.ID, time.Now()); wait > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(wait.Seconds())+1))
		return nil, failed(http.StatusTooManyRequests, "%s had %d leafs signed in a short time, as many as may be: keep a leaf until half of its life is over", q.caller.ID, burst)
	}
	select {
	case s.signings.now <- struct{}{}:
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
	chain, err := s.config.Sign(r.Context(), identity.Caller{Application: q.caller.ID, Token: q.caller.Token}, id, request)
	<-s.signings.now
	if err == nil {
		err = s.stillMayHold(r, q, id)
	}
	if err != nil {
		return nil, err
	}
	s.handOut(q, id, chain)
	b, err := json.Marshal(leafAnswerOf(chain, id, 0))
	return jsonAnswer(b), err
}

// csrOf is the certificate request in a body: PEM, or an object with it.
func csrOf(body io.Reader) ([]byte, error) {
	b, err := io.ReadAll(body)
	if err != nil || !bytes.HasPrefix(bytes.TrimSpace(b), []byte("{")) {
		return b, err
	}
	var in struct{ CSR string }
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&in); err != nil {
		if wrong := (*json.UnmarshalTypeError)(nil); errors.As(err, &wrong) { // its text has Go's names
			err = fmt.Errorf("%s: a %s is of no use there", wrong.Field, wrong.Value)
		}
		return nil, err
	}
	if !ended(d) {
		return nil, errors.New("something follows the object")
	}
	return []byte(in.CSR), nil
}

// signings bound the leafs that are signed. Use init.
type signings struct {
	now chan struct{} // one for each that is being signed

	mu  sync.Mutex
	had map[string]time.Time // by caller: when it will have all of its burst again
}

func (s *signings) init() { s.now, s.had = make(chan struct{}, maxSigning), map[string]time.Time{} }

// take counts one leaf of a caller, or returns how long it has to wait for it.
func (s *signings) take(caller string, now time.Time) (wait time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	full := s.had[caller]
	if full.Before(now) {
		full = now
	}
	if wait = full.Add(refill).Sub(now) - burst*refill; wait <= 0 {
		s.had[caller] = full.Add(refill)
	}
	return wait
}

// forget drops the callers that have all of their burst again.
func (s *signings) forget(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for caller, full := range s.had {
		if full.Before(now) {
			delete(s.had, caller)
		}
	}
}
