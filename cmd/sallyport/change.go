package main

import (
	"fmt"
	"io"
	"strconv"
	"text/tabwriter"
	"time"

	"github.com/sallyport/sallyport/xds"
	"github.com/spf13/cobra"
)

func newChangeCommand(o *clientOptions) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "change [NUMBER]",
		Short: "When a change of the catalog or of intentions reached each sidecar",
		Long: `Change asks the running control plane what became of one change: when its source noticed it, and for each sidecar when
the first response went out that it led to and when Envoy had accepted all of it, that Envoy refuses some of what
it has to be told, or that the change does not concern it. A grant that the files say and that is not in force yet is
listed with what it waits for: a file that cannot be taken, or the disk; so "accepted, but a grant waits" is not that grant. Without a number it is the newest change. The log has a line
with each change's number; numbers grow, over restarts too, as long as the data directory is kept.`,
		Args: between(0, "NUMBER"),
		RunE: func(c *cobra.Command, args []string) error {
			var number uint64
			if len(args) == 1 {
				var err error
				if number, err = strconv.ParseUint(args[0], 10, 64); err != nil || number == 0 {
					return fmt.Errorf("%q is not the number of a change: numbers are in the log of `sallyport serve` and in `sallyport status`", args[0])
				}
			}
			client, err := o.find()
			if err != nil {
				return err
			}
			s, err := client.Change(c.Context(), number)
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(c, s)
			}
			return printChange(c.OutOrStdout(), s)
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

func printChange(w io.Writer, s xds.ChangeStatus) error {
	fmt.Fprintf(w, "change %d, seen %s\n\n", s.Number, s.Seen.UTC().Format(time.RFC3339Nano))
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "PROXY\tSTATE\tSENT AFTER\tACCEPTED AFTER")
	after := func(at time.Time) string {
		if at.IsZero() {
			return "-"
		}
		return at.Sub(s.Seen).Round(100 * time.Microsecond).String()
	}
	for _, p := range s.Proxies {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", p.ID, p.State, after(p.Sent), after(p.Accepted))
	}
	if err := t.Flush(); err != nil || len(s.Held) == 0 {
		return err
	}
	fmt.Fprintln(w)
	for _, text := range s.Held {
		fmt.Fprintln(w, wrap("", text, 2))
	}
	return nil
}
