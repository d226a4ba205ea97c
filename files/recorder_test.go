package files

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/sallyport/sallyport/catalog"
)

// TestRecorder demands, whatever the disk does and whenever the process is killed: nobody is let in who is not recorded
// as let in, if a restart would go on from a record; whose access is taken away, waits for no disk; and a restart goes on
// only from a record that allows what was published last, unless nothing can be noted beside the disk.
func TestRecorder(t *testing.T) {
	t.Parallel()
	for seed := range uint64(20) {
		t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) {
			t.Parallel()
			e := newTeams(t, rand.New(rand.NewPCG(seed, 11)))
			e.texts["0.hcl"] = "# nothing\n"
			e.config.RecordFile, e.config.UnrecordedFile = "catalog", filepath.Join(t.TempDir(), "unrecorded")
			l, r := newLedger(e.config, nil), newRecorder(&e.config)
			disk := make(chan error)
			r.write = func(*record) error { return <-disk }
			saw := map[string]int{}
			var now time.Time
			var published catalog.Contents
			judge := func(what string) {
				t.Helper()
				is, wants := e.inForce(published.Intentions), e.inForce(l.intentions)
				less := map[*record]bool{}
				for pair := range is {
					if is[pair] && !wants[pair] {
						t.Errorf("%s: %s is allowed still", what, pair)
					}
				}
				for _, w := range []*record{r.on, r.writing} {
					if w == nil {
						continue
					}
					for pair, recorded := range e.inForce(w.intentions) {
						if is[pair] && !recorded && r.on != nil {
							t.Errorf("%s: %s is allowed, and that is not recorded", what, pair)
						}
						less[w] = less[w] || recorded && !is[pair]
					}
				}
				_, err := os.Stat(e.config.UnrecordedFile)
				marked := err == nil
				if (less[r.on] || less[r.writing]) && !marked {
					t.Errorf("%s: after a kill a restart would go on from a record that allows more than was in force", what)
				}
				if r.writing == nil && r.next == nil && r.err == nil {
					saw["recorded"]++
					if marked || len(less) > 0 && less[r.on] {
						t.Errorf("%s: all is recorded, and it is noted that it is not: %t", what, marked)
					}
					for pair := range is {
						if is[pair] != wants[pair] {
							t.Errorf("%s: all is recorded, and %s: %t, want %t", what, pair, is[pair], wants[pair])
						}
					}
				}
				for pair := range is {
					if wants[pair] && !is[pair] {
						saw["waits"]++
					}
				}
				if marked {
					saw["noted"]++
				}
			}
			for step := range 300 {
				now = now.Add(time.Second)
				what := "the disk fails"
				switch n := e.IntN(4); {
				case n == 0 && r.writing != nil:
					disk <- errors.New("it is full")
					published = r.finish(<-r.done, now)
					saw["fails"]++
				case n < 3 && r.writing != nil:
					disk <- nil
					published = r.finish(<-r.done, now)
					what = "the disk works"
				default:
					what = e.happens()
					e.texts["0.hcl"] = "# nothing\n"
					l.take(e.files(), now, func(o outcome) {
						if o.inForce {
							published = r.offer(o.contents, l.record(), now)
							l.published = published.Intentions
							judge(fmt.Sprintf("step %d, %s, early: %t", step, what, o.early))
						}
					})
				}
				if l.published = published.Intentions; l.started {
					judge(fmt.Sprintf("step %d, %s", step, what))
				}
				if t.Failed() {
					break
				}
			}
			close(disk)
			t.Log(saw)
			if err := r.end(); err != nil {
				t.Errorf("end: %v", err)
			}
			for _, what := range []string{"recorded", "waits", "noted", "fails"} {
				if saw[what] == 0 && !t.Failed() {
					t.Errorf("no state was %q: the test tests too little", what)
				}
			}
		})
	}
}
