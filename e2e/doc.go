// Package e2e tests the built sallyport with real Envoys, as processes on this machine. The tests have the build tag e2e:
//
//	go test -tags e2e ./e2e
//
// They take the command from SALLYPORT_BIN or build it, and the Envoys from the tools directory that `make tools` fills. Each prints what it measured as
// lines "FIGURE name=value …". What gates a test is an event, a count or an order; a time gates only where sallyport promises a time.
package e2e
