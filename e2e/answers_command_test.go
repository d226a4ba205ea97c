//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"net/http"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/sallyport/sallyport/internal/meshtest"
)

// TestConsulCommand runs the consul command as it is on an agent, on the socket of a sallyport that reads files which say the same, and on that of one beside the agent: it
// prints the same.
func TestConsulCommand(t *testing.T) {
	t.Parallel()
	c := meshtest.StartConsul(t, meshtest.Agent{Default: "allow", Node: "sallyport"})
	m := meshtest.New(t, meshtest.Config{Sallyport: sallyport, Flags: []string{"--default-intention-policy", "allow"}})
	definitions(t, c, m)
	m.Serve()
	beside := meshtest.New(t, meshtest.Config{Sallyport: sallyport, Consul: c})
	beside.Serve()
	socket := func(m *meshtest.Mesh) string { return "unix://" + filepath.Join(m.Runtime, "http.sock") }
	token := strings.TrimSpace(m.MustRun("token", "create", "--reader"))
	// What must differ: indexes, hashes, the node's ID, and Consul's own service.
	must := regexp.MustCompile(`(?m)^ *"(CreateIndex|ModifyIndex|Hash)": \d+,?\n|^consul\b.*\n|[0-9a-f]{8}\b|,$`)
	blanks := regexp.MustCompile(` +`)
	run := func(address, token string, args ...string) string {
		cmd := exec.Command(c.Binary(), args...)
		cmd.Env = append(meshtest.Environ(), "CONSUL_HTTP_ADDR="+address, "CONSUL_HTTP_TOKEN="+token)
		out, err := cmd.CombinedOutput()
		if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
			t.Fatal(err)
		}
		return fmt.Sprintf("exit %d\n%s", cmd.ProcessState.ExitCode(), blanks.ReplaceAllString(must.ReplaceAllString(string(out), ""), " "))
	}
	for _, args := range []string{
		"intention list", "intention check web api", "intention check WEB api", "intention check web nosuch", "intention get web api", "intention get nobody api",
		"intention match api", "intention match -source web", "intention match Orders",
		"config list -kind service-defaults", "config list -kind service-intentions", "config list -kind service-router",
		"config read -kind service-intentions -name api", "config read -kind service-defaults -name web", "config read -kind proxy-defaults -name global",
		"config read -kind mesh -name mesh", "config read -kind service-defaults -name nosuch",
		"catalog services", "catalog services -tags", "catalog nodes", "catalog nodes -service api", "catalog datacenters",
	} {
		want := run(c.Addr, "", strings.Fields(args)...)
		if diff := cmp.Diff(want, run(socket(m), token, strings.Fields(args)...)); diff != "" {
			t.Errorf("consul %s (-Consul +sallyport):\n%s", args, diff)
		}
		if diff := cmp.Diff(want, run(socket(beside), "", strings.Fields(args)...)); diff != "" {
			t.Errorf("consul %s (-Consul +sallyport beside it):\n%s", args, diff)
		}
	}
	create := []string{"intention", "create", "-deny", "web", "db"}
	if out := run(socket(m), token, create...); !strings.Contains(out, "405") || !strings.Contains(out, "edit the definitions") {
		t.Errorf("consul intention create: %s", out)
	}
	if out := run(socket(beside), "", create...); !strings.Contains(out, "405") || !strings.Contains(out, "--api-writes") {
		t.Errorf("consul intention create: %s", out)
	}
}

// TestAnswersAreWoken has questions wait for a change, at both: they are answered with it, within the wait, and those that it does not concern are not.
func TestAnswersAreWoken(t *testing.T) {
	t.Parallel()
	c := meshtest.StartConsul(t, meshtest.Agent{Default: "allow", Node: "sallyport"})
	m := meshtest.New(t, meshtest.Config{Sallyport: sallyport, Flags: []string{"--default-intention-policy", "allow"}})
	definitions(t, c, m)
	m.Serve()
	awaitListening(t, c)
	consul, ours := asks(t, "tcp", c.Addr, ""), asks(t, "unix", filepath.Join(m.Runtime, "http.sock"), strings.TrimSpace(m.MustRun("token", "create", "--reader")))
	const entry = `Kind = "service-intentions" Name = "db" Sources = [{ Name = "api" Action = "deny" }]`
	for _, step := range []struct {
		name          string
		change        func()
		woken, asleep []string
	}{
		{
			"an intention changes", func() { c.Run("config", "write", c.File("x.hcl", entry)); m.Write("entry-5.hcl", entry+"\n") },
			[]string{"/v1/connect/intentions", "/v1/connect/intentions/match?by=destination&name=DB", "/v1/connect/intentions/exact?source=api&destination=db", "/v1/config/service-intentions/db"},
			[]string{"/v1/connect/intentions/match?by=destination&name=api", "/v1/config/service-intentions/api", "/v1/health/service/db", "/v1/catalog/services"},
		},
		{
			"an entry goes", func() { c.DeleteConfig("service-intentions", "Orders"); m.Remove("entry-7.hcl") },
			[]string{"/v1/config/service-intentions/orders", "/v1/connect/intentions/match?by=destination&name=orders", "/v1/config/service-intentions"},
			[]string{"/v1/config/service-defaults/web", "/v1/health/connect/web"},
		},
		{
			"a service comes", func() {
				const late = `service { name = "late" port = 7999 }`
				m.Write("late.hcl", late+"\n")
				c.Run("services", "register", c.File("late.hcl", late))
			},
			[]string{"/v1/health/service/late", "/v1/catalog/services", "/v1/catalog/service/late"},
			[]string{"/v1/connect/intentions", "/v1/health/service/plain", "/v1/config/mesh/mesh"},
		},
	} {
		type waited struct {
			who, path string
			apiAnswer
			err error
		}
		all := append(append([]string{}, step.woken...), step.asleep...)
		answers := make(chan waited, 2*len(all))
		for _, path := range all {
			for who, a := range map[string]asking{"Consul": consul, "sallyport": ours} {
				first, err := a.ask(apiQuestion{line: apiLine("GET " + path)})
				if err != nil {
					t.Fatal(err)
				}
				index := first.header.Get("X-Consul-Index")
				if index == "" { // exact waits for the index of the list
					list, err := a.ask(apiQuestion{line: "GET /v1/connect/intentions"})
					if err != nil {
						t.Fatal(err)
					}
					index = list.header.Get("X-Consul-Index")
				}
				separator := "?"
				if strings.Contains(path, "?") {
					separator = "&"
				}
				wait := "25s"
				for _, p := range step.asleep {
					if p == path {
						wait = "5s"
					}
				}
				go func() {
					got, err := a.ask(apiQuestion{line: apiLine("GET " + path + separator + "wait=" + wait + "&index=" + index)})
					if err == nil && cmp.Equal(compared(got)["body"], compared(first)["body"]) { // tags are in any order
						got.body = "the same"
					}
					answers <- waited{who, path, got, err}
				}()
			}
		}
		time.Sleep(time.Second) // they wait by then
		step.change()
		got := map[string]map[string]waited{"Consul": {}, "sallyport": {}}
		for range 2 * len(all) {
			w := <-answers
			got[w.who][w.path] = w
		}
		for _, path := range all {
			want, have := got["Consul"][path], got["sallyport"][path]
			if want.err != nil || have.err != nil {
				t.Errorf("%s: %s: Consul: %v, sallyport: %v", step.name, path, want.err, have.err)
				continue
			}
			if want.code != have.code || (want.body == "the same") != (have.body == "the same") {
				t.Errorf("%s: %s: Consul answers %d %.300s, sallyport %d %.300s", step.name, path, want.code, want.body, have.code, have.body)
			}
			if have.code == http.StatusOK && have.header.Get("X-Consul-Index") == "0" {
				t.Errorf("%s: index 0", path)
			}
		}
		for _, path := range step.woken {
			if got["sallyport"][path].body == "the same" {
				t.Errorf("%s: %s: nothing new", step.name, path)
			}
		}
		for _, path := range step.asleep {
			if got["sallyport"][path].body != "the same" {
				t.Errorf("%s: %s: %.300s", step.name, path, got["sallyport"][path].body)
			}
		}
	}
}
