package main

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/sallyport/sallyport/admin"
)

// TestCARotate begins a rotation and asks for what is refused meanwhile.
func TestCARotate(t *testing.T) {
	_, _ = startServe(t, "--trust-domain", "mesh.test", "--ca-providers", `{"lab": {"provider": "files", "config": {"roots_file": "roots.pem", "chain_file": "ca.pem", "key_file": "ca.key"}}}`)
	run := func(args ...string) string {
		t.Helper()
		out, err := command(t, append(args, "--runtime-dir", "rt")...)
		if err != nil {
			out += err.Error()
		}
		return out
	}
	for _, step := range []struct {
		args string
		want []string
	}{
		{"ca status", []string{"provider builtin, trust domain ", "active", "intermediate: ends in 364d, replaced in 182d", "rotation: none"}},
		{"ca rotate --override web-sidecar-prox", []string{`did you mean "web-sidecar-proxy"?`}},
		{"ca rotate --override nobody", []string{"neither a proxy of the catalog nor somebody with a leaf: `sallyport ca status` lists"}},
		{"ca rotate --to biltin", []string{"--to biltin: not found among the providers: did you mean \"builtin\"?"}},
		{"ca rotate --to nowhere", []string{"--to nowhere: not found among the providers: there are builtin"}},
		{"ca rotate --to nowhere", []string{"configure another with ca_provider and ca_config"}},
		{"ca rotate --dangerous", []string{"--dangerous is about --override PROXY, which is missing"}},
		{"ca status", []string{"rotation: none"}},
		{"ca rotate", []string{"rotation: prepare", "prepared", "waits for nobody"}},
		{"ca rotate", []string{"a root is being replaced already, from builtin to builtin", "phase prepare and waits for nobody", "--override PROXY goes on without"}},
		{"ca rotate --to lab --end-old-connections", []string{"a root is being replaced already, from builtin to builtin"}},
		{"ca rotate --override web-sidecar-proxy", []string{"not waited for: proxy web-sidecar-proxy\n  waits for nobody"}}, // and no connection ends for what was refused
		{"ca rotate --override web-sidecar-proxy --end-old-connections", []string{"not waited for: proxy web-sidecar-proxy", "all connections end when the old root has left"}},
		{"ca rotate --cancel --distrust", []string{"--cancel takes the rotation back that is running, and goes with nothing else"}},
		{"ca rotate --cancel", []string{"rotation: none"}},
		{"ca rotate --cancel", []string{"--cancel: no root is being replaced"}},
		{"ca status", []string{"rotation: none"}},
		{"ca rotate", []string{"rotation: prepare", "prepared", "waits for nobody"}}, // and all connections do not end when it has ended
		{"status", []string{"root: the root is being replaced: prepare: `sallyport ca status"}},
	} {
		got := run(strings.Fields(step.args)...)
		for _, want := range step.want {
			if !strings.Contains(got, want) {
				t.Errorf("sallyport %s: without %q:\n%s", step.args, want, got)
			}
		}
	}
	var s admin.CA
	if err := json.Unmarshal([]byte(run("ca", "status", "--json")), &s); err != nil || len(s.Roots) != 2 || s.Rotation == nil || s.Rotation.Phase != "prepare" || !s.Rotation.CrossSigned || s.Rotation.EndsConnections || len(s.Rotation.Overridden) > 0 {
		t.Errorf("%v, %+v", err, s)
	}
}

// TestPrintCA: what people read.
func TestPrintCA(t *testing.T) {
	now := time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)
	hour := func(n int) time.Time { return now.Add(time.Duration(n) * time.Hour) }
	s := admin.CA{
		Provider: "builtin", TrustDomain: "mesh.test", IntermediateEnds: hour(1000), IntermediateRenewal: hour(500), LeafEnds: hour(3),
		Roots: []admin.CARoot{
			{SHA256: strings.Repeat("ab", 32), Provider: "builtin", State: "active", NotBefore: hour(-74), NotAfter: hour(9000)},
			{SHA256: strings.Repeat("cd", 32), Provider: "vault", State: "prepared", NotBefore: hour(-1), NotAfter: hour(8000)},
		},
		Rotation: &admin.Rotation{
			Phase: "prepare", From: "builtin", To: "vault", Started: hour(-2), Since: hour(-2), CrossSigned: true,
			Waiting: []admin.Holder{
				{Name: "proxy api-sidecar-proxy", Connected: true, Ends: hour(5), Reason: "has not accepted the roots"},
				{Name: "proxy web-sidecar-proxy", Ends: hour(3), Reason: "has not accepted the roots: it is not connected"},
			},
			Overridden: []string{"proxy old"},
		},
	}
	var b strings.Builder
	printCA(&b, advice{}, s, now)
	want := `provider builtin, trust domain mesh.test

ROOT  STATE     PROVIDER  SHA-256            AGE  ENDS
1     active    builtin   abababababababab…  50h  in 375d
2     prepared  vault     cdcdcdcdcdcdcdcd…  60m  in 333d

intermediate: ends in 41d, replaced in 20d
leafs: the first in use ends in 3h, and is replaced before
rotation: prepare for 2h, begun 2h ago, from builtin to vault
  activate follows when all below have accepted the new root
  not waited for: proxy old

WAITS FOR                UNTIL AT MOST  WHY
proxy web-sidecar-proxy  in 3h          has not accepted the roots: it is not connected
proxy api-sidecar-proxy  in 5h          has not accepted the roots
`
	if diff := cmp.Diff(want, b.String()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	b.Reset()
	printCA(&b, advice{}, admin.CA{Provider: "consul", Followed: true, Roots: s.Roots[:1], Problem: "it does not answer"}, now)
	for _, text := range []string{"problem: it does not answer", "rotation: none; Consul's servers rotate: `consul connect ca set-config`"} {
		if !strings.Contains(b.String(), text) {
			t.Errorf("without %q:\n%s", text, b.String())
		}
	}
}
