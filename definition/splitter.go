package definition

import "github.com/sallyport/sallyport/chain"

// Splitter reads what a service-splitter entry says beside its name and Meta. It is done with d then. Whether that is right, as far as
// no key alone shows it, is not looked at.
func (d *Decoder) Splitter() *chain.Splitter {
	s := &chain.Splitter{Origin: d.At.String()}
	for _, c := range d.Children("Splits", "split") {
		s.Splits = append(s.Splits, chain.Split{
			Weight: c.number("Weight").Value, Service: c.otherService(), Subset: c.Text("ServiceSubset").Value,
			RequestHeaders: c.headerModifiers("RequestHeaders"), ResponseHeaders: c.headerModifiers("ResponseHeaders"),
		})
		c.enterprise("Namespace", "Partition")
		c.Done()
	}
	d.Done()
	return s
}
