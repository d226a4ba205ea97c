package consul

import (
	"bytes"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"
)

// logText is what an Agent has logged.
type logText struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logText) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logText) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func (l *logText) reset() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text.Reset()
}

func logged(l *logText) func(*Config) {
	return func(c *Config) { c.Logger = slog.New(slog.NewTextHandler(l, nil)) }
}

// A start at which nothing is wrong warns of nothing, and no line has empty fields.
func TestHealthyStartIsQuiet(t *testing.T) {
	var log logText
	bubble(t, logged(&log), func(t *testing.T, f *fake, a *Agent) {
		f.mesh()
		running(t, a)
		after(time.Minute)
		text := log.String()
		for _, of := range []string{"not known yet", `=""`} {
			if strings.Contains(text, of) {
				t.Errorf("the log has %s:\n%s", of, text)
			}
		}
	})
}

// What a proxy still waits for after a while is logged.
func TestLongWaitIsLogged(t *testing.T) {
	var log logText
	bubble(t, logged(&log), func(t *testing.T, f *fake, a *Agent) {
		f.mesh()
		f.refuse("/v1/connect/intentions/match?web", 500)
		running(t, a)
		after(time.Second)
		const text = "the intentions are not known yet: the proxy waits"
		if strings.Contains(log.String(), text) {
			t.Errorf("logged after 1 s:\n%s", &log)
		}
		after(firstWait)
		if strings.Count(log.String(), text) != 1 {
			t.Errorf("after 6 s the log does not say once that %s:\n%s", text, &log)
		}
	})
}

// An agent that comes back is not said to be away afterwards, whatever was not asked again yet.
func TestNothingIsAwayAfterTheReturn(t *testing.T) {
	var log logText
	bubble(t, logged(&log), func(t *testing.T, f *fake, a *Agent) {
		f.mesh()
		running(t, a)
		after(time.Minute)
		for range 3 {
			log.reset()
			f.kill()
			after(20 * time.Second)
			f.revive()
			after(time.Minute)
			before, afterwards, ok := strings.Cut(log.String(), "consul agent answers again")
			if !ok || strings.Count(before, "does not answer, what is known stays") != 1 || strings.Contains(afterwards, "does not answer") {
				t.Errorf("log:\n%s", &log)
			}
		}
	})
}

// That a request of before the agent came back ends without an answer says nothing of the agent.
func TestLateFailure(t *testing.T) {
	c := contact{}
	asked := time.Now()
	c.note(answer{}, errUnreachable, asked)
	c.note(answer{}, nil, time.Now())
	if c.note(answer{}, errUnreachable, asked); !c.state().lost.IsZero() {
		t.Error("lost for a request of before")
	}
	time.Sleep(time.Millisecond)
	if c.note(answer{}, errUnreachable, time.Now()); c.state().lost.IsZero() {
		t.Error("not lost for a request of now")
	}
}
