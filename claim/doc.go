// Package claim judges what registrations name: the addresses and sockets on which an Envoy is to listen, and
// those where it is to look for its application. Whoever may write one registration must not be able
// to take what is another's, or the mesh's own, by naming it.
//
// A Table is who holds which address. A Registry keeps one for the proxies of a catalog, and takes
// out of the contents of its source what is somebody else's: who held it first keeps it, and the
// other proxy loses that part and nothing else.
package claim
