package ca

import (
	"sync/atomic"
	"testing"
	"time"
)

// TestDiskHangs: while the disk does not answer, leafs go on, and the status, the roots and the health are told.
func TestDiskHangs(t *testing.T) {
	hangs, hung := make(chan struct{}), make(chan struct{})
	var stall atomic.Bool
	c, err := open(Config{Dir: caDir(t)}, func(string) error {
		if stall.CompareAndSwap(true, false) {
			close(hung)
			<-hangs
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	defer mustClose(t, c)
	stall.Store(true)
	rotated := make(chan error, 1)
	go func() { rotated <- c.Rotate(RotateOptions{}) }()
	<-hung
	went := make(chan struct{})
	go func() {
		defer close(went)
		if chain := oneLeaf(t, c, "web").Certificates; len(chain) != 2 {
			t.Errorf("%d certificates", len(chain))
		}
		if s := c.Status(); s.Rotation != nil || len(s.Roots) != 1 {
			t.Errorf("what is not on the disk is told: %+v", s)
		}
		if err := c.Health(); err != nil {
			t.Error(err)
		}
	}()
	select {
	case <-went:
	case <-time.After(30 * time.Second):
		t.Error("leafs and the status wait for the disk")
	}
	close(hangs)
	if err := <-rotated; err != nil {
		t.Error(err)
	}
	<-went
	if s := c.Status(); s.Rotation == nil {
		t.Error("no rotation after the disk went on")
	}
}
