package main

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/sallyport/sallyport/admin"
	"github.com/sallyport/sallyport/api"
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/consul"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/internal/latest"
	"github.com/sallyport/sallyport/internal/recent"
	"github.com/sallyport/sallyport/internal/sequence"
	"github.com/sallyport/sallyport/token"
	"github.com/sallyport/sallyport/workload"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// indexName is the file of the data directory with the indexes of the HTTP API.
const indexName = "api-index"

// openAPI makes the HTTP API of applications without a sidecar.
func (p *controlPlane) openAPI() error {
	numbers, err := sequence.Open(filepath.Join(p.cfg.Data, indexName), time.Now())
	if err != nil {
		return err
	}
	p.closers = append(p.closers, numbers.Close)
	var who api.Authority = aclCallers{p.agent, processes{p.workload}, p.workloadRight, p.cfg.APIWithoutACLs, recent.New[string](1024), &p.store.Views}
	if p.callers.issuer != nil {
		who = tokenCallers{p.callers.issuer, processes{p.workload}, &p.store.Views}
	}
	var relay *api.Relay
	var knowing func(context.Context, string, identity.Name) (*catalog.View, error)
	if p.agent != nil {
		knowing = p.apiKnowing
		relay = &api.Relay{Writes: p.cfg.APIWrites, Ask: func(ctx context.Context, q api.RelayQuestion) (api.RelayReply, error) {
			r, err := p.agent.Relay(ctx, consul.Question(q))
			return api.RelayReply(r), err
		}}
	}
	if p.cfg.APIWithoutACLs {
		p.log.Warn("--api-without-acls: while Consul's ACLs are off, whoever reaches --api-address is given the private key of any service", "addr", p.cfg.APIAddress)
	}
	p.http, err = api.New(api.Config{
		Sign: p.authority.sign, Relay: relay, Knowing: knowing, Views: &p.store.Views, Credentials: p.secrets, Acceptance: p.accepted, Number: numbers.Next, Authority: who,
		Hosts: p.cfg.apiHosts(), NodeName: p.cfg.NodeName, LogRequests: p.cfg.LogAPI,
		Version: version, NotReady: p.notReady, Logger: p.log, Registerer: p.metrics,
	})
	if err != nil {
		return err
	}
	p.runs = append(p.runs, p.http.Run, func(ctx context.Context) error {
		numbers.Run(ctx, func(err error) { p.log.Error("indexes of the HTTP API not reserved", "err", err) })
		return nil
	})
	return nil
}

// processes know applications by what services say of processes.
type processes struct{ workload *workload.Server }

// caller is who has no token: whoever a service names, or nobody.
func (p processes) caller(peer api.Peer) api.Caller {
	c := api.Caller{ID: peer.Name}
	c.Process = func() (int, string) { return processUser(peer) }
	if peer.Process == nil {
		return c
	}
	if process, err := peer.Process(); err == nil {
		c.Services = p.workload.Services(process)
		c.Known = len(c.Services) > 0
	}
	return c
}

// tokenCallers know applications by the tokens that the control plane makes, and by their processes.
type tokenCallers struct {
	issuer *token.Issuer
	processes
	views *latest.Value[*catalog.View]
}

// Identify returns whom the token is for.
func (t tokenCallers) Identify(_ context.Context, text string, peer api.Peer) (api.Caller, error) {
	if text == "" {
		return t.caller(peer), nil
	}
	a, id, err := t.issuer.Application(text)
	if err != nil {
		return api.Caller{}, api.Refused(http.StatusForbidden, "ACL not found: "+err.Error())
	}
	c := api.Caller{ID: "token " + id, Reader: a.Reader, Known: true}
	if !a.Reader {
		c.Services = []identity.Name{a.Service}
	}
	return c, nil
}

// Act lets applications act in the name of their own service.
func (t tokenCallers) Act(_ context.Context, c *api.Caller, service identity.Name, _ bool) error {
	if c.Acts(service) {
		return nil
	}
	return api.Denied(c, service, howToAct(t.views, c, service))
}

// aclCallers know applications by their ACL tokens, and by their processes.
type aclCallers struct {
	agent *consul.Agent
	processes
	// right is which of Consul's tokens the leaf of a service is fetched with for a process that the service names.
	right func(context.Context, identity.Name) (string, error)
	// anybody says that whoever comes over TCP acts for all services as long as Consul's ACLs are off.
	anybody bool
	// names are those of tokens that were seen, as a hash takes its time and a stack that whoever waits would keep.
	names *recent.Table[string]
	views *latest.Value[*catalog.View]
}

// open reports whether nobody who comes over TCP has to show who it is.
func (a aclCallers) open(tcp bool) bool { return a.anybody && tcp && a.agent.WithoutACLs() }

// Identify takes whoever brings a token for somebody: what it may is asked in Act.
func (a aclCallers) Identify(_ context.Context, text string, peer api.Peer) (api.Caller, error) {
	if a.open(peer.TCP) { // a token says nothing
		return api.Caller{ID: peer.Name, TCP: true, Known: true}, nil
	}
	if text == "" {
		return a.caller(peer), nil
	}
	if a.agent.ACLsOff() { // tokens can be invented, and bounds are of callers
		c := api.Caller{ID: peer.Name, Token: text, Known: true}
		c.Process = func() (int, string) { return processUser(peer) }
		return c, nil
	}
	return api.Caller{ID: a.name(text), Token: text, Known: true}, nil
}

// name tells tokens apart without saying them. Those of Consul's length are kept.
func (a aclCallers) name(token string) string {
	if name, ok := a.names.Load(token); ok {
		return name
	}
	name := consul.TokenName(token)
	if len(token) <= len("00000000-0000-0000-0000-000000000000") {
		a.names.Store(token, name, nil)
	}
	return name
}

// Act asks the agent, and takes its word for some seconds. Who has no token may ask what everybody may ask, and gets no leaf.
func (a aclCallers) Act(ctx context.Context, c *api.Caller, service identity.Name, leaf bool) (err error) {
	switch {
	case a.open(c.TCP) && c.Token == "":
	case c.Token == "" && c.Acts(service):
		c.Token, err = a.right(ctx, service)
	default:
		if err = inConsulsWords(a.agent.MayWrite(ctx, c.Token, service, false), c.Token, service, leaf); err == nil && leaf {
			err = a.agent.MayWrite(ctx, c.Token, service, true)
		}
	}
	switch s := status.Convert(err); s.Code() {
	case codes.OK:
		return nil
	case codes.PermissionDenied:
		if leaf && !c.Acts(service) && a.agent.ACLsOff() {
			return withoutACLs(a.views, c, service)
		}
		return api.Refused(http.StatusForbidden, "Permission denied: "+s.Message())
	case codes.Unavailable:
		return api.Refused(http.StatusInternalServerError, s.Message())
	case codes.Unauthenticated:
		return api.Refused(http.StatusForbidden, s.Message())
	default:
		return api.Refused(http.StatusForbidden, "Permission denied: "+s.Message())
	}
}

// inConsulsWords is what Consul's own endpoints say of a token that it does not know, or that has no service:write: clients look for some
// of it.
func inConsulsWords(err error, text string, service identity.Name, leaf bool) error {
	switch code := status.Code(err); {
	case code == codes.Unauthenticated && leaf:
		return status.Error(code, "ACL not found")
	case code == codes.Unauthenticated:
		return status.Error(code, "Could not resolve token to authorizer: ACL not found")
	case code == codes.PermissionDenied && text == "":
		return status.Errorf(code, "anonymous token lacks permission 'service:write' on %q. The anonymous token is used implicitly when a request does not specify a token.", service)
	case code == codes.PermissionDenied:
		return status.Errorf(code, "token lacks permission 'service:write' on %q", service)
	default:
		return err
	}
}

// applicationTTL is how long a token of the HTTP API lives unless somebody says otherwise: Consul's clients read theirs once, at their
// start.
const applicationTTL = 90 * 24 * time.Hour

// applicationToken makes a token of the HTTP API for those who may run the control plane.
func (p *controlPlane) applicationToken(who admin.Peer, r admin.ApplicationTokenRequest) (out admin.ApplicationTokenResponse, err error) {
	if p.callers.issuer == nil {
		if p.agent.ACLsOff() || p.agent.WithoutACLs() {
			return out, fmt.Errorf("%w: Consul's ACLs are off, so no token says who asks: run the application as a user of its own, and write %s = \"unix:uid:N\" into the Meta of the registration of %s: it needs no token then", admin.ErrForbidden, catalog.MetaSelectors, cmp.Or(r.Service, "its service"))
		}
		return out, fmt.Errorf("%w: beside Consul, tokens are Consul's: `consul acl token create -service-identity=%s` makes one", admin.ErrForbidden, cmp.Or(r.Service, "SERVICE"))
	}
	if who.UID != 0 && who.UID != os.Geteuid() {
		return out, fmt.Errorf("tokens of applications: %w to uid %d, but to root and uid %d", admin.ErrForbidden, who.UID, os.Geteuid())
	}
	a := token.Application{Reader: r.Reader}
	if !r.Reader {
		v, ok := p.store.Views.Load()
		if !ok {
			return out, fmt.Errorf("%w: the catalog has not been read", admin.ErrNotYet)
		}
		a.Service = identity.NewName(r.Service)
		found := false
		for range v.Instances(a.Service) {
			found = true
		}
		if !found {
			return out, fmt.Errorf("a service called %q: %w in the catalog: register it first; letter case counts, as in certificates", r.Service, admin.ErrUnknown)
		}
	}
	m, err := p.callers.issuer.MintApplication(a, cmp.Or(r.TTL, applicationTTL))
	return admin.ApplicationTokenResponse{Token: m.Text, TokenID: m.ID, Expires: m.Expires, Socket: admin.HTTPSocket(p.cfg.RuntimeDir)}, err
}
