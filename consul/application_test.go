package consul

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/identity"
)

type object = map[string]any

// register adds registrations to the node of the fake agent.
func (f *fake) register(services ...object) {
	f.t.Helper()
	src, err := os.ReadFile(filepath.Join("testdata", "node-services.json"))
	if err != nil {
		f.t.Fatal(err)
	}
	var answer object
	if err := json.Unmarshal(src, &answer); err != nil {
		f.t.Fatal(err)
	}
	for _, s := range services {
		answer["Services"] = append(answer["Services"].([]any), s)
	}
	f.set("/v1/catalog/node-services/n1", answer)
}

// Selectors that name nobody are a problem in the status.
func TestSelectors(t *testing.T) {
	bubble(t, nil, func(t *testing.T, f *fake, a *Agent) {
		f.mesh()
		f.register(object{"ID": "batch-1", "Service": "batch", "Meta": object{"sallyport_selectors": "unix:path:/usr/bin/batch"}, "Connect": object{}})
		p, _ := running(t, a)
		after(10 * time.Second)
		p.must(t)
		var got []string
		for _, o := range a.Status().Problems {
			got = append(got, o.String())
		}
		want := `service batch-1: sallyport_selectors of its meta names nobody: "unix:path:/usr/bin/batch" names no user, and what else a process shows counts only as far as its user is trusted: add unix:uid:… or unix:user:…`
		if !slices.Contains(got, want) {
			t.Errorf("%q; want %q", got, want)
		}
	})
}

// Applications that are native or say who may be them are known; a change of any other changes nothing.
func TestApplications(t *testing.T) {
	file := filepath.Join(t.TempDir(), "known.json")
	config := func(c *Config) { c.LKGFile = file }
	native := object{
		"ID": "mail-1", "Service": "mail", "Tags": []string{"blue"}, "Meta": object{"team": "shop"}, "Address": "10.0.0.9", "Port": 8443,
		"Weights": object{"Passing": 3, "Warning": 1}, "Connect": object{"Native": true},
	}
	named := object{"ID": "batch", "Service": "batch", "Meta": object{"sallyport_selectors": "unix:uid:1000"}, "Port": 0, "Connect": object{}}
	others := func(tag string) []object {
		return []object{
			native, named,
			{"ID": "plain", "Service": "plain", "Port": 80, "Tags": []string{tag}},
			{"ID": "cafe", "Service": "caf\u00e9", "Connect": object{"Native": true}},
			{"ID": "far", "Service": "far", "PeerName": "east", "Connect": object{"Native": true}},
			{"ID": "team", "Service": "team", "Namespace": "team", "Connect": object{"Native": true}},
		}
	}
	want := []*catalog.Registration{
		{ID: "batch", Service: identity.NewName("batch"), Meta: map[string]string{"sallyport_selectors": "unix:uid:1000"}, Origin: "service batch"},
		{
			ID: "mail-1", Service: identity.NewName("mail"), Tags: []string{"blue"}, Meta: map[string]string{"team": "shop"}, Address: "10.0.0.9", Port: 8443, Native: true,
			Weights: catalog.Weights{Passing: 3, Warning: 1}, Status: "passing", Origin: "service mail-1",
		},
	}
	bubble(t, config, func(t *testing.T, f *fake, a *Agent) {
		f.mesh()
		f.register(others("blue")...)
		f.set("/v1/agent/checks", object{})
		p, stop := running(t, a)
		after(10 * time.Second)
		// Who may reach it is not known, which is not that nobody says anything of it.
		if c := p.must(t); len(c.Registrations) > 0 || new(catalog.View).Next(c).Policy(identity.NewName("mail")) != nil {
			t.Errorf("registrations %v before their intentions are known", c.Registrations)
		}
		if !strings.Contains(problems(a), "service mail-1: the intentions for mail are not known yet: the application waits") {
			t.Errorf("problems are %s", problems(a))
		}
		f.set("/v1/connect/intentions/match?batch", object{"batch": []any{}})
		f.set("/v1/connect/intentions/match?mail", object{"mail": []object{{"SourceName": "web", "DestinationName": "mail", "Action": "deny"}}})
		after(2 * time.Minute)
		c := p.must(t)
		if diff := cmp.Diff(want, c.Registrations, cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("registrations (-want +got):\n%s", diff)
		}
		v := new(catalog.View).Next(c)
		if d := v.Policy(identity.NewName("mail")).Decide(v.Identity(identity.NewName("web"))); d.Allowed() || d.Intention == nil {
			t.Errorf("web may reach mail: %+v", d)
		}
		// The agent's checks say how it is.
		for _, tt := range []struct{ first, second, want string }{
			{"passing", "passing", "passing"}, {"passing", "warning", "warning"}, {"critical", "warning", "critical"}, {"passing", "passing", "passing"},
		} {
			f.set("/v1/agent/checks", object{
				"a": object{"CheckID": "a", "ServiceID": "mail-1", "Status": tt.first}, "b": object{"CheckID": "b", "ServiceID": "mail-1", "Status": tt.second},
				"c": object{"CheckID": "c", "ServiceID": "other", "Status": "critical"},
			})
			after(checksEvery + time.Second)
			if all := p.must(t).Registrations; len(all) != 2 || all[0].Status != "" || all[1].Status != tt.want {
				t.Errorf("checks %s and %s: %+v, want mail-1 %s", tt.first, tt.second, all, tt.want)
			}
		}
		v = v.Next(p.must(t))
		f.register(others("green")...)
		after(time.Second)
		if v.Next(p.must(t)) != v {
			t.Error("another tag of an application that nobody asks for is a change")
		}
		stop()
	})
	bubble(t, config, func(t *testing.T, f *fake, a *Agent) {
		f.kill()
		p, _ := running(t, a)
		after(5 * time.Second)
		if diff := cmp.Diff(want, p.must(t).Registrations, cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("registrations of the last-known-good file (-want +got):\n%s", diff)
		}
	})
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var said struct {
		Known struct{ Contents object }
		More  object
	}
	if err := json.Unmarshal(b, &said); err != nil {
		t.Fatal(err)
	}
	if c := said.Known.Contents; c["Registrations"] != nil || len(c) != 5 {
		t.Errorf("the last release refuses what it does not know among the contents, which have %d keys", len(c))
	}
	t.Run("without its second part", func(t *testing.T) { // as the last release wrote it
		cut, _, _ := strings.Cut(string(b), `,"more_sha256"`)
		if s, err := decodeLKG([]byte(cut + "}")); err != nil || len(s.Contents.Proxies) == 0 || s.more.Registrations != nil {
			t.Errorf("%+v, %v", s, err)
		}
	})
	t.Run("altered", func(t *testing.T) {
		if _, err := decodeLKG([]byte(strings.Replace(string(b), `"Native":true`, `"Native":tru`, 1))); err == nil {
			t.Error("half of the second part is taken")
		}
		if _, err := decodeLKG([]byte(strings.Replace(string(b), "unix:uid:1000", "unix:uid:1001", 1))); err == nil {
			t.Error("a second part that was altered is taken")
		}
	})
}
