// Package native tests applications without a sidecar against a real Consul: package connect with itself, and with Consul's own,
// deprecated package in both directions. It is in a workspace of its own (go.work), for it has sallyport's tests and package connect, which know
// nothing of each other; Consul's package is in the module ../consul, and is spoken to over pipes. The programs of the pages in docs/native, in Go, Python and Java, are
// taken out of those and run as they stand there.
//
//	make tools && go test -tags e2e -count=1 ./...
package native
