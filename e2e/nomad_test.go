//go:build e2e && linux

package e2e

import (
	"cmp"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/envoytest"
	"github.com/sallyport/sallyport/internal/meshtest"
	"golang.org/x/sys/unix"
)

// nodeVariable, if set, makes the test binary a node of Nomad's: a process with mounts, processes and a network of its own, which end with it.
const nodeVariable = "E2E_NODE"

// nodeTime bounds the life of a node.
const nodeTime = 4 * time.Minute

// TestNomad types the guide for Nomad's users on a node whose allocations have network namespaces, bridge, ports, tokens and registrations as Nomad lays them out.
func TestNomad(t *testing.T) {
	if os.Getenv(nodeVariable) != "" {
		testNomad(t)
		return
	}
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Fatal("only root can make network namespaces for Nomad's allocations")
	}
	for _, program := range []string{"ip", "curl", "/usr/bin/python3"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Fatalf("%v: apt-get install iproute2 curl python3", err)
		}
	}
	meshtest.StartControl(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, "-test.run=^TestNomad$", "-test.v", "-test.timeout="+nodeTime.String())
	cmd.Env = append(meshtest.Environ(), nodeVariable+"=1", "SALLYPORT_BIN="+sallyport)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	start := time.Now()
	node, err := meshtest.Launch("node", filepath.Join(t.TempDir(), "node.log"), cmd)
	if err != nil {
		t.Fatal(err)
	}
	defer node.Kill()
	exit, ended := node.Wait(nodeTime + meshtest.Deadline)
	for line := range strings.Lines(node.Log()) {
		if strings.HasPrefix(line, "FIGURE ") {
			fmt.Print(line)
		}
	}
	if !ended || exit != nil {
		// Its lines are not this test's own, as those who count tests read them.
		t.Fatalf("%sthe node: %v\n| %s", meshtest.Excused(start), exit, strings.ReplaceAll(strings.TrimSpace(node.Log()), "\n", "\n| "))
	}
}

// node is where the guide is typed, as root with a management token of Consul's.
type node struct {
	*guide
	t     *testing.T
	dir   string   // where files of the guide are, and commands are typed
	env   []string // of the shell
	nomad *nomadClient
}

func testNomad(t *testing.T) {
	t.Helper()
	makeNode(t)
	makeBridge(t)
	c := meshtest.StartConsul(t, meshtest.Agent{HTTP: 8500, GRPC: 8502, Management: management})
	g := readGuide(t, "nomad.md")
	if t.Run("Envoy "+envoytest.Newest, func(t *testing.T) { newNode(t, c, g, envoytest.Newest).typeGuide(false) }) &&
		t.Run("Docker, Envoy "+envoytest.Oldest, func(t *testing.T) { newNode(t, c, g, envoytest.Oldest).typeGuide(true) }) {
		g.finish()
	}
}

// makeNode gives this process, which has mounts and a network of its own, those of a node.
func makeNode(t *testing.T) {
	t.Helper()
	mount := func(source, target, kind string, flags uintptr) {
		t.Helper()
		if err := unix.Mount(source, target, kind, flags, ""); err != nil {
			t.Fatalf("mount %s on %s: %v", source, target, err)
		}
	}
	mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE)
	mount("proc", "/proc", "proc", 0)
	mount("node", "/run", "tmpfs", 0)
	for _, dir := range []string{"/run/etc", "/run/tmp"} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := exec.Command("cp", "-a", "/etc/.", "/run/etc").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	mount("/run/etc", "/etc", "", unix.MS_BIND)
	if err := os.Mkdir("/etc/sallyport", 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("TMPDIR", "/run/tmp")
	// The package's user.
	passwd, err := os.OpenFile("/etc/passwd", os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = fmt.Fprintf(passwd, "sallyport:x:%[1]d:%[1]d::/nonexistent:/usr/sbin/nologin\n", packageUser)
	if err := errors.Join(err, passwd.Close()); err != nil {
		t.Fatal(err)
	}
}

// askAPI is what the applications of both allocations of web ask api.
const askAPI = "nomad alloc exec -task web -job web curl -s 127.0.0.1:9191"

// packageUser is whom the package's unit has the control plane run as.
const packageUser = 65531

// newNode is a node on which sallyport, Envoy and Consul are installed, and Nomad's client runs.
func newNode(t *testing.T, c *meshtest.Consul, g *guide, envoy string) *node {
	t.Helper()
	dir, err := os.MkdirTemp("", "node-")
	if err != nil {
		t.Fatal(err)
	}
	bin := filepath.Join(dir, "bin")
	if err := errors.Join(os.Chmod(dir, 0o755), os.Mkdir(bin, 0o755)); err != nil {
		t.Fatal(err)
	}
	copyProgram(t, sallyport, filepath.Join(bin, "sallyport")) // which another user runs, too
	for name, path := range map[string]string{"envoy": envoytest.Binary(t, envoy), "consul": c.Binary()} {
		if err := os.Symlink(path, filepath.Join(bin, name)); err != nil {
			t.Fatal(err)
		}
	}
	buildOrders(t, filepath.Join(bin, "orders"))
	path := bin + ":" + os.Getenv("PATH")
	n := &node{guide: g, t: t, dir: dir, env: append(meshtest.Environ(), "PATH="+path, "CONSUL_HTTP_TOKEN="+management)}
	n.nomad = &nomadClient{
		t: t, consul: c, dir: filepath.Join(dir, "nomad"),
		// What the package puts into /usr and /var is here.
		env:   []string{"PATH=" + path, "SALLYPORT_DATA=" + filepath.Join(dir, "data")},
		image: map[string]string{"/usr/bin/orders": filepath.Join(bin, "orders"), "/usr/bin/sallyport": filepath.Join(bin, "sallyport"), "/usr/local/bin/envoy": envoytest.Binary(t, envoy)},
	}
	return n
}

// typeGuide types the guide from its beginning to its end. docker says which of two ways is gone: Nomad runs the control plane, and Docker the sidecar of api.
func (n *node) typeGuide(docker bool) {
	t := n.t
	for _, name := range []string{"sallyport.nomad.hcl", "api.nomad.hcl", "web.nomad.hcl", "orders.nomad.hcl", "api-defaults.hcl", "api-intentions.hcl", "orders-intentions.hcl"} {
		n.nomad.write(filepath.Join(n.dir, name), n.file(name), 0o644)
	}
	if docker {
		n.nomad.write(filepath.Join(n.dir, "api.nomad.hcl"), withSidecarTask(t, n.file("api.nomad.hcl"), n.file("sidecar_task of api.nomad.hcl")), 0o644)
		n.types("nomad job run sallyport.nomad.hcl")
	} else {
		n.types("sallyport consul policy | consul acl policy create -name sallyport -rules -")
		n.types(`consul acl token create -policy-name sallyport -format json | sed -n 's/.*"SecretID": "\(.*\)".*/\1/p' | install -m 0600 -o sallyport /dev/stdin /etc/sallyport/consul.token`)
		n.nomad.write("/etc/sallyport/sallyport.yaml", n.file("/etc/sallyport/sallyport.yaml"), 0o644)
		n.types("systemctl enable --now sallyport")
	}
	meshtest.Await(t, "the control plane answers", func() error { return n.try("sallyport status", "0 proxies") })
	n.types("consul config write api-defaults.hcl")
	n.types("consul config write api-intentions.hcl")
	n.types("nomad job run api.nomad.hcl")
	n.types("nomad job run web.nomad.hcl")

	took := meshtest.Await(t, "both allocations of web reach api at one port", func() error { return n.try(askAPI, "hello from api") })
	figure(t, "run_to_first_answers_s=%.1f", took.Seconds())
	n.protected()
	meshtest.Await(t, "all is well", func() error { return n.try("sallyport check", "✓") })
	n.inSync()
	for _, a := range n.nomad.of("web") {
		if m := meshtest.GetPlain("http://" + a.ports["metrics"] + "/metrics"); !strings.Contains(m.Body, fmt.Sprintf("nomad_alloc_id=%q", a.id)) {
			t.Errorf("metrics of web at %s: %v %.500s", a.ports["metrics"], m.Err, m.Body)
		}
	}
	n.native()
	n.connectNative()
	if docker {
		// The containers see the directory of a control plane that starts anew.
		n.nomad.stop("sallyport")
		n.types("nomad job run sallyport.nomad.hcl")
		n.inSync()
	}
	if out := n.types("sallyport intention check web api"); !strings.HasPrefix(out, "Allowed") {
		t.Errorf("intention check: %s", out)
	}

	n.types("consul config delete -kind service-intentions -name api")
	meshtest.Await(t, "both allocations of web are refused", func() error { return n.try(askAPI, "RBAC: access denied") })

	n.types("nomad job stop web")
	n.types("nomad job stop api")
	meshtest.Await(t, "nothing is left", func() error {
		left, err := filepath.Glob("/run/sallyport*/*")
		for _, path := range left {
			if !strings.HasSuffix(path, ".sock") {
				err = errors.Join(err, fmt.Errorf("%s is left", path))
			}
		}
		return errors.Join(err, n.try("sallyport status", "0 proxies"))
	})
}

// inSync waits until all three sidecars are in sync, and fails the test if the status has anything to say beside that.
func (n *node) inSync() {
	n.t.Helper()
	// It is one of that Envoy, Nomad or not.
	const old = "warning: Envoy 1.36.4 dials the application for every TCP connect"
	meshtest.Await(n.t, "all sidecars in sync, without a warning", func() error {
		out, err := n.run(n.command("sallyport status"))
		words := strings.Join(strings.Fields(out), " ")
		if err != nil || strings.Count(words, "in sync") != 3 || strings.Count(words, "warning") != strings.Count(words, old) {
			return fmt.Errorf("%w\n%s", cmp.Or(err, errors.New("status")), out)
		}
		return nil
	})
}

// protected fails the test unless api is reached by its sidecar alone, which speaks mutual TLS, and its check passes.
func (n *node) protected() {
	t := n.t
	t.Helper()
	var instances []struct {
		Service struct {
			Address string
			Port    int
		}
		Checks []struct{ CheckID, Status, Output string }
	}
	meshtest.Await(t, "the checks of api and of its sidecar pass", func() error {
		n.nomad.consul.Must("GET", "/v1/health/connect/api", nil, &instances)
		if len(instances) != 1 {
			return fmt.Errorf("%d instances", len(instances))
		}
		for _, k := range instances[0].Checks {
			if k.Status != "passing" {
				return fmt.Errorf("%s: %s", k.CheckID, k.Output)
			}
		}
		return nil
	})
	announced := net.JoinHostPort(instances[0].Service.Address, strconv.Itoa(instances[0].Service.Port))
	if a := meshtest.GetPlain("http://" + announced); a.Err == nil {
		t.Errorf("api answers without TLS: %v", a)
	}
	conn, err := tls.Dial("tcp", announced, &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if uris := conn.ConnectionState().PeerCertificates[0].URIs; len(uris) != 1 || !strings.HasSuffix(uris[0].Path, "/svc/api") {
		t.Errorf("who answers at %s is %v", announced, uris)
	}
	if a := meshtest.Exchange(conn, "GET / HTTP/1.0\r\n\r\n", 1); a.Err == nil {
		t.Errorf("api answers a client without a certificate: %v", a)
	}
	for _, a := range n.nomad.of("api") {
		if conn, err := net.Dial("tcp", net.JoinHostPort(a.ip, "9001")); err == nil {
			conn.Close()
			t.Error("the application of api is reached without its sidecar")
		}
	}
}

// types runs a command of the guide, which has to succeed, and returns what it printed.
func (n *node) types(line string) string {
	n.t.Helper()
	out, err := n.run(n.command(line))
	if err != nil {
		n.t.Fatalf("%s: %v\n%s", line, err, out)
	}
	return out
}

// try is nil if a command of the guide succeeds, and prints want; in each allocation, if it is one to run in an allocation.
func (n *node) try(line, want string) error {
	n.t.Helper()
	out, err := n.run(n.command(line))
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	for part := range strings.SplitSeq(out, "\x00") {
		if !strings.Contains(part, want) {
			return fmt.Errorf("%s: it prints %q", line, part)
		}
	}
	return nil
}

// run runs a command line: in a shell, unless it is for Nomad or for systemd, which are not there. What several allocations print is separated by NUL.
func (n *node) run(line string) (string, error) {
	n.t.Helper()
	if rest, ok := strings.CutPrefix(line, "nomad job run "); ok {
		text, err := os.ReadFile(filepath.Join(n.dir, rest))
		if err == nil {
			n.nomad.run(string(text))
		}
		return "", err
	}
	if rest, ok := strings.CutPrefix(line, "nomad job stop "); ok {
		n.nomad.stop(rest)
		return "", nil
	}
	if rest, ok := strings.CutPrefix(line, "nomad alloc exec -task "); ok {
		words := strings.Fields(rest)
		if len(words) < 4 || words[1] != "-job" {
			return "", fmt.Errorf("%q is not understood here", line)
		}
		var out []string
		for _, a := range n.nomad.of(words[2]) {
			b, err := a.command(words[3:]...).Output()
			if err != nil {
				return string(b), err
			}
			out = append(out, string(b))
		}
		return strings.Join(out, "\x00"), nil
	}
	if line == "systemctl enable --now sallyport" {
		return "", n.systemd()
	}
	cmd := exec.Command("sh", "-c", line)
	cmd.Dir, cmd.Env = n.dir, n.env
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// systemd starts the control plane as the package's unit does: as another user, who owns the directory that it serves in.
func (n *node) systemd() error {
	data := filepath.Join(n.dir, "data")
	for dir, mode := range map[string]os.FileMode{data: 0o700, "/run/sallyport": 0o755} {
		if err := errors.Join(os.Mkdir(dir, mode), os.Chown(dir, packageUser, packageUser)); err != nil {
			return err
		}
		n.t.Cleanup(func() { os.RemoveAll(dir) })
	}
	cmd := exec.Command(n.nomad.image["/usr/bin/sallyport"], "serve", "--config", "/etc/sallyport/sallyport.yaml", "--data", data)
	cmd.Dir, cmd.Env = "/", n.nomad.env
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: packageUser, Gid: packageUser}}
	meshtest.Start(n.t, "sallyport serve", filepath.Join(n.dir, "serve.log"), cmd)
	return nil
}

// withSidecarTask is a job with another sidecar_task.
func withSidecarTask(t *testing.T, job, task string) string {
	t.Helper()
	block := regexp.MustCompile(`(?ms)^        sidecar_task \{$.*?^        \}$`)
	if n := len(block.FindAllString(job, -1)); n != 1 {
		t.Fatalf("the job has %d blocks sidecar_task", n)
	}
	return block.ReplaceAllLiteralString(job, task)
}
