// Package meshtest runs meshes for tests: the built sallyport, real Envoys, applications and
// clients, as processes and sockets on this machine. A test says in words what its mesh is like
// (Config, Service, Intentions), and gets a Mesh whose parts it can stop, kill, change and look
// into. All that was started ends with the test; logs are printed if it failed.
//
// At the end of each test every Envoy is asked whether it refused, ignored or deprecated anything
// of what it was told, and logs and dumps are searched for private keys and tokens, so each test is
// a test of that too.
//
// What has no *testing.T (Load, the servers) serves the demo as well.
package meshtest
