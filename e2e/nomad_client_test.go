//go:build e2e && linux

package e2e

import (
	"cmp"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"maps"
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

	"github.com/hashicorp/hcl"
	"github.com/sallyport/sallyport/internal/meshtest"
)

// nomadClient stands in for a client of Nomad 1.x on Linux, as far as an allocation and its sidecar can tell: it reads job files, gives allocations their network
// namespaces, ports and directories, registers their services with Consul, and runs their tasks. What it does for a job is in Nomad's documents of "bridge", "connect",
// "sidecar_task" and "expose"; IDs, names and registrations are those that are found in the catalog of a Nomad cluster.
type nomadClient struct {
	t      *testing.T
	consul *meshtest.Consul
	dir    string            // Nomad's data directory
	image  map[string]string // what stands for a program of the node, or of an image, by its path there
	env    []string          // of the client, which tasks inherit
	allocs []*allocation
	given  int // allocations so far
}

// The node, as its allocations see it. All of it is in a network namespace that the test has made.
const (
	nodeAddress  = "198.51.100.10"
	bridgePrefix = "172.26.64."
	dynamicPorts = 20000
)

// What a job file says, in the shape in which HCL has it: each block may be there several times.
type (
	nomadJobs struct{ Job []map[string][]nomadJob }
	nomadJob  struct{ Group []map[string][]nomadGroup }

	nomadGroup struct {
		Count   int
		Network []struct {
			Mode string
			Port []map[string][]struct{ To int }
		}
		Service []nomadService
		Task    []map[string][]nomadTask
	}

	nomadService struct {
		Name, Port, Task string
		Check            []struct {
			Type, Path, Interval, Timeout string
			Expose                        bool
		}
		Connect []struct {
			Native         bool
			SidecarService []struct{ Proxy []nomadProxy } `json:"sidecar_service"`
			SidecarTask    []nomadTask                    `json:"sidecar_task"`
		}
	}

	nomadProxy struct {
		Config    []map[string]any
		Upstreams []struct {
			DestinationName string `json:"destination_name"`
			LocalBindPort   int    `json:"local_bind_port"`
		}
	}

	nomadTask struct {
		Driver string
		Config []struct {
			Command                   string
			Entrypoint, Args, Volumes []string
		}
		Template []struct{ Data, Destination string }
		Env      []map[string]string
	}
)

// parseJobs reads a job file.
func parseJobs(text string) (jobs nomadJobs, err error) {
	var blocks map[string]any
	if err := hcl.Decode(&blocks, text); err != nil {
		return jobs, err
	}
	b, err := json.Marshal(blocks)
	if err != nil {
		return jobs, err
	}
	return jobs, json.Unmarshal(b, &jobs)
}

// allocation is one that runs.
type allocation struct {
	id, job, group, dir string
	// namespace is its network namespace, ip its address on the bridge, veth the interface there; empty: it has the node's.
	namespace, ip, veth string
	ports               map[string]string // the node's addresses that lead into the allocation, by label
	inside              map[string]int    // where they lead to
	services            []string
	relays              []net.Listener
	tasks               map[string]*meshtest.Process
}

// run is `nomad job run` of a file.
func (n *nomadClient) run(text string) {
	n.t.Helper()
	jobs, err := parseJobs(text)
	if err != nil {
		n.t.Fatal(err)
	}
	for job, group := range labelled(jobs.Job) {
		for name, g := range labelled(group.Group) {
			for range max(1, g.Count) {
				n.allocate(job, name, g)
			}
		}
	}
}

// labelled are the blocks of a kind that have labels, with those.
func labelled[T any](blocks []map[string][]T) iter.Seq2[string, T] {
	return func(yield func(string, T) bool) {
		for _, b := range blocks {
			for label, all := range b {
				for _, one := range all {
					if !yield(label, one) {
						return
					}
				}
			}
		}
	}
}

// stop is `nomad job stop`.
func (n *nomadClient) stop(job string) {
	n.t.Helper()
	n.allocs = slices.DeleteFunc(n.allocs, func(a *allocation) bool {
		if a.job != job {
			return false
		}
		for _, id := range a.services {
			n.consul.Must("PUT", "/v1/agent/service/deregister/"+id, nil, nil)
		}
		for name, p := range a.tasks {
			_ = p.Signal(syscall.SIGINT) // Nomad's kill_signal, and 5 s of its kill_timeout
			if _, ended := p.Wait(5 * time.Second); !ended {
				n.t.Errorf("task %s of %s does not end", name, job)
				p.Kill()
			}
		}
		for _, l := range a.relays {
			l.Close()
		}
		if a.namespace != "" {
			ip(n.t, "link", "delete", a.veth) // at once: the namespace goes later
			ip(n.t, "netns", "delete", a.namespace)
		}
		if err := os.RemoveAll(a.dir); err != nil {
			n.t.Error(err)
		}
		return true
	})
}

// of are the allocations of a job.
func (n *nomadClient) of(job string) (out []*allocation) {
	n.t.Helper()
	for _, a := range n.allocs {
		if a.job == job {
			out = append(out, a)
		}
	}
	if len(out) == 0 {
		n.t.Fatalf("no job %s runs", job)
	}
	return out
}

// command is a command in the network namespace of an allocation.
func (a *allocation) command(args ...string) *exec.Cmd {
	if a.namespace != "" {
		args = append([]string{"ip", "netns", "exec", a.namespace}, args...)
	}
	return exec.Command(args[0], args[1:]...)
}

// ip runs iproute2.
func ip(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		t.Fatalf("ip %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// makeBridge gives the network that the process is in the node's address and Nomad's bridge.
func makeBridge(t *testing.T) {
	t.Helper()
	for _, args := range []string{
		"link set lo up", "address add " + nodeAddress + "/32 dev lo",
		"link add nomad type bridge", "address add " + bridgePrefix + "1/20 dev nomad", "link set nomad up",
	} {
		ip(t, strings.Fields(args)...)
	}
}

func (n *nomadClient) allocate(job, group string, g nomadGroup) {
	n.t.Helper()
	n.given++
	a := &allocation{id: uuid(), job: job, group: group, ports: map[string]string{}, inside: map[string]int{}, tasks: map[string]*meshtest.Process{}}
	a.dir = filepath.Join(n.dir, "alloc", a.id)
	n.allocs = append(n.allocs, a)
	for _, network := range g.Network {
		if network.Mode != "bridge" {
			n.t.Fatalf("network mode %q", network.Mode)
		}
		n.connect(a)
		for label, port := range labelled(network.Port) {
			public := n.port(a, port.To)
			a.ports[label], a.inside[label] = net.JoinHostPort(nodeAddress, strconv.Itoa(public)), cmp.Or(port.To, public)
		}
	}
	tokens := map[string]string{} // of Connect native tasks
	for _, s := range g.Service {
		if s.Connect[0].Native {
			n.registerNative(a, s)
			_, tokens[s.Task] = n.consul.ServiceToken(s.Name)
		} else {
			n.register(a, s)
		}
	}
	for _, s := range g.Service {
		for _, task := range s.Connect[0].SidecarTask {
			_, token := n.consul.ServiceToken(s.Name)
			// Nomad's own sidecar task is one of Docker's. Of a job that says another driver it takes the configuration as it is.
			n.start(a, "connect-proxy-"+s.Name, cmp.Or(task.Driver, "docker"), task, map[string]string{"si_token": token})
		}
	}
	for name, task := range labelled(g.Task) {
		var secrets map[string]string
		if token := tokens[name]; token != "" {
			secrets = map[string]string{"si_token": token}
			task.Env = append(task.Env, map[string]string{"CONSUL_HTTP_TOKEN": token})
		}
		n.start(a, name, task.Driver, task, secrets)
	}
}

// connect gives an allocation its network namespace: loopback, and a pair of interfaces of which one is in the bridge.
func (n *nomadClient) connect(a *allocation) {
	n.t.Helper()
	a.namespace, a.ip = a.id, bridgePrefix+strconv.Itoa(1+n.given)
	a.veth = fmt.Sprintf("veth%d", n.given)
	ip(n.t, "netns", "add", a.namespace)
	ip(n.t, "link", "add", a.veth, "type", "veth", "peer", "name", "eth0", "netns", a.namespace)
	ip(n.t, "link", "set", a.veth, "master", "nomad", "up")
	for _, args := range []string{"link set lo up", "address add " + a.ip + "/20 dev eth0", "link set eth0 up", "route add default via " + bridgePrefix + "1"} {
		ip(n.t, append([]string{"-n", a.namespace}, strings.Fields(args)...)...)
	}
}

// port gives an allocation a dynamic port of the node, which leads to a port in its namespace, the same one if to is 0. Nomad has the kernel rewrite addresses; here bytes are passed on.
func (n *nomadClient) port(a *allocation, to int) int {
	n.t.Helper()
	port := dynamicPorts + 100*n.given + len(a.relays)
	l, err := net.Listen("tcp", net.JoinHostPort(nodeAddress, strconv.Itoa(port)))
	if err != nil {
		n.t.Fatal(err)
	}
	a.relays = append(a.relays, l)
	go passOn(l, net.JoinHostPort(a.ip, strconv.Itoa(cmp.Or(to, port))))
	return port
}

// passOn passes on what comes to l, until it is closed, to an address or the path of a socket.
func passOn(l net.Listener, to string) {
	network := "tcp"
	if strings.HasPrefix(to, "/") {
		network = "unix"
	}
	for {
		in, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer in.Close()
			out, err := net.Dial(network, to)
			if err != nil {
				return
			}
			defer out.Close()
			go func() {
				_, _ = io.Copy(out, in)
				_ = out.(interface{ CloseWrite() error }).CloseWrite()
			}()
			_, _ = io.Copy(in, out)
		}()
	}
}

// register registers a group's service, and its sidecar, as Nomad does.
func (n *nomadClient) register(a *allocation, s nomadService) {
	n.t.Helper()
	port, err := strconv.Atoi(s.Port)
	if err != nil {
		n.t.Fatalf("port %q of service %s: only numbers are known here", s.Port, s.Name)
	}
	id := fmt.Sprintf("_nomad-task-%s-group-%s-%s-%s", a.id, a.group, s.Name, s.Port)
	public := n.port(a, 0)
	config := map[string]any{
		"bind_address": "0.0.0.0", "bind_port": public, "envoy_stats_tags": []string{"nomad.group=" + a.group, "nomad.job=" + a.job, "nomad.alloc_id=" + a.id},
	}
	proxy := map[string]any{"Config": config}
	for _, p := range s.Connect[0].SidecarService[0].Proxy {
		for _, c := range p.Config {
			maps.Copy(config, c)
		}
		var upstreams []map[string]any
		for _, u := range p.Upstreams {
			upstreams = append(upstreams, map[string]any{"DestinationName": u.DestinationName, "LocalBindPort": u.LocalBindPort, "MeshGateway": map[string]any{}})
		}
		proxy["Upstreams"] = upstreams
	}
	var checks, paths []map[string]any
	for _, c := range s.Check {
		if c.Type != "http" || !c.Expose {
			n.t.Fatalf("check of service %s: only http with expose is known here", s.Name)
		}
		exposed := n.port(a, 0)
		paths = append(paths, map[string]any{"Path": c.Path, "LocalPathPort": port, "ListenerPort": exposed})
		checks = append(checks, map[string]any{
			"CheckID": "_nomad-check-" + id, "Name": fmt.Sprintf("service: %q check", s.Name), "HTTP": fmt.Sprintf("http://%s:%d%s", nodeAddress, exposed, c.Path),
			"Interval": c.Interval, "Timeout": c.Timeout,
		})
	}
	if paths != nil {
		proxy["Expose"] = map[string]any{"Paths": paths}
	}
	n.consul.Register(map[string]any{
		"ID": id, "Name": s.Name, "Address": nodeAddress, "Port": port, "Meta": map[string]any{"external-source": "nomad"}, "Checks": checks,
		"Connect": map[string]any{"SidecarService": map[string]any{
			"Address": nodeAddress, "Port": public, "Proxy": proxy, "Meta": map[string]any{"external-source": "nomad"},
			"Checks": []map[string]any{
				{"Name": "Connect Sidecar Aliasing " + id, "AliasService": id},
				{"Name": "Connect Sidecar Listening", "TCP": fmt.Sprintf("%s:%d", nodeAddress, public), "Interval": "10s"},
			},
		}},
	})
	a.services = append(a.services, id)
}

// start starts a task in a directory of its own. secrets are files that Nomad writes for it.
func (n *nomadClient) start(a *allocation, name, driver string, task nomadTask, secrets map[string]string) {
	n.t.Helper()
	dir := filepath.Join(a.dir, name)
	for _, d := range []string{filepath.Join(a.dir, "alloc", "tmp"), filepath.Join(dir, "local"), filepath.Join(dir, "secrets"), filepath.Join(dir, "tmp")} {
		if err := os.MkdirAll(d, 0o777); err != nil {
			n.t.Fatal(err)
		}
	}
	for file, text := range secrets {
		n.write(filepath.Join(dir, "secrets", file), text, 0o440)
	}
	for _, template := range task.Template {
		n.write(filepath.Join(dir, template.Destination), template.Data, 0o644)
	}
	env := map[string]string{
		"NOMAD_ALLOC_ID": a.id, "NOMAD_GROUP_NAME": a.group, "NOMAD_JOB_NAME": a.job, "NOMAD_TASK_NAME": name,
		"NOMAD_ALLOC_DIR": filepath.Join(a.dir, "alloc"), "NOMAD_TASK_DIR": filepath.Join(dir, "local"), "NOMAD_SECRETS_DIR": filepath.Join(dir, "secrets"),
	}
	if driver == "docker" {
		env["NOMAD_ALLOC_DIR"], env["NOMAD_TASK_DIR"], env["NOMAD_SECRETS_DIR"] = "/alloc", "/local", "/secrets"
	}
	for label, port := range a.inside {
		env["NOMAD_PORT_"+label] = strconv.Itoa(port)
	}
	for _, own := range task.Env {
		maps.Copy(env, own)
	}
	c := task.Config[0]
	args := slices.Concat(c.Entrypoint, c.Args)
	if c.Command != "" {
		args = append([]string{c.Command}, args...)
	}
	for i, arg := range args {
		args[i] = os.Expand(arg, func(variable string) string {
			value, ok := env[variable]
			if !ok {
				n.t.Fatalf("task %s: nothing is known of ${%s}", name, variable)
			}
			return value
		})
	}
	var cmd *exec.Cmd
	switch driver {
	case "raw_exec", "exec": // an application does not tell the one from the other
		args[0] = cmp.Or(n.image[args[0]], args[0])
		cmd = a.command(args...)
		cmd.Dir = dir
	case "docker":
		cmd = a.command(append([]string{"sh", "-euc", n.container(a, dir, c.Volumes)}, args...)...)
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID}
	default:
		n.t.Fatalf("task %s: driver %q", name, driver)
	}
	cmd.Env = slices.Clone(n.env)
	for variable, value := range env {
		cmd.Env = append(cmd.Env, variable+"="+value)
	}
	a.tasks[name] = meshtest.Start(n.t, name+" of "+a.id, filepath.Join(n.dir, a.id+"-"+name+".log"), cmd)
}

// container is a script that runs its arguments as in a container of Envoy's image: with mounts of its own, from which of the node's files only volumes are seen.
// `ip netns exec` has given it mounts of its own already.
func (n *nomadClient) container(a *allocation, dir string, volumes []string) string {
	root := filepath.Join(dir, "root")
	binds := [][2]string{
		{filepath.Join(dir, "secrets"), "/secrets"},
		{filepath.Join(dir, "local"), "/local"},
		{filepath.Join(a.dir, "alloc"), "/alloc"},
		{n.image["/usr/local/bin/envoy"], "/usr/local/bin/envoy"},
		{"/dev", "/dev"},
		{"/usr/lib", "/usr/lib"},
	}
	script := []string{"root=" + root, "mkdir -p $root; mount -t tmpfs none $root; mkdir -p $root/tmp $root/proc $root/usr", "mount -t proc proc $root/proc"}
	// The image's libraries are the node's.
	for _, lib := range []string{"/lib", "/lib64", "/usr/lib64"} {
		if to, err := os.Readlink(lib); err == nil {
			script = append(script, fmt.Sprintf("ln -s %s $root%s", to, lib))
		} else if _, err := os.Stat(lib); err == nil {
			binds = append(binds, [2]string{lib, lib})
		}
	}
	for _, v := range volumes {
		f := strings.Split(v, ":") // what, where, how
		source := f[0]
		if own := n.image[source]; own != "" {
			source = own
		}
		binds = append(binds, [2]string{source, f[1]})
	}
	for _, b := range binds {
		at := "$root" + b[1]
		place := "mkdir -p " + at
		if info, err := os.Stat(b[0]); err == nil && !info.IsDir() {
			place = fmt.Sprintf("mkdir -p %s; touch %s", "$root"+filepath.Dir(b[1]), at)
		}
		script = append(script, place, fmt.Sprintf("mount --bind %s %s", b[0], at))
	}
	for _, v := range volumes {
		if f := strings.Split(v, ":"); len(f) == 3 && f[2] == "ro" {
			script = append(script, "mount -o remount,bind,ro $root"+f[1])
		}
	}
	return strings.Join(append(script, `chroot=$(command -v chroot); PATH=/usr/local/bin:/usr/bin exec "$chroot" $root "$0" "$@"`), "\n")
}

func (n *nomadClient) write(path, text string, mode fs.FileMode) {
	n.t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), mode)); err != nil {
		n.t.Fatal(err)
	}
}

func uuid() string {
	var b [16]byte
	_, _ = rand.Read(b[:])
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
