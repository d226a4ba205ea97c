//go:build e2e

package e2e

import (
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"
)

// accessor is how Consul names a token in its errors.
var accessor = regexp.MustCompile(`token with AccessorID '[0-9a-f-]+'`)

// meantWithACLs are the rows of the table in docs/native.md of what differs beside Consul. Questions begin with who asks.
var meantWithACLs = []meantDifference{
	{
		"A leaf that was made before is given to nobody but those who may have it made", "Consul's agent gives it to everybody, key included",
		regexp.MustCompile(`(nobody|unknown|another's|reader|narrow): GET /v1/agent/connect/ca/leaf/|own: GET /v1/agent/connect/ca/leaf/(API|nosuch|plain)$`),
		func(theirs, ours map[string]any) {
			if b, ok := theirs["body"].(map[string]any); ok && b["PrivateKeyPEM"] != nil && ours["code"] == http.StatusForbidden {
				become(theirs, ours)
			}
		},
	},
	{
		"A leaf is made for a service with a sidecar, `connect.native` or selectors on this node, in its own spelling; else 404", "another spelling would be another identity, and nobody takes part as what is not there",
		regexp.MustCompile(`(management|nobody|somebody): GET /v1/agent/connect/ca/leaf/(API|nosuch|plain)$`),
		instead(http.StatusOK, http.StatusNotFound),
	},
	{
		"`authorize` refuses identities that no certificate has: what is no SPIFFE ID, and partitions", "Consul takes them for `web`",
		regexp.MustCompile(`POST /v1/agent/connect/authorize.*"(SPIFFE:|[^"]*%77|[^"]*/ap/default)`),
		func(theirs, ours map[string]any) {
			if body, _ := ours["body"].(string); ours["code"] == http.StatusBadRequest && strings.HasPrefix(body, "ClientCertURI not a valid") {
				become(theirs, ours)
			}
		},
	},
	{
		"`authorize` says no to certificates of another trust domain, datacenter, namespace or partition", "Consul does not look at the first two; they are not of this mesh",
		regexp.MustCompile(`POST /v1/agent/connect/authorize.*(//other|dc2|ns/other|ap/other)`),
		func(theirs, ours map[string]any) {
			if b, _ := ours["body"].(map[string]any); b["Authorized"] == false && slices.Contains([]any{"foreign trust domain", "unknown datacenter", "foreign namespace"}, b["Reason"]) {
				become(theirs, ours)
			}
		},
	},
	{
		"`authorize` says no for a target that no service can be called, as `*` and `default/db`", "nobody can take the connection",
		regexp.MustCompile(`POST /v1/agent/connect/authorize.*"Target":"(\*|default/db)"`),
		func(theirs, ours map[string]any) {
			if b, _ := ours["body"].(map[string]any); b["Authorized"] == false && b["Reason"] == "unknown destination" {
				become(theirs, ours)
			}
		},
	},
	{
		"A 403 of leafs and `authorize` says `token lacks permission`, without the token's `AccessorID`", "it is not asked for",
		regexp.MustCompile(`/v1/agent/connect/(ca/leaf|authorize)`),
		func(theirs, _ map[string]any) {
			if body, ok := theirs["body"].(string); ok {
				theirs["body"] = accessor.ReplaceAllString(body, "token")
			}
		},
	},
	{
		"A name with a slash is no service's, whatever the token", "Consul looks whether there is such a token first",
		regexp.MustCompile(`unknown: GET /v1/agent/connect/ca/leaf/a%2fb`),
		instead(http.StatusForbidden, http.StatusInternalServerError),
	},
	{
		"The `Name` of a root is the common name of its certificate", "Consul's is a label that is not in it",
		regexp.MustCompile(`/v1/(agent/)?connect/ca/roots`),
		func(theirs, ours map[string]any) {
			for _, a := range []map[string]any{theirs, ours} {
				each(a["body"], func(m map[string]any) { delete(m, "Name") })
			}
		},
	},
	{
		"`IntermediateCerts` of roots is `null`", "leafs come with what leads to the root before, and a new root is here before any leaf of it",
		regexp.MustCompile(`/v1/(agent/)?connect/ca/roots`),
		func(theirs, ours map[string]any) {
			for _, a := range []map[string]any{theirs, ours} {
				each(a["body"], func(m map[string]any) { delete(m, "IntermediateCerts") })
			}
		},
	},
	{
		"Roots and leafs have all headers of Consul's servers, `?pem` too; they and `authorize` have no `X-Cache` and no `Age`", "all answers come from memory",
		regexp.MustCompile(`/v1/(agent/)?connect/(ca/(roots|leaf)|authorize)`),
		func(theirs, ours map[string]any) {
			for _, a := range []map[string]any{theirs, ours} {
				dropHeaders(a, "X-Consul-Knownleader", "X-Consul-Lastcontact", "X-Consul-Query-Backend", "X-Cache", "Age")
			}
			if h, ok := ours["headers"].(map[string]any); ok && h["Content-Type"] == "application/pem-certificate-chain" {
				delete(h, "X-Consul-Index")
			}
		},
	},
	{
		"What is watched has the headers of an answer that the agent gave at once, for `?index` and `?cached` too", "who asked first does not matter",
		regexp.MustCompile(`(index|cached|waits)`),
		func(theirs, ours map[string]any) {
			for _, a := range []map[string]any{theirs, ours} {
				dropHeaders(a, "X-Consul-Query-Backend", "X-Consul-Knownleader", "X-Consul-Results-Filtered-By-Acls", "X-Cache", "Age")
			}
		},
	},
	{
		"Keys and values, ACLs, snapshots, sessions, events, logs and all that is not about services is not passed on: 404", "no application needs it to take part in the mesh, and it might be asked of an agent that does not let it",
		regexp.MustCompile(`(GET|PUT) /v1/(kv|acl|snapshot|session|operator|agent/token|internal|coordinate|event|txn|catalog/register)`),
		func(theirs, ours map[string]any) {
			if ours["code"] == http.StatusNotFound {
				become(theirs, ours)
			}
		},
	},
	{
		"What writes is answered 405 without `--api-writes`, whatever the token", "who only reads the API cannot change anything through it",
		regexp.MustCompile(`(PUT|DELETE) /v1/(config|agent/service|connect/(intentions|ca/configuration))`),
		func(theirs, ours map[string]any) {
			if ours["code"] == http.StatusMethodNotAllowed {
				become(theirs, ours)
			}
		},
	},
	{
		"Who waits gets nothing of what comes if its token is deleted meanwhile", "the agent judges a token when the question comes",
		regexp.MustCompile(`waits, revoked: `),
		instead(http.StatusOK, http.StatusForbidden),
	},
	{
		"Where the agent ends the connection without an answer, 500 says so", "the asker's connection is another",
		regexp.MustCompile(`GET /v1/agent/services.filter=(Proxy|Connect)`),
		func(theirs, ours map[string]any) {
			if theirs["body"] == connectionEnds && ours["code"] == http.StatusInternalServerError {
				become(theirs, ours)
			}
		},
	},
	{
		"`/` is 404", "there is no user interface",
		regexp.MustCompile(`GET /$`),
		instead(http.StatusOK, http.StatusNotFound),
	},
}

// meantWithoutACLs are the rows that are about a Consul without ACLs.
var meantWithoutACLs = []meantDifference{
	{
		"Where ACLs are off a leaf is given to the processes that its service names, whatever token comes", "Consul's agent gives it to everybody, key included",
		regexp.MustCompile(`GET /v1/agent/connect/ca/leaf/`),
		func(theirs, ours map[string]any) {
			if b, ok := theirs["body"].(map[string]any); ok && b["PrivateKeyPEM"] != nil && ours["code"] == http.StatusForbidden {
				become(theirs, ours)
			}
		},
	},
	{
		"`X-Consul-Default-ACL-Policy` of roots, leafs and `authorize` is the mesh's default", "it is what holds where no intention is about a connection, with ACLs and without",
		regexp.MustCompile(`/v1/(agent/)?connect/(ca/(roots|leaf)|authorize)`),
		func(theirs, ours map[string]any) {
			for _, a := range []map[string]any{theirs, ours} {
				dropHeaders(a, "X-Consul-Default-Acl-Policy")
			}
		},
	},
}

// instead takes an answer with one status code for theirs with another.
func instead(of, code int) func(theirs, ours map[string]any) {
	return func(theirs, ours map[string]any) {
		if theirs["code"] == of && ours["code"] == code {
			become(theirs, ours)
		}
	}
}

// become makes an answer the same as another.
func become(theirs, ours map[string]any) {
	clear(theirs)
	maps.Copy(theirs, ours)
}
