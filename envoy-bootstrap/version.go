package bootstrap

import (
	"cmp"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// errVersion marks a text in which no version of Envoy could be found.
var errVersion = errors.New("no version of Envoy")

// Version is a version of Envoy. It is comparable. The zero Version stands for an unknown one.
type Version struct{ Major, Minor, Patch int }

// Minimum is the oldest Envoy that sallyport supports.
func Minimum() Version { return Version{Major: 1, Minor: 36} }

// version finds 1.40.0 as a text of its own, or between the slashes of "envoy  version:
// <commit>/1.40.0/Clean/RELEASE/BoringSSL".
var version = regexp.MustCompile(`(?:^|/)v?(\d{1,3})\.(\d{1,3})(?:\.(\d{1,3}))?(?:-[0-9A-Za-z.-]+)?(?:$|/)`)

// ParseVersion reads a version from what `envoy --version` prints, or from a text such as "1.40.0",
// "v1.40.0" or "1.40". What follows the numbers ("-dev") is left out. The error wraps errVersion.
func ParseVersion(s string) (Version, error) {
	m := version.FindStringSubmatch(strings.TrimSpace(s))
	if m == nil {
		return Version{}, fmt.Errorf("%.100q: %w: expected something like 1.40.0", s, errVersion)
	}
	var v Version
	for i, part := range []*int{&v.Major, &v.Minor, &v.Patch} {
		if m[i+1] == "" {
			continue
		}
		n, err := strconv.Atoi(m[i+1])
		if err != nil {
			return Version{}, fmt.Errorf("%.100q: %w", s, errVersion)
		}
		*part = n
	}
	return v, nil
}

// String is the version with all its numbers: "1.40.0".
func (v Version) String() string { return fmt.Sprintf("%d.%d.%d", v.Major, v.Minor, v.Patch) }

// Compare is negative if v is older than w, positive if it is newer, and 0 if they are the same.
func (v Version) Compare(w Version) int {
	return cmp.Or(cmp.Compare(v.Major, w.Major), cmp.Compare(v.Minor, w.Minor), cmp.Compare(v.Patch, w.Patch))
}

// Supported reports whether sallyport can configure an Envoy of version v.
func (v Version) Supported() bool { return v.Compare(Minimum()) >= 0 }

// SecurityFloor is the first release of v's series that has the security fixes of August 2026
// (CVE-2026-73511, -73546 to -73553). A later series has had them from its start: its floor is v
// itself. An older series has no release with them: its floor is the oldest release of any series
// that has them.
func (v Version) SecurityFloor() Version {
	switch {
	case v.Major > 1 || v.Minor >= 40:
		return v
	case v.Minor == 39:
		return Version{1, 39, 1}
	case v.Minor == 38:
		return Version{1, 38, 4}
	case v.Minor == 37:
		return Version{1, 37, 6}
	}
	return Version{1, 36, 10}
}

// adminAllowPaths reports whether the administration interface can be restricted to paths
// (admin.allow_paths, Envoy 1.37).
func (v Version) adminAllowPaths() bool { return v.Compare(Version{1, 37, 0}) >= 0 }
