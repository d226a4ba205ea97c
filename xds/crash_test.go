package xds

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/intention"
	"github.com/sallyport/sallyport/internal/atomicfile"
	"github.com/sallyport/sallyport/internal/sequence"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"pgregory.net/rapid"
)

// Whatever is granted, revoked, written and not written, and whenever the process is killed: nobody
// may have a connection under a name that the next start finds, and not be among those whom it
// finds let in under that name. An Envoy may be slow, and let in under any of the names so far.
func TestNobodyIsForgotten(t *testing.T) {
	sources := []string{"x", "y", "z"}
	td := spiffeid.RequireTrustDomainFromString("a")
	rapid.Check(t, func(t *rapid.T) {
		numbers := &sequence.Numbers{}
		g := &generations{byDst: map[string]*generation{}, numbers: numbers}
		dst, now := identity.NewName("api"), time.Unix(1_000_000, 0)
		full := false
		newRecorder := func() recorder {
			return recorder{path: "no directory/generations-2.json", done: make(chan recording, 1), left: new(atomic.Bool), file: func(string, []byte) error {
				if full {
					return errors.New("the disk is full")
				}
				return nil
			}}
		}
		r := newRecorder()
		renamed := false // the next start gives another name, whatever it finds
		var write func()
		var onDisk, inFlight record
		names := map[uint64]bool{}
		connected := map[uint64]map[string]bool{}
		publish := func(p *intention.Policy) {
			s, _, _ := g.observe(dst, p, drains(0), now)
			told := g.publishable(s)
			if s.number != 0 {
				names[s.number] = true
			}
			for _, source := range sources {
				if told.Decide(identity.Service{TrustDomain: td, Datacenter: "dc1", Name: identity.NewName(source)}).Allowed() {
					for n := range names {
						if connected[n] == nil {
							connected[n] = map[string]bool{}
						}
						connected[n][source] = true
					}
				}
			}
		}
		p := policy("a", intention.Deny)
		t.Repeat(map[string]func(*rapid.T){
			"intend": func(t *rapid.T) {
				rest := rapid.SampledFrom([]intention.Action{intention.Deny, intention.Deny, intention.Allow}).Draw(t, "rest")
				p = policy("a", rest, rapid.SliceOfDistinct(rapid.SampledFrom(sources), rapid.ID).Draw(t, "allowed")...)
				publish(p)
			},
			"wait": func(*rapid.T) { now = now.Add(renameEvery); publish(p) },
			"write": func(*rapid.T) {
				r.start(g, now, func(f func()) { write = f; inFlight = g.byDst["api"].record })
			},
			"written": func(t *rapid.T) {
				if write == nil {
					t.Skip()
				}
				write()
				onDisk, inFlight, write, renamed = inFlight, record{}, nil, false
				r.finish(g, <-r.done, now)
				publish(p)
			},
			"not written": func(t *rapid.T) {
				if write == nil {
					t.Skip()
				}
				full = true
				write()
				full = false
				w := <-r.done
				inFlight, write, renamed = record{}, nil, slices.Contains(w.missing, "api")
				r.finish(g, w, now)
				publish(p)
			},
			"crash": func(t *rapid.T) {
				if write != nil && rapid.Bool().Draw(t, "written") {
					onDisk, renamed = inFlight, false
				}
				write, inFlight, r = nil, record{}, newRecorder()
				g = &generations{byDst: map[string]*generation{}, numbers: numbers}
				if onDisk.number != 0 {
					g.byDst["api"] = &generation{record: onDisk, recorded: onDisk}
					if renamed {
						g.rename("api")
					}
				}
				publish(p)
			},
			"": func(t *rapid.T) {
				for i, found := range []record{onDisk, inFlight} {
					if i == 0 && renamed {
						continue
					}
					for source := range connected[found.number] {
						if !policy("a", intention.Deny, source).Allowed().Within(found.allowed) {
							t.Fatalf("killed now, %s is forgotten: it may be connected under %d, under which %+v is found", source, found.number, found.allowed)
						}
					}
				}
			},
		})
	})
}

// lives is the generation of the service api through crashes, each of which loses what is not on
// disk.
type lives struct {
	t                *testing.T
	path, unrecorded string
	numbers          *sequence.Numbers
	g                *generations
	r                recorder
	now              time.Time
}

func newLives(t *testing.T) *lives {
	t.Helper()
	l := &lives{
		t: t, path: filepath.Join(t.TempDir(), "generations-2.json"), unrecorded: filepath.Join(t.TempDir(), "unrecorded"),
		numbers: &sequence.Numbers{}, now: time.Unix(1_000_000, 0),
	}
	l.crash()
	return l
}

func (l *lives) crash() {
	l.t.Helper()
	var err error
	if l.g, err = openGenerations(l.path, l.unrecorded, l.numbers, l.now); err != nil {
		l.t.Fatal(err)
	}
	l.r = recorder{path: l.path, unrecorded: l.unrecorded, file: atomicfile.Replace, done: make(chan recording, 1), left: new(atomic.Bool)}
}

// record writes what has to be, with the outcome that the disk has.
func (l *lives) record() {
	if l.r.start(l.g, l.now, func(f func()) { f() }); l.r.busy {
		l.r.finish(l.g, <-l.r.done, l.now)
	}
}

// tell returns the generation under p, and whether who is of td, dc and name is let in.
func (l *lives) tell(p *intention.Policy, td, dc, name string) (number uint64, allowed bool) {
	s, _, _ := l.g.observe(identity.NewName("api"), p, drains(0), l.now)
	source := identity.Service{TrustDomain: spiffeid.RequireTrustDomainFromString(td), Datacenter: dc, Name: identity.NewName(name)}
	return s.number, l.g.publishable(s).Decide(source).Allowed()
}

// Each case lets somebody in, crashes, and comes back when they are revoked: the name has to be
// another one then, or they were not let in.
func TestCrashes(t *testing.T) {
	const deny = intention.Deny
	full := func(string, []byte) error { return errors.New("the disk is full") }
	for name, test := range map[string]func(l *lives) (before, after uint64, letIn bool){
		"a grant after a write that failed for another service": func(l *lives) (before, after uint64, letIn bool) {
			l.tell(policy("a", deny, "x"), "a", "dc1", "x")
			l.record()
			l.r.file = full
			l.g.observe(identity.NewName("web"), policy("a", deny, "x"), drains(0), l.now)
			l.record()
			before, letIn = l.tell(policy("a", deny, "x", "z"), "a", "dc1", "z")
			l.crash()
			after, _ = l.tell(policy("a", deny, "x"), "a", "dc1", "x")
			return before, after, letIn
		},
		"a grant after a write that failed, which was tried at once": func(l *lives) (before, after uint64, letIn bool) {
			l.tell(policy("a", deny, "x"), "a", "dc1", "x")
			l.record()
			l.r.file = full
			l.tell(policy("a", deny, "x", "y"), "a", "dc1", "y")
			l.record()
			if _, letIn = l.tell(policy("a", deny, "x", "y"), "a", "dc1", "y"); !letIn {
				l.t.Error("a disk that is full keeps a grant waiting")
			}
			before, letIn = l.tell(policy("a", deny, "x", "y", "z"), "a", "dc1", "z")
			l.crash()
			after, _ = l.tell(policy("a", deny, "x"), "a", "dc1", "x")
			return before, after, letIn
		},
		"an unrecorded name": func(l *lives) (before, after uint64, letIn bool) {
			l.tell(policy("a", deny, "x", "y", "z"), "a", "dc1", "z")
			l.record()
			l.r.file = full
			before, letIn = l.tell(policy("a", deny, "x", "y"), "a", "dc1", "y")
			l.record()
			l.crash()
			after, _ = l.tell(policy("a", deny, "x"), "a", "dc1", "x")
			return before, after, letIn
		},
		"a datacenter that joined": func(l *lives) (before, after uint64, letIn bool) {
			l.tell(inDatacenters("dc1"), "a", "dc1", "x")
			l.record()
			l.crash()
			before, letIn = l.tell(inDatacenters("dc1", "dc2"), "a", "dc2", "x")
			l.crash()
			after, _ = l.tell(inDatacenters("dc1"), "a", "dc1", "x")
			return before, after, letIn
		},
		"a trust domain there and back": func(l *lives) (before, after uint64, letIn bool) {
			l.tell(policy("a", deny, "x", "y"), "a", "dc1", "x")
			l.tell(policy("a", deny, "x"), "a", "dc1", "x")
			l.record()
			before, letIn = l.tell(policy("b", deny, "x"), "b", "dc1", "x")
			l.crash()
			after, _ = l.tell(policy("a", deny, "x"), "a", "dc1", "x")
			return before, after, letIn
		},
		"numbers that began anew": func(l *lives) (before, after uint64, letIn bool) {
			if err := l.numbers.Raise(2_000_000); err != nil {
				l.t.Fatal(err)
			}
			l.tell(policy("a", deny, "x", "y", "z"), "a", "dc1", "z")
			l.record()
			l.numbers = &sequence.Numbers{} // their file is lost, and the clock is behind
			l.crash()
			before, letIn = l.tell(policy("a", deny, "x", "y"), "a", "dc1", "y")
			l.crash()
			after, _ = l.tell(policy("a", deny, "x"), "a", "dc1", "x")
			return before, after, letIn
		},
	} {
		t.Run(name, func(t *testing.T) {
			if before, after, letIn := test(newLives(t)); letIn && before == after {
				t.Errorf("somebody was let in under generation %d, is revoked, and the generation is the same", before)
			}
		})
	}
}

// A grant that is recorded is told, whatever came meanwhile.
func TestGrantWaitsForItsOwnRecordAlone(t *testing.T) {
	l := newLives(t)
	l.tell(policy("a", intention.Deny, "x"), "a", "dc1", "x")
	l.record()
	l.tell(policy("a", intention.Deny, "x", "g"), "a", "dc1", "g")
	l.r.start(l.g, l.now, func(f func()) { f() })
	p := policy("a", intention.Deny, "x", "g", "h")
	l.tell(p, "a", "dc1", "h") // while the disk works
	l.r.finish(l.g, <-l.r.done, l.now)
	if _, letIn := l.tell(p, "a", "dc1", "g"); !letIn {
		t.Error("g is recorded and not let in")
	}
	if _, letIn := l.tell(p, "a", "dc1", "h"); letIn {
		t.Error("h is let in and not recorded")
	}
}

// An end does not wait for a disk that does not answer, and leaves the names of what is missing.
func TestEndWhileTheDiskStalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := patient()
		cfg.GenerationsFile, cfg.UnrecordedFile = t.TempDir()+"/generations-2.json", t.TempDir()+"/unrecorded"
		m, stall := startOnDisk(t, cfg)
		twoServices(m)
		m.publish()
		synctest.Wait()
		works := stall()
		defer func() {
			works()
			synctest.Wait()
		}()
		m.intend("late", "api", intention.Allow)
		m.publish()
		synctest.Wait()
		begin := time.Now()
		m.stop()
		if took := time.Since(begin); took > 2*lastWrite {
			t.Errorf("the end took %s", took)
		}
		b, err := os.ReadFile(cfg.UnrecordedFile)
		if err != nil || strings.TrimSpace(string(b)) != "api" {
			t.Errorf("%q is said to be missing, %v, want api", b, err)
		}
	})
}

// A service that begins to end connections while the disk stalls is told all that it was told
// before.
func TestRevocationUnderAnUnrecordedFirstName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := patient()
		cfg.GenerationsFile = t.TempDir() + "/generations-2.json"
		m, stall := startOnDisk(t, cfg)
		defer m.stop()
		m.service("web", catalog.TCP, "api")
		m.service("api", catalog.TCP)
		m.intend("batch", "api", intention.Allow)
		m.contents.Proxies[1].Inbound.Revocation = catalog.NewConnections
		m.publish()
		api := m.stream("api")
		api.configureAPI()
		works := stall()
		defer works()
		m.contents.Proxies[1].Inbound.Revocation = catalog.Drain
		m.publish()
		api.accept("extension proxy/api") // that connections end by a drain is the tcp proxy's affair
		api.accept("listener public_listener:127.0.0.1:20001")
		m.intend("batch", "api", intention.Deny)
		m.publish()
		api.accept("secret peers/api")
		api.accept("extension intentions/api")
	})
}

// The generations of services that have been gone for long are forgotten.
func TestGenerationsOfServicesThatAreGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := start(t, patient())
		for i := range 30 {
			m.contents.Services, m.contents.Endpoints, m.contents.Proxies = nil, nil, nil
			m.service("job-"+time.Duration(i).String(), catalog.TCP)
			m.publish()
			synctest.Wait()
			time.Sleep(keepGone)
		}
		m.stop()
		if n := len(m.server.generations.byDst); n > 3 {
			t.Errorf("%d generations are kept for one service", n)
		}
	})
}
