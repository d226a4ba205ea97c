package api

import (
	"context"
	"time"
)

// turns are the slots of one peer.
type turns struct {
	slots chan struct{}
	users int // who has one, or waits for one; guarded by relay.mu
}

// turn takes one of the slots, for a peer. leave gives it back. The error is that there is none.
func (rl *relay) turn(ctx context.Context, peer string) (leave func(), err error) {
	rl.mu.Lock()
	own := rl.peers[peer]
	if own == nil {
		own = &turns{slots: make(chan struct{}, mostOfPeer)}
		rl.peers[peer] = own
	}
	own.users++
	rl.mu.Unlock()
	timer := time.NewTimer(queueTime)
	defer timer.Stop()
	var taken []chan struct{}
	leave = func() {
		for _, slots := range taken {
			<-slots
		}
		rl.mu.Lock()
		defer rl.mu.Unlock()
		if own.users--; own.users == 0 {
			delete(rl.peers, peer)
		}
	}
	for _, slots := range []chan struct{}{own.slots, rl.slots} {
		select {
		case slots <- struct{}{}:
			taken = append(taken, slots)
		case <-timer.C:
			leave()
			return nil, errBusy
		case <-ctx.Done():
			leave()
			return nil, ctx.Err()
		}
	}
	return leave, nil
}

// wait counts a wait that is passed on as it is, if there is room, if need be that of a watch which nobody asks for any more. leave is its end.
func (rl *relay) wait(peer string) (leave func(), err error) {
	rl.mu.Lock()
	defer rl.mu.Unlock()
	if !rl.below(mostWatched-int(rl.passing.used()), func(*watched) bool { return true }) || !rl.passing.take(peer, mostOfNobody, mostWatched) {
		return nil, errBusy
	}
	return func() { rl.passing.give(peer) }, nil
}
