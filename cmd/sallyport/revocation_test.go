package main

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/sallyport/sallyport/admin"
	"github.com/sallyport/sallyport/revocation"
)

// TestUnreadRevocation: what is revoked and cannot be read is a problem, unless the source is away as a whole: that is said already, with
// what to do, and needs no file to be mended.
func TestUnreadRevocation(t *testing.T) {
	const holds = "what is revoked cannot be read, and what was read last holds: refused"
	for name, tt := range map[string]struct {
		stale time.Time
		s     revocation.Status
		want  admin.Catalog
	}{
		"read":            {want: admin.Catalog{}},
		"unread":          {s: revocation.Status{Problem: "refused", Known: true}, want: admin.Catalog{Problems: []string{holds}}},
		"agent away":      {stale: time.Unix(1, 0), s: revocation.Status{Problem: "refused", Known: true}, want: admin.Catalog{StaleSince: time.Unix(1, 0), Warnings: []string{holds}}},
		"never read":      {stale: time.Unix(1, 0), s: revocation.Status{Problem: "refused"}, want: admin.Catalog{StaleSince: time.Unix(1, 0), Problems: []string{"what is revoked cannot be read, and nothing is served before it is: refused"}}},
		"not on the disk": {s: revocation.Status{Unsaved: "no space"}, want: admin.Catalog{Warnings: []string{"what is revoked is not saved: no space"}}},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, withRevocation(admin.Catalog{StaleSince: tt.stale}, tt.s)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}
