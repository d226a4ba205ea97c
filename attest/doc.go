// Package attest says which process is at the other end of a Unix socket, and whether it is one that
// selectors in SPIRE's spelling describe.
//
// What counts is what the kernel says: the user and the groups at the time of connect, and, by a
// pidfd, which process it is and whether it still runs. The executable's path and the systemd unit
// are read from /proc, and count only if the pidfd says before and after that the process is there,
// so that no other one with the same number can have been looked at. Whatever cannot be found out
// matches nothing.
//
// A path counts only as far as the user is trusted: whoever may make a user namespace can show any
// path. So selectors always name a user.
package attest
