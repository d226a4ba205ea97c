package admission

import (
	"context"
	"sync"
	"sync/atomic"

	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/internal/connlimit"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/tap"
)

// admitted is what is known of a stream since its headers came.
type admitted struct {
	conn   *connection
	name   string // of the method
	caller identity.Caller
	// known is whether the token was judged. If not, the caller is who the stream calls itself.
	known bool
	// reading is what reading a message waits for; nil: nothing.
	reading chan struct{}
	// leave counts the stream out, from whatever it is counted among.
	mu    sync.Mutex
	leave func()
	ended bool
	// again judges its token once more, by what is known; cancel has its handler end.
	again  func() error
	cancel context.CancelCauseFunc
	// rejudged is what the gate's was when the token was judged.
	rejudged uint64
}

type admittedKey struct{}

// tap judges a stream by its headers. It does not block. gRPC calls it on the goroutine that reads
// the connection.
func (g *Gate) tap(ctx context.Context, info *tap.Info) (context.Context, error) {
	conn := connectionOf(ctx)
	if conn == nil {
		return ctx, status.Error(codes.Internal, "the connection did not come by the gate")
	}
	a := &admitted{conn: conn, name: info.FullMethodName}
	m, ok := g.methods[a.name]
	if !ok {
		return ctx, g.refuse(a, status.Error(codes.Unimplemented, "there is no such method here"))
	}
	a.rejudged = g.rejudged.Load()
	var err error
	if a.caller, a.known, err = g.config.Callers.Admit(ctx, m.stream); err != nil {
		return ctx, g.refuse(a, err)
	}
	if a.known {
		err = g.enter(a)
	} else {
		err = g.await(a)
	}
	if err != nil {
		return ctx, g.refuse(a, err)
	}
	headers, cancel := ctx, func() {}
	a.again = func() error { _, _, err := g.config.Callers.Admit(headers, m.stream); return err }
	if m.timeout > 0 {
		ctx, cancel = context.WithTimeout(ctx, m.timeout)
	}
	context.AfterFunc(ctx, func() { cancel(); a.end() })
	return context.WithValue(ctx, admittedKey{}, a), nil
}

// await counts a stream among those whose token is to be judged.
func (g *Gate) await(a *admitted) error {
	nameless := 0
	if a.caller.Proxy == "" && g.methods[a.name].stream {
		nameless = 1
	}
	from := a.conn.Peer
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.waiting >= maxUndecided || g.undecided[from] >= maxUndecidedPerPeer || g.nameless+nameless > maxNameless {
		return status.Error(codes.ResourceExhausted, "too many streams whose tokens are to be judged first: try again")
	}
	g.waiting++
	g.nameless += nameless
	g.undecided[from]++
	a.leave = func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.waiting--
		g.nameless -= nameless
		if g.undecided[from]--; g.undecided[from] == 0 {
			delete(g.undecided, from)
		}
	}
	return nil
}

// enter counts a stream whose token was judged among those of its proxy.
func (g *Gate) enter(a *admitted) error {
	a.conn.trust()
	m, key := g.methods[a.name], usage{a.caller.Proxy, a.name}
	g.mu.Lock()
	defer g.mu.Unlock()
	u := g.inUse[key]
	if u == nil {
		u = &use{}
		if m.reading > 0 {
			u.reading = make(chan struct{}, m.reading)
		}
		g.inUse[key] = u
	}
	if u.streams >= m.perProxy {
		return status.Errorf(codes.ResourceExhausted, "the proxy has %d of these already", u.streams)
	}
	u.streams++
	a.reading = u.reading
	a.leave = func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		if u.streams--; u.streams == 0 {
			delete(g.inUse, key)
		}
	}
	return nil
}

// judged counts a stream whose token turned out to be good over to its proxy.
func (g *Gate) judged(a *admitted, caller identity.Caller) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.ended {
		return status.Error(codes.Canceled, "the stream has ended")
	}
	a.leave()
	a.leave = func() {}
	a.caller, a.known = caller, true
	return g.enter(a)
}

// end counts the stream out.
func (a *admitted) end() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.ended {
		a.ended = true
		a.leave()
	}
}

// refuse tells of a refused stream and closes the connection of a stranger that had many. It
// returns the error.
func (g *Gate) refuse(a *admitted, err error) error {
	g.config.Refused(Refusal{Peer: a.conn.Peer, Proxy: a.caller.Proxy, Method: a.name, Err: err})
	if !a.conn.trusted.Load() && a.conn.refused.Add(1) > maxRefused {
		_ = a.conn.Close()
	}
	return err
}

// connection is a connection as the gate sees it.
type connection struct {
	*connlimit.Conn
	trusted atomic.Bool  // it has shown a good token
	refused atomic.Int32 // streams that were refused while it had not
}

func (c *connection) trust() {
	if !c.trusted.Swap(true) {
		c.Trust()
	}
}
