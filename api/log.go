package api

import (
	"cmp"
	"crypto/x509"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/sallyport/sallyport/identity"
)

// maxLogged bounds what of a question is logged, in bytes.
const maxLogged = 200

func short(text string) string { return strings.ToValidUTF8(text[:min(len(text), maxLogged)], "") }

// asker is who asked q, as far as that came out.
func (q *question) asker(r *http.Request) string { return cmp.Or(q.caller.ID, peerOf(r).Name) }

// subject is the service that q is about, or whatever else it names.
func (q *question) subject() string {
	return short(cmp.Or(q.target, q.name, q.query.Get("destination"), q.query.Get("name")))
}

// logAnswer says who asked for what. It has nothing of tokens and of answers.
func (s *Server) logAnswer(r *http.Request, q *question, status int, bytes int64, took time.Duration) {
	fields := []any{
		"audit", "request", "peer", q.asker(r), "method", r.Method, "endpoint", q.route.path, "service", q.subject(), "status", status,
		"duration", took, "bytes", bytes,
	}
	if source := cmp.Or(q.source, q.query.Get("source")); source != "" {
		fields = append(fields, "source", short(source))
	}
	if q.reason != "" {
		fields = append(fields, "reason", q.reason)
	}
	s.log.Info("question answered", fields...)
}

// handOut logs and records that a caller gets a leaf, with what signed it.
func (s *Server) handOut(q *question, id identity.Service, chain []*x509.Certificate) {
	leaf := chain[0]
	s.config.Acceptance.FetchedLeaf(identity.Caller{Application: q.caller.ID}, chain)
	s.log.Info("leaf handed out", "audit", "api", "service", id.Service, "serial", leaf.SerialNumber.Text(16), "expires", leaf.NotAfter, "peer", q.caller.ID)
}

// deny answers with an error. That somebody may not have a leaf or a decision is logged, once a minute.
func (s *Server) deny(w http.ResponseWriter, r *http.Request, q *question, err error) {
	if codeOf(err) == http.StatusForbidden {
		d := denial{q.asker(r), q.route.path, q.subject()}
		if s.denials.first(d, peerOf(r).share, time.Now()) {
			text := err.Error()
			if len(text) > 3*maxLogged { // it repeats a name that may have kilobytes
				text = short(text)
			}
			s.log.Info("denied", "audit", "denial", "peer", d.peer, "endpoint", d.endpoint, "service", d.service, "err", text)
		}
	}
	refuse(w, err)
}

// denial is who may not have what.
type denial struct{ peer, endpoint, service string }

// denials are those of the last minute. The zero value has none.
type denials struct {
	mu  sync.Mutex
	end time.Time
	all map[denial]bool
	of  map[string]int // how many of a user or address: tokens may be invented
}

// maxDenials bounds how many are told apart within a minute, and maxDenialsOfPeer how many of one user or address, so that it hides no
// other's; more are not logged.
const (
	maxDenials       = 1000
	maxDenialsOfPeer = 100
)

// first reports whether d, of a user or address, is the first of its kind within a minute.
func (ds *denials) first(d denial, from string, now time.Time) bool {
	ds.mu.Lock()
	defer ds.mu.Unlock()
	if now.After(ds.end) {
		ds.end, ds.all, ds.of = now.Add(time.Minute), map[denial]bool{}, map[string]int{}
	}
	if ds.all[d] || len(ds.all) >= maxDenials || ds.of[from] >= maxDenialsOfPeer {
		return false
	}
	ds.all[d] = true
	ds.of[from]++
	return true
}
