package main

import "golang.org/x/sys/unix"

// readOnly is the flag of a file system that cannot be written to.
const readOnly = unix.ST_RDONLY
