package consul

import (
	"os"
	"path/filepath"
	"testing"
)

// TestServes: sallyport notices its own HTTP API as the agent's address, whatever it is called.
func TestServes(t *testing.T) {
	dir := t.TempDir()
	socket := filepath.Join(dir, "http.sock")
	if err := os.WriteFile(socket, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(socket, filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		agent, own string
		want       bool
	}{
		{"127.0.0.1:8500", "127.0.0.1:8500", true},
		{"localhost:8500", "127.0.0.1:8500", true},
		{"127.0.0.1:8500", "LocalHost:8500", true},
		{"http://[::1]:8500", "localhost:8500", true},
		{"127.0.0.1:8500", ":8500", true},
		{"localhost:8500", "0.0.0.0:8500", true},
		{"[::ffff:127.0.0.1]:8500", "127.0.0.1:8500", true},
		{"Consul.example:8500", "consul.example:8500", true},
		{"127.0.0.1:8500", "127.0.0.1:8501", false},
		{"127.0.0.1:8500", "127.0.0.2:8500", false},
		{"consul.example:8500", "127.0.0.1:8500", false},
		{"unix://" + socket, socket, true},
		{"unix://" + dir + "/./http.sock", socket, true},
		{"unix://" + dir + "/link", socket, true},
		{"unix://" + dir + "/not.there", socket, false},
		{"unix://" + socket, "127.0.0.1:8500", false},
		{"127.0.0.1:8500", socket, false},
	} {
		a, err := New(Config{Address: c.agent})
		if err != nil {
			t.Fatal(err)
		}
		if got := a.Serves(c.own); got != c.want {
			t.Errorf("agent %s, own %s: %v", c.agent, c.own, got)
		}
	}
}
