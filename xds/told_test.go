package xds

import (
	"strings"
	"testing"
	"testing/synctest"

	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/intention"
	"github.com/sallyport/sallyport/internal/catalogtest"
)

// whom asks for each of sources whether it is let into api by view and by what is told.
func whom(m *mesh, view *catalog.View, sources ...string) string {
	var allowed []string
	policy := view.Policy(identity.NewName("api"))
	told := m.server.Told(view, policy)
	for _, s := range sources {
		id := view.Identity(identity.NewName(s))
		if policy.Decide(id).Allowed() && told.Decide(id).Allowed() {
			allowed = append(allowed, s)
		}
	}
	return strings.Join(allowed, " ")
}

// What is told lags behind the newest View, and behind the disk, whether an Envoy is connected or
// not: an ext_authz server that goes by it lets nobody in whom a successor would not know of.
func TestTold(t *testing.T) {
	for _, connected := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			cfg := patient()
			cfg.GenerationsFile = t.TempDir() + "/generations-2.json"
			m, stall := startOnDisk(t, cfg)
			defer m.stop()
			twoServices(m)
			check := func(what string, view *catalog.View, want string) {
				t.Helper()
				synctest.Wait()
				if got := whom(m, view, "web", "late", "later"); got != want {
					t.Errorf("connected %t: %s: %q are let in, want %q", connected, what, got, want)
				}
			}
			newest := func() *catalog.View {
				v, _ := m.store.Views.Load()
				return v
			}
			if connected {
				m.stream("api").configureAPI()
			}
			check("a first configuration", newest(), "web")

			works := stall()
			defer works()
			m.intend("late", "api", intention.Allow)
			check("a View that is not looked at yet", m.contents.View(), "web")
			m.publish()
			check("a grant that is not recorded", newest(), "web")
			m.intend("later", "api", intention.Allow)
			m.publish()
			check("and another one", newest(), "web")
			works()
			check("recorded", newest(), "web late later")

			works = stall()
			defer works()
			m.intend("web", "api", intention.Deny)
			m.publish()
			check("a revocation", newest(), "late later")
			m.intend("web", "api", intention.Allow)
			m.intend("late", "api", intention.Deny)
			m.publish()
			check("one that is recorded under the name before, but not under the present one", newest(), "later")
		})
	}
}

// As long as no View was looked at nobody is let in.
func TestToldOfNothing(t *testing.T) {
	policy := policy("a", intention.Allow)
	if told := new(Server).Told(&catalog.View{}, policy); told != nil {
		t.Errorf("told is %v", told)
	}
}

// BenchmarkTold is what a Check pays for it.
func BenchmarkTold(b *testing.B) {
	var mesh catalogtest.Mesh
	mesh.Mesh = catalog.Mesh{Datacenter: "dc1", Datacenters: []string{"dc1"}}
	for _, name := range []string{"api", "db"} {
		mesh.Services = append(mesh.Services, catalog.Service{Name: identity.NewName(name)})
	}
	view, older := mesh.View(), mesh.View()
	policy := view.Policy(identity.NewName("api"))
	for name, t := range map[string]*told{
		"view=same":     {view: view},
		"view=another":  {view: older},
		"another=waits": {view: view, bounded: map[identity.Name]*intention.Policy{identity.NewName("db"): policy}},
		"it=waits":      {view: view, bounded: map[identity.Name]*intention.Policy{identity.NewName("api"): policy}},
	} {
		b.Run(name, func(b *testing.B) {
			var s Server
			s.told.Set(*t)
			b.ReportAllocs()
			for b.Loop() {
				s.Told(view, policy)
			}
		})
	}
}
