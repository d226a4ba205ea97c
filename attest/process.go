package attest

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// Process is the process at the other end of a Unix socket. It is made by Attest and holds a file
// until Close. All methods may be called by several goroutines.
type Process struct {
	// PID is its number here; 0: it is in a namespace of processes that is not seen from here.
	PID int
	// UID and GID are its effective user and group at the time of connect.
	UID, GID int

	groups []int    // supplementary groups at the time of connect
	pidfd  *os.File // nil: the kernel gives none

	ended  chan struct{}
	closed chan struct{}
	close  func() error

	// names are those of its user and groups.
	names func() names
}

// names are what the system's databases call a user and groups; empty: nothing.
type names struct {
	user, group string
	groups      []string
}

// errNoPidfd is why paths and units are not known.
var errNoPidfd = errors.New("the kernel names the process by number alone (it has no SO_PEERPIDFD, which came with Linux 6.5)")

// errEnded is why nothing is known of a process any more.
var errEnded = errors.New("the process has ended")

// Attest asks the kernel who is at the other end of conn, which has to be a Unix socket that was
// accepted here. It does not block. The caller must Close what it returns. The error is that the
// process has ended, that conn is something else, or that this is not Linux.
func Attest(conn net.Conn) (*Process, error) {
	c, ok := conn.(*net.UnixConn)
	if !ok {
		return nil, errors.New("attestation: not a Unix socket")
	}
	p, err := attest(c)
	if err != nil {
		return nil, fmt.Errorf("attestation: %w", err)
	}
	p.names = sync.OnceValue(p.lookUp)
	p.watch()
	return p, nil
}

// watch has p.ended closed when the process ends.
func (p *Process) watch() {
	p.ended, p.closed = make(chan struct{}), make(chan struct{})
	if p.pidfd == nil {
		p.close = sync.OnceValue(func() error { close(p.closed); return nil })
		return
	}
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		if waitEnd(p.pidfd) {
			close(p.ended)
		}
	}()
	p.close = sync.OnceValue(func() error {
		close(p.closed)
		err := p.pidfd.Close()
		<-watched
		return err
	})
}

// Ended is closed when the process ends. Where the kernel gives no pidfd (see Known) it never is.
func (p *Process) Ended() <-chan struct{} { return p.ended }

// Close gives back what p holds. It may be called more than once; after it nothing matches.
func (p *Process) Close() error { return p.close() }

// Known returns an error where the user and the groups are all that can be known of the process, so
// that selectors of a path or a unit never match. The error says why.
func (p *Process) Known() error {
	if p.pidfd == nil {
		return errNoPidfd
	}
	return nil
}

// Nobody returns an error if the user of the process stands for nobody in particular, so that
// nothing matches. The error says why and how to mend it.
func (p *Process) Nobody() error {
	const mend = "run the process as a user of its own"
	switch p.UID {
	case 0:
		return fmt.Errorf("it runs as root, and so does whoever forwards a socket: %s", mend)
	case os.Geteuid():
		return fmt.Errorf("it runs as uid %d, which is the control plane's own: %s", p.UID, mend)
	case overflowUID():
		return fmt.Errorf("it runs as uid %d, which stands for every user of other user namespaces: %s", p.UID, mend)
	}
	return nil
}

// Matches reports whether the process is all that s says. A selector that cannot be evaluated does
// not match. It reads /proc where s names a path or a unit.
func (p *Process) Matches(s Selectors) bool {
	if s.IsZero() || p.Nobody() != nil || p.isClosed() {
		return false
	}
	for _, o := range s.list {
		if !p.is(o) {
			return false
		}
	}
	return true
}

func (p *Process) isClosed() bool {
	select {
	case <-p.closed:
		return true
	case <-p.ended:
		return true
	default:
		return false
	}
}

func (p *Process) is(s selector) bool {
	switch s.kind {
	case kindUID:
		return s.id == p.UID
	case kindGID:
		return s.id == p.GID
	case kindSupplementaryGID:
		return slices.Contains(p.groups, s.id)
	case kindUser:
		return s.value == p.names().user
	case kindGroup:
		return s.value == p.names().group
	case kindSupplementaryGroup:
		return slices.Contains(p.names().groups, s.value)
	case kindPath:
		got, err := p.Path()
		return err == nil && got == s.value
	case kindUnit:
		got, err := p.unit()
		return err == nil && got == s.value
	}
	return false
}

// lookUp asks the system's databases once: a name that is given to another user later is not this
// process's.
func (p *Process) lookUp() (n names) {
	if u, err := user.LookupId(strconv.Itoa(p.UID)); err == nil {
		n.user = u.Username
	}
	group := func(gid int) string {
		g, err := user.LookupGroupId(strconv.Itoa(gid))
		if err != nil {
			return ""
		}
		return g.Name
	}
	n.group = group(p.GID)
	for _, gid := range p.groups {
		if name := group(gid); name != "" {
			n.groups = append(n.groups, name)
		}
	}
	return n
}

// Path is the process's executable, as /proc shows it. The error says why it is not known: reading
// it of another user's process takes CAP_SYS_PTRACE.
func (p *Process) Path() (string, error) {
	var target string
	err := p.inspect("executable", func(dir string) (err error) {
		target, err = os.Readlink(dir + "/exe")
		return err
	})
	// What was replaced or removed is shown with an ending that a file's name may have, too.
	if err == nil && strings.HasSuffix(target, " (deleted)") {
		return "", fmt.Errorf("executable of process %d: the file is not there any more: start the process anew", p.PID)
	}
	return target, err
}

// unit is the systemd unit of the system's manager that the process runs in: "web.service",
// "session-1.scope"; for what a user's own manager runs, that manager's. The error says why it is
// not known.
func (p *Process) unit() (string, error) {
	var text []byte
	err := p.inspect("systemd unit", func(dir string) (err error) {
		text, err = os.ReadFile(dir + "/cgroup")
		return err
	})
	if err != nil {
		return "", err
	}
	unit, ok := unitOf(string(text))
	if !ok {
		return "", fmt.Errorf("systemd unit of process %d: it runs in none", p.PID)
	}
	return unit, nil
}

// inspect calls look with the process's directory in /proc. The error says what could not be read;
// it is nil only if the process was there before and after.
func (p *Process) inspect(what string, look func(dir string) error) error {
	err := p.Known()
	if err == nil && p.PID <= 0 {
		err = errors.New("it is in a namespace of processes that is not seen from here")
	}
	if err == nil {
		err = p.alive()
	}
	if err == nil {
		err = look("/proc/" + strconv.Itoa(p.PID))
	}
	switch after := p.alive(); {
	case after != nil && (err == nil || errors.Is(err, fs.ErrNotExist)):
		err = after
	case errors.Is(err, fs.ErrNotExist):
		err = errors.New("/proc hides it: mount it without hidepid, or set ProtectProc=default in the unit of the control plane")
	case errors.Is(err, fs.ErrPermission):
		err = fmt.Errorf("%w: the control plane needs CAP_SYS_PTRACE for it", err)
	}
	if err != nil {
		return fmt.Errorf("%s of process %d: %w", what, p.PID, err)
	}
	return nil
}

// unitOf finds the unit in the contents of /proc/PID/cgroup. As for systemd, it is the first
// directory below the slices: what a unit was given to manage by itself is below that.
func unitOf(text string) (string, bool) {
	var group string
	found := false
	for line := range strings.Lines(text) {
		parts := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		if len(parts) != 3 {
			continue
		}
		// systemd's own hierarchy of the first version, or the only one of the second.
		if parts[1] == "name=systemd" || !found && parts[0] == "0" && parts[1] == "" {
			group, found = parts[2], true
			if parts[1] != "" {
				break
			}
		}
	}
	rest, ok := strings.CutPrefix(group, "/")
	if !ok {
		return "", false
	}
	for name := range strings.SplitSeq(rest, "/") {
		switch {
		case strings.HasSuffix(name, ".slice"):
		case name == "..":
			return "", false // outside of our own namespace of groups
		default:
			// An underscore is put before what could be taken for a file of the kernel's.
			name = strings.TrimPrefix(name, "_")
			return name, isUnit(name)
		}
	}
	return "", false
}
