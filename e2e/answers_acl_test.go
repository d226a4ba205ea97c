//go:build e2e

package e2e

import (
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/meshtest"
)

// aclCaller is somebody with a token of Consul's, or none.
type aclCaller struct{ name, token string }

// aclPair is a Consul with ACLs that deny, with the definitions of TestAnswersAreConsuls, sallyport beside it, and who asks both.
func aclPair(t *testing.T) (c *meshtest.Consul, m *meshtest.Mesh, callers []aclCaller) {
	t.Helper()
	c = meshtest.StartConsul(t, meshtest.Agent{Management: management, Node: "sallyport"})
	m = meshtest.New(t, meshtest.Config{Sallyport: sallyport, Consul: c})
	definitions(t, c, m)
	c.Policy("sallyport", m.RunAlone("consul", "policy", "--node-name", "sallyport").Stdout)
	_, serve := c.NewToken(map[string]any{"Policies": []map[string]any{{"Name": "sallyport"}}})
	m.SetFlags("--token-file", tokenFile(t, filepath.Join(t.TempDir(), "serve"), serve))
	m.Serve()
	awaitListening(t, c)
	c.Policy("reads", `service_prefix "" { policy = "read" } node_prefix "" { policy = "read" } agent_prefix "" { policy = "read" } operator = "read"`)
	c.Policy("narrow", `service "api" { policy = "read" } service "web" { policy = "write" intentions = "deny" }`)
	_, reads := c.NewToken(map[string]any{"Policies": []map[string]any{{"Name": "reads"}}})
	_, narrow := c.NewToken(map[string]any{"Policies": []map[string]any{{"Name": "narrow"}}})
	_, other := c.ServiceToken("db")
	_, own := c.ServiceToken("api")
	return c, m, []aclCaller{
		{"nobody", ""}, {"unknown", "00000000-dead-4000-8000-000000000000"}, {"another's", other}, {"reader", reads}, {"narrow", narrow}, {"own", own}, {"management", management},
	}
}

// TestAnswersWithACLs asks sallyport beside a Consul with ACLs, and that Consul, the same questions with the tokens of several callers.
func TestAnswersWithACLs(t *testing.T) {
	t.Parallel()
	c, m, callers := aclPair(t)
	var roots struct{ TrustDomain string }
	c.Must(http.MethodGet, "/v1/connect/ca/roots", nil, &roots)
	own := strings.ReplaceAll(aclLines, "TRUSTDOMAIN", roots.TrustDomain)
	d := comparison{meant: meantWithACLs}
	for _, round := range []struct{ name, lines string }{{"", own + strings.ReplaceAll(apiLines, waitLine, "")}, {"again, ", own}} {
		for _, who := range callers {
			consul, ours := asks(t, "tcp", c.Addr, who.token), asks(t, "unix", filepath.Join(m.Runtime, "http.sock"), who.token)
			for _, q := range apiQuestions(round.lines) {
				d.ask(t, consul, ours, round.name+who.name+": ", q)
			}
		}
	}
	waitsWithACLs(t, c, m, callers, &d)
	d.report(t, "HTTP API beside Consul with ACLs", 2000)
}

// TestAnswersWithoutACLs asks sallyport beside a Consul without ACLs, and that Consul, what sallyport answers itself.
func TestAnswersWithoutACLs(t *testing.T) {
	t.Parallel()
	c := meshtest.StartConsul(t, meshtest.Agent{Default: "deny", Node: "sallyport"})
	m := meshtest.New(t, meshtest.Config{Sallyport: sallyport, Consul: c})
	definitions(t, c, m)
	m.Serve()
	awaitListening(t, c)
	var roots struct{ TrustDomain string }
	c.Must(http.MethodGet, "/v1/connect/ca/roots", nil, &roots)
	d := comparison{meant: slices.Concat(meantWithoutACLs, meantWithACLs)}
	for _, who := range []aclCaller{{"nobody", ""}, {"somebody", "00000000-dead-4000-8000-000000000000"}} {
		consul, ours := asks(t, "tcp", c.Addr, who.token), asks(t, "unix", filepath.Join(m.Runtime, "http.sock"), who.token)
		for _, q := range apiQuestions(strings.ReplaceAll(aclLines, "TRUSTDOMAIN", roots.TrustDomain)) {
			d.ask(t, consul, ours, who.name+": ", q)
		}
	}
	d.meant = meantWithoutACLs
	d.report(t, "HTTP API beside Consul without ACLs", 100)
}

// waitsWithACLs has callers wait with both for what then changes: an intention of db, the port of plain, the root, and with it all leafs. Whose token
// is deleted meanwhile gets nothing.
func waitsWithACLs(t *testing.T, c *meshtest.Consul, m *meshtest.Mesh, callers []aclCaller, d *comparison) {
	t.Helper()
	accessor, revoked := c.ServiceToken("db")
	callers = append(callers, aclCaller{"revoked", revoked})
	time.Sleep(6 * time.Second) // until what was asked before may give its place to what waits
	type waiting struct {
		text    string
		answers [2]apiAnswer
		woken   [2]bool
	}
	var waits []*waiting
	var all sync.WaitGroup
	for _, who := range callers {
		sides := [2]asking{asks(t, "tcp", c.Addr, who.token), asks(t, "unix", filepath.Join(m.Runtime, "http.sock"), who.token)}
		for line, whose := range map[string]string{ // no more than sallyport watches for one user
			"/v1/connect/intentions?x":                               "nobody, unknown, another's, narrow, own",
			"/v1/connect/intentions/match?by=destination&name=db":    "nobody, unknown, another's, reader, narrow, own, revoked",
			"/v1/config/service-intentions/db?x":                     "nobody, unknown, narrow, own",
			"/v1/health/service/plain?x":                             "nobody, unknown, narrow, own",
			"/v1/connect/intentions/match?by=destination&name=api&x": "narrow",
			"/v1/agent/connect/ca/roots?x":                           "nobody, unknown, narrow, own",
			"/v1/agent/connect/ca/leaf/api?x":                        "own",
			"/v1/agent/connect/ca/leaf/db?x":                         "revoked",
		} {
			if !slices.Contains(strings.Split(whose, ", "), who.name) {
				continue
			}
			w := &waiting{text: "waits, " + who.name + ": GET " + line}
			waits = append(waits, w)
			for i, side := range sides {
				all.Go(func() {
					first, err := side.ask(apiQuestion{line: apiLine("GET " + line)})
					if w.answers[i] = first; err != nil || first.code != http.StatusOK {
						return
					}
					began := time.Now()
					w.answers[i], err = side.ask(apiQuestion{line: apiLine("GET " + line + "&wait=45s&index=" + first.header.Get("X-Consul-Index"))})
					if w.woken[i] = time.Since(began) < 43*time.Second; err != nil {
						t.Errorf("%s: %v", w.text, err)
					}
				})
			}
		}
	}
	// A verdict on a token is 5 s old at most, so after that sallyport has to find out by itself.
	time.Sleep(7 * time.Second)
	c.DeleteToken(accessor)
	c.Intend("db", meshtest.Intentions{"api": "allow", "legacy": "deny", "late": "allow"})
	c.Register(map[string]any{"Name": "plain", "Port": 7777})
	c.RotateRoot("consul", map[string]any{"PrivateKey": meshtest.ECKey(t)})
	all.Wait()
	for _, w := range waits {
		if w.woken[0] != w.woken[1] && !strings.HasPrefix(w.text, "waits, revoked: ") {
			t.Errorf("%s: woken by Consul: %t, by sallyport: %t", w.text, w.woken[0], w.woken[1])
		}
		d.compare(t, w.text, w.answers[0], w.answers[1])
	}
	for text, has := range map[string]string{"another's: GET /v1/connect/intentions/match": `"late"`, "own: GET /v1/health": "7777"} {
		if !slices.ContainsFunc(waits, func(w *waiting) bool {
			return strings.Contains(w.text, text) && strings.Contains(w.answers[1].body, has)
		}) {
			t.Errorf("%s was not answered with %s", text, has)
		}
	}
}

// waitLine is one that waits: sallyport watches no more than some questions at a time, so that it may be told to ask for less.
const waitLine = "/v1/catalog/services?index=18446744073709551615&wait=10ms\n"

// aclLines are about what sallyport answers itself, beside Consul too. The application is of the service api.
const aclLines = `
/v1/agent/connect/ca/roots
/v1/agent/connect/ca/roots?pretty
/v1/agent/connect/ca/roots?ns=x
/v1/connect/ca/roots
/v1/connect/ca/roots?pem=true
/v1/connect/ca/roots?pem=false
/v1/connect/ca/roots?pem=junk
/v1/connect/ca/roots?index=1
/v1/connect/ca/configuration
POST /v1/agent/connect/ca/roots
/v1/agent/connect/ca/leaf/api
/v1/agent/connect/ca/leaf/api?pretty
/v1/agent/connect/ca/leaf/api?index=1
/v1/agent/connect/ca/leaf/api?dc=nosuch
/v1/agent/connect/ca/leaf/api?ns=x
/v1/agent/connect/ca/leaf/api?index=x
/v1/agent/connect/ca/leaf/API
/v1/agent/connect/ca/leaf/nosuch
/v1/agent/connect/ca/leaf/plain
/v1/agent/connect/ca/leaf/
/v1/agent/connect/ca/leaf/a%2fb
/v1/agent/connect/ca/leaf
PUT /v1/agent/connect/ca/leaf/api
GET /v1/agent/connect/authorize
POST /v1/agent/connect/authorize
POST /v1/agent/connect/authorize | {}
POST /v1/agent/connect/authorize | {"Target":"api"
POST /v1/agent/connect/authorize | {"Target":"api","Nonsense":1}
POST /v1/agent/connect/authorize | {"Target":1}
POST /v1/agent/connect/authorize | {"Target":"api"}
POST /v1/agent/connect/authorize | {"Target":"api","ClientCertURI":"x"}
POST /v1/agent/connect/authorize | {"Target":"api","ClientCertURI":"spiffe://TRUSTDOMAIN/ns/default/dc/dc1/svc/web","ClientCertSerial":"01"}
POST /v1/agent/connect/authorize | {"Target":"API","ClientCertURI":"spiffe://TRUSTDOMAIN/ns/default/dc/dc1/svc/web"}
POST /v1/agent/connect/authorize | {"Target":"api","ClientCertURI":"spiffe://TRUSTDOMAIN/ns/default/dc/dc1/svc/WEB"}
POST /v1/agent/connect/authorize | {"Target":"api","ClientCertURI":"spiffe://TRUSTDOMAIN/ns/default/dc/dc1/svc/Batch"}
POST /v1/agent/connect/authorize | {"Target":"api","ClientCertURI":"spiffe://TRUSTDOMAIN/ns/default/dc/dc1/svc/nosuch"}
POST /v1/agent/connect/authorize | {"Target":"api","ClientCertURI":"spiffe://TRUSTDOMAIN/ns/other/dc/dc1/svc/web"}
POST /v1/agent/connect/authorize | {"Target":"api","ClientCertURI":"spiffe://TRUSTDOMAIN/ap/default/ns/default/dc/dc1/svc/web"}
POST /v1/agent/connect/authorize | {"Target":"api","ClientCertURI":"spiffe://TRUSTDOMAIN/ap/other/ns/default/dc/dc1/svc/web"}
POST /v1/agent/connect/authorize | {"Target":"api","ClientCertURI":"spiffe://TRUSTDOMAIN/ns/default/dc/dc2/svc/web"}
POST /v1/agent/connect/authorize | {"Target":"api","ClientCertURI":"spiffe://other.consul/ns/default/dc/dc1/svc/web"}
POST /v1/agent/connect/authorize | {"Target":"api","ClientCertURI":"SPIFFE://TRUSTDOMAIN/ns/default/dc/dc1/svc/web"}
POST /v1/agent/connect/authorize | {"Target":"api","ClientCertURI":"spiffe://TRUSTDOMAIN/ns/default/dc/dc1/svc/%77eb"}
POST /v1/agent/connect/authorize | {"Target":"api","ClientCertURI":"spiffe://TRUSTDOMAIN/agent/client/dc/dc1/id/x"}
POST /v1/agent/connect/authorize | {"Target":"api","ClientCertURI":"spiffe://TRUSTDOMAIN"}
POST /v1/agent/connect/authorize | {"Target":"db","ClientCertURI":"spiffe://TRUSTDOMAIN/ns/default/dc/dc1/svc/api"}
POST /v1/agent/connect/authorize | {"Target":"nosuch","ClientCertURI":"spiffe://TRUSTDOMAIN/ns/default/dc/dc1/svc/mon"}
POST /v1/agent/connect/authorize | {"Target":"plain","ClientCertURI":"spiffe://TRUSTDOMAIN/ns/default/dc/dc1/svc/mon"}
POST /v1/agent/connect/authorize | {"Target":"nat","ClientCertURI":"spiffe://TRUSTDOMAIN/ns/default/dc/dc1/svc/mon"}
POST /v1/agent/connect/authorize | {"Target":"*","ClientCertURI":"spiffe://TRUSTDOMAIN/ns/default/dc/dc1/svc/mon"}
POST /v1/agent/connect/authorize | {"Target":"default/db","ClientCertURI":"spiffe://TRUSTDOMAIN/ns/default/dc/dc1/svc/mon"}
POST /v1/agent/connect/authorize?ns=x | {"Target":"api","ClientCertURI":"spiffe://TRUSTDOMAIN/ns/default/dc/dc1/svc/web"}
POST /v1/agent/connect/authorize?dc=nosuch | {"Target":"api","ClientCertURI":"spiffe://TRUSTDOMAIN/ns/default/dc/dc1/svc/web"}
# what sallyport passes on
/v1/agent/checks
/v1/agent/members
/v1/agent/health/service/name/web
/v1/agent/health/service/id/api-1
/v1/catalog/node/sallyport
/v1/catalog/node-services/sallyport
/v1/catalog/gateway-services/x
/v1/health/node/sallyport
/v1/health/ingress/api
/v1/query/nosuch/execute
/v1/discovery-chain/api?index=1
POST /v1/discovery-chain/api | {"OverrideProtocol":"http"}
POST /v1/discovery-chain/api | {"OverrideMeshGateway":{"Mode":"junk"}}
# what it does not
/v1/kv/x
/v1/kv/?keys
/v1/acl/tokens
/v1/acl/token/self
/v1/snapshot
/v1/session/list
/v1/query
/v1/operator/raft/configuration
/v1/agent/token/default
/v1/internal/ui/services
/v1/coordinate/nodes
/v1/event/list
PUT /v1/txn | {}
PUT /v1/catalog/register | {}
PUT /v1/config | {}
PUT /v1/agent/service/register | {}
PUT /v1/connect/intentions/exact?source=a&destination=api | {"Action":"x"}
DELETE /v1/connect/intentions/exact?source=nosuch&destination=api
PUT /v1/connect/ca/configuration | {}
`
