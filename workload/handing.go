package workload

import (
	"context"
	"errors"
	"slices"

	"github.com/sallyport/sallyport/acceptance"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/sds"
)

// handing records what a process is given on a stream, and what it has accepted of it. It is for one goroutine.
type handing struct {
	server *Server
	conn   *conn
	stream *acceptance.Stream // nil: nothing was given yet
	// unanswered are responses of SDS, oldest first.
	unanswered []handed
}

// handed is what a response has.
type handed struct {
	nonce string
	roots *sds.Roots // nil: none
	leafs []*sds.SVID
}

// maxUnanswered is how many responses are remembered. Who leaves more of them unanswered has accepted none.
const maxUnanswered = 16

// open is the stream in the record.
func (h *handing) open() *acceptance.Stream {
	if h.stream == nil {
		h.stream = h.server.acceptance.Open(h.caller())
	}
	return h.stream
}

func (h *handing) caller() identity.Caller {
	return identity.Caller{Application: application(h.conn.process)}
}

// close ends the stream, which ended with err. One that ends while the server stops may be cut off by it.
func (h *handing) close(ctx context.Context, err error) {
	byPeer := ctx.Err() != nil || errors.Is(err, errGone)
	select {
	case <-h.server.closing:
		byPeer = false
	default:
	}
	h.stream.Close(byPeer)
}

// sent notes a response with secrets of a.
func (h *handing) sent(nonce string, a *answer, secrets []secret) {
	o := handed{nonce: nonce}
	o.roots, o.leafs = a.within(secrets)
	h.open().Give(o.roots, o.leafs...)
	if len(h.unanswered) == maxUnanswered {
		h.unanswered = h.unanswered[1:]
	}
	h.unanswered = append(h.unanswered, o)
}

// answered notes that the response with that nonce was accepted, or refused, and that no earlier one will be.
func (h *handing) answered(nonce string, refused bool) {
	i := slices.IndexFunc(h.unanswered, func(o handed) bool { return o.nonce == nonce })
	if i < 0 {
		return
	}
	o := h.unanswered[i]
	h.unanswered = h.unanswered[i+1:]
	if !refused {
		h.open().Accept(o.roots, o.leafs)
	}
}

// leafs are those of a.
func (a *answer) leafs() (all []*sds.SVID) {
	for _, o := range a.svids {
		all = append(all, o.raw)
	}
	return all
}

// within are the roots, nil if there are none, and the leafs in secrets of a.
func (a *answer) within(secrets []secret) (roots *sds.Roots, leafs []*sds.SVID) {
	for _, s := range secrets {
		if a.of(s.name) != nil {
			continue // they say nothing of the mesh's own
		}
		switch svid := a.named(s.name); {
		case svid == nil:
			roots = a.roots
		case !slices.Contains(leafs, svid.raw):
			leafs = append(leafs, svid.raw)
		}
	}
	return roots, leafs
}
