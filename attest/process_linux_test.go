package attest_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sallyport/sallyport/attest"
	"go.uber.org/goleak"
)

// role is what a copy of this test does in the place of the tests: it is run as another user.
const role = "SALLYPORT_ATTEST_ROLE"

func TestMain(m *testing.M) {
	switch os.Getenv(role) {
	case "dial":
		os.Exit(dialer(os.Args[1]))
	case "attest":
		os.Exit(attester(os.Args[1], os.Args[2:]))
	}
	goleak.VerifyTestMain(m)
}

// dialer connects, says so, and waits until its input ends.
func dialer(socket string) int {
	conn, err := net.Dial("unix", socket)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	defer conn.Close()
	fmt.Println("connected")
	_, _ = io.Copy(io.Discard, os.Stdin)
	return 0
}

// attester attests the one who connects and says which selectors match, and what is not known.
func attester(socket string, texts []string) int {
	l, err := net.Listen("unix", socket)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	if err := os.Chmod(socket, 0o666); err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println("listening")
	conn, err := l.Accept()
	if err != nil {
		fmt.Println(err)
		return 1
	}
	p, err := attest.Attest(conn)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	for _, text := range texts {
		s, err := attest.Parse(text)
		fmt.Println(text, p.Matches(s), err)
	}
	_, err = p.Path()
	fmt.Println(err)
	_, err = p.Unit()
	fmt.Println(err)
	fmt.Println("done")
	return 0
}

// program is a copy of this test that every user may run, and the directory that it is in.
func program(t *testing.T) (file, dir string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "attest-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if dir, err = filepath.EvalSymlinks(dir); err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	file = filepath.Join(dir, "attest")
	if err := os.WriteFile(file, text, 0o755); err != nil {
		t.Fatal(err)
	}
	return file, dir
}

// user is who a process is to run as; nil: who runs the test.
type user = syscall.Credential

// needRoot ends the test of whoever cannot run processes of other users, so that nobody takes it
// for passed.
func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skipf("NOTE: %s needs root to run processes of other users", t.Name())
	}
}

// listen listens where everybody may connect.
func listen(t *testing.T, dir string) net.Listener {
	t.Helper()
	l, err := net.Listen("unix", filepath.Join(dir, "sock"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	if err := os.Chmod(filepath.Join(dir, "sock"), 0o666); err != nil {
		t.Fatal(err)
	}
	return l
}

// start runs a command until its input is closed.
func start(t *testing.T, c *exec.Cmd, as string) (end func(), lines *bufio.Scanner) {
	t.Helper()
	c.Env = []string{role + "=" + as}
	in, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	c.Stderr = os.Stderr
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	ended := false
	end = func() {
		if ended {
			return
		}
		ended = true
		in.Close()
		if err := c.Wait(); err != nil {
			t.Errorf("%v: %v", c.Args, err)
		}
	}
	t.Cleanup(end)
	return end, bufio.NewScanner(out)
}

// dial has a process of another user connect to l, and attests it.
func dial(t *testing.T, l net.Listener, file string, as *user) (p *attest.Process, conn net.Conn, end func()) {
	t.Helper()
	c := exec.Command(file, l.Addr().String())
	c.SysProcAttr = &syscall.SysProcAttr{Credential: as}
	end, lines := start(t, c, "dial")
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if p, err = attest.Attest(conn); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	if !lines.Scan() || lines.Text() != "connected" {
		t.Fatalf("the other process: %s", lines.Text())
	}
	if p.PID != c.Process.Pid {
		t.Errorf("pid %d; want %d", p.PID, c.Process.Pid)
	}
	return p, conn, end
}

func parse(t *testing.T, text string) attest.Selectors {
	t.Helper()
	s, err := attest.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestOwnUser(t *testing.T) {
	file, dir := program(t)
	p, _, _ := dial(t, listen(t, dir), file, nil)
	if p.UID != os.Geteuid() || p.GID != os.Getegid() {
		t.Errorf("uid %d, gid %d; want our own", p.UID, p.GID)
	}
	if err := p.Nobody(); err == nil || !strings.Contains(err.Error(), "user of its own") {
		t.Errorf("Nobody = %v, of our own user", err)
	}
	if p.UID != 0 && p.Matches(parse(t, "unix:uid:"+strconv.Itoa(p.UID))) {
		t.Error("our own user matches")
	}
	if got, err := p.Path(); err != nil || got != file {
		t.Errorf("Path = %q, %v; want %s", got, err, file)
	}
}

func TestOtherUser(t *testing.T) {
	needRoot(t)
	file, dir := program(t)
	l := listen(t, dir)
	p, _, _ := dial(t, l, file, &user{Uid: 12345, Gid: 12346, Groups: slices.Repeat([]uint32{7, 8, 9}, 100)})
	if err := p.Nobody(); err != nil {
		t.Error(err)
	}
	if err := p.Known(); err != nil {
		t.Error(err)
	}
	for text, want := range map[string]bool{
		"unix:uid:12345":                                               true,
		"unix:uid:12345,unix:gid:12346":                                true,
		"unix:uid:12345,unix:path:" + file:                             true,
		"unix:uid:12345,unix:supplementary_gid:9":                      true,
		"unix:uid:12345,unix:supplementary_gid:9,unix:path:" + file:    true,
		"unix:uid:12346":                                               false,
		"unix:uid:12345,unix:gid:12345":                                false,
		"unix:uid:12345,unix:gid:7":                                    false,
		"unix:uid:12345,unix:supplementary_gid:12346":                  false,
		"unix:uid:12345,unix:supplementary_gid:10":                     false,
		"unix:uid:12345,unix:path:" + file + "2":                       false,
		"unix:uid:12345,systemd:id:web.service":                        false,
		"unix:user:nobody":                                             false,
		"unix:uid:12345,unix:group:nogroup":                            false,
		"unix:uid:12345,unix:supplementary_group:a-group-that-is-none": false,
	} {
		if got := p.Matches(parse(t, text)); got != want {
			t.Errorf("%s: %v; want %v", text, got, want)
		}
	}
	if p.Matches(attest.Selectors{}) {
		t.Error("no selectors match")
	}
	p.Close()
	if p.Matches(parse(t, "unix:uid:12345")) {
		t.Error("it matches after Close")
	}
}

// TestNames demands that users and groups match by what the system calls them.
func TestNames(t *testing.T) {
	needRoot(t)
	file, dir := program(t)
	p, _, _ := dial(t, listen(t, dir), file, &user{Uid: 1, Gid: 1, Groups: []uint32{2}})
	for text, want := range map[string]bool{
		"unix:user:daemon": true,
		"unix:user:daemon,unix:group:daemon,unix:supplementary_group:bin,unix:uid:1": true,
		"unix:user:bin":                              false,
		"unix:user:daemon,unix:uid:2":                false,
		"unix:user:daemon,unix:group:bin":            false,
		"unix:user:1":                                false,
		"unix:uid:1,unix:group:1":                    false,
		"unix:uid:1,unix:supplementary_group:daemon": false,
	} {
		if got := p.Matches(parse(t, text)); got != want {
			t.Errorf("%s: %v; want %v", text, got, want)
		}
	}
}

// TestUnit puts a process where systemd puts those of web.service.
func TestUnit(t *testing.T) {
	needRoot(t)
	file, dir := program(t)
	p, _, _ := dial(t, listen(t, dir), file, &user{Uid: 12345, Gid: 12345})
	unit := parse(t, "unix:uid:12345,systemd:id:web.service")
	if p.Matches(unit) {
		t.Error("it is in web.service before it is there")
	}
	root := ""
	for _, mounted := range []string{"/sys/fs/cgroup/systemd", "/sys/fs/cgroup"} {
		if _, err := os.Stat(filepath.Join(mounted, "cgroup.procs")); err == nil {
			root = mounted
			break
		}
	}
	slice := filepath.Join(root, "sallyport-test-"+strconv.Itoa(os.Getpid())+".slice")
	inner := filepath.Join(slice, "web.service", "inner")
	if root == "" || os.MkdirAll(inner, 0o755) != nil {
		t.Skip("NOTE: TestUnit needs a hierarchy of control groups that it may write to")
	}
	defer func() {
		for _, d := range []string{inner, filepath.Dir(inner), slice} {
			if err := os.Remove(d); err != nil {
				t.Error(err)
			}
		}
	}()
	enter := func(group string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(group, "cgroup.procs"), []byte(strconv.Itoa(p.PID)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	enter(inner)
	defer enter(root)
	if got, err := p.Unit(); got != "web.service" || err != nil || !p.Matches(unit) {
		t.Errorf("Unit = %q, %v", got, err)
	}
}

// TestNobody demands that root and the user that stands for all of other namespaces match nothing.
func TestNobody(t *testing.T) {
	needRoot(t)
	file, dir := program(t)
	l := listen(t, dir)
	for _, uid := range []uint32{0, 65534} {
		p, _, _ := dial(t, l, file, &user{Uid: uid, Gid: uid})
		if err := p.Nobody(); err == nil {
			t.Errorf("uid %d is somebody", uid)
		}
		if uid != 0 && p.Matches(parse(t, "unix:uid:"+strconv.Itoa(int(uid)))) {
			t.Errorf("uid %d matches", uid)
		}
	}
}

// TestEnd demands that the end of a process is noticed, also if its connection is open: another
// process may have it by then.
func TestEnd(t *testing.T) {
	needRoot(t)
	file, dir := program(t)
	p, _, end := dial(t, listen(t, dir), file, &user{Uid: 12345, Gid: 12345})
	select {
	case <-p.Ended():
		t.Fatal("it has not ended")
	case <-time.After(20 * time.Millisecond):
	}
	end()
	select {
	case <-p.Ended():
	case <-time.After(time.Minute):
		t.Fatal("its end is not noticed")
	}
	if p.Matches(parse(t, "unix:uid:12345")) {
		t.Error("it matches after its end")
	}
	if got, err := p.Path(); err == nil || !strings.Contains(err.Error(), "has ended") {
		t.Errorf("Path = %q, %v", got, err)
	}
}

// TestGone attests a process that is not there any more.
func TestGone(t *testing.T) {
	file, dir := program(t)
	l := listen(t, dir)
	end, lines := start(t, exec.Command(file, l.Addr().String()), "dial")
	if !lines.Scan() {
		t.Fatal("no line")
	}
	end()
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if p, err := attest.Attest(conn); err == nil || !strings.Contains(err.Error(), "has ended") {
		t.Errorf("Attest = %v, %v", p, err)
	}
}

func TestNotUnix(t *testing.T) {
	client, server := net.Pipe()
	defer client.Close()
	defer server.Close()
	if _, err := attest.Attest(server); err == nil {
		t.Error("a pipe was attested")
	}
}

// TestHiddenProc attests as an ordinary user: where /proc hides other users' processes, as under
// ProtectProc=invisible, where it shows them, and where it may look into them.
func TestHiddenProc(t *testing.T) {
	needRoot(t)
	const uid, hides, refuses = "unix:uid:12345", "/proc hides it", "CAP_SYS_PTRACE"
	for name, of := range map[string]struct {
		hidepid      string
		capabilities string
		path         bool
		want         []string // of the path, of the unit
	}{
		"invisible":          {"invisible", "-all", false, []string{hides, hides}},
		"default":            {"off", "-all", false, []string{refuses, "runs in none"}},
		"invisible, ptrace":  {"invisible", "-all,+sys_ptrace", true, []string{"<nil>", "runs in none"}},
		"default and ptrace": {"off", "-all,+sys_ptrace", true, []string{"<nil>", "runs in none"}},
	} {
		t.Run(name, func(t *testing.T) {
			file, dir := program(t)
			socket := filepath.Join(dir, "sock")
			path := uid + ",unix:path:" + file
			script := `mount -t proc -o hidepid=` + of.hidepid + ` proc /proc && exec setpriv --reuid 12399 --regid 12399 --clear-groups --inh-caps ` + of.capabilities + ` --ambient-caps ` + of.capabilities + ` --bounding-set ` + of.capabilities + ` "$@"`
			c := exec.Command("/bin/sh", "-c", script, "sh", file, socket, uid, path)
			c.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS} // whose mounts stay in it
			_, lines := start(t, c, "attest")
			if !lines.Scan() || lines.Text() != "listening" {
				t.Fatalf("the control plane's part: %s", lines.Text())
			}
			d := exec.Command(file, socket)
			d.SysProcAttr = &syscall.SysProcAttr{Credential: &user{Uid: 12345, Gid: 12345}}
			_, dialed := start(t, d, "dial")
			if !dialed.Scan() {
				t.Fatal("no line of the one who dials")
			}
			var got []string
			for lines.Scan() && lines.Text() != "done" {
				got = append(got, lines.Text())
			}
			if len(got) != 4 {
				t.Fatalf("%q", got)
			}
			if want := uid + " true <nil>"; got[0] != want {
				t.Errorf("%s; want %s", got[0], want)
			}
			if want := fmt.Sprintf("%s %v <nil>", path, of.path); got[1] != want {
				t.Errorf("%s; want %s", got[1], want)
			}
			for i, want := range of.want {
				if !strings.Contains(got[2+i], want) {
					t.Errorf("%s; want %q", got[2+i], want)
				}
			}
		})
	}
}
