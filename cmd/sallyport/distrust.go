package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"log/slog"
	"slices"
	"time"

	"github.com/sallyport/sallyport/ca"
	"github.com/sallyport/sallyport/internal/backoff"
	"github.com/sallyport/sallyport/internal/latest"
)

const (
	// firstAsk and longestAsk bound the pauses in which a provider is asked to sign under another root than the one that it distrusts.
	firstAsk, longestAsk = 10 * time.Second, 10 * time.Minute
	// distrustTick is how often it is looked whether a root that is distrusted has left.
	distrustTick = 10 * time.Second
)

// distrust has roots of a provider leave that are in list, the SHA-256 of those that it distrusts, until ctx ends: the rotation that runs
// waits for nobody then. If none runs the provider is asked to sign, as one begins when it does under another root. A root that is taken
// out of the list again is left where it is.
func distrust(ctx context.Context, log *slog.Logger, c *ca.CA, name string, list *latest.Value[[][sha256.Size]byte]) {
	var told, ask time.Time // of which rotation it was said, and when the provider is asked
	for asked := 0; ctx.Err() == nil; {
		changed, moved := list.Changed(), c.StatusChanged() // before they are read
		sums, _ := list.Load()
		s, now := c.Status(), time.Now()
		var err error
		switch {
		case !slices.ContainsFunc(s.Roots, func(r ca.RootStatus) bool { return r.Provider == name && holds(sums, r.SHA256) }):
			asked, ask = 0, time.Time{}
		case s.Rotation != nil && s.Rotation.Started.Equal(told):
		case s.Rotation != nil:
			if err = c.Distrust(); err == nil {
				told = s.Rotation.Started
			}
		case s.Provider == name && !now.Before(ask):
			asked++
			ask = now.Add(backoff.Delay(asked, firstAsk, longestAsk))
			err = c.Rotate(ca.RotateOptions{To: name, Distrust: true, Reason: "the provider distrusts its root"})
		}
		if err != nil {
			log.Error("a root that its provider distrusts cannot leave yet", "source", name, "err", err)
		}
		timer := time.NewTimer(distrustTick)
		select {
		case <-changed:
		case <-moved:
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
	}
}

// holds reports whether one of sums is the one in hexadecimal.
func holds(sums [][sha256.Size]byte, text string) bool {
	return slices.ContainsFunc(sums, func(sum [sha256.Size]byte) bool { return hex.EncodeToString(sum[:]) == text })
}
