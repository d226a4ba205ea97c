package api

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/sallyport/sallyport/intention"
	"github.com/sallyport/sallyport/sds"
)

// rendered is the answer to q in st, without its index.
func rendered(st *state, q *question) *answer {
	v, err := q.route.render(st, q)
	if err != nil {
		return &answer{code: codeOf(err), body: []byte(err.Error()), kind: textPlain}
	}
	if t, ok := v.(text); ok {
		return &answer{code: http.StatusOK, body: t.body, kind: t.kind, roots: t.roots}
	}
	b, err := json.Marshal(v)
	if err != nil {
		return &answer{code: http.StatusInternalServerError, body: []byte(err.Error()), kind: textPlain}
	}
	a := jsonAnswer(b)
	if h, ok := v.(*agentAnswer); ok {
		a.hash = h.ContentHash
	}
	if _, ok := v.(rootsAnswer); ok {
		a.roots = st.roots
	}
	return a
}

func jsonAnswer(b []byte) *answer {
	a := &answer{code: http.StatusOK, body: b}
	if len(b) >= minZip {
		a.zip = &zipped{}
	}
	return a
}

// text is an answer that is no JSON.
type text struct {
	kind string
	body []byte
	// roots are those in body; nil: it has none.
	roots *sds.Roots
}

const textPlain = "text/plain; charset=utf-8"

// ask returns the answer to q, if need be after a wait for another than the asker knows.
func (s *Server) ask(r *http.Request, q *question) (*answer, error) {
	hash := ""
	if q.route.hashed {
		hash = q.query.Get("hash")
	}
	if (q.index > 0 || hash != "") && q.route.wait > 0 {
		leave, err := s.waits.enter(q.caller.ID)
		if err != nil {
			return nil, err
		}
		defer leave()
		return s.wait(r.Context(), q, s.topics.get(q, true), hash)
	}
	t := s.topics.get(q, false)
	a, _ := t.bring(s.state.Load(), false)
	s.topics.weigh(t)
	return a, nil
}

// wait is the answer of t, which is left at the end, when it is another than the asker of q knows. Thousands wait, each with the stack that
// it took until then: what needs more of it has returned before.
func (s *Server) wait(ctx context.Context, q *question, t *topic, hash string) (*answer, error) {
	defer s.topics.leave(t, q.caller.ID)
	timer := time.NewTimer(q.duration())
	defer timer.Stop()
	for first := true; ; first = false {
		a, changed := t.bring(s.state.Load(), true) // from now on the next state wakes t
		if q.route.hashed && hash != a.hash || !q.route.hashed && q.index < a.index {
			return a, nil
		}
		if first {
			if err := s.topics.hold(t, q.caller.ID); err != nil {
				return nil, err
			}
		}
		select {
		case <-changed:
		case <-timer.C:
			return a, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// duration is how long q waits at most.
func (q *question) duration() time.Duration {
	d := q.wait
	if d == 0 {
		d = q.route.wait
	}
	if q.route.jitter {
		d += rand.N(d/16 + 1)
	}
	return d
}

// Header values that never change. Nobody changes them.
var (
	jsonType        = []string{"application/json"}
	textType        = []string{textPlain}
	vary            = []string{"Accept-Encoding"}
	yes             = []string{"true"}
	leaders         = []string{"leader"}
	stale           = []string{"stale"}
	consistent      = []string{"consistent"}
	zero            = []string{"0"}
	gzipped         = []string{"gzip"}
	backend         = []string{"blocking-query"}
	defaultPolicies = map[intention.Action][]string{intention.Deny: {"deny"}, intention.Allow: {"allow"}}
)

// write answers with a and returns its status code.
func (s *Server) write(w http.ResponseWriter, r *http.Request, q *question, a *answer) int {
	h := w.Header()
	if a.code != http.StatusOK && a.code != http.StatusNotFound {
		return refuse(w, failure{a.code, string(a.body)})
	}
	if a.hash != "" {
		h["X-Consul-Contenthash"] = []string{a.hash}
	}
	if a.index > 0 && !q.route.noIndex {
		h["X-Consul-Index"] = []string{strconv.FormatUint(a.index, 10)}
	}
	if !q.route.bare {
		h["X-Consul-Knownleader"] = yes
		h["X-Consul-Lastcontact"] = zero // without it consul/api reads none of the headers that follow
		h["X-Consul-Query-Backend"] = backend
	}
	if q.route.consistency {
		h["X-Consul-Effective-Consistency"] = q.consistency()
	}
	body := a.body
	switch a.kind {
	case "":
		h["Content-Type"] = jsonType
		if q.pretty {
			if len(body) > largeBody*4 {
				done, err := s.enlarge(r)
				if err != nil {
					return refuse(w, err)
				}
				defer done()
			}
			body = indented(body)
		} else if a.zip != nil && strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
			body = a.zip.of(body)
			h["Content-Encoding"] = gzipped
		}
	case textPlain:
		h["Content-Type"] = textType
	default:
		h["Content-Type"] = []string{a.kind}
	}
	h["Content-Length"] = []string{strconv.Itoa(len(body))}
	w.WriteHeader(a.code)
	_, _ = w.Write(body) // who does not read gets nothing
	return a.code
}

// consistency is the one that was asked for: all are the same here.
func (q *question) consistency() []string {
	switch {
	case q.has("stale"), q.has("max_stale"):
		return stale
	case q.has("consistent"):
		return consistent
	}
	return leaders
}

// refuse answers with an error.
func refuse(w http.ResponseWriter, err error) int {
	w.Header()["Content-Type"] = textType
	code := codeOf(err)
	w.WriteHeader(code)
	_, _ = w.Write([]byte(err.Error()))
	return code
}

// indented is what ?pretty asks for.
func indented(b []byte) []byte {
	var out bytes.Buffer
	if json.Indent(&out, b, "", "    ") != nil {
		return b
	}
	out.WriteByte('\n')
	return out.Bytes()
}

// minZip is the length from which on answers are compressed, for those who ask for it.
const minZip = 1400

// zipped is a body compressed once, for all who ask for it.
type zipped struct {
	once sync.Once
	body []byte
}

func (z *zipped) of(body []byte) []byte {
	z.once.Do(func() {
		var b bytes.Buffer
		w, _ := gzip.NewWriterLevel(&b, gzip.BestSpeed) // the level is one that there is
		_, _ = w.Write(body)
		_ = w.Close()
		z.body = b.Bytes()
	})
	return z.body
}
