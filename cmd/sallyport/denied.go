package main

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/sallyport/sallyport/api"
	"github.com/sallyport/sallyport/attest"
	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/internal/latest"
)

// overTCP is why the process of a caller is not known.
const overTCP = "over TCP the process that asks is not known"

// processUser is whom a caller's process can be named by, for api.Caller: its user, or why nobody can.
func processUser(peer api.Peer) (uid int, why string) {
	if peer.TCP || peer.Process == nil {
		return 0, overTCP
	}
	var process *attest.Process
	process, err := peer.Process()
	if err == nil {
		err = process.Nobody()
	}
	if err != nil {
		return 0, fmt.Sprintf("its process is nobody's (%v)", err)
	}
	return process.UID, ""
}

// createToken is the command that makes a token for a service. The name is a caller's: what a shell would not take for a name stays out.
func createToken(service identity.Name) string {
	name := service.String()
	if service.Check() != nil || strings.HasPrefix(name, "-") || len(name) > 64 {
		name = "SERVICE"
	}
	return "`sallyport token create " + name + "`"
}

// howToAct is what somebody does who may not act for a service of files. Who may not read the catalog is told nothing of it.
func howToAct(views *latest.Value[*catalog.View], c *api.Caller, service identity.Name) string {
	create := createToken(service)
	uid, why := c.Unnamed()
	switch {
	case !c.Known && why != "":
		return why + ": bring a token of the service: " + create + " makes one"
	case !c.Known && uid != 0:
		return fmt.Sprintf("bring a token of the service: %s makes one; or name uid %d by selectors (docs/native.md)", create, uid)
	case !c.Known:
		return "bring a token of the service: " + create + " makes one"
	}
	if v, ok := views.Load(); ok && api.Registered(v, service) != nil {
		return "no service of that name is registered" + nearestService(v, service.Service)
	}
	if c.Reader {
		return "a reader's token is no service's: " + create + " makes one that is"
	}
	return "it is another service's: " + create + " makes a token for this one's applications"
}

// withoutACLs is why nobody is given the leaf of a service by a token while Consul's ACLs are off, and the way to have it. All may read
// the catalog then.
func withoutACLs(views *latest.Value[*catalog.View], c *api.Caller, service identity.Name) error {
	if v, ok := views.Load(); ok && v.Mesh() != nil {
		if err := api.Registered(v, service); err != nil {
			return err
		}
	}
	user := "N"
	uid, why := c.Unnamed()
	if uid != 0 {
		user = strconv.Itoa(uid)
	}
	write := fmt.Sprintf("write %s = \"unix:uid:%s\" into the Meta of the registration of %q", catalog.MetaSelectors, user, service.String())
	switch {
	case why == overTCP:
		write = overTCP + ": ask by http.sock as a user of its own, and " + write + "; --api-without-acls gives it to all who reach --api-address"
	case why != "":
		write = why + ": then " + write
	default:
		write = "run it as a user of its own, and " + write
	}
	return api.Refused(http.StatusForbidden, "Permission denied: Consul's ACLs are off, so no token says who asks: "+write)
}
