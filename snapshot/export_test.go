package snapshot

// ErrIncomplete is errIncomplete for the tests of package snapshot_test.
var ErrIncomplete = errIncomplete
