package definition

import (
	"fmt"

	"github.com/sallyport/sallyport/intention"
)

const (
	// maxRequirements is how many providers a JWT block may name, maxClaims how many claims each, maxClaimPath how deep one may lie.
	maxRequirements = 20
	maxClaims       = 50
	maxClaimPath    = 20
)

// Tokens reads the JWT block of an intention; nil if there is none, or it is wrong.
func (d *Decoder) Tokens() *intention.Tokens { return intention.NewTokens(d.tokens(d.Within)) }

// tokens reads a JWT block. With a mistake it asks for a token that nobody has.
func (d *Decoder) tokens(place string) (list []intention.TokenRequirement) {
	if place != "" {
		place += "."
	}
	j, ok := d.Child("JWT", "JWT")
	if !ok {
		return nil
	}
	providers := j.Children("Providers", "provider")
	seen := map[string]bool{}
	for n, p := range providers {
		if n == maxRequirements {
			p.Mistake(p.At, "%sJWT.Providers has more than %d providers", place, maxRequirements)
		}
		name := p.Text("Name")
		r := intention.TokenRequirement{Provider: name.Value}
		switch {
		case !name.Set:
			p.say(p.At, &Field{Key: "Name", Value: &Node{}}, "JWT provider name is required")
		case seen[name.Value] && !d.Lenient:
			p.Mistake(name.At, "%sJWT.Providers[%d]: the provider %.100q is named twice: what is said of it has to hold together, so put all claims into one", place, n, name.Value)
		}
		seen[name.Value] = true
		claims := p.Children("VerifyClaims", "claim")
		for k, c := range claims {
			if k == maxClaims {
				c.Mistake(c.At, "%sJWT.Providers[%d].VerifyClaims has more than %d claims", place, n, maxClaims)
			}
			at := fmt.Sprintf("%sJWT.Providers[%d].VerifyClaims[%d]", place, n, k)
			path, value := c.texts("Path"), c.Text("Value")
			switch {
			case d.Lenient: // such a claim holds of no token
			case len(path) == 0:
				c.Mistake(c.At, "%s has no Path, so no token meets it", at)
			case !value.Set:
				c.Mistake(c.At, "%s has no Value, so no token meets it", at)
			}
			if len(path) > maxClaimPath {
				c.Mistake(c.At, "%s.Path has more than %d parts", at, maxClaimPath)
			}
			r.Claims = append(r.Claims, intention.Claim{Path: path, Value: value.Value})
			c.rest()
		}
		p.rest()
		list = append(list, r)
	}
	if len(providers) == 0 && !d.Lenient {
		j.Mistake(j.At, "%sJWT has no Providers", place)
	}
	j.rest()
	return list
}
