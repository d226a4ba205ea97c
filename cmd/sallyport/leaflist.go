package main

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"io"
	"os"
	"text/tabwriter"
	"time"

	"github.com/sallyport/sallyport/admin"
	"github.com/spf13/cobra"
)

func newLeafListCommand(o *clientOptions) *cobra.Command {
	var q admin.LeafQuery
	var path string
	var asJSON bool
	c := &cobra.Command{
		Use:   "list [NAME | --serial HEX | --sha256 HEX | --file CERTIFICATE]",
		Short: "Which leafs were given to whom, until they end",
		Long: `List asks the running control plane for the leafs that were issued and have not ended: whose they are, when they end, and whether they are
in use, that is, whether the control plane gives them to somebody now. NAME is a service, an instance, the ID of a proxy, or a caller as it
stands in the list. With --serial, --sha256 or --file it finds whose a certificate is; of a number eight digits of its beginning are enough.
The exit status is 1 if there is none.

Sidecars of one service share a leaf: CALLER is the one that it was made for, and USED BY all that have it now.`,
		Example: `  sallyport leaf list api
  sallyport leaf list --serial 01:02:a3:4f
  openssl s_client -connect 10.0.0.1:8443 </dev/null | sallyport leaf list --file -`,
		Args:              between(0, "NAME"),
		ValidArgsFunction: completing(o, 1, anyName),
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) == 1 {
				q.Name = args[0]
			}
			if n := len(args); n > 0 || q.Serial != "" || q.SHA256 != "" || path != "" {
				if !oneOf(q.Name, q.Serial, q.SHA256, path) {
					return fmt.Errorf("%s takes one of NAME, --serial, --sha256 and --file: see `%s --help`", c.CommandPath(), c.CommandPath())
				}
			}
			var given *x509.Certificate
			if path != "" {
				var err error
				if given, err = readCertificate(c.InOrStdin(), path); err != nil {
					return err
				}
				sum := sha256.Sum256(given.Raw)
				q.SHA256 = hex.EncodeToString(sum[:])
			}
			client, err := o.find()
			if err != nil {
				return err
			}
			all, err := client.Leafs(c.Context(), q)
			if err != nil {
				return err
			}
			if asJSON {
				err = printJSON(c, all)
			} else if len(all) > 0 {
				err = printLeafs(c.OutOrStdout(), all, time.Now())
			}
			switch {
			case err != nil || len(all) > 0:
				return err
			case given != nil:
				return fmt.Errorf("%s: the certificate %s of %s, valid until %s: %w", path, colonHex(given.SerialNumber.Bytes()), nameIn(given), given.NotAfter.Local().Format(time.DateTime), errNoLeaf)
			case q == (admin.LeafQuery{}):
				return nil
			}
			return errNoLeaf
		},
	}
	c.Flags().StringVar(&q.Serial, "serial", "", "the leaf with this serial number, in hexadecimal")
	c.Flags().StringVar(&q.SHA256, "sha256", "", "the leaf with this SHA-256, in hexadecimal")
	c.Flags().StringVar(&path, "file", "", "the leaf that is the first certificate of this file (PEM or DER; -: standard input)")
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

// nameIn is what a certificate calls its holder.
func nameIn(c *x509.Certificate) string {
	if len(c.URIs) > 0 {
		return c.URIs[0].String()
	}
	return fmt.Sprintf("%q", c.Subject.String())
}

// maxCertificate bounds what is read of a file with certificates.
const maxCertificate = 1 << 20

// readCertificate reads the first certificate of a file.
func readCertificate(in io.Reader, path string) (*x509.Certificate, error) {
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		defer func() { _ = f.Close() }()
		in = f
	}
	b, err := io.ReadAll(io.LimitReader(in, maxCertificate))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	der := b
	if bytes.Contains(b, []byte("-----BEGIN")) {
		der = nil
		for block, rest := pem.Decode(b); block != nil; block, rest = pem.Decode(rest) {
			if block.Type == "CERTIFICATE" {
				der = block.Bytes
				break
			}
		}
		if der == nil {
			return nil, fmt.Errorf("%s: has no certificate: name a file that begins one with -----BEGIN CERTIFICATE-----", path)
		}
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("%s: is no certificate, neither in PEM nor in DER: %w", path, err)
	}
	return c, nil
}

func printLeafs(w io.Writer, all []admin.Leaf, now time.Time) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "SERVICE\tCALLER\tSERIAL\tSHA-256\tISSUED\tENDS\tUSED BY")
	for _, l := range all {
		use := "-"
		if len(l.UsedBy) > 0 {
			use = fit(l.UsedBy[0], 24)
			if len(l.UsedBy) == 1 && l.UsedBy[0] == l.Caller {
				use = "the caller"
			}
			if n := len(l.UsedBy) - 1; n > 0 {
				use += fmt.Sprintf(" and %d more", n)
			}
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s ago\tin %s\t%s\n", l.Service, l.Caller, fit(l.Serial, 12), fit(l.SHA256, 9), short(now.Sub(l.Issued)), short(l.Ends.Sub(now)), use)
	}
	return t.Flush()
}
