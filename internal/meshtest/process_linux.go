package meshtest

import "syscall"

// dieWithParent keeps processes from outliving a test binary that was killed or ran into its
// timeout.
func dieWithParent(a *syscall.SysProcAttr) { a.Pdeathsig = syscall.SIGKILL }
