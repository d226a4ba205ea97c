package xds

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/intention"
	"github.com/sallyport/sallyport/internal/atomicfile"
	"github.com/sallyport/sallyport/internal/sequence"
)

// startOnDisk is start with a disk that takes nothing from the call of stall to that of what it
// returns.
func startOnDisk(t *testing.T, cfg Config) (m *mesh, stall func() (works func())) {
	t.Helper()
	var stalled chan struct{} // nil, or closed: the disk works
	m = start(t, cfg)
	m.stop()
	m.prepare = func(s *Server) {
		s.recorder.file = func(path string, data []byte) error {
			if stalled != nil {
				<-stalled
			}
			return atomicfile.Replace(path, data)
		}
	}
	m.run(cfg)
	return m, func() func() {
		stalled = make(chan struct{})
		return sync.OnceFunc(func() { close(stalled) })
	}
}

// A disk that takes nothing for a while delays grants and first names, and nothing else; and what a
// control plane that is killed meanwhile has told, its successor knows how to end.
func TestDiskStalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := patient()
		cfg.GenerationsFile = t.TempDir() + "/generations-2.json"
		m, stall := startOnDisk(t, cfg)
		defer m.stop()
		twoServices(m)
		m.intend("batch", "api", intention.Allow)
		m.publish()
		api := m.stream("api")
		first := api.configureAPI()
		web := m.stream("web")
		web.configure()
		onDisk := func() string {
			b, err := os.ReadFile(cfg.GenerationsFile)
			if err != nil {
				t.Fatal(err)
			}
			return string(b)
		}
		before := onDisk()

		works := stall()
		defer works()
		m.intend("late", "api", intention.Allow)
		m.publish()
		api.silence()
		p, _ := m.server.Proxy(proxyID("api"))
		if !strings.Contains(p.Waiting, "recorded") {
			t.Errorf("waiting: %q, want that a grant is not recorded", p.Waiting)
		}
		time.Sleep(30 * time.Second)
		m.contents.Endpoints[1].List[0].Port++
		m.publish()
		web.accept("endpoint " + apiSNI)
		web.silence()
		// A first name waits: it is not told before it is recorded.
		m.service("db", catalog.TCP)
		m.publish()
		db := m.stream("db")
		db.subscribe(clusters)
		db.subscribe(listeners)
		db.silence()

		// Another is not let in any more: that at once, and the chain gets another name with it.
		m.intend("batch", "api", intention.Deny)
		m.publish()
		api.accept("secret peers/api")
		api.accept("extension intentions/api")
		second := chainName(t, api.accept("listener public_listener:127.0.0.1:20001"))
		if second == first || onDisk() != before {
			t.Errorf("the chain is %s after %s, recorded: %t", second, first, onDisk() != before)
		}
		api.silence()
		if p, _ := m.server.Proxy(proxyID("api")); !strings.Contains(p.Waiting, "recorded") {
			t.Errorf("waiting: %q, want that the grant is not recorded under the new name either", p.Waiting)
		}
		// The upstream's listener and cluster go without the disk, too.
		m.contents.Proxies[0].Upstreams = nil
		m.publish()
		web.accept("listener -api:127.0.0.1:9000")
		web.accept("cluster -" + apiSNI)

		// Killed now, what a successor finds is the old name and those who were let in under it:
		// whoever was let in since, under whichever name, is cut off by the name that it gives,
		// whatever was said meanwhile.
		successor, err := openGenerations(cfg.GenerationsFile, "", &sequence.Numbers{}, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		if s := successor.byDst["api"]; s == nil || fmt.Sprintf("api/%d", s.number) != first {
			t.Errorf("a successor finds %+v, want %s", s, first)
		}

		works()
		db.accept("cluster local_app")
		db.accept("listener public_listener:127.0.0.1:20002")
		synctest.Wait()
		if onDisk() == before {
			t.Error("nothing was recorded when the disk came back")
		}
		again, err := openGenerations(cfg.GenerationsFile, "", &sequence.Numbers{}, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		if s := again.byDst["api"]; fmt.Sprintf("api/%d", s.number) != second {
			t.Errorf("recorded is %d, want %s", s.number, second)
		}
	})
}

// A grant that was told is recorded, so its revocation while the control plane is away ends the
// connection.
func TestGrantIsRecordedBeforeItIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := patient()
		cfg.GenerationsFile = t.TempDir() + "/generations-2.json"
		m := start(t, cfg)
		twoServices(m)
		c := m.stream("api")
		c.configureAPI()
		m.intend("late", "api", intention.Allow)
		m.publish()
		c.expect("secret peers/api")
		// Killed at this moment: what is on disk is all that the successor has.
		g, err := openGenerations(cfg.GenerationsFile, "", &sequence.Numbers{}, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		was := g.byDst["api"].number
		m.intend("late", "api", intention.Deny)
		v, api := m.contents.View(), identity.NewName("api")
		if s, raised, _ := g.observe(api, v.Policy(api), drains(0), time.Now()); !raised || s.number == was {
			t.Errorf("generation %d, raised %t: the connection of late would live on", s.number, raised)
		}
	})
}
