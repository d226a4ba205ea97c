package snapshot_test

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"github.com/sallyport/sallyport/internal/envoytest"
	"github.com/sallyport/sallyport/snapshot"
)

// releasedFile holds the versions, which are hashes, of every listener and cluster of the goldens
// as the last release made them.
const releasedFile = "testdata/released.txt"

var writeReleased = flag.Bool("released", false, "write "+releasedFile+" anew: what is built now is what a release tells Envoys")

// released maps "tcp/web-sidecar-proxy 1.40.0 Cluster local_app" to a version.
type released map[string]string

// releasedNow is what is built now for those Envoys. Of listeners and clusters alone: Envoy ends
// connections when one of these changes; all else it takes without.
func releasedNow(t testing.TB, envoys ...string) released {
	t.Helper()
	out := released{}
	for proxy, in := range inputs(t) {
		for _, envoy := range envoys {
			in.Envoy = featuresOf(t, envoy)
			for url, byName := range build(t, in).ByType {
				if url != listeners && url != clusters {
					continue
				}
				kind := url[strings.LastIndex(url, ".")+1:]
				for _, r := range byName {
					out[strings.Join([]string{proxy, envoy, kind, r.GetName()}, " ")] = r.GetVersion()
				}
			}
		}
	}
	return out
}

// featuresOf are those of an Envoy of that version under our bootstrap.
func featuresOf(t testing.TB, version string) snapshot.Features {
	t.Helper()
	v := &typev3.SemanticVersion{}
	if _, err := fmt.Sscanf(version, "%d.%d.%d", &v.MajorNumber, &v.MinorNumber, &v.Patch); err != nil {
		t.Fatalf("version %q of an Envoy: %v", version, err)
	}
	f := snapshot.FeaturesOf(&corev3.Node{UserAgentVersionType: &corev3.Node_UserAgentBuildVersion{
		UserAgentBuildVersion: &corev3.BuildVersion{Version: v},
	}})
	f.RegexSize, f.ExclusivePorts = newest.RegexSize, newest.ExclusivePorts
	return f
}

// envoys are the versions that r has something of.
func (was released) envoys() []string {
	seen := map[string]bool{}
	for key := range was {
		seen[strings.Fields(key)[1]] = true
	}
	return slices.Sorted(maps.Keys(seen))
}

// drained are the entries of was that are another in now, or gone: a release with these ends
// connections. What is new ends none.
func (was released) drained(now released) []string {
	var out []string
	for _, key := range slices.Sorted(maps.Keys(was)) {
		switch version, ok := now[key]; {
		case !ok:
			out = append(out, key+": is gone")
		case version != was[key]:
			out = append(out, key+": is another")
		}
	}
	return out
}

func (r released) text() []byte {
	var b bytes.Buffer
	b.WriteString("# What the last release told Envoys: golden, Envoy, type, name, hash. Written by `make release-goldens`.\n")
	for _, key := range slices.Sorted(maps.Keys(r)) {
		fmt.Fprintln(&b, key, r[key])
	}
	return b.Bytes()
}

func parseReleased(t testing.TB, text []byte) released {
	t.Helper()
	out := released{}
	for s := bufio.NewScanner(bytes.NewReader(text)); s.Scan(); {
		line := s.Text()
		if strings.HasPrefix(line, "#") {
			continue
		}
		at := strings.LastIndex(line, " ")
		if at < 0 || len(strings.Fields(line)) != 5 {
			t.Fatalf("%s: the line %q is not golden, Envoy, type, name and hash", releasedFile, line)
		}
		out[line[:at]] = line[at+1:]
	}
	if len(out) == 0 {
		t.Fatalf("%s is empty: nothing would be compared", releasedFile)
	}
	return out
}

// announced reports whether the changelog's section of what is not released yet says that
// connections end.
func announced(changelog string) bool {
	_, text, ok := strings.Cut(changelog, "\n## Unreleased\n")
	if !ok {
		return false
	}
	text, _, _ = strings.Cut(text, "\n## ")
	return regexp.MustCompile(`(?i)\bdrains\b`).MatchString(text)
}

// TestReleasedGoldens: a listener or cluster that a new release makes otherwise ends the
// connections of every mesh it is rolled out to. That may be worth it, and then the changelog has
// to say so.
func TestReleasedGoldens(t *testing.T) {
	if *writeReleased {
		if err := os.WriteFile(releasedFile, releasedNow(t, envoytest.Oldest, envoytest.Newest).text(), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	text, err := os.ReadFile(releasedFile)
	if err != nil {
		t.Fatal(err)
	}
	was := parseReleased(t, text)
	drained := was.drained(releasedNow(t, was.envoys()...))
	if len(drained) == 0 {
		return
	}
	changelog, err := os.ReadFile(filepath.Join("..", "CHANGELOG.md"))
	if err != nil {
		t.Fatal(err)
	}
	if announced(string(changelog)) {
		t.Logf("the changelog says that this release drains; it does in %d places", len(drained))
		return
	}
	t.Errorf(`%d listeners or clusters are not what the last release made of the same definitions, so rolling this out ends connections:
  %s
If a case's definitions were changed: leave them, and make a new case. If this is meant: say "drains", and why, under "Unreleased" in CHANGELOG.md.`,
		len(drained), strings.Join(drained, "\n  "))
}

// TestReleasedGoldensFind changes one byte of each kind of thing in turn, for a comparison that
// finds nothing would pass.
func TestReleasedGoldensFind(t *testing.T) {
	now := releasedNow(t, "1.36.4", "1.40.0")
	if got := now.drained(now); len(got) > 0 {
		t.Fatalf("what did not change drains: %q", got)
	}
	if again := parseReleased(t, now.text()); !maps.Equal(again, now) {
		t.Fatal("the record is not read as it was written")
	}

	const listener = "tcp/by-rbac-sidecar-proxy 1.40.0 Listener public_listener:0.0.0.0:21000"
	cases := map[string]func(released){
		listener + ": is another": func(r released) {
			for proxy, in := range inputs(t) {
				if proxy != "tcp/by-rbac-sidecar-proxy" {
					continue
				}
				in.Envoy = newest
				bytes := build(t, in).ByType[listeners].Get("public_listener:0.0.0.0:21000").GetResource().GetValue()
				if r[listener] != hash(bytes) {
					t.Fatalf("the version of %s is not the hash of its bytes", listener)
				}
				spoilt := slices.Clone(bytes)
				spoilt[len(spoilt)-1] ^= 1
				r[listener] = hash(spoilt)
			}
		},
		listener + ": is gone": func(r released) { delete(r, listener) },
		"tcp/by-rbac-sidecar-proxy 1.36.4 Cluster local_app: is another": func(r released) {
			r["tcp/by-rbac-sidecar-proxy 1.36.4 Cluster local_app"] = hash([]byte("another"))
		},
	}
	for want, change := range cases {
		changed := maps.Clone(now)
		change(changed)
		if got := now.drained(changed); len(got) != 1 || got[0] != want {
			t.Errorf("found %q, want %q", got, want)
		}
	}
	more := maps.Clone(now)
	more["new/web 1.40.0 Listener l"] = "1"
	if got := now.drained(more); len(got) > 0 {
		t.Errorf("what is new drains: %q", got)
	}
}

// hash is how a version is made, said once more: if that changes, every Envoy is sent everything.
func hash(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:16])
}

func TestAnnounced(t *testing.T) {
	for text, want := range map[string]bool{
		"# Changelog\n\nA line that says \"drains\".\n\n## Unreleased\n\n* Something.\n\n## 1.0\n\n* It drains.\n": false,
		"# Changelog\n\n## Unreleased\n\n* Drains: another stat prefix.\n\n## 1.0\n":                               true,
		"# Changelog\n\n## 1.0\n\n* It drains.\n":                                                                  false,
		"# Changelog\n\n## Unreleased\n\n* The drainset.\n":                                                        false,
	} {
		if got := announced(text); got != want {
			t.Errorf("announced(%q) = %v, want %v", text, got, want)
		}
	}
}
