package apitest

import (
	"fmt"
	"slices"
)

// TB is what is wanted of a testing.TB. Standalone is one for examples.
type TB interface {
	Helper()
	Error(args ...any)
	Fatal(args ...any)
	Cleanup(f func())
}

// Standalone is a TB without a test: failures panic, and Close does what Cleanup was told.
type Standalone struct{ cleanups []func() }

// Helper does nothing.
func (*Standalone) Helper() {}

// Error panics.
func (*Standalone) Error(args ...any) { panic(fmt.Sprint(args...)) }

// Fatal panics.
func (*Standalone) Fatal(args ...any) { panic(fmt.Sprint(args...)) }

// Cleanup keeps f for Close.
func (s *Standalone) Cleanup(f func()) { s.cleanups = append(s.cleanups, f) }

// Close calls what Cleanup was told, the last first.
func (s *Standalone) Close() {
	for _, f := range slices.Backward(s.cleanups) {
		f()
	}
}
