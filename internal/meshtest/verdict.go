package meshtest

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// TooSlow begins what a test says that failed for this machine's sake: the control load failed as it
// did, or stood still. hack/gotest counts such a test apart, and ends with status 3.
const TooSlow = "TOO SLOW: "

// Verdict is what a load's failures say of what was tested, and of the machine.
type Verdict struct {
	// Ours are failures that the control load did not have, or by far not as many of, by kind.
	Ours map[string]int
	// Machine are those that it had too.
	Machine map[string]int
}

// Judge compares a load with the control load during the same time. A failure is excused only by
// failures of the same kind there, and only up to excuse times their share: no slow machine makes
// an answer "403" of another.
func Judge(load, control Report) Verdict {
	kinds := func(r Report) map[string]int {
		k := map[string]int{}
		for text, n := range r.Errors {
			k[failureKind(text)] += n
		}
		return k
	}
	v := Verdict{Ours: map[string]int{}, Machine: map[string]int{}}
	theirs := kinds(control)
	for kind, n := range kinds(load) {
		c := theirs[kind]
		if kind == timeout && control.P99 >= starving {
			c += chance
		}
		excused := 0
		if c > 0 && control.Requests > 0 {
			excused = excuse*c*load.Requests/control.Requests + excuse
		}
		if n > excused {
			v.Ours[kind] = n
		} else {
			v.Machine[kind] = n
		}
	}
	return v
}

// excuse is how many times the control's share of failures a load may have: the two loads differ in
// rates and pools.
const excuse = 2

const (
	// starving is a 99th percentile of the control load that says that the machine does not come to its work: at rest it is some
	// milliseconds.
	starving = 250 * time.Millisecond
	// chance is how many more time-outs the control load, which makes fewer requests, may have been spared by chance: of requests of
	// which three in n are late, n have none in one case of twenty.
	chance = 3
)

// timeout is the kind of those that nobody answered in time.
const timeout = "timeout"

// failureKind is what a failure is whatever its words: nobody answered in time, nothing listened,
// the connection ended, or else its own text.
func failureKind(text string) string {
	for _, k := range []struct{ kind, words string }{
		{timeout, "timeout"},
		{timeout, "deadline exceeded"},
		{timeout, "timed out"},
		{"reset", "connection reset"},
		{"reset", "broken pipe"},
		{"reset", "EOF"},
	} {
		// Envoy's own answers name their reason after others' words.
		if strings.Contains(text, k.words) && !strings.HasPrefix(text, "status 403") {
			return k.kind
		}
	}
	return text
}

// ControlSince is the report of the control load since from; ok is false if there is none.
func ControlSince(from time.Time) (r Report, ok bool) {
	if control == nil || control.load == nil {
		return Report{}, false
	}
	return control.load.During(from, time.Now()), true
}

// still is for how long a request of the control load may take on a machine on which a wait of
// Deadline says something.
const still = Deadline / 4

// Starved is TooSlow with what the control load's requests took since from, if that says that the machine does not come to its work,
// and "" else.
func Starved(from time.Time) string {
	r, ok := ControlSince(from)
	if !ok || r.P99 < starving {
		return ""
	}
	return fmt.Sprintf("%sone in a hundred requests of the control load took %.1f s or more: ", TooSlow, r.P99.Seconds())
}

// Excused is TooSlow with what the control load did since from, if it failed or stood still, and ""
// else.
func Excused(from time.Time) string {
	r, ok := ControlSince(from)
	if !ok || r.Failed == 0 && r.Max < still {
		return ""
	}
	return fmt.Sprintf("%sof the control load %d of %d failed meanwhile, one took %.1f s (%s): ", TooSlow, r.Failed, r.Requests, r.Max.Seconds(), strings.Join(slices.Sorted(maps.Keys(r.Errors)), ", "))
}
