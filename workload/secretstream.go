package workload

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"io"
	"slices"
	"strconv"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	secretv3 "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// maxNames bounds how many secrets a stream is about.
const maxNames = 1000

// secretStream serves a stream of SDS: whoever is no service is refused before a message is read.
// take handles a request, with what was told last, which may be nil; tell sends what is new.
func secretStream[Request any](s *Server, stream interface {
	Context() context.Context
	Recv() (*Request, error)
}, take func(*Request, *answer) error, tell func(*answer) error,
) error {
	ctx := stream.Context()
	c, err := connOf(ctx)
	if err != nil {
		return err
	}
	v, err := s.view()
	if err != nil {
		return err
	}
	if _, err := s.grants(ctx, v, c.process); err != nil {
		return err
	}
	more := make(chan func(*answer) error)
	go func() { // it ends with the stream, which ends with this function
		defer close(more)
		for {
			r, err := stream.Recv()
			f := func(a *answer) error { return take(r, a) }
			if err != nil {
				f = func(*answer) error { return err }
			}
			select {
			case more <- f:
			case <-ctx.Done():
				return
			}
			if err != nil {
				return
			}
		}
	}()
	err = s.follow(ctx, c, more, tell)
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// checkType refuses a request for something else than secrets.
func checkType(url string) error {
	if url != "" && url != secretType {
		return status.Errorf(codes.InvalidArgument, "%.200q: secrets are all that is served here", url)
	}
	return nil
}

// noteRefusal logs that an Envoy refused what it was sent.
func (s *Server) noteRefusal(c *conn, detail *rpcstatus.Status) {
	if detail == nil {
		return
	}
	text := detail.GetMessage()
	s.metrics.refused.Inc()
	s.log.Info("secrets refused", "audit", "nack", "type_url", secretType, "status", "refused", "uid", c.process.UID, "pid", c.process.PID, "err", text[:min(len(text), 1000)])
}

func newNonce() string {
	raw := make([]byte, 4)
	_, _ = rand.Read(raw) // which does not fail
	return hex.EncodeToString(raw)
}

// StreamSecrets is the state of the world: each response has all secrets of the stream. What they
// are named the package's secrets say; no names are all that the process has.
func (s *Server) StreamSecrets(stream grpc.BidiStreamingServer[discoveryv3.DiscoveryRequest, discoveryv3.DiscoveryResponse]) error {
	c, err := connOf(stream.Context())
	if err != nil {
		return err
	}
	w := &world{handing: handing{server: s, conn: c}, send: stream.Send}
	err = secretStream(s, stream, w.take, w.tell)
	w.close(stream.Context(), err)
	return err
}

// world is the state of a stream of the state of the world.
type world struct {
	handing
	send func(*discoveryv3.DiscoveryResponse) error

	asked   bool // the first request has come
	dialect dialect
	names   []string // sorted; none: all
	nonce   string
	version int
	told    []string // the versions of what was sent, in order; nil: nothing was
}

func (w *world) take(r *discoveryv3.DiscoveryRequest, a *answer) error {
	if err := checkType(r.GetTypeUrl()); err != nil {
		return err
	}
	w.server.noteRefusal(w.conn, r.GetErrorDetail())
	w.answered(r.GetResponseNonce(), r.GetErrorDetail() != nil)
	if w.nonce != "" && r.GetResponseNonce() != w.nonce {
		return nil // it is about an earlier response; another request follows
	}
	if len(r.GetResourceNames()) > maxNames {
		return status.Errorf(codes.InvalidArgument, "%d secrets on one stream: at most %d", len(r.GetResourceNames()), maxNames)
	}
	names := slices.Compact(slices.Sorted(slices.Values(r.GetResourceNames())))
	if w.asked && slices.Equal(names, w.names) {
		return nil
	}
	if !w.asked {
		w.dialect = dialectOf(r.GetNode()) // it is large, so no more of it is kept
	}
	w.asked, w.names, w.told = true, names, nil
	return w.tell(a)
}

// tell sends all secrets, if they are other ones.
func (w *world) tell(a *answer) error {
	if a == nil || !w.asked {
		return nil
	}
	names := w.names
	if len(names) == 0 {
		names = a.names()
	}
	found, missing, err := a.secrets(names, w.dialect)
	switch {
	case err != nil:
		return err
	case len(missing) > 0:
		return w.server.errMissing(w.conn.process, missing, w.told != nil)
	}
	versions := make([]string, len(found))
	out := &discoveryv3.DiscoveryResponse{TypeUrl: secretType, Nonce: newNonce()}
	for i, o := range found {
		versions[i] = o.name + "=" + o.version
		out.Resources = append(out.Resources, o.any)
	}
	if w.told != nil && slices.Equal(versions, w.told) {
		return nil
	}
	w.version++
	out.VersionInfo = strconv.Itoa(w.version)
	w.told, w.nonce = versions, out.GetNonce()
	w.sent(out.GetNonce(), a, found)
	return w.send(out)
}

// FetchSecrets is one response of StreamSecrets.
func (s *Server) FetchSecrets(ctx context.Context, r *discoveryv3.DiscoveryRequest) (*discoveryv3.DiscoveryResponse, error) {
	c, err := connOf(ctx)
	if err != nil {
		return nil, err
	}
	a, err := s.now(ctx, c)
	if err != nil {
		return nil, err
	}
	var out *discoveryv3.DiscoveryResponse
	w := &world{handing: handing{server: s, conn: c}, send: func(m *discoveryv3.DiscoveryResponse) error { out = m; return nil }}
	if err := w.take(r, a); err != nil {
		return nil, err
	}
	w.answered(out.GetNonce(), false)
	w.close(ctx, nil)
	return out, nil
}

// DeltaSecrets is the incremental variant: a response has the secrets that are new to the stream.
func (s *Server) DeltaSecrets(stream grpc.BidiStreamingServer[discoveryv3.DeltaDiscoveryRequest, discoveryv3.DeltaDiscoveryResponse]) error {
	c, err := connOf(stream.Context())
	if err != nil {
		return err
	}
	d := &delta{handing: handing{server: s, conn: c}, send: stream.Send, has: map[string]string{}, names: map[string]bool{}}
	err = secretStream(s, stream, d.take, d.tell)
	d.close(stream.Context(), err)
	return err
}

// delta is the state of an incremental stream.
type delta struct {
	handing
	send func(*discoveryv3.DeltaDiscoveryResponse) error

	asked   bool // the first request has come
	dialect dialect
	names   map[string]bool
	all     bool              // whatever the process has, beside the names
	has     map[string]string // the version of each secret that the other end has; empty: it may not have it
	version int
}

func (d *delta) take(r *discoveryv3.DeltaDiscoveryRequest, a *answer) error {
	if err := checkType(r.GetTypeUrl()); err != nil {
		return err
	}
	d.server.noteRefusal(d.conn, r.GetErrorDetail())
	d.answered(r.GetResponseNonce(), r.GetErrorDetail() != nil)
	if !d.asked {
		d.asked, d.dialect = true, dialectOf(r.GetNode()) // it is large, so no more of it is kept
		d.all = len(r.GetResourceNamesSubscribe()) == 0
		for name, version := range r.GetInitialResourceVersions() {
			if len(d.has) < maxNames {
				d.has[name] = version
			}
		}
	}
	for _, name := range r.GetResourceNamesUnsubscribe() {
		if name == "*" {
			d.all = false
		}
		delete(d.names, name)
		delete(d.has, name)
	}
	for _, name := range r.GetResourceNamesSubscribe() {
		switch {
		case name == "*":
			d.all = true
		case d.names[name]:
			delete(d.has, name) // it wants it once more
		default:
			d.names[name] = true
		}
	}
	if len(d.names) > maxNames {
		return status.Errorf(codes.InvalidArgument, "%d secrets on one stream: at most %d", len(d.names), maxNames)
	}
	return d.tell(a)
}

// tell sends the secrets that the other end does not have, and the names of those that are gone.
func (d *delta) tell(a *answer) error {
	if a == nil || !d.asked {
		return nil
	}
	wanted := map[string]bool{}
	for name := range d.names {
		wanted[name] = true
	}
	if d.all {
		for _, name := range a.names() {
			wanted[name] = true
		}
	}
	names := make([]string, 0, len(wanted))
	for name := range wanted {
		names = append(names, name)
	}
	slices.Sort(names)
	found, missing, err := a.secrets(names, d.dialect)
	switch {
	case err != nil:
		return err
	case len(missing) > 0:
		return d.server.errMissing(d.conn.process, missing, slices.ContainsFunc(missing, func(n string) bool { return d.has[n] != "" }))
	}
	out := &discoveryv3.DeltaDiscoveryResponse{TypeUrl: secretType, Nonce: newNonce()}
	var news []secret
	for _, o := range found {
		if d.has[o.name] != o.version {
			d.has[o.name] = o.version
			news = append(news, o)
			out.Resources = append(out.Resources, &discoveryv3.Resource{Name: o.name, Version: o.version, Resource: o.any})
		}
	}
	for name := range d.has {
		if !wanted[name] {
			delete(d.has, name)
			out.RemovedResources = append(out.RemovedResources, name)
		}
	}
	slices.Sort(out.RemovedResources)
	if len(out.GetResources())+len(out.GetRemovedResources()) == 0 {
		return nil
	}
	d.version++
	d.sent(out.GetNonce(), a, news)
	out.SystemVersionInfo = strconv.Itoa(d.version)
	return d.send(out)
}

// The streams are what the generated code wants them to be.
var _ secretv3.SecretDiscoveryServiceServer = (*Server)(nil)
