package meshtest

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestJudge(t *testing.T) {
	const slow = "context deadline exceeded"
	report := func(requests int, errors map[string]int) Report {
		r := Report{Requests: requests, Errors: errors}
		for _, n := range errors {
			r.Failed += n
		}
		return r
	}
	starved := func(r Report) Report {
		r.P99 = time.Second / 2
		return r
	}
	tests := []struct {
		name          string
		load, control Report
		ours, machine map[string]int
	}{
		{name: "nothing failed", load: report(1000, nil), control: report(100, map[string]int{slow: 3})},
		{name: "nothing failed there", load: report(1000, map[string]int{slow: 1}), control: report(100, nil), ours: map[string]int{"timeout": 1}},
		{name: "nothing failed there, by chance", load: report(4000, map[string]int{slow: 5}), control: starved(report(1000, nil)), machine: map[string]int{"timeout": 5}},
		{name: "beyond chance", load: report(4000, map[string]int{slow: 50}), control: starved(report(1000, nil)), ours: map[string]int{"timeout": 50}},
		{name: "no chance for answers", load: report(4000, map[string]int{"status 503": 1}), control: starved(report(1000, nil)), ours: map[string]int{"status 503": 1}},
		{name: "as many there", load: report(1000, map[string]int{slow: 30}), control: report(100, map[string]int{"read: i/o timeout": 3}), machine: map[string]int{"timeout": 30}},
		{name: "far more than there", load: report(1000, map[string]int{slow: 300}), control: report(100, map[string]int{slow: 3}), ours: map[string]int{"timeout": 300}},
		{
			name: "of another kind", load: report(1000, map[string]int{"status 403: RBAC: access denied": 5, slow: 2}), control: report(100, map[string]int{slow: 3}),
			ours: map[string]int{"status 403: RBAC: access denied": 5}, machine: map[string]int{"timeout": 2},
		},
		{
			name: "a denial that speaks of a timeout", load: report(1000, map[string]int{"status 403: timeout": 5}), control: report(100, map[string]int{slow: 50}),
			ours: map[string]int{"status 403: timeout": 5},
		},
		{name: "ends for ends", load: report(100, map[string]int{"EOF": 1}), control: report(100, map[string]int{slow: 50}), ours: map[string]int{"reset": 1}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			v := Judge(tt.load, tt.control)
			if diff := cmp.Diff([]map[string]int{tt.ours, tt.machine}, []map[string]int{v.Ours, v.Machine}, cmp.Transformer("", func(m map[string]int) string { return fmt.Sprint(m) })); diff != "" {
				t.Errorf("verdict (-want +got):\n%s", diff)
			}
		})
	}
}

// TestDuring: a report of a part of a load has what was under way in it.
func TestDuring(t *testing.T) {
	l := &Load{started: time.Now()}
	at := func(s float64) time.Time { return l.started.Add(time.Duration(s * float64(time.Second))) }
	l.keep(outcome{due: at(0), took: time.Second})
	l.keep(outcome{due: at(1.5), took: 5 * time.Second, error: "slow"})
	l.keep(outcome{due: at(2), took: -1})
	l.keep(outcome{due: at(8), took: time.Second, error: "late"})
	l.closed, l.unsent = append(l.closed, at(3)), append(l.unsent, at(9))
	r := l.During(at(2), at(4))
	if r.Requests != 2 || r.Failed != 1 || r.Errors["slow"] != 1 || r.Closed != 1 || r.Unsent != 0 || r.Max != 0 {
		t.Errorf("report from 2 s to 4 s: %+v", r)
	}
	if s := l.During(at(0), at(10)).String(); !strings.Contains(s, "1 × late (first after 9.00 s)") || !strings.Contains(s, "requests=4 failed=2") {
		t.Errorf("all of it: %s", s)
	}
}

// TestSpoiled: whoever refuses one request in 200 is found out by a load of some seconds, whatever the machine does meanwhile.
func TestSpoiled(t *testing.T) {
	spoiled := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if rand.IntN(200) == 0 {
			http.Error(w, "upstream connect error or disconnect/reset before headers", http.StatusServiceUnavailable)
		}
	}))
	defer spoiled.Close()
	l, err := StartLoad(LoadConfig{URL: spoiled.URL, KeepAlive: 1000})
	if err != nil {
		t.Fatal(err)
	}
	awaitRequests(t, l, 4000) // that none of them is refused has a probability of 2e-9
	r := l.Stop()
	slow := Report{Requests: 100, Failed: 10, Errors: map[string]int{errorText(io.ErrUnexpectedEOF): 5, errorText(errors.New("i/o timeout")): 5}}
	if v := Judge(r, slow); len(v.Ours) == 0 {
		t.Errorf("nobody is blamed for %v", r)
	}
}
