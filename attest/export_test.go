package attest

// Unit is the systemd unit that the process runs in.
func (p *Process) Unit() (string, error) { return p.unit() }
