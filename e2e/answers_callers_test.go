//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/internal/meshtest"
)

// TestAnswersToCallers asks a Consul with ACLs and sallyport beside files the same questions as several callers: with tokens that either has made for
// the same.
func TestAnswersToCallers(t *testing.T) {
	t.Parallel()
	c := meshtest.StartConsul(t, meshtest.Agent{Management: management, Node: "sallyport"})
	m := meshtest.New(t, meshtest.Config{Sallyport: sallyport, Flags: []string{"--default-intention-policy", "deny"}})
	definitions(t, c, m)
	m.Serve()
	awaitListening(t, c)
	c.Policy("reads", `service_prefix "" { policy = "read" } node_prefix "" { policy = "read" } agent_prefix "" { policy = "read" } operator = "read"`)
	_, reads := c.NewToken(map[string]any{"Policies": []map[string]any{{"Name": "reads"}}})
	_, db := c.ServiceToken("db")
	_, api := c.ServiceToken("api")
	made := func(args ...string) string {
		return strings.TrimSpace(m.MustRun(append([]string{"token", "create"}, args...)...))
	}
	unknown := "00000000-dead-4000-8000-000000000000"
	d := comparison{meant: slices.Concat(meantOfCallers, meantDifferences)}
	var roots [2]struct{ TrustDomain string }
	c.Must(http.MethodGet, "/v1/connect/ca/roots", nil, &roots[0])
	roots[1].TrustDomain = m.Status().TrustDomain
	for _, round := range []string{"", "again, "} {
		for _, who := range []struct{ name, theirs, ours string }{
			{"nobody", "", ""}, {"unknown", unknown, unknown}, {"another's", db, made("db")}, {"reader", reads, made("--reader")}, {"own", api, made("api")},
		} {
			consul, ours := asks(t, "tcp", c.Addr, who.theirs), asks(t, "unix", filepath.Join(m.Runtime, "http.sock"), who.ours)
			for _, q := range apiQuestions(callerLines) {
				theirs, mine := q, q
				theirs.body, mine.body = strings.ReplaceAll(q.body, "TRUSTDOMAIN", roots[0].TrustDomain), strings.ReplaceAll(q.body, "TRUSTDOMAIN", roots[1].TrustDomain)
				a, err := consul.ask(theirs)
				if err != nil {
					t.Fatal(err)
				}
				b, err := ours.ask(mine)
				if err != nil {
					t.Fatal(err)
				}
				if strings.Contains(string(q.line), "/connect/ca/roots") { // other certificates
					a.body, b.body = kindsIn(t, a.body), kindsIn(t, b.body)
				}
				d.compare(t, round+who.name+": "+string(q.line), a, b)
			}
		}
	}
	// The rows of the other table are held by the test of that one.
	d.meant = meantOfCallers
	d.report(t, "HTTP API of files beside Consul with ACLs", 400)
}

// callerLines are questions that callers with other rights are answered differently.
const callerLines = `
/v1/agent/connect/ca/roots
/v1/connect/ca/roots
/v1/agent/connect/ca/leaf/api
/v1/agent/connect/ca/leaf/nosuch
/v1/agent/connect/ca/leaf/
POST /v1/agent/connect/authorize | {}
POST /v1/agent/connect/authorize | {"Target":"api","ClientCertURI":"x"}
POST /v1/agent/connect/authorize | {"Target":"api","ClientCertURI":"spiffe://TRUSTDOMAIN/ns/default/dc/dc1/svc/web"}
POST /v1/agent/connect/authorize | {"Target":"api","ClientCertURI":"spiffe://TRUSTDOMAIN/ns/default/dc/dc1/svc/other"}
POST /v1/agent/connect/authorize | {"Target":"db","ClientCertURI":"spiffe://TRUSTDOMAIN/ns/default/dc/dc1/svc/api"}
/v1/connect/intentions
/v1/connect/intentions/exact?source=web&destination=api
/v1/connect/intentions/exact?source=api&destination=db
/v1/connect/intentions/exact?source=Web&destination=Orders
/v1/connect/intentions/exact?source=nosuch&destination=api
/v1/connect/intentions/exact?source=nosuch&destination=nosuch
/v1/connect/intentions/exact?destination=api
/v1/connect/intentions/check?source=web&destination=api
/v1/connect/intentions/check?source=api&destination=db
/v1/connect/intentions/check?source=x&destination=nosuch
/v1/connect/intentions/check?source=web
/v1/connect/intentions/match?by=destination&name=api
/v1/connect/intentions/match?by=destination&name=db
/v1/connect/intentions/match?by=source&name=api
/v1/connect/intentions/match?by=source&name=web
/v1/connect/intentions/match?by=destination&name=*
/v1/connect/intentions/match
/v1/config/service-intentions
/v1/config/service-intentions/api
/v1/config/service-intentions/db
/v1/config/service-intentions/*
/v1/config/service-defaults
/v1/config/service-defaults/web
/v1/config/service-defaults/db
/v1/config/service-defaults/nosuch
/v1/config/proxy-defaults/global
/v1/config/mesh/mesh
/v1/config/nosuch
/v1/discovery-chain/api
/v1/health/service/api
/v1/health/service/nosuch
/v1/health/connect/api
/v1/health/connect/db
/v1/health/state/critical
/v1/health/checks/api
/v1/catalog/services
/v1/catalog/service/api
/v1/catalog/connect/api
/v1/catalog/nodes
/v1/catalog/datacenters
/v1/agent/services
/v1/agent/service/api-1
/v1/agent/service/nosuch
/v1/status/leader
/v1/nosuch
POST /v1/catalog/services
/v1/catalog/services?index=abc
/v1/catalog/services?ns=default
`

// kindsIn is the body of an answer with what its values are in their place.
func kindsIn(t *testing.T, body string) string {
	t.Helper()
	var v any
	if err := json.Unmarshal([]byte(body), &v); err != nil {
		return body
	}
	each(v, func(m map[string]any) {
		for k, v := range m {
			switch v.(type) {
			case string, float64:
				m[k] = fmt.Sprintf("%T", v)
			}
		}
	})
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// meantOfCallers are the rows of the table in docs/native.md of what files say to callers. Questions begin with who asks.
var meantOfCallers = []meantDifference{
	meantBesideConsul("A leaf that was made before is given to nobody but those who may have it made"),
	meantBesideConsul("Roots and leafs have all headers of Consul's servers, `?pem` too; they and `authorize` have no `X-Cache` and no `Age`"),
	{
		"Who brings no token and is no process that a service names is refused all that is not public, lists too", "there is no anonymous token that could have rights",
		regexp.MustCompile(`nobody: `),
		func(theirs, ours map[string]any) {
			if body, _ := ours["body"].(string); ours["code"] == http.StatusForbidden && strings.HasPrefix(body, "Permission denied: the request has no token") {
				become(theirs, ours)
			}
		},
	},
	{
		"A token that is none is refused, whatever is asked for that is not public", "Consul looks at some questions first",
		regexp.MustCompile(`unknown: `),
		func(theirs, ours map[string]any) {
			if body, _ := ours["body"].(string); ours["code"] == http.StatusForbidden && strings.HasPrefix(body, "ACL not found: ") {
				become(theirs, ours)
			}
		},
	},
	{
		"A 403 names the token by its ID, and says what to do", "`sallyport token revoke` takes that ID",
		regexp.MustCompile(`/v1/agent/connect/(ca/leaf|authorize)`),
		func(theirs, ours map[string]any) {
			lacks := regexp.MustCompile(`^Permission denied: (anonymous token|token( with AccessorID)? \S+) lacks permission 'service:write' on ("[^"]*")`)
			a, _ := theirs["body"].(string)
			b, _ := ours["body"].(string)
			if their, our := lacks.FindStringSubmatch(a), lacks.FindStringSubmatch(b); their != nil && our != nil && their[3] == our[3] && theirs["code"] == ours["code"] {
				theirs["body"] = b
			}
		},
	},
	{
		"A service's token reads the intentions in which the service is either side, or all are; others are not in lists, and 403", "a service identity of Consul's reads all, which is no business of an application",
		regexp.MustCompile(`(another's|own): GET /v1/(connect/intentions|config/service-intentions)`),
		func(theirs, ours map[string]any) {
			if ours["code"] == http.StatusForbidden && ours["body"] == "Permission denied" {
				become(theirs, ours)
			}
			list, ok := theirs["body"].([]any)
			mine, ok2 := ours["body"].([]any)
			if ok && ok2 {
				theirs["body"] = slices.DeleteFunc(list, func(i any) bool {
					return !slices.ContainsFunc(mine, func(j any) bool { return reflect.DeepEqual(i, j) })
				})
			}
		},
	},
}

// meantBesideConsul is one of the rows of the other table.
func meantBesideConsul(what string) meantDifference {
	i := slices.IndexFunc(meantWithACLs, func(d meantDifference) bool { return d.what == what })
	return meantWithACLs[i]
}
