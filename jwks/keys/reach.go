package keys

import (
	"fmt"
	"net"
	"net/netip"
)

// OtherMachines refuses the addresses of this machine and those that lead nowhere else: whoever may write a jwt-provider entry, or
// answers for a name in one, would have the control plane ask what listens here for its own users alone.
func OtherMachines(a netip.Addr) error {
	switch {
	case a.IsLoopback(), a.IsUnspecified(), a.IsLinkLocalUnicast(), a.IsMulticast(), a.IsInterfaceLocalMulticast(), a.IsLinkLocalMulticast():
	default:
		own, err := net.InterfaceAddrs()
		if err != nil {
			return fmt.Errorf("the addresses of this machine are not known: %w", err)
		}
		for _, o := range own {
			if n, ok := o.(*net.IPNet); ok && n.IP.Equal(a.AsSlice()) {
				return refused(a)
			}
		}
		return nil
	}
	return refused(a)
}

func refused(a netip.Addr) error {
	return fmt.Errorf("its address %s is this machine's, or of no other network: keys are asked for there with --jwks-from-this-machine alone", a)
}
