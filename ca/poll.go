package ca

import (
	"context"
	"crypto/x509"
	"log/slog"
	"slices"
	"time"

	"github.com/sallyport/sallyport/internal/backoff"
)

// firstPoll is after the first time that roots could not be had.
const firstPoll = 2 * time.Second

// PollRoots is Upstream.WatchRoots for one that has to be asked: by ask, which returns the roots, sorted, and after how long to ask again.
// When they could not be had it is sooner at first, and longest after many times.
func PollRoots(ctx context.Context, log *slog.Logger, longest time.Duration, ask func(context.Context) ([]*x509.Certificate, time.Duration, error), f func([]*x509.Certificate)) error {
	var last []*x509.Certificate
	failures := 0
	for ctx.Err() == nil {
		roots, delay, err := ask(ctx)
		switch {
		case ctx.Err() != nil:
			return nil //nolint:nilerr // that is why there is an error
		case err != nil:
			failures++
			delay = backoff.Delay(failures, firstPoll, longest)
			log.Warn("the roots of the CA are not known now", "err", err, "count", failures)
		default:
			failures = 0
			if !slices.EqualFunc(roots, last, (*x509.Certificate).Equal) {
				log.Info("the roots of the CA", "count", len(roots))
				f(roots)
				last = roots
			}
		}
		backoff.Sleep(ctx, delay)
	}
	return nil
}
