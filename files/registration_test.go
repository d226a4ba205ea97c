package files_test

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/files"
	"github.com/sallyport/sallyport/identity"
)

// TestRegistrations holds that each instance of a service is known as it is written, and that a sidecar is none.
func TestRegistrations(t *testing.T) {
	t.Parallel()
	dir := write(t, map[string]string{
		"web.hcl": `services {
  name = "web" id = "web-2" port = 8080 address = "10.0.0.2" tags = ["green", "blue"]
  meta { team = "shop" }
  weights { passing = 3 warning = 2 }
  check { status = "warning" }
  connect { sidecar_service {} }
}
services { name = "web" id = "web-1" socket_path = "/run/web.sock" }
`,
		"batch.json": `{"service": {"Name": "batch", "Tags": null, "Meta": {}}}`,
	})
	want := []*catalog.Registration{
		{ID: "batch", Service: identity.NewName("batch"), Meta: map[string]string{}, Status: "passing", Origin: "batch.json:1"},
		{ID: "web-1", Service: identity.NewName("web"), Socket: "/run/web.sock", Status: "passing", Origin: "web.hcl:8"},
		{
			ID: "web-2", Service: identity.NewName("web"), Tags: []string{"green", "blue"}, Meta: map[string]string{"team": "shop"}, Address: "10.0.0.2", Port: 8080, Host: "10.0.0.2",
			Weights: catalog.Weights{Passing: 3, Warning: 2}, Status: "warning",
			Checks: []catalog.Check{{ID: "service:web-2", Name: "Service 'web' check", Status: "warning"}}, Origin: "web.hcl:1",
		},
	}
	if diff := cmp.Diff(want, load(t, files.Config{Dir: dir}).Registrations); diff != "" {
		t.Errorf("registrations (-want +got):\n%s", diff)
	}
}

// registered waits until these are the IDs of the registrations, and those that remain keep their pointers.
func (r *running) registered(before catalog.Contents, want ...string) catalog.Contents {
	r.t.Helper()
	deadline := time.After(patience)
	was := map[string]*catalog.Registration{}
	for _, x := range before.Registrations {
		was[x.ID] = x
	}
	var got []string
	for {
		select {
		case c := <-r.published:
			got = nil
			for _, x := range c.Registrations {
				got = append(got, x.ID+" "+x.Origin)
				if old := was[x.ID]; old != nil && cmp.Equal(old, x) && old != x {
					r.t.Errorf("%s is equal and another", x.ID)
				}
			}
			if cmp.Equal(want, got) {
				return c
			}
		case <-deadline:
			r.t.Fatalf("registrations (-want +got):\n%s", cmp.Diff(want, got))
		}
	}
}

// TestRegistrationsFollow holds that registrations come, go and move step by step, and that a broken file's stay, over a
// restart too.
func TestRegistrationsFollow(t *testing.T) {
	t.Parallel()
	dir := write(t, map[string]string{"b.hcl": definition("b"), "d.hcl": definition("d")})
	config := files.Config{Dir: dir, RecordFile: filepath.Join(t.TempDir(), "record"), UnrecordedFile: filepath.Join(t.TempDir(), "unrecorded")}
	until(t, config, func(r *running) {
		c := r.registered(catalog.Contents{}, "b b.hcl:1", "d d.hcl:1")
		writeFile(t, filepath.Join(dir, "c.hcl"), definition("c"))
		c = r.registered(c, "b b.hcl:1", "c c.hcl:1", "d d.hcl:1")
		writeFile(t, filepath.Join(dir, "b.hcl"), "\n"+definition("b"))
		c = r.registered(c, "b b.hcl:2", "c c.hcl:1", "d d.hcl:1")
		remove(t, filepath.Join(dir, "d.hcl"))
		c = r.registered(c, "b b.hcl:2", "c c.hcl:1")
		writeFile(t, filepath.Join(dir, "b.hcl"), "service {")
		r.problem("b.hcl:1")
		writeFile(t, filepath.Join(dir, "a.hcl"), definition("a"))
		r.registered(c, "a a.hcl:1", "b b.hcl:2", "c c.hcl:1")
	})
	until(t, config, func(r *running) { r.registered(catalog.Contents{}, "a a.hcl:1", "b b.hcl:2", "c c.hcl:1") })
}

// TestNative holds that native instances are endpoints beside sidecars, with health and weights of their own, and follow
// their registrations step by step.
func TestNative(t *testing.T) {
	t.Parallel()
	const (
		first = `services {
  name = "mail" id = "mail-1" port = 8443 address = "10.0.0.9"
  weights { passing = 3 warning = 2 }
  check { status = "warning" }
  connect { native = true }
}
`
		both = `services {
  name = "mail" id = "mail-2" port = 8444
  check { status = "critical" }
  connect {
    native = true
    sidecar_service { port = 21000 }
  }
}
`
		client  = "services {\n  name = \"mail\" id = \"mail-3\"\n  connect { native = true }\n}\n"
		dialler = "services {\n  name = \"web\" port = 80\n  connect { sidecar_service { proxy { upstreams { destination_name = \"mail\" local_bind_port = 5000 } } } }\n}\n"
	)
	dir := write(t, map[string]string{"first.hcl": first, "web.hcl": dialler})
	config := files.Config{Dir: dir, Warned: func(p files.Problem) { t.Errorf("warning: %v", p) }}
	endpoints := func(c catalog.Contents) (list []catalog.Endpoint) {
		for _, e := range c.Endpoints {
			if e.Name == identity.NewName("mail") {
				list = e.List
			}
		}
		return list
	}
	one := catalog.Endpoint{Address: "10.0.0.9", Port: 8443, Weight: 2, Healthy: true}
	if diff := cmp.Diff([]catalog.Endpoint{one}, endpoints(load(t, config))); diff != "" {
		t.Errorf("endpoints of a native instance alone (-want +got):\n%s", diff)
	}
	config.Warned = nil
	r := run(t, config)
	want := func(text string, list ...catalog.Endpoint) {
		t.Helper()
		var got []catalog.Endpoint
		for deadline := time.After(patience); ; {
			select {
			case c := <-r.published:
				if got = endpoints(c); cmp.Equal(list, got) {
					return
				}
			case <-deadline:
				t.Fatalf("%s: endpoints (-want +got):\n%s", text, cmp.Diff(list, got))
			}
		}
	}
	want("alone", one)
	writeFile(t, filepath.Join(dir, "both.hcl"), both+client)
	sidecar := catalog.Endpoint{Address: "127.0.0.1", Port: 21000, Weight: 1}
	app := sidecar
	app.Port = 8444
	want("with a native one that has a sidecar, too, as in Consul, and a client", one, app, sidecar)
	writeFile(t, filepath.Join(dir, "first.hcl"), strings.Replace(first, "warning\"", "passing\"", 1))
	one.Weight = 3
	want("healthier", one, app, sidecar)
	writeFile(t, filepath.Join(dir, "both.hcl"), strings.Replace(both, "native = true", "native = false", 1))
	want("not native any more", one, sidecar)
	writeFile(t, filepath.Join(dir, "both.hcl"), client)
	want("alone again", one)
	writeFile(t, filepath.Join(dir, "first.hcl"), strings.Replace(client, "mail-3", "mail-1", 1))
	want("only clients")
}
