package attest

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
)

// Kinds of selectors, as SPIRE spells them.
const (
	kindUID                = "unix:uid"
	kindUser               = "unix:user"
	kindGID                = "unix:gid"
	kindGroup              = "unix:group"
	kindSupplementaryGID   = "unix:supplementary_gid"
	kindSupplementaryGroup = "unix:supplementary_group"
	kindPath               = "unix:path"
	kindUnit               = "systemd:id"
)

// kinds are all that are evaluated, in the order in which errors list them.
var kinds = []string{kindUID, kindUser, kindGID, kindGroup, kindSupplementaryGID, kindSupplementaryGroup, kindPath, kindUnit}

const (
	// maxText bounds what Parse reads, in bytes: two paths of the kernel's length.
	maxText = 8 << 10
	// maxID is the largest user or group; the one above it stands for "none" in the kernel's calls.
	maxID = 1<<32 - 2
)

// selector is one thing that a process has to be.
type selector struct {
	kind  string
	value string
	id    int // of the kinds whose value is a number
}

// Selectors describe a process, which has to be all that they say. The zero Selectors match nothing.
// They are immutable.
type Selectors struct{ list []selector }

// Parse reads selectors as SPIRE spells them, with commas between them:
// "unix:uid:1000, unix:path:/usr/bin/web". One of them has to name a user other than root, by
// unix:uid or unix:user. The error says which selector is wrong and how to mend it.
func Parse(text string) (Selectors, error) {
	if len(text) > maxText {
		return Selectors{}, fmt.Errorf("selectors of %d bytes: %d are the most", len(text), maxText)
	}
	var s Selectors
	for part := range strings.SplitSeq(text, ",") {
		one, err := parseOne(strings.TrimSpace(part))
		if err != nil {
			return Selectors{}, err
		}
		switch i := slices.IndexFunc(s.list, func(o selector) bool { return o.kind == one.kind }); {
		case slices.Contains(s.list, one):
			continue
		case i >= 0 && one.kind != kindSupplementaryGID && one.kind != kindSupplementaryGroup:
			return Selectors{}, fmt.Errorf("%q and %q: no process is both, and all selectors have to hold: name one, and give another instance of the service the other", s.list[i], one)
		}
		s.list = append(s.list, one)
	}
	if !slices.ContainsFunc(s.list, func(o selector) bool { return o.kind == kindUID || o.kind == kindUser }) {
		return Selectors{}, fmt.Errorf("%q names no user, and what else a process shows counts only as far as its user is trusted: add %s:… or %s:…", text, kindUID, kindUser)
	}
	return s, nil
}

func parseOne(text string) (selector, error) {
	if text == "" {
		return selector{}, errors.New(`an empty selector: write them as in "unix:uid:1000, unix:path:/usr/bin/web"`)
	}
	kind := text
	if i := strings.IndexByte(text, ':'); i >= 0 {
		if j := strings.IndexByte(text[i+1:], ':'); j >= 0 {
			kind = text[:i+1+j]
		}
	}
	if !slices.Contains(kinds, kind) {
		return selector{}, fmt.Errorf("%q is no selector that is evaluated: use %s, each with a colon and its value", text, strings.Join(kinds, ", "))
	}
	s := selector{kind: kind, value: strings.TrimPrefix(text[len(kind):], ":")}
	return s, s.complete()
}

// complete checks the value and reads its number.
func (s *selector) complete() error {
	if s.value == "" {
		return fmt.Errorf("%q has no value: add a colon and the value", s.kind)
	}
	if strings.ContainsFunc(s.value, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return fmt.Errorf("%q has a control character: leave it out", s)
	}
	switch s.kind {
	case kindUID, kindGID, kindSupplementaryGID:
		n, err := strconv.ParseUint(s.value, 10, 32)
		if err != nil || n > maxID || strconv.FormatUint(n, 10) != s.value {
			return fmt.Errorf("%q: the value is not a number from 0 to %d: use %s for a name", s, maxID, map[string]string{kindUID: kindUser, kindGID: kindGroup, kindSupplementaryGID: kindSupplementaryGroup}[s.kind])
		}
		s.id = int(n)
		if s.kind == kindUID && n == 0 {
			return errRoot(*s)
		}
	case kindUser:
		if s.value == "root" {
			return errRoot(*s)
		}
	case kindPath:
		if !path.IsAbs(s.value) || path.Clean(s.value) != s.value {
			return fmt.Errorf("%q: not an absolute path without '.', '..' and doubled slashes: write it as /proc/PID/exe shows it", s)
		}
	case kindUnit:
		if strings.Contains(s.value, "/") || !isUnit(s.value) {
			return fmt.Errorf("%q: not the name of a unit: write it with its ending, as in %s:web.service", s, kindUnit)
		}
	}
	return nil
}

func errRoot(s selector) error {
	return fmt.Errorf("%q: root is nobody in particular, as whoever forwards a socket and every container's root is root: run the process as a user of its own, and name that", s)
}

// String is the selector as SPIRE spells it.
func (s selector) String() string { return s.kind + ":" + s.value }

// String is the selectors as SPIRE spells them, in the order in which they were written.
func (s Selectors) String() string {
	all := make([]string, len(s.list))
	for i, o := range s.list {
		all[i] = o.String()
	}
	return strings.Join(all, ",")
}

// IsZero reports whether s says nothing, and so matches nothing.
func (s Selectors) IsZero() bool { return len(s.list) == 0 }

// UID is the user that s names by number; ok is false if it names one by name.
func (s Selectors) UID() (uid int, ok bool) {
	for _, o := range s.list {
		if o.kind == kindUID {
			return o.id, true
		}
	}
	return 0, false
}

// isUnit reports whether name is that of a systemd unit that processes run in.
func isUnit(name string) bool {
	base, ok := strings.CutSuffix(name, ".service")
	if !ok {
		base, ok = strings.CutSuffix(name, ".scope")
	}
	return ok && base != ""
}
