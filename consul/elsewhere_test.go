package consul

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/identity"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// said is what the agent answers of a destination.
func said(asked, destination, source, action string) map[string]any {
	return map[string]any{asked: []any{object{
		"SourceNS": "default", "SourceName": source, "DestinationNS": "default", "DestinationName": destination, "SourceType": "consul", "Action": action, "Precedence": 9,
	}}}
}

// decides is what the last contents say of a connection: why, and whether it is allowed.
func decides(t *testing.T, p *published, source, destination string) string {
	t.Helper()
	v := new(catalog.View).Next(p.must(t))
	d := v.Decide(v.Identity(identity.NewName(source)), identity.NewName(destination))
	return fmt.Sprintf("%s, %v", d.Reason, d.Allowed())
}

// TestKnow: what is said of a destination that somebody asks about is read from then on, in whichever letter case it is asked about, also
// while the agent is away, and not any more when nobody asks. What the node has itself is read once.
func TestKnow(t *testing.T) {
	bubble(t, nil, func(t *testing.T, f *fake, a *Agent) {
		f.mesh()
		f.set("/v1/connect/intentions/match?db", said("db", "DB", "web", "allow"))
		f.set("/v1/connect/intentions/match?queue", map[string]any{"queue": []any{}})
		p, _ := running(t, a)
		after(time.Second)
		know := func(name string) {
			t.Helper()
			if err := a.Know("app", identity.NewName(name), false); err != nil {
				t.Errorf("Know(%s): %v", name, err)
			}
		}
		check := func(source, destination, want string) {
			t.Helper()
			if got := decides(t, p, source, destination); got != want {
				t.Errorf("%s => %s: %s, want %s", source, destination, got, want)
			}
		}
		queries := func(name string) int { return len(f.of("/v1/connect/intentions/match?" + name)) }
		check("web", "db", "unknown destination, false")
		for _, name := range []string{"db", "Db", "db", "queue", "api", "API"} {
			know(name)
		}
		own := queries("api")
		after(time.Second)
		check("web", "db", "intention, true")
		check("web", "DB", "intention, true")
		check("batch", "db", "default policy, false")
		check("web", "queue", "default policy, false")
		check("web", "lone", "unknown destination, false")
		if n := queries("db"); n != 2 || queries("Db")+queries("API") != 0 || queries("api") != own { // one for the state, and one that waits
			t.Errorf("db was asked for %d times, Db %d, API %d, api %d", n, queries("Db"), queries("API"), queries("api")-own)
		}
		f.set("/v1/connect/intentions/match?db", said("db", "DB", "web", "deny"))
		after(time.Second)
		check("web", "db", "intention, false")
		f.kill()
		after(2 * idleElsewhere)
		know("db")
		check("web", "db", "intention, false")
		check("web", "queue", "default policy, false")
		if err := a.Know("app", identity.NewName("new"), false); status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "failed getting intention match: the Consul agent") {
			t.Errorf("Know of what was never read, while the agent is away: %v", err)
		}
		f.revive()
		after(time.Minute)
		f.set("/v1/connect/intentions/match?db", said("db", "DB", "web", "allow"))
		after(time.Second)
		check("web", "db", "intention, true")
		after(idleElsewhere + time.Minute)
		check("web", "db", "unknown destination, false")
		n := queries("db")
		after(time.Hour)
		if queries("db") != n {
			t.Error("db is read though nobody asks")
		}
		know("db")
		after(time.Second)
		check("web", "db", "intention, true")
	})
}

// TestKnowRefused: what the control plane may not read is denied, and whoever asks is told why.
func TestKnowRefused(t *testing.T) {
	bubble(t, nil, func(t *testing.T, f *fake, a *Agent) {
		f.mesh()
		f.refuse("/v1/connect/intentions/match?db", http.StatusForbidden)
		p, _ := running(t, a)
		after(time.Second)
		if err := a.Know("app", identity.NewName("db"), false); err != nil {
			t.Error(err)
		}
		after(time.Second)
		if err := a.Know("app", identity.NewName("db"), false); status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "failed getting intention match: ") || !strings.Contains(err.Error(), "403") {
			t.Errorf("Know: %v", err)
		}
		if got := decides(t, p, "web", "db"); got != "unknown destination, false" {
			t.Error(got)
		}
		if !a.Status().Settled {
			t.Error("what an application asks about keeps the start from being over")
		}
	})
}

// TestKnowBounds: one caller has so many, all have so many, and what nobody asked about for a while makes room: a caller's own for the
// caller, anybody's for another.
func TestKnowBounds(t *testing.T) {
	var e elsewhere
	now := time.Now()
	ask := func(caller string, n int) bool {
		t.Helper()
		key := fmt.Sprint(caller, n)
		_, added := e.ask(caller, key, now)
		if added != e.has(key) {
			t.Fatalf("%s: added %v, there %v", key, added, e.has(key))
		}
		return added
	}
	for c := range mostElsewhere / mostOfCaller {
		for n := range mostOfCaller {
			now = now.Add(time.Millisecond)
			if !ask(strconv.Itoa(c), n) {
				t.Fatalf("no room for the %dth of caller %d", n, c)
			}
		}
		if ask(strconv.Itoa(c), mostOfCaller) {
			t.Error("a caller has more than one may have")
		}
	}
	if ask("late", 0) {
		t.Error("there are more than there may be")
	}
	now = now.Add(spareElsewhere + time.Second)
	if _, added := e.ask("0", "00", now); added { // it is asked about again
		t.Error("added twice")
	}
	if !ask("late", 0) || e.has("01") || !e.has("00") {
		t.Error("what was not asked about for the longest time made no room")
	}
	if !ask("2", mostOfCaller) || e.has("20") || !e.has("02") {
		t.Error("a caller with as many as one may have took another's place")
	}
	if len(e.by) != mostElsewhere {
		t.Errorf("%d are read", len(e.by))
	}
	if own, added := e.ask("x", "x", now); own || !added {
		t.Error("no room for what is asked later")
	}
	e.belong(map[string]bool{"X": true})
	if own, added := e.ask("x", "x", now); !own || added || e.has("x") {
		t.Error("the node's own is read twice")
	}
	if names, next := e.names(now.Add(idleElsewhere), true); len(names) == 0 || next.IsZero() {
		t.Error("what was asked about is forgotten while the agent is away")
	}
	if names, next := e.names(now.Add(idleElsewhere), false); len(names) != 0 || !next.IsZero() {
		t.Errorf("%v are read though nobody asks", names)
	}
}
