package api

import (
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"iter"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/sds"
)

// leafAnswer is that of /v1/agent/connect/ca/leaf.
type leafAnswer struct {
	SerialNumber             string
	CertPEM                  string
	PrivateKeyPEM            string `json:",omitempty"` // SEC 1, as Consul's
	Service                  string
	ServiceURI               string
	ValidAfter, ValidBefore  string
	CreateIndex, ModifyIndex uint64 `json:",omitempty"`
}

// Bounds of the leafs that are held for callers.
const (
	// idleLeaf is how long after the last question a leaf is kept: who asks again within it gets the same one.
	idleLeaf = time.Hour
	// maxLeafs bounds how many are held.
	maxLeafs = 20_000
	// firstLeaf is how long the first one of a caller may take.
	firstLeaf = 10 * time.Second
)

// leaf answers with the leaf of a service and its key, to who may act in its name. It is made for this caller alone.
func (s *Server) leaf(w http.ResponseWriter, r *http.Request, q *question) {
	a, err := s.leafOf(r, q)
	s.common(w)
	if err != nil {
		s.deny(w, r, q, err)
		return
	}
	s.write(w, r, q, a)
}

// mayHold is the identity whose leaf q asks for, of a service that is registered and that the caller may act for.
func (s *Server) mayHold(r *http.Request, q *question) (id identity.Service, err error) {
	switch {
	case q.name == "":
		return id, failed(http.StatusInternalServerError, "URI must be either workload identity, service, agent, server, or kind")
	case strings.Contains(q.name, "/"):
		st, err := s.current()
		if err != nil {
			return id, err
		}
		mesh := st.view.Mesh()
		return id, failed(http.StatusInternalServerError, "SPIFFE ID is not in the expected format: spiffe://%s/ns/default/dc/%s/svc/%s", mesh.TrustDomain, mesh.Datacenter, q.name)
	}
	if err := s.identify(r, q); err != nil {
		return id, err
	}
	service := serviceNamed(q.name)
	if err := s.config.Authority.Act(r.Context(), &q.caller, service, true); err != nil {
		return id, err
	}
	st, err := s.current()
	if err != nil {
		return id, err
	}
	if err := Registered(st.view, service); err != nil {
		return id, err
	}
	if err := service.Check(); err != nil {
		return id, failed(http.StatusInternalServerError, "the service %q has no SPIFFE ID: %v", q.name, err)
	}
	id = st.view.Identity(service)
	return id, unlessRevoked(st.view, id)
}

// unlessRevoked is the refusal of a leaf of an identity that is revoked.
func unlessRevoked(v *catalog.View, id identity.Service) error {
	if r := v.Revoked().Identity(id); r != nil {
		return failed(http.StatusForbidden, "no certificate: %s", r.Why())
	}
	return nil
}

// stillMayHold is mayHold once more, after a wait: meanwhile the token or the identity may have been revoked, or the service names
// other processes.
func (s *Server) stillMayHold(r *http.Request, q *question, id identity.Service) error {
	if err := s.identify(r, q); err != nil {
		return err
	}
	if err := s.config.Authority.Act(r.Context(), &q.caller, id.Name, true); err != nil {
		return err
	}
	st, err := s.current()
	if err != nil {
		return err
	}
	return unlessRevoked(st.view, id)
}

func (s *Server) leafOf(r *http.Request, q *question) (*answer, error) {
	id, err := s.mayHold(r, q)
	if err != nil {
		return nil, err
	}
	held, err := s.leafs.hold(&q.caller, id)
	if err != nil {
		return nil, err
	}
	defer s.leafs.release(held)
	leave := func() {}
	if q.index > 0 {
		if leave, err = s.waits.enter(q.caller.ID); err != nil {
			return nil, err
		}
	}
	defer leave()
	a, waited, err := held.await(r.Context(), q)
	if err == nil && waited {
		err = s.stillMayHold(r, q, id)
	}
	if err != nil {
		return nil, err
	}
	if held.first(a) {
		s.handOut(q, id, a.chain)
	}
	return a, nil
}

// Registered refuses names that are not those of services as the catalog spells them: certificates are compared byte by byte, so
// another spelling would be another identity. The error is an answer.
func Registered(v *catalog.View, service identity.Name) error {
	for range v.Instances(service) {
		return nil
	}
	for range v.Of(service) {
		return nil
	}
	return failed(http.StatusNotFound, "the service %q is not registered here or, beside Consul, has no sidecar, no connect.native and no selectors: leafs are made for services as they are registered, letter case included", service)
}

// leafKey is whose leaf it is: no two callers share one, so each can be traced.
type leafKey struct {
	caller, token string
	id            identity.Service
}

// heldLeaf is a leaf that a caller has asked for, and its answer.
type heldLeaf struct {
	key   leafKey
	leafs *sds.Leafs
	next  func() uint64

	fetching sync.Mutex // held while the newest is looked for

	mu      sync.Mutex
	svid    *sds.SVID
	answer  *answer
	given   uint64 // the index of the answer that was given last
	changed chan struct{}

	// Guarded by leafs.mu.
	users int
	used  time.Time
}

// leafs are those that are held.
type leafs struct {
	from *sds.Credentials
	next func() uint64

	mu  sync.Mutex
	all map[leafKey]*heldLeaf
}

func (ls *leafs) init(from *sds.Credentials, next func() uint64) {
	ls.from, ls.next, ls.all = from, next, map[leafKey]*heldLeaf{}
}

// hold returns the leaf of id for a caller, which stays until release and some time longer.
func (ls *leafs) hold(c *Caller, id identity.Service) (*heldLeaf, error) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	key := leafKey{c.ID, c.Token, id}
	h := ls.all[key]
	if h == nil {
		if len(ls.all) >= maxLeafs {
			return nil, failed(http.StatusTooManyRequests, "%d leafs are held for applications, as many as may be: some are given up an hour after they were asked for last", maxLeafs)
		}
		h = &heldLeaf{key: key, answer: &answer{}, next: ls.next, changed: make(chan struct{})}
		h.leafs = ls.from.Open(identity.Caller{Application: c.ID, Token: c.Token}, h.wake)
		ls.all[key] = h
	}
	h.users++
	return h, nil
}

func (ls *leafs) release(h *heldLeaf) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	h.users--
	h.used = time.Now()
}

// forget gives up those that nobody asked for in a long time.
func (ls *leafs) forget(now time.Time) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	for key, h := range ls.all {
		if h.users == 0 && now.Sub(h.used) > idleLeaf {
			h.leafs.Close()
			delete(ls.all, key)
		}
	}
}

// each yields the leafs that callers have.
func (ls *leafs) each() iter.Seq2[string, *x509.Certificate] {
	ls.mu.Lock()
	all := slices.Collect(maps.Values(ls.all))
	ls.mu.Unlock()
	return func(yield func(string, *x509.Certificate) bool) {
		for _, h := range all {
			h.mu.Lock()
			chain := h.answer.chain
			h.mu.Unlock()
			if len(chain) > 0 && !yield(h.key.caller, chain[0]) {
				return
			}
		}
	}
}

func (ls *leafs) close() {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	for key, h := range ls.all {
		h.leafs.Close()
		delete(ls.all, key)
	}
}

// wake is called after each new leaf. It does not block for long.
func (h *heldLeaf) wake() {
	h.mu.Lock()
	defer h.mu.Unlock()
	close(h.changed)
	h.changed = make(chan struct{})
}

// now is the newest answer and what is closed when there may be another; its index is 0 as long as there is none.
func (h *heldLeaf) now() (*answer, <-chan struct{}, error) {
	h.mu.Lock()
	changed := h.changed
	h.mu.Unlock()
	h.fetching.Lock() // so that an older one never replaces a newer
	defer h.fetching.Unlock()
	svid := h.leafs.SVID(h.key.id) // calls wake at times, so without the lock
	h.mu.Lock()
	defer h.mu.Unlock()
	if svid == nil || svid == h.svid {
		return h.answer, changed, nil
	}
	n := h.next()
	a := leafAnswerOf(svid.Certificates, h.key.id, n)
	a.PrivateKeyPEM = keyPEM(svid)
	b, err := json.Marshal(a)
	if err != nil {
		return nil, changed, err
	}
	h.svid, h.answer = svid, jsonAnswer(b)
	h.answer.index, h.answer.chain = n, svid.Certificates
	return h.answer, changed, nil
}

// first reports whether an answer is given for the first time; it, or a newer one.
func (h *heldLeaf) first(a *answer) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if a.index <= h.given {
		return false
	}
	h.given = a.index
	return true
}

// await is the leaf that q asks for, if need be after a wait: for another one, or for the first.
func (h *heldLeaf) await(ctx context.Context, q *question) (a *answer, waited bool, err error) {
	first := time.NewTimer(firstLeaf)
	defer first.Stop()
	var timeout <-chan time.Time
	if q.index > 0 {
		t := time.NewTimer(q.duration())
		defer t.Stop()
		timeout = t.C
	}
	for ; ; waited = true {
		var changed <-chan struct{}
		if a, changed, err = h.now(); err != nil {
			return nil, waited, err
		}
		if a.index > 0 && q.index < a.index {
			return a, waited, nil
		}
		none := first.C
		if a.index > 0 {
			none = nil
		}
		select {
		case <-changed:
		case <-none:
			return nil, true, failed(http.StatusInternalServerError, "the leaf of %s is not there after %v: see sallyport's log", h.key.id.Name, firstLeaf)
		case <-timeout:
			if a.index > 0 {
				return a, true, nil
			}
			timeout = nil
		case <-ctx.Done():
			return nil, true, ctx.Err()
		}
	}
}

// leafAnswerOf is the answer with a leaf, without its key.
func leafAnswerOf(chain []*x509.Certificate, id identity.Service, index uint64) leafAnswer {
	leaf := chain[0]
	a := leafAnswer{
		SerialNumber: colonHex(leaf.SerialNumber.Bytes()), Service: id.Service, ServiceURI: id.ID().String(),
		ValidAfter: at(leaf.NotBefore), ValidBefore: at(leaf.NotAfter), CreateIndex: index, ModifyIndex: index,
	}
	for _, c := range chain {
		a.CertPEM += certificatePEM(c)
	}
	return a
}

// keyPEM is a private key as Consul has it: SEC 1 of keys on curves, PKCS #8 of others.
func keyPEM(svid *sds.SVID) string {
	if k, ok := svid.PrivateKey.(*ecdsa.PrivateKey); ok {
		if der, err := x509.MarshalECPrivateKey(k); err == nil {
			return string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}))
		}
	}
	der, err := x509.MarshalPKCS8PrivateKey(svid.PrivateKey)
	if err != nil {
		panic(fmt.Sprintf("api: a key that was verified cannot be marshalled: %v", err))
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}
