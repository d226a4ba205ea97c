package ca

import (
	"context"
	"runtime"
	"sync/atomic"
)

// signings is how many leafs another CA is asked for at once: a Vault signs 300 a second, whatever the number.
const signings = 8

// places bounds how many leafs are made at once: as many as there are processors where they are signed here, and signings where another CA
// signs each, which takes waiting. Who waits for a place is served in turn, and asks for no processor: with 10,000 sidecars that connect at
// once, or whose leafs a step of the clock ends at once, whatever else the process does has its turn after a few leafs, not after all of them.
type places struct {
	here, elsewhere chan struct{}
	// waiting is how many do.
	waiting atomic.Int64
}

func newPlaces() *places {
	return &places{here: make(chan struct{}, runtime.GOMAXPROCS(0)), elsewhere: make(chan struct{}, signings)}
}

// take waits for a place and returns what gives it back, which is to be called once. The error is that ctx ended before.
func (p *places) take(ctx context.Context, elsewhere bool) (leave func(), err error) {
	place := p.here
	if elsewhere {
		place = p.elsewhere
	}
	p.waiting.Add(1)
	defer p.waiting.Add(-1)
	select {
	case place <- struct{}{}:
		return func() { <-place }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}
