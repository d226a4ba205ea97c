//go:build e2e

package compose

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// tag is that of the images that are built for the tests, prefix what their projects' names begin with. Both are always the same, so that a
// run that was killed is tidied up by the next one.
const (
	tag    = "e2e"
	prefix = "sallyport-e2e-"
)

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	interrupted := make(chan os.Signal, 1)
	signal.Notify(interrupted, os.Interrupt, syscall.SIGTERM)
	go func() {
		fmt.Fprintln(os.Stderr, <-interrupted)
		for _, file := range []string{"files.yml", "nodes.yml"} {
			_, _ = (&stack{dir: ".", file: file}).compose("down", "-v", "--remove-orphans", "-t", "1")
		}
		_ = removeImages()
		os.Exit(1)
	}()
	code := m.Run()
	if err := removeImages(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = max(code, 1)
	}
	return code
}

// tools are what the tests run on; made by the first that asks.
var tools = sync.OnceValues(func() ([]string, error) {
	if _, err := command("docker", "version"); err != nil {
		lines := strings.Split(strings.TrimSpace(err.Error()), "\n")
		return nil, fmt.Errorf("NO DOCKER ANSWERS HERE, so the compose files are not tested: start it, or let hack/docker.sh install and run it, as root on Debian, with E2E_INSTALL_DOCKER=1 (%s)", lines[len(lines)-1])
	}
	if c := os.Getenv("COMPOSE"); c != "" {
		return strings.Fields(c), nil
	}
	for _, c := range [][]string{{"docker-compose"}, {"docker", "compose"}} {
		if _, err := command(append(c, "version")...); err == nil {
			return c, nil
		}
	}
	return nil, errors.New("NO DOCKER-COMPOSE IS HERE, nor `docker compose`, so the compose files are not tested: install one")
})

// images are the variables that name the images which the environment does not name: these are built.
var images = sync.OnceValues(func() (env []string, err error) {
	var build []string
	for variable, image := range own {
		if runtime.GOOS != "linux" && (variable == "ENVOY_IMAGE" || variable == "CONSUL_IMAGE") {
			continue // the binaries that are here do not run in containers: the official images
		}
		if os.Getenv(variable) == "" {
			build, env = append(build, image), append(env, variable+"="+image+":"+tag)
		}
	}
	if len(build) == 0 {
		return nil, nil
	}
	_, err = command(append([]string{"./images.sh", "-t", tag}, build...)...)
	return env, err
})

// own are the images that can be built, by the variable that names another.
var own = map[string]string{"SALLYPORT_IMAGE": "sallyport", "APP_IMAGE": "sallyport-app", "ENVOY_IMAGE": "sallyport-envoy", "CONSUL_IMAGE": "sallyport-consul"}

// removeImages removes what images has built, or a run before this one that was killed.
func removeImages() error {
	if _, err := tools(); err != nil {
		return nil //nolint:nilerr // without docker there are no images
	}
	for _, image := range own {
		name := image + ":" + tag
		if id, err := command("docker", "images", "-q", name); err != nil || id == "" {
			continue
		}
		if _, err := command("docker", "image", "rm", name); err != nil {
			return err
		}
	}
	return nil
}

// command runs a program to its end and returns what it printed, without the white space around it; an error says what it printed as an error.
func command(words ...string) (string, error) {
	return output(exec.Command(words[0], words[1:]...))
}

func output(c *exec.Cmd) (string, error) {
	out, err := c.Output()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		err = fmt.Errorf("%s: %w: %s%s", strings.Join(c.Args, " "), err, out, exit.Stderr)
	}
	return strings.TrimSpace(string(out)), err
}
