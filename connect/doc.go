// Package connect lets an application take part in a service mesh without a sidecar: it accepts and
// opens connections of mutual TLS in the name of a service, and refuses whom the mesh's intentions
// refuse. It speaks the HTTP API of Consul alone, so it works beside sallyport and beside a bare
// Consul agent.
//
//	svc, err := connect.NewService(ctx, "web", connect.Options{})
//	…
//	defer svc.Close()
//	server := tls.NewListener(listener, svc.ServerTLSConfig())      // who may come in is asked of the API
//	conn, err := svc.Dial(ctx, "api")                               // a healthy instance of api, and nobody else
//	resp, err := svc.HTTPClient().Get("https://api.service.consul") // the same for HTTP
//
// For gRPC there is the package grpccredentials beside this one.
//
// # What is checked
//
// Of a peer that comes in: its certificate against the roots of the mesh, that it is for clients, its
// trust domain, that it is a service's; then the API is asked, for each handshake anew, whether its
// service may connect to this one. If the API does not answer, the peer is refused.
//
// Of a peer that is dialled: its certificate against the roots, that it is for servers, its trust
// domain, and that it is the service that was dialled in the datacenter that the catalog says. Letter
// case of the service's name does not count, as in the catalog.
//
// # Resumption
//
// A TLS session that is resumed skips the certificates, and with other libraries it skips the question
// whether the peer may come in: a client that keeps its sessions is let in after it was denied, for as
// long as its ticket is good. So no tickets are given and none is taken here, on either side; and the
// question is asked in VerifyConnection, which a resumed session would not skip either.
//
// # When access is revoked
//
// An intention that denies counts for the next handshake. Connections that are open stay open, unless
// Options.EndOnRevocation is set.
//
// # When the API is away
//
// The last certificate and the last roots are kept, and connections that are open stay. New inbound
// ones are refused, and Dial fails, as nobody can say where instances are. As soon as the API is back,
// all works again; nothing has to be restarted. A token file is read for each question, so a token can
// be exchanged in place.
package connect
