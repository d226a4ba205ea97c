// Package acceptance keeps who has accepted which roots, and under which root each holder's leafs were signed, until those end: the
// rotation of a root waits for what stands here, and for nobody's connection. It is kept in memory and in a file that outlives restarts,
// since after a start nobody is connected.
//
// What counts as accepted depends on how it was handed out. An Envoy ACKs a secret, and has accepted the roots when it has ACKed every
// secret with roots that it subscribes to, on all its streams. A stream of the Workload API has no ACK: what was sent counts when the
// stream has lived so long after it that the other end must have answered a ping which came behind it, or when the other end ended the
// stream by itself. Who asks the HTTP API has what it was answered. So of applications it is known that they have it, never that they
// use it, and processes that ask as one user or with one token are one holder.
//
// Nobody waits for the disk: a line is written a moment later. What a crash takes is never taken for accepted, and a start after one
// waits for whoever may have been given something in the last moment; see Config.Proxies.
//
// All methods may be called by several goroutines, and do not block. Those of a nil Record and of a nil Stream do nothing.
package acceptance
