package audit_test

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sallyport/sallyport/audit"
)

// TestBound: each kind by itself, and what is left out is counted.
func TestBound(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		log := slog.New(audit.Bound(slog.NewTextHandler(&out, nil)))
		nacks := log.With("audit", "nack")
		for range 1500 {
			nacks.Info("refused")
			log.Info("issued", "audit", "admin")
			log.Info("else")
		}
		nacks.Info("refused")
		for what, want := range map[string]int{"msg=refused": 1000, "msg=issued": 1000, "msg=else": 1500, "left out": 0} {
			if n := strings.Count(out.String(), what); n != want {
				t.Errorf("%d lines %s, want %d", n, what, want)
			}
		}
		out.Reset()
		time.Sleep(time.Minute)
		log.Info("else")
		nacks.Info("refused")
		var got []string
		for line := range strings.Lines(out.String()) {
			_, text, _ := strings.Cut(line, "level=INFO ")
			got = append(got, text)
		}
		want := "msg=\"lines left out\" audit=admin count=500\nmsg=\"lines left out\" audit=nack count=501\nmsg=else\nmsg=refused audit=nack\n"
		if text := strings.ReplaceAll(strings.Join(got, ""), "audit=nack audit=nack", "audit=nack"); text != want {
			t.Errorf("after a minute:\n%s\nwant:\n%s", text, want)
		}
	})
}
