package main

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestReport(t *testing.T) {
	const events = `{"ImportPath":"m/broken","Action":"build-output","Output":"broken.go:1: syntax error\n"}
{"Action":"start","Package":"m/a"}
{"Action":"run","Package":"m/a","Test":"TestGood"}
{"Action":"output","Package":"m/a","Test":"TestGood","Output":"=== RUN   TestGood\n"}
{"Action":"output","Package":"m/a","Test":"TestGood","Output":"FIGURE TestGood requests=7\n"}
{"Action":"output","Package":"m/a","Test":"TestGood","Output":"    not for everybody\n"}
{"Action":"output","Package":"m/a","Test":"TestGood","Output":"NOTE: not as root\n"}
{"Action":"pass","Package":"m/a","Test":"TestGood","Elapsed":0.1}
{"Action":"output","Package":"m/a","Test":"TestSkipped","Output":"=== RUN   TestSkipped\n"}
{"Action":"output","Package":"m/a","Test":"TestSkipped","Output":"    a_test.go:9: no Envoy\n"}
{"Action":"output","Package":"m/a","Test":"TestSkipped","Output":"--- SKIP: TestSkipped (0.00s)\n"}
{"Action":"skip","Package":"m/a","Test":"TestSkipped","Elapsed":0}
{"Action":"output","Package":"m/a","Output":"ok  \tm/a\t0.1s\n"}
{"Action":"pass","Package":"m/a","Elapsed":0.12}
{"Action":"output","Package":"m/b","Test":"TestBad","Output":"    b_test.go:1: want 1 (-want +got):\n"}
{"Action":"output","Package":"m/b","Test":"TestBad","Output":"          map[string]any{\n        - \t\"code\": 200,\n        + \t\"code\": 429,\n          }\n"}
{"Action":"fail","Package":"m/b","Test":"TestBad","Elapsed":0}
{"Action":"output","Package":"m/b","Test":"TestHangs","Output":"panic: test timed out\n"}
{"Action":"output","Package":"m/b","Output":"FAIL\tm/b\n"}
{"Action":"fail","Package":"m/b","Elapsed":2}
{"Action":"output","Package":"m/c","Output":"?   \tm/c\t[no test files]\n"}
{"Action":"skip","Package":"m/c","Elapsed":0}
go: something else
`
	const want = `broken.go:1: syntax error
FIGURE TestGood requests=7
NOTE: not as root
SKIP m/a TestSkipped: a_test.go:9: no Envoy
ok   m/a 0.1s

FAIL m/b TestBad
    b_test.go:1: want 1 (-want +got):
          map[string]any{
        - 	"code": 200,
        + 	"code": 429,
          }

FAIL m/b TestHangs: did not end
panic: test timed out
FAIL m/b 2.0s
FAIL	m/b
go: something else
FAILED TestBad: b_test.go:1: want 1 (-want +got): - 	"code": 200, + 	"code": 429,
FAILED TestHangs did not end
1 passed, 2 failed, 1 skipped in 1.5s
`
	var out, log strings.Builder
	r := newReport(&out, &log)
	for line := range strings.Lines(events) {
		r.line([]byte(line))
	}
	r.summary(1500 * time.Millisecond)
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("report (-want +got):\n%s", diff)
	}
	if !strings.Contains(log.String(), "not for everybody") {
		t.Error("the log lacks what a test printed")
	}
}

// TestTooSlow: a test that blames the machine alone is counted apart, and its parent with it; one that
// says anything else is not.
func TestTooSlow(t *testing.T) {
	const slow = "    a_test.go:9: TOO SLOW: of the control load 3 of 90 failed\n        and more\n    mesh.go:80: the mesh's files are kept\n"
	const ours = "    a_test.go:12: 5 of 90 requests failed\n"
	tests := []struct {
		name    string
		outputs map[string]string // by failed test
		failed  int
		slow    int
		status  int
	}{
		{"machine", map[string]string{"TestA": slow}, 0, 1, statusTooSlow},
		{"machine in a subtest", map[string]string{"TestA/sub": slow, "TestA": "--- FAIL: TestA\n"}, 0, 2, statusTooSlow},
		{"both in one", map[string]string{"TestA": slow + ours}, 1, 0, statusFailed},
		{"both in two subtests", map[string]string{"TestA/sub": slow, "TestA/two": ours, "TestA": ""}, 2, 1, statusFailed},
		{"neither said", map[string]string{"TestA": ""}, 1, 0, statusFailed},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var out strings.Builder
			r := newReport(&out, &strings.Builder{})
			// A test ends after its subtests, "TestA/sub" before "TestA".
			for _, name := range slices.Backward(slices.Sorted(maps.Keys(tt.outputs))) {
				r.output[testName{"m", name}] = &strings.Builder{}
				r.output[testName{"m", name}].WriteString(tt.outputs[name])
				r.end(testName{"m", name}, event{Action: "fail"})
				delete(r.output, testName{"m", name})
			}
			r.end(testName{pkg: "m"}, event{Action: "fail"})
			r.summary(time.Second)
			if r.failed != tt.failed || r.slow != tt.slow || r.status(true, true) != tt.status {
				t.Errorf("%d failed, %d slow, status %d; want %d, %d, %d", r.failed, r.slow, r.status(true, true), tt.failed, tt.slow, tt.status)
			}
			if said := strings.Contains(out.String(), "THIS MACHINE IS TOO SLOW"); said != (tt.slow > 0) {
				t.Errorf("says %v that the machine is too slow:\n%s", said, out.String())
			}
		})
	}
}
