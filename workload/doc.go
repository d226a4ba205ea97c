// Package workload answers the SPIFFE Workload API and Envoy's secret discovery service (SDS) on a
// Unix socket, for applications and Envoys that the control plane does not configure.
//
// Nobody brings a token. The kernel says which process is at the other end, and a process has the
// identity of each service whose own registration names it, by selectors in SPIRE's spelling (meta
// key sallyport_selectors, see package attest). Who is named by none gets nothing but the trust
// bundles, which are public.
//
// Each user has a leaf of its own of a service: processes of one user can read each other's memory,
// those of different users cannot. A stream ends with its process, and as soon as no registration
// names it any more.
package workload
