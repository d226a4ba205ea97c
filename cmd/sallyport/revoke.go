package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/sallyport/sallyport/admin"
	"github.com/sallyport/sallyport/files"
	"github.com/sallyport/sallyport/intention"
	"github.com/sallyport/sallyport/revocation"
	"github.com/sallyport/sallyport/xds"
	"github.com/spf13/cobra"
)

// revokeFlags are what `revoke` and `unrevoke` are told of a certificate, and of who asks.
type revokeFlags struct {
	sha256, certificate, tokenFile string
	asJSON                         bool
}

func (f *revokeFlags) add(c *cobra.Command) {
	c.Flags().StringVar(&f.sha256, "sha256", "", "the certificate with this SHA-256, in hexadecimal; beside SERIAL, the digest of a certificate that was issued elsewhere")
	c.Flags().StringVar(&f.certificate, "certificate", "", "the certificate that is the first one of this file (PEM or DER; -: standard input)")
	c.Flags().StringVar(&f.tokenFile, "token-file", "", "beside Consul: file with an ACL token that may write the list's key (CONSUL_HTTP_TOKEN_FILE; or the token itself in CONSUL_HTTP_TOKEN; default: the control plane's own)")
	c.Flags().BoolVar(&f.asJSON, "json", false, "print JSON")
}

func newRevokeCommand(o *clientOptions) *cobra.Command {
	var f revokeFlags
	var reason, until string
	c := &cobra.Command{
		Use:   "revoke {SERIAL | SPIFFE-ID | --sha256 HEX | --certificate FILE}",
		Short: "Have a certificate, or an identity, be nobody's any more, at once",
		Long: `Revoke has one certificate, or every certificate with an identity, be refused everywhere, whatever intentions allow, until it is undone with
"sallyport unrevoke", or its time is over: that of a certificate is over when the certificate ends. It returns when this control plane
refuses it and the connected sidecars of this node have accepted that, and says what becomes of live connections.

A certificate is named by its serial number, in any form, of which the first eight digits are enough if it was issued here ("sallyport leaf
list" prints them), by its SHA-256, or by a file. Whoever this control plane gives that certificate gets a new one at once, unless the
identity is revoked, too. Of a certificate that was issued elsewhere the serial number alone is refused at ext_authz and authorize and by no
sidecar's rules.

The list is the file revoked.yaml of the catalog directory, or, beside Consul, a key that every node reads. Where the control plane may not
write to the catalog directory this command does, with the rights of who runs it.`,
		Example: `  sallyport revoke 3f:9a:00:c1 --reason "the laptop was stolen"
  sallyport revoke spiffe://example.org/ns/default/dc/dc1/svc/web --until 24h
  sallyport revoke --certificate stolen.pem`,
		Args: between(0, "SERIAL or SPIFFE-ID"),
		RunE: func(c *cobra.Command, args []string) error {
			r, err := f.request(c, args)
			if err != nil {
				return err
			}
			r.Reason = reason
			if r.Until, err = untilOf(until, time.Now()); err != nil {
				return err
			}
			return f.run(c, o, r)
		},
	}
	f.add(c)
	c.Flags().StringVar(&reason, "reason", "", "why, for the list, the log and who asks about a refusal")
	c.Flags().StringVar(&until, "until", "", "when the revocation is over: a time as 2027-01-31T12:00:00Z, or a duration from now as 24h (default: never, that of a certificate when it ends)")
	return c
}

func newUnrevokeCommand(o *clientOptions) *cobra.Command {
	var f revokeFlags
	c := &cobra.Command{
		Use:   "unrevoke {SERIAL | SPIFFE-ID | --sha256 HEX | --certificate FILE}",
		Short: "Undo a revocation",
		Long: `Unrevoke takes a certificate or an identity out of the list of what is revoked ("sallyport revoked"): it is somebody's again, as far as
intentions allow and the certificate has not ended. Of a number the first eight digits are enough.`,
		Example: `  sallyport unrevoke 3f:9a:00:c1
  sallyport unrevoke spiffe://example.org/ns/default/dc/dc1/svc/web`,
		Args: between(0, "SERIAL or SPIFFE-ID"),
		RunE: func(c *cobra.Command, args []string) error {
			r, err := f.request(c, args)
			if err != nil {
				return err
			}
			r.Undo = true
			return f.run(c, o, r)
		},
	}
	f.add(c)
	return c
}

func newRevokedCommand(o *clientOptions) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "revoked",
		Short: "Which certificates and identities are revoked",
		Long: `Revoked asks the running control plane what is revoked now, by whom, why, until when, and where that is written. It says so if what is
written there cannot be read, so that what was read last holds.`,
		Args: noArguments,
		RunE: func(c *cobra.Command, _ []string) error {
			client, err := o.find()
			if err != nil {
				return err
			}
			all, err := client.Revoked(c.Context())
			switch {
			case err != nil:
				return err
			case asJSON:
				return printJSON(c, all)
			}
			return printRevoked(c.OutOrStdout(), adviceOf(c.Flags()), all, time.Now())
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

// request is what is asked for, from the arguments.
func (f *revokeFlags) request(c *cobra.Command, args []string) (r admin.RevocationRequest, err error) {
	name := ""
	if len(args) == 1 {
		name = args[0]
	}
	usage := fmt.Errorf("%s takes one of SERIAL, SPIFFE-ID, --sha256 and --certificate; SERIAL and --sha256 may go together: see `%s --help`", c.CommandPath(), c.CommandPath())
	switch {
	case f.certificate != "":
		if name != "" || f.sha256 != "" {
			return r, usage
		}
		given, err := readCertificate(c.InOrStdin(), f.certificate)
		if err != nil {
			return r, err
		}
		if given.IsCA && c.Name() == "revoke" {
			return r, fmt.Errorf("--certificate %s: %.100q is a CA's, and revoke is for those of workloads, which show their own: for a root or an intermediate whose key is stolen, `sallyport ca rotate --distrust`", f.certificate, given.Subject)
		}
		sum := sha256.Sum256(given.Raw)
		r.Serial, r.SHA256, r.Ends = colonHex(given.SerialNumber.Bytes()), hex.EncodeToString(sum[:]), given.NotAfter
		if len(given.URIs) == 1 {
			r.Holder = given.URIs[0].String()
		}
	case strings.Contains(name, "://"):
		if f.sha256 != "" {
			return r, usage
		}
		r.ID = name
	case name == "" && f.sha256 == "":
		return r, usage
	default:
		if _, err := hexQuery("serial number", name); err != nil {
			return r, fmt.Errorf("%q is neither a serial number, as 01:02:ab, nor a SPIFFE ID, as spiffe://example.org/ns/default/dc/dc1/svc/%s: `sallyport leaf list` prints serial numbers, `sallyport status PROXY` SPIFFE IDs", name, name)
		}
		r.Serial, r.SHA256 = name, f.sha256
	}
	r.Token, err = consulToken(f.tokenFile, os.Getenv)
	return r, err
}

// consulToken is the ACL token of who runs the command; empty: none was given.
func consulToken(file string, variable func(string) string) (string, error) {
	if file == "" {
		if t := variable("CONSUL_HTTP_TOKEN"); t != "" {
			return t, nil
		}
		file = variable("CONSUL_HTTP_TOKEN_FILE")
	}
	if file == "" {
		return "", nil
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("token file: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}

// untilOf is the time that --until says; zero if it says nothing.
func untilOf(text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if d, err := time.ParseDuration(text); err == nil {
		if d <= 0 {
			return time.Time{}, fmt.Errorf("--until %s: is over already", text)
		}
		return now.Add(d), nil
	}
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return t, fmt.Errorf("--until %s: is neither a time as 2027-01-31T12:00:00Z nor a duration as 24h", text)
	}
	return t, nil
}

// run has r be done, and says what it did.
func (f *revokeFlags) run(c *cobra.Command, o *clientOptions, r admin.RevocationRequest) error {
	began := time.Now()
	client, err := o.find()
	if err != nil {
		return err
	}
	done, err := client.ChangeRevoked(c.Context(), r)
	if err != nil {
		return err
	}
	if done.Unwritten != "" {
		what := done.What
		if err := writeRevoked(done, r.Undo); err != nil {
			return err
		}
		r.Written = true
		if done, err = client.ChangeRevoked(c.Context(), r); err != nil {
			return err
		}
		if r.Undo {
			done.What = what
		}
	}
	var change *xds.ChangeStatus
	if done.Change != 0 {
		change = awaitChange(c.Context(), client, done.Change)
	}
	if f.asJSON {
		return printJSON(c, struct {
			admin.RevocationResponse
			Sidecars *xds.ChangeStatus `json:"sidecars,omitempty"`
		}{done, change})
	}
	printRevocation(c.OutOrStdout(), adviceOf(c.Flags()), done, r.Undo, change, time.Since(began))
	return nil
}

// writeRevoked does what the control plane may not: it writes into the catalog directory.
func writeRevoked(done admin.RevocationResponse, undone bool) error {
	now := time.Now()
	var what []intention.Revocation
	for _, w := range done.What {
		what = append(what, undescribed(w))
	}
	if len(what) == 0 {
		return errors.New("the control plane does not say what to write: is it of another release?")
	}
	err := revocation.Write(done.Unwritten, func(all []intention.Revocation) (revocation.Edit, error) {
		if undone {
			return revocation.Edit{Drop: dropping(what, now)}, nil
		}
		return revokeOne(all, what[0], now)
	})
	if !errors.Is(err, revocation.ErrReadOnly) {
		return err
	}
	return unwritable(done, what, undone, err)
}

// unwritable is what somebody does if neither the control plane nor the command may write to the catalog directory, the latter because of err.
func unwritable(done admin.RevocationResponse, what []intention.Revocation, undone bool, err error) error {
	if undone {
		return fmt.Errorf("nothing has changed: the control plane may not write there (%s), and neither may you (%w): run the command as somebody who may, or take it out of the list at %s of %s", done.Why, err, what[0].Origin, done.Unwritten)
	}
	text, ferr := files.FormatRevocation(what[0])
	if ferr != nil {
		return errors.Join(err, ferr)
	}
	return fmt.Errorf("nothing is revoked: the control plane may not write there (%s), and neither may you (%w): run the command as somebody who may, or write this into the list revoked of %s:\n%s",
		done.Why, err, filepath.Join(done.Unwritten, files.RevokedFile), strings.TrimRight(text, "\n"))
}

const (
	// longestAcceptance bounds how long is waited for connected sidecars, each of which accepts within milliseconds unless it hangs.
	longestAcceptance = 5 * time.Second
	// acceptanceAgain is how often is asked.
	acceptanceAgain = 10 * time.Millisecond
)

// awaitChange waits until the connected sidecars have accepted a change; nil: nothing is known of it.
func awaitChange(ctx context.Context, client *admin.Client, number uint64) *xds.ChangeStatus {
	for began := time.Now(); ; {
		s, err := client.Change(ctx, number)
		if err != nil {
			return nil
		}
		if _, pending := accepted(s); len(pending) == 0 || time.Since(began) > longestAcceptance {
			return &s
		}
		timer := time.NewTimer(acceptanceAgain)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return &s
		}
	}
}

// accepted is how many sidecars have accepted a change, and the connected ones that have not yet.
func accepted(s xds.ChangeStatus) (n int, pending []xds.ProxyChange) {
	for _, p := range s.Proxies {
		switch {
		case !p.Accepted.IsZero():
			n++
		case p.State != "does not concern it" && p.State != "not connected":
			pending = append(pending, p)
		}
	}
	return n, pending
}

// liveText is what becomes of live connections.
var liveText = map[string]string{
	"drain": "live connections end, within the drain time at the latest", "new": "live connections go on (revocation: new)", "next-request": "requests are refused from the next one on",
}

func printRevocation(w io.Writer, a advice, done admin.RevocationResponse, undone bool, change *xds.ChangeStatus, took time.Duration) {
	p := newPainter(w, a)
	verb := "revoked"
	if undone {
		verb = "revoked no more:"
	}
	for _, r := range done.What {
		text := verb + " " + whatText(r)
		if !undone && !r.Until.IsZero() {
			text += ", until " + at(r.Until)
		}
		if r.Origin != "" && !undone {
			text += " (" + r.Origin + ")"
		}
		fmt.Fprintln(w, wrap("", text, 2))
	}
	if len(done.What) == 0 && undone {
		fmt.Fprintln(w, "revoked no more")
	}
	line := func(text string) { fmt.Fprintln(w, wrap("  ", text, 4)) }
	if len(done.Services) == 0 && !undone {
		line("no sidecar of this node would let it in by its rules")
	}
	for _, s := range done.Services {
		text := fmt.Sprintf("%s: refused by %s (%s); %s", s.Service, count(s.Sidecars, "sidecar"), s.Enforcement, liveText[s.Live])
		if undone {
			text = fmt.Sprintf("%s: let in again by %s", s.Service, count(s.Sidecars, "sidecar"))
		}
		line(text)
	}
	if change != nil {
		n, pending := accepted(*change)
		if n > 0 {
			line(fmt.Sprintf("%s accepted it, %s after the command began", count(n, "sidecar"), took.Round(time.Millisecond)))
		}
		for _, c := range change.Proxies {
			if _, rest, later := strings.Cut(c.State, ", and "); later && !undone {
				line(string(c.ID) + " " + rest + ", as others were ended moments ago")
			}
		}
		for i, c := range pending {
			if i == maxHolders {
				line(fmt.Sprintf("and %d more", len(pending)-i))
				break
			}
			fmt.Fprintln(w, p.paint(red, wrap("  ", fmt.Sprintf("%s has not: %s", c.ID, c.State), 4)))
		}
	}
	for _, l := range done.Rotated {
		line(fmt.Sprintf("%s has a new leaf: serial %s, until %s", l.Proxy, l.Serial, at(l.NotAfter)))
	}
	if done.Issued && len(done.UsedBy) == 0 && !undone {
		line("nobody is given it now; a holder with a key of its own, or with a copy, has to ask for another one")
	}
	if len(done.UsedBy) > 0 && len(done.Rotated) == 0 {
		line("in use by " + strings.Join(done.UsedBy, ", "))
	}
	for _, n := range done.Notes {
		fmt.Fprintln(w, p.paint(yellow, wrap("  ", p.text(n), 4)))
	}
}

// whatText is what is revoked, in words.
func whatText(r admin.Revocation) string {
	switch {
	case r.Serial != "" && r.ID != "":
		return "certificate " + r.Serial + " of " + r.ID
	case r.Serial != "":
		return "certificate " + r.Serial
	case r.SHA256 != "" && r.ID != "":
		return "certificate of SHA-256 " + r.SHA256 + " of " + r.ID
	case r.SHA256 != "":
		return "certificate of SHA-256 " + r.SHA256
	}
	return r.ID
}

func printRevoked(w io.Writer, a advice, all admin.Revocations, now time.Time) error {
	p := newPainter(w, a)
	if all.Problem != "" {
		fmt.Fprintln(w, p.paint(red, wrap("", "what is revoked cannot be read, and what was read last holds: "+p.text(all.Problem), 2)))
	}
	if len(all.All) == 0 {
		_, err := fmt.Fprintf(w, "nothing is revoked (%s)\n", all.Where)
		return err
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "REVOKED\tSERIAL\tSHA-256\tSINCE\tENDS\tBY\tREASON\tAT")
	dash := func(s string) string {
		if s == "" {
			return "-"
		}
		return s
	}
	for _, r := range all.All {
		since, ends := "-", "-"
		if !r.At.IsZero() {
			since = short(now.Sub(r.At)) + " ago"
		}
		if !r.Until.IsZero() {
			ends = "in " + short(r.Until.Sub(now))
		}
		digest := "-"
		if r.SHA256 != "" {
			digest = fit(r.SHA256, 9)
		}
		serial := "-"
		if r.Serial != "" {
			serial = fit(r.Serial, 12)
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", dash(r.ID), serial, digest, since, ends, dash(r.By), dash(r.Reason), dash(r.Origin))
	}
	return t.Flush()
}
