package authz

import (
	"context"
	"runtime"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/sallyport/sallyport/intention"
)

// longRequest is from how many bytes on a request has texts that take time, where permissions look through them. Clients say how long
// texts are, up to 60 KiB, and those who may ask at all are not to keep the processors from the requests of others: of such requests one
// is decided at a time, and others of the kind wait in line.
const longRequest = 8 << 10

// lane is where requests wait that take time. Who is in it sends one, and receives it at the end.
type lane chan struct{}

// newLane has room for one request, and on large machines for one of each four processors.
func newLane() lane { return make(lane, max(1, runtime.GOMAXPROCS(0)/4)) }

// enter waits for a turn; leave ends it. The error is that of ctx, whose end came first.
func (l lane) enter(ctx context.Context) (leave func(), err error) {
	select {
	case l <- struct{}{}:
		return func() { <-l }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// isLong reports whether the texts that p looks through are so long that it takes time.
func isLong(p *intention.Permissions, http *authv3.AttributeContext_HttpRequest) bool {
	headers, n := http.GetHeaderMap().GetHeaders(), 0
	for _, h := range headers {
		n += len(h.GetRawValue()) + len(h.GetValue())
	}
	if n <= longRequest {
		return false
	}
	n = 0
	for _, h := range headers {
		if p.Searches(h.GetKey()) {
			n += len(h.GetRawValue()) + len(h.GetValue())
		}
	}
	return n > longRequest
}
