package intention

import (
	"slices"
	"strconv"
	"strings"
)

// meetsToken reports whether a request has brought a good token of one of the requirements. Of none it has.
func meetsToken(all []TokenRequirement, r *Request) bool {
	return slices.ContainsFunc(all, func(t TokenRequirement) bool {
		claims, ok := r.Tokens[t.Provider]
		return ok && !slices.ContainsFunc(t.Claims, func(c Claim) bool { return !c.holds(claims) })
	})
}

func (c *Claim) holds(claims map[string]any) bool {
	var at any = claims
	for _, key := range c.Path {
		m, ok := at.(map[string]any)
		if !ok {
			return false
		}
		if at, ok = m[key]; !ok {
			return false
		}
	}
	if list, ok := at.([]any); ok {
		return slices.ContainsFunc(list, c.says)
	}
	return c.says(at)
}

func (c *Claim) says(value any) bool {
	switch v := value.(type) {
	case string:
		return v == c.Value
	case float64:
		n, ok := c.Number()
		return ok && n == v
	case bool:
		b, ok := c.Boolean()
		return ok && b == v
	}
	return false
}

// Number is what a claim that is a number in JSON has to be; ok is false if no number is what Value says.
func (c *Claim) Number() (n float64, ok bool) {
	if strings.Trim(c.Value, "-+.0123456789eE") != "" { // no "inf", no "0x1p1"
		return 0, false
	}
	n, err := strconv.ParseFloat(c.Value, 64)
	return n, err == nil
}

// Boolean is what a claim that is true or false in JSON has to be; ok is false if neither is what Value says.
func (c *Claim) Boolean() (b, ok bool) {
	return c.Value == "true", c.Value == "true" || c.Value == "false"
}

// Providers are the names of those whose tokens the intentions about p's destination ask for, sorted. A nil p has none.
func (p *Policy) Providers() (names []string) {
	if p == nil || p.connections || !p.hasPermissions() {
		return nil
	}
	of := func(i *Intention) {
		if i == nil || i.breadth() != requests {
			return
		}
		for _, t := range i.Permissions.tokens {
			names = append(names, t.Provider)
		}
		for _, s := range i.Permissions.steps {
			for _, t := range s.Tokens {
				names = append(names, t.Provider)
			}
		}
	}
	of(p.own.rest)
	for _, i := range p.own.exact {
		of(i)
	}
	for _, i := range p.own.foreign {
		of(i)
	}
	slices.Sort(names)
	return slices.Compact(names)
}
