package files_test

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/files"
)

// chains waits for contents with exactly these chains, as told has them.
func (r *running) chains(want ...string) catalog.Contents {
	r.t.Helper()
	deadline := time.After(patience)
	var got []string
	for {
		select {
		case c := <-r.published:
			if got = told(c); cmp.Equal(want, got) {
				r.last = dump(c)
				return c
			}
		case <-deadline:
			r.t.Fatalf("chains (-want +got):\n%s\nstatus %+v", cmp.Diff(want, got), r.Status())
		}
	}
}

// TestChainsStay: of an entry that is broken that stays in force which it said last, and others count; entries that do not go together are
// not taken, and what was in force stays, whichever of them changed; a restart goes on from there.
func TestChainsStay(t *testing.T) {
	t.Parallel()
	dir := write(t, chained(map[string]string{"r.hcl": entry("service-resolver", "api", "Subsets { v1 {} v2 { OnlyPassing = true } }\nDefaultSubset = \"v1\"")}))
	put := func(name, text string) { writeFile(t, filepath.Join(dir, name), text) }
	config := files.Config{Dir: dir, RecordFile: filepath.Join(t.TempDir(), "record"), UnrecordedFile: filepath.Join(t.TempDir(), "unrecorded")}
	const (
		v1 = "v1 of api: [{127.0.0.1 21000 1 true}]"
		v2 = "v2 of api: [{127.0.0.1 21000 1 true}]"
	)
	both := []string{"api http: canary.default.default.dc1 v1.api.default.default.dc1 v2.api.default.default.dc1", v1, v2}
	split := entry("service-splitter", "api", "Splits = [\n{ Weight = 90 ServiceSubset = \"v2\" },\n{ Weight = 10 }]")
	until(t, config, func(r *running) {
		r.chains("api http: v1.api.default.default.dc1", v1)
		put("r.hcl", "Kind = \"service-resolver\"\nName = \"api\"\nSubsets { v1 { Fliter = \"x\" } }\n")
		r.problem(`r.hcl:3: unknown key "Fliter"`)
		put("s.hcl", split) // counts though the resolver's file is broken, by what that said last
		r.chains("api http: v1.api.default.default.dc1 v2.api.default.default.dc1", v1, v2)
		resolver := entry("service-resolver", "api", "Subsets { v1 {} v2 { OnlyPassing = true } }\nDefaultSubset = \"v1\"\nFailover { v1 { Service = \"canary\" } }")
		put("r.hcl", resolver)
		r.chains(both...)

		put("r.hcl", entry("service-resolver", "api", "Subsets { v1 {} }\nDefaultSubset = \"v1\""))
		r.refused(`s.hcl:4: service "api" does not have a subset named "v2"`)
		put("o.hcl", intentions("canary", "web allow")) // others count all the same
		c := r.says("web => canary (allow)")
		if diff := cmp.Diff(both, told(c)); diff != "" {
			t.Errorf("chains while entries contradict each other (-want +got):\n%s", diff)
		}
		r.last = dump(c)
		put("r.hcl", resolver)
		put("d.hcl", "# nothing\n")
		r.refused(`s.hcl:1: discovery chain "api" uses a protocol "tcp" that does not permit advanced routing or splitting behavior`)
	})
	until(t, config, func(r *running) {
		r.chains(both...)
		r.refused(`s.hcl:1: discovery chain "api" uses a protocol "tcp" that does not permit advanced routing or splitting behavior`)
		put("t.hcl", split)
		r.refused("t.hcl:1: the service-splitter of api is given twice (first at s.hcl:1)")
		remove(t, filepath.Join(dir, "t.hcl"))
		remove(t, filepath.Join(dir, "s.hcl"))
		r.chains("api tcp: canary.default.default.dc1 v1.api.default.default.dc1", v1)
		remove(t, filepath.Join(dir, "r.hcl"))
		r.chains()
		if s := r.Status(); len(s.NotTaken) > 0 {
			t.Errorf("not taken: %+v", s.NotTaken)
		}
	})
}
