package claim_test

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/claim"
)

func servedBy(path string) func(*catalog.Proxy) {
	return func(p *catalog.Proxy) {
		p.Inbound.LocalAddress, p.Inbound.LocalPort, p.Inbound.LocalSocket = "", 0, path
	}
}

// TestPaths: a socket is in an allowed directory, in none of the control plane's own, whatever the
// links on the way, and takes the place of nothing else.
func TestPaths(t *testing.T) {
	dir, err := os.MkdirTemp("", "claim-") // t.TempDir's paths are too long for sockets
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if dir, err = filepath.EvalSymlinks(dir); err != nil {
		t.Fatal(err)
	}
	in := func(name string) string { return filepath.Join(dir, name) }
	for _, d := range []string{"sockets/deep", "sockets/run", "other"} {
		if err := os.MkdirAll(in(d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(in("sockets/secret"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, s := range []string{"sockets/app.sock", "sockets/run/xds.sock"} {
		l, err := net.Listen("unix", in(s))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
	}
	for link, to := range map[string]string{"sockets/link": "run", "elsewhere": "sockets", "sockets/out": "../other", "sockets/xds": "run/xds.sock"} {
		if err := os.Symlink(to, in(link)); err != nil {
			t.Fatal(err)
		}
	}
	config := claim.Config{Paths: claim.Paths{Allowed: []string{in("sockets")}, Own: []string{in("sockets/run"), in("data")}}}
	tests := []struct {
		path            string
		listen, dialled string // why not, in part; empty: it may
	}{
		{in("sockets/new.sock"), "", ""},
		{dir + "/sockets//deep/./new.sock", "", ""},
		{in("elsewhere/new.sock"), "", ""},
		{in("sockets/app.sock"), "", ""},
		{in("sockets/secret"), "is there and no socket", "is there and no socket"},
		{in("sockets/run/xds.sock"), "of the control plane's own", "of the control plane's own"},
		{in("sockets/run/web/admin.sock"), "of the control plane's own", "of the control plane's own"},
		{in("sockets/link/new.sock"), "of the control plane's own", "of the control plane's own"},
		{in("sockets/xds"), "is there and no socket", "of the control plane's own"},
		{in("data/x"), "of the control plane's own", "of the control plane's own"},
		{in("sockets/out/x"), "is " + in("other/x") + ", which is in none", "is " + in("other/x") + ", which is in none"},
		{in("other/x"), "in none of the directories", "in none of the directories"},
		{in("socketsx"), "in none of the directories", "in none of the directories"},
		{dir + "/sockets/deep/../../other/x", "without ..", "without .."},
		{in("sockets") + "/" + strings.Repeat("x", 200), "is no path that a socket can have", "is no path that a socket can have"},
		{in("sockets/a\nb"), "is no path that a socket can have", "is no path that a socket can have"},
	}
	check := func(what, path, got, want string, taken bool) {
		t.Helper()
		switch {
		case want == "" && got != "":
			t.Errorf("%s %s: %s", what, path, got)
		case !strings.Contains(got, want):
			t.Errorf("%s %s: %q, want %q in it", what, path, got, want)
		case (want == "") != taken:
			t.Errorf("%s %s: taken %v", what, path, taken)
		}
	}
	for _, tt := range tests {
		r := claim.New(config)
		p := r.Admit(contents(proxy("a", 20000, socket("x", tt.path)))).Proxies[0]
		check("listening on", tt.path, first(r), tt.listen, len(p.Upstreams) == 1)
		r = claim.New(config)
		p = r.Admit(contents(proxy("a", 20000, network("shop"), socket("x", tt.path)))).Proxies[0]
		check("listening in another network on", tt.path, first(r), tt.listen, len(p.Upstreams) == 1)
		r = claim.New(config)
		p = r.Admit(contents(proxy("a", 20000, servedBy(tt.path)))).Proxies[0]
		check("dialling", tt.path, first(r), tt.dialled, p.Inbound.Closed == "")

		// What was taken before is taken once more, but for the control plane's own and what is no
		// socket.
		lenient := config
		lenient.Lenient = true
		r = claim.New(lenient)
		p = r.Admit(contents(proxy("a", 20000, socket("x", tt.path)))).Proxies[0]
		strange := strings.Contains(tt.listen, "in none")
		if got := r.Refusals(); strange && (len(got) != 1 || !got[0].Taken || len(p.Upstreams) != 1 || !strings.Contains(got[0].Text, "will be refused")) {
			t.Errorf("listening on %s, lenient: %v", tt.path, got)
		} else if !strange {
			check("listening, lenient, on", tt.path, first(r), tt.listen, len(p.Upstreams) == 1)
		}
		if r.Admit(contents()); len(r.Refusals()) > 0 {
			t.Errorf("of nobody: %v", r.Refusals())
		}
	}
	// On other machines nothing is known of what is there.
	r := claim.New(config)
	r.Admit(contents(proxy("a", 20000, socket("x", in("sockets/secret")), host("10.0.0.1")), proxy("b", 20001, socket("x", in("sockets/run/x")), host("10.0.0.1"))))
	if got := r.Refusals(); len(got) != 1 || got[0].Proxy != "b" {
		t.Errorf("on another machine: %v", got)
	}
	// One socket in two spellings is one.
	r = claim.New(config)
	r.Admit(contents(proxy("a", 20000, socket("x", in("sockets/n"))), proxy("b", 20001, socket("x", in("elsewhere/n"))), proxy("c", 20002, servedBy(in("elsewhere/n")))))
	if got := r.Refusals(); len(got) != 2 || got[0].Proxy != "b" || got[1].Proxy != "c" {
		t.Errorf("spelled otherwise: %v", got)
	}
	// The application's socket is nobody's to listen on.
	r = claim.New(config)
	r.Admit(contents(proxy("web", 20000, servedBy(in("sockets/app.sock")))))
	r.Admit(contents(proxy("evil", 20001, socket("x", in("elsewhere/app.sock"))), proxy("web", 20000, servedBy(in("sockets/app.sock")))))
	if got := first(r); !strings.Contains(got, "cannot listen on "+in("elsewhere/app.sock")+": the application of web does") {
		t.Errorf("another's application: %q", got)
	}
}

// first is the text of r's first refusal.
func first(r *claim.Registry) string {
	if all := r.Refusals(); len(all) > 0 {
		return all[0].Text
	}
	return ""
}
