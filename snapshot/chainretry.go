package snapshot

import (
	"slices"
	"strings"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	previoushostsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/retry/host/previous_hosts/v3"
	previousprioritiesv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/retry/priority/previous_priorities/v3"
	"github.com/sallyport/sallyport/chain"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// unreceived are the failures of requests that no application has received, so retrying them is always right.
var unreceived = []string{"connect-failure", "refused-stream"}

// retryWords are what Envoy knows to retry on. It says nothing of others.
var retryWords = []string{
	"5xx", "gateway-error", "reset", "reset-before-request", "connect-failure", "envoy-ratelimited", "retriable-4xx", "refused-stream",
	"cancelled", "deadline-exceeded", "internal", "resource-exhausted", "unavailable",
}

const retriableStatusCodes = "retriable-status-codes"

// retryPolicy retries, count times at most, each time at another endpoint if there is one. With a failover, that is the second retry's way
// to the next target: the first one stays, so that one dead instance of many sends nobody elsewhere. So a target may be dead before anybody
// has said so.
func (p *packer) retryPolicy(on string, count uint32, failover bool) *routev3.RetryPolicy {
	const previousHosts, previousPriorities = "envoy.retry_host_predicates.previous_hosts", "envoy.retry_priorities.previous_priorities"
	policy := &routev3.RetryPolicy{
		RetryOn:    on,
		NumRetries: wrapperspb.UInt32(count),
		RetryHostPredicate: []*routev3.RetryPolicy_RetryHostPredicate{{
			Name: previousHosts,
			ConfigType: &routev3.RetryPolicy_RetryHostPredicate_TypedConfig{
				TypedConfig: p.constant(previousHosts, func() proto.Message { return &previoushostsv3.PreviousHostsPredicate{} }),
			},
		}},
		HostSelectionRetryMaxAttempts: 3,
	}
	if failover {
		every := min(count, 2)
		policy.RetryPriority = &routev3.RetryPolicy_RetryPriority{
			Name: previousPriorities,
			ConfigType: &routev3.RetryPolicy_RetryPriority_TypedConfig{
				TypedConfig: p.constant(prioritiesKey(every), func() proto.Message {
					return &previousprioritiesv3.PreviousPrioritiesConfig{UpdateFrequency: int32(every)} //nolint:gosec // 2 at most
				}),
			},
		}
	}
	return policy
}

// prioritiesKey is what the policy of priorities depends on.
type prioritiesKey uint32

// retries is when a route's requests are sent once more. What no application has received always is; more is what the route says.
// Like in Consul a route that names failures and no number gets one retry: those may have done their work.
func (c *chainRoutes) retries(name string, d *chain.Destination, failover bool) *routev3.RetryPolicy {
	var on []string
	for _, word := range d.RetryOn {
		switch {
		case !slices.Contains(retryWords, word):
			c.warn("%s does not retry on %q, which Envoy does not know", name, word)
		case !slices.Contains(unreceived, word) && !slices.Contains(on, word):
			on = append(on, word)
		}
	}
	count := uint32(2)
	if failover {
		count = 3
	}
	if len(on) > 0 || len(d.RetryOnStatusCodes) > 0 {
		count = 1
	}
	if d.NumRetries > 0 {
		count = d.NumRetries
	}
	on = append(on, unreceived...)
	if len(d.RetryOnStatusCodes) > 0 {
		on = append(on, retriableStatusCodes)
	}
	p := c.packer.retryPolicy(strings.Join(on, ","), count, failover)
	p.RetriableStatusCodes = d.RetryOnStatusCodes
	return p
}
