//go:build e2e

package e2e

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/sallyport/sallyport/admin"
	"github.com/sallyport/sallyport/internal/meshtest"
	"github.com/sallyport/sallyport/internal/testca"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
)

const oneAnswerRounds = 3

// TestOneAnswer asks a control plane that runs, with files and beside Consul, of random intentions: http.sock for authorize and check, xds.sock for ext_authz, and the command. The answers are one. Of destinations some have a sidecar,
// one is native, one is on another node, and one is nowhere.
func TestOneAnswer(t *testing.T) { //nolint:tparallel // two agents at one time are enough load
	t.Parallel()
	for _, policy := range []string{"deny", "allow"} {
		t.Run("files default "+policy, func(t *testing.T) {
			m := newMesh(t, "--default-intention-policy", policy)
			m.Write("native.hcl", "service {\n  name = \"mail\"\n  port = 8443\n  connect { native = true }\n}\n")
			oneAnswerMesh(m)
			reader := strings.TrimSpace(m.MustRun("token", "create", "--reader"))
			o := &oneAnswer{mesh: m, reader: reader, proxy: map[string]string{}, own: map[string]string{}}
			for _, s := range oneAnswerSidecars {
				o.proxy[s] = makeBootstrap(t, m, s).token
			}
			for _, s := range append(slices.Clone(oneAnswerSidecars), "mail") {
				o.own[s] = strings.TrimSpace(m.MustRun("token", "create", s))
			}
			o.run(t, rand.New(rand.NewPCG(3, 1)))
		})
	}
	for name, agent := range map[string]meshtest.Agent{
		"Consul with ACLs, default deny": {Management: management},
		"Consul, default deny":           {Default: "deny"}, // which is not that of its ACLs
		"Consul, default allow":          {Default: "allow"},
	} {
		t.Run(name, func(t *testing.T) {
			c := meshtest.StartConsul(t, agent)
			m := besideConsul(t, c)
			if c.Token != "" {
				m.SetFlags("--token-file", tokenFile(t, filepath.Join(t.TempDir(), "token"), c.Token))
			} else { // so that the intentions of all destinations are read together
				m.SetFlags("--max-queries", "10")
			}
			c.Register(map[string]any{"Name": "mail", "Port": 8443, "Connect": map[string]any{"Native": true}})
			c.Must("PUT", "/v1/catalog/register", map[string]any{"Node": "far", "Address": "192.0.2.7", "Service": map[string]any{"ID": "far", "Service": "far", "Port": 5432}}, nil)
			oneAnswerMesh(m)
			o := &oneAnswer{mesh: m, reader: c.Token, proxy: map[string]string{}, own: map[string]string{}}
			for _, s := range append(slices.Clone(oneAnswerSidecars), "mail", "far", "nowhere") {
				o.proxy[s], o.own[s] = c.Token, c.Token
			}
			o.run(t, rand.New(rand.NewPCG(3, 2)))
		})
	}
}

var oneAnswerSidecars = []string{"api", "db", "Orders"}

func oneAnswerMesh(m *meshtest.Mesh) {
	for n, s := range oneAnswerSidecars { // that a service is dialled says nothing of who may reach it
		m.Add(meshtest.Service{Name: s, Protocol: []string{"http", "tcp", "http"}[n], Upstreams: []string{"far"}})
	}
	m.Serve()
}

// oneAnswer is what the questions are asked of.
type oneAnswer struct {
	mesh         *meshtest.Mesh
	reader       string            // the token for check
	proxy, own   map[string]string // tokens of a service's Envoy and of its applications
	admin        *admin.Client
	authorizer   authorizer
	conn         *grpc.ClientConn
	certificates map[string]string
	ca           *testca.Pair
	answer       [2]int // those answered no and yes
}

func (o *oneAnswer) run(t *testing.T, r *rand.Rand) {
	t.Helper()
	var err error
	if o.admin, err = admin.Find(o.mesh.Runtime); err != nil {
		t.Fatal(err)
	}
	if o.conn, err = dialXDS(filepath.Join(o.mesh.Runtime, "xds.sock")); err != nil {
		t.Fatal(err)
	}
	defer o.conn.Close()
	o.authorizer, o.certificates = newAuthorizer(t, o.mesh), map[string]string{}
	o.ca = testca.Sign(t, &x509.Certificate{IsCA: true, KeyUsage: x509.KeyUsageCertSign}, nil)
	destinations := append(slices.Clone(oneAnswerSidecars), "mail", "far", "nowhere")
	var said, commands, differ int
	for round := range oneAnswerRounds {
		// What is said of a destination lets this one in, and what is said of all does not.
		marker := fmt.Sprintf("round-%d", round)
		draw := func(action string) meshtest.Intentions {
			i := meshtest.Intentions{marker: action}
			for _, s := range append(slices.Clone(sources), "*") {
				if r.IntN(3) == 0 {
					i[s] = []string{"allow", "deny"}[r.IntN(2)]
				}
			}
			return i
		}
		o.mesh.Intend("*", draw("deny"))
		lets := map[string]bool{}
		for _, d := range destinations {
			o.mesh.Intend(d, draw("allow"))
			if lets[d] = r.IntN(4) > 0; !lets[d] {
				o.mesh.Intend(d, nil)
			}
		}
		meshtest.Await(t, "the round is read", func() error {
			for _, d := range destinations {
				if a, err := o.admin.Check(t.Context(), marker, d); err != nil || a.Allowed != lets[d] || !strings.HasPrefix(a.Intention, marker) {
					return fmt.Errorf("%s: %v %w", d, a, err)
				}
				if token := o.own[d]; token != "" || o.reader == "" {
					if got := o.authorizer.ask(t, token, o.authorizer.uri(marker), d); got != strconv.FormatBool(lets[d]) {
						return errors.New("authorize " + d + ": " + got)
					}
				}
			}
			return nil
		})
		for _, d := range destinations {
			for _, s := range sources {
				answers := o.ask(t, s, d)
				if said++; said%23 == 0 {
					commands++
					answers["command"] = o.mesh.Run("intention", "check", s, d).Exit == 0
				}
				if agreed := slices.Compact(slices.Collect(maps.Values(answers))); len(agreed) > 1 {
					if differ++; differ < 10 {
						t.Errorf("round %d: %s => %s: %v", round, s, d, answers)
					}
				} else if agreed[0] {
					o.answer[1]++
				} else {
					o.answer[0]++
				}
			}
		}
	}
	figure(t, "%d questions, 4 deciders, %d differ; %d allowed, %d denied, %d asked of the command", said, differ, o.answer[1], o.answer[0], commands)
	if o.answer[0] < said/5 || o.answer[1] < said/5 {
		t.Errorf("%d are denied and %d allowed of %d: a fifth at least is to be each", o.answer[0], o.answer[1], said)
	}
}

// ask asks all who can be asked.
func (o *oneAnswer) ask(t *testing.T, source, destination string) map[string]bool {
	t.Helper()
	out := map[string]bool{}
	if a, err := o.admin.Check(t.Context(), source, destination); err == nil {
		out["intention check"] = a.Allowed
	} else {
		t.Errorf("intention check %s %s: %v", source, destination, err)
	}
	if token := o.own[destination]; token != "" || o.reader == "" {
		got := o.authorizer.ask(t, token, o.authorizer.uri(source), destination)
		if out["authorize"] = got == "true"; got != "true" && got != "false" {
			t.Errorf("authorize %s => %s: %s", source, destination, got)
		}
	}
	var checked struct{ Allowed bool }
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://localhost/v1/connect/intentions/check?"+url.Values{"source": {source}, "destination": {destination}}.Encode(), nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-Consul-Token", o.reader)
	res, err := o.authorizer.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.NewDecoder(res.Body).Decode(&checked); err != nil || res.StatusCode != http.StatusOK {
		t.Errorf("check %s => %s: %d, %v", source, destination, res.StatusCode, err)
	}
	_ = res.Body.Close()
	out["check"] = checked.Allowed
	if !slices.Contains(oneAnswerSidecars, destination) {
		return out
	}
	uri := o.authorizer.uri(source)
	if o.certificates[source] == "" {
		u, err := url.Parse(uri)
		if err != nil {
			t.Fatal(err)
		}
		o.certificates[source] = url.PathEscape(testca.Sign(t, &x509.Certificate{URIs: []*url.URL{u}}, o.ca).PEM())
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if token := o.proxy[destination]; token != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token)
	}
	ctx = metadata.AppendToOutgoingContext(ctx, "x-sallyport-destination", destination, "x-sallyport-proxy", destination+"-sidecar-proxy")
	resp, err := authv3.NewAuthorizationClient(o.conn).Check(ctx, &authv3.CheckRequest{Attributes: &authv3.AttributeContext{
		Source: &authv3.AttributeContext_Peer{Principal: uri, Certificate: o.certificates[source]},
	}})
	if err != nil {
		t.Errorf("ext_authz %s => %s: %v", source, destination, err)
		return out
	}
	out["ext_authz"] = resp.GetStatus().GetCode() == 0
	return out
}
