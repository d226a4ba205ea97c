package claim

import "github.com/sallyport/sallyport/catalog"

// Admit is what Run does with contents.
func (r *Registry) Admit(c catalog.Contents) catalog.Contents { return r.admit(c) }
