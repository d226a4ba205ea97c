package sidecar

import (
	"log/slog"
	"os"
	"os/exec"
	"testing"
)

// TestSupervisorKilled: an Envoy does not outlive a supervisor that was killed. The test runs
// itself as that supervisor.
func TestSupervisorKilled(t *testing.T) {
	const variable = "SALLYPORT_TEST_SUPERVISE"
	if path := os.Getenv(variable); path != "" {
		_, err := supervisor{log: slog.New(slog.DiscardHandler), path: path, grace: stopGrace}.run(t.Context(), nil)
		t.Fatal("the supervisor outlives its Envoy:", err)
	}
	dir := t.TempDir()
	cmd := exec.Command(os.Args[0], "-test.run=^TestSupervisorKilled$")
	cmd.Env = append(os.Environ(), variable+"="+fakeEnvoy(t, dir, "1.40.0", waitForSignal))
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	pid := fakePID(t, dir)
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // killed
	awaitTrue(t, "the end of Envoy", func() bool { return !running(pid) })
}
