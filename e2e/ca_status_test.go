//go:build e2e

package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/internal/meshtest"
)

// rotation is what `sallyport ca status` says of one.
type rotation struct {
	Provider string
	Roots    []struct{ State, Provider string }
	Rotation *struct {
		Phase   string
		Waiting []struct{ Name, Reason string }
	}
}

// waits reports whether the rotation waits for a holder.
func (r rotation) waits(name string) bool {
	if r.Rotation == nil {
		return false
	}
	for _, h := range r.Rotation.Waiting {
		if h.Name == name {
			return true
		}
	}
	return false
}

func caStatus(m *meshtest.Mesh) (r rotation, err error) {
	out := m.Run("ca", "status", "--json")
	if out.Exit != 0 {
		return r, errors.New(out.Stderr)
	}
	return r, json.Unmarshal([]byte(out.Stdout), &r)
}

// envoyOf is the process of a sidecar's Envoy.
func envoyOf(t *testing.T, car *meshtest.Sidecar) int {
	t.Helper()
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", car.PID()))
	if err != nil {
		t.Fatal(err)
	}
	for _, task := range tasks {
		b, err := os.ReadFile(task)
		if err != nil {
			continue // a thread that has ended
		}
		for child := range strings.FieldsSeq(string(b)) {
			if pid, err := strconv.Atoi(child); err == nil {
				return pid
			}
		}
	}
	return car.PID() // it became Envoy
}
