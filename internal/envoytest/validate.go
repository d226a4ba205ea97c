package envoytest

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	"google.golang.org/protobuf/encoding/protojson"
)

// Validate has an Envoy judge a bootstrap as it would at its start, without starting. The error
// holds Envoy's words. Envoy sees what stands in the bootstrap itself only: not what it would fetch
// over xDS.
func Validate(t testing.TB, version string, bootstrap *bootstrapv3.Bootstrap) error {
	t.Helper()
	binary := Binary(t, version)
	text, err := protojson.Marshal(bootstrap)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "bootstrap.json")
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), binary, "--mode", "validate", "--config-path", path, "--disable-hot-restart", "--log-level", "warning")
	cmd.WaitDelay = 10 * time.Second
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("Envoy %s: %w\n%s", version, err, out.Bytes())
	}
	// What Envoy takes but does not like is a warning: deprecated fields, above all.
	if bytes.Contains(out.Bytes(), []byte("eprecated")) || bytes.Contains(out.Bytes(), []byte("nknown field")) {
		return fmt.Errorf("Envoy %s warns:\n%s", version, out.Bytes())
	}
	return nil
}
