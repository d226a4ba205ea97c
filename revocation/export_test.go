package revocation

// ErrNotAllowed is for tests.
var ErrNotAllowed = errNotAllowed

// Fail is for tests.
func (r *Registry) Fail(err error) { r.fail(err) }
