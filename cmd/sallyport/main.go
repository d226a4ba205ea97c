// Command sallyport is the control plane and everything one does with it.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
)

// version and commit are set by the build.
var (
	version = "dev"
	commit  = ""
)

// exitError ends the process with a status of its own; what there was to say has been printed.
type exitError int

func (e exitError) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

func main() { os.Exit(run()) }

func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	root := newRootCommand()
	err := mistyped(root, os.Args[1:])
	if err == nil {
		err = root.ExecuteContext(ctx)
	}
	if err == nil {
		return 0
	}
	if exit, ok := errors.AsType[exitError](err); ok {
		return int(exit)
	}
	for line := range strings.SplitSeq(adviceOf(root.PersistentFlags()).text(err.Error()), "\n") { // several are one line each
		fmt.Fprintln(os.Stderr, "sallyport:", line)
	}
	return 2
}
