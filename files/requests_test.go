package files

import (
	"math/rand/v2"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/sallyport/sallyport/catalog"
)

// TestRequestsWaitForNoDisk: while the disk takes no record, what somebody may ask for who is let in is what the files say, be it more or less,
// and who is newly let in waits. That a restart would allow more is noted.
func TestRequestsWaitForNoDisk(t *testing.T) {
	t.Parallel()
	e := newTeams(t, rand.New(rand.NewPCG(1, 1)))
	e.config.Default = 0
	e.config.RecordFile, e.config.UnrecordedFile = "catalog", filepath.Join(t.TempDir(), "unrecorded")
	l, r := newLedger(e.config, nil), newRecorder(&e.config)
	disk := make(chan error)
	r.write = func(*record) error { return <-disk }
	says := func(sources string) (published catalog.Contents) {
		e.texts["0.hcl"] = "Kind = \"service-intentions\"\nName = \"api\"\nSources = [\n" + sources + "]\n"
		l.take(e.files(), time.Time{}, func(o outcome) {
			if !o.inForce {
				t.Fatalf("not taken: %v", o.problems)
			}
			published = r.offer(o.contents, l.record(), time.Time{})
			l.published = published.Intentions
		})
		return published
	}
	told := func(c catalog.Contents) (list []string) {
		for _, d := range c.Intentions {
			for _, i := range d.Intentions {
				words := []string{i.Source.Service, i.Action.String()}
				for _, p := range i.Permissions.List() {
					words = append(words, p.PathPrefix, p.Action.String())
				}
				if i.Held != "" {
					words = append(words, "waits")
				}
				list = append(list, strings.Join(words, " "))
			}
		}
		return list
	}
	const (
		admin = "{ Action = \"allow\" HTTP { PathPrefix = \"/admin\" } }"
		rest  = "{ Action = \"allow\" HTTP { PathPrefix = \"/\" } }"
	)
	web := func(permissions ...string) string {
		return "{ Name = \"web\" Permissions = [" + strings.Join(permissions, ", ") + "] },\n"
	}
	says(web(admin, rest))
	disk <- nil
	r.finish(<-r.done, time.Time{})
	for _, c := range []struct {
		says string
		want []string
	}{
		{web(strings.Replace(admin, "allow", "deny", 1), rest), []string{"web deny /admin deny / allow"}},
		{web(rest) + "{ Name = \"job\" Action = \"allow\" },\n", []string{"job allow waits", "web deny / allow"}},
		{"{ Name = \"web\" Action = \"allow\" },\n", []string{"web allow"}},
		{web(admin), []string{"web deny /admin allow"}},
		{"{ Name = \"web\" Action = \"deny\" },\n", []string{"web deny"}},
	} {
		if diff := cmp.Diff(c.want, told(says(c.says))); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.says, diff)
		}
		if !r.marked {
			t.Errorf("%s: that a restart may allow more is not noted", c.says)
		}
	}
	close(disk)
	if err := r.end(); err != nil {
		t.Fatal(err)
	}
}
