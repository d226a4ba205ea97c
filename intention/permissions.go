package intention

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/sallyport/sallyport/internal/intern"
)

// maxPermissions is how many permissions an intention may have.
const maxPermissions = 1000

// Permissions are those of one intention, in order, compiled. It is immutable, and of equal ones there is one alone, so that pointers
// compare as what they point to. The nil Permissions has none.
type Permissions struct {
	list   []Permission
	tokens []TokenRequirement
	steps  []Step
	// searched are the texts that some step looks through.
	searched map[string]bool
	sum      [sha256.Size]byte
}

// Tokens are the tokens of which a request has to bring one, whatever the permissions of the intention say besides. It is immutable, and
// of equal ones there is one alone. The nil Tokens asks for none.
type Tokens struct {
	list []TokenRequirement
	sum  [sha256.Size]byte
}

// All that somebody has are kept once, so that intentions stay comparable.
var (
	permissions intern.Table[[sha256.Size]byte, Permissions]
	tokens      intern.Table[[sha256.Size]byte, Tokens]
)

// NewPermissions compiles permissions; nil if there are none. The error, of a *PermissionError's type, is of the first one of which not
// all can be done: an expression that is none, or too large. list must not be changed afterwards.
func NewPermissions(list []Permission) (*Permissions, error) { return permissionsWith(list, nil) }

// permissionsWith is NewPermissions for an intention with tokens; nil if there are neither.
//
// t are the tokens of the intention. Without a list they are the one condition of an intention that allows. A request that has brought none of
// them is denied, and one that a permission allows but for its own tokens is, unless a later permission allows it: where the default is to allow,
// who leaves a token away would be let in by that else. Denying permissions do not look at tokens, as whoever is denied for one can leave it away.
func permissionsWith(list []Permission, t *Tokens) (*Permissions, error) {
	switch {
	case len(list) == 0 && t == nil:
		return nil, nil //nolint:nilnil // none are the nil ones
	case len(list) > maxPermissions:
		return nil, fmt.Errorf("%d permissions, and %d are the most", len(list), maxPermissions)
	}
	sum := sumOf(list)
	if t != nil {
		sum = sumOf([][]byte{sum[:], t.sum[:]})
	}
	if known := permissions.Get(sum); known != nil {
		return known, nil
	}
	p := &Permissions{list: list, tokens: t.List(), sum: sum}
	if len(list) == 0 {
		p.steps = []Step{{Action: Allow}}
	}
	for i := range list {
		steps, err := list[i].steps(i + 1)
		if err != nil {
			return nil, &PermissionError{Permission: i, Err: err}
		}
		p.steps = append(p.steps, steps)
	}
	for i := range list {
		if list[i].Action != Allow || len(list[i].JWT) == 0 {
			continue
		}
		without := list[i]
		without.Action = Deny
		step, err := without.steps(i + 1)
		if err != nil {
			return nil, &PermissionError{Permission: i, Err: err}
		}
		step.Tokenless = true
		p.steps = append(p.steps, step)
	}
	if slices.ContainsFunc(list, Permission.looksAtPath) {
		p.steps = slices.Insert(p.steps, 0, guard)
	}
	p.searched = searched(p.steps)
	return permissions.Keep(sum, p), nil
}

// searched are the texts of which the tests of steps look at more than as many bytes as an operator has written.
func searched(steps []Step) map[string]bool {
	all := map[string]bool{}
	for _, s := range steps {
		for _, clause := range s.Clauses {
			for _, t := range clause {
				if t.Kind == Contains || t.Kind == Expression && (t.search == nil || t.search.kind != anyText) {
					all[t.Of] = true
				}
			}
		}
	}
	return all
}

// NewTokens are requirements of an intention; nil if there are none. list must not be changed afterwards.
func NewTokens(list []TokenRequirement) *Tokens {
	if len(list) == 0 {
		return nil
	}
	t := &Tokens{list: list, sum: sumOf(list)}
	return tokens.Keep(t.sum, t)
}

// PermissionError says which of several permissions, counted from 0, cannot be done.
type PermissionError struct {
	Permission int
	Err        error
}

func (e *PermissionError) Error() string {
	return fmt.Sprintf("Permissions[%d]: %s", e.Permission, e.Err)
}

func (e *PermissionError) Unwrap() error { return e.Err }

var errNoSuchHeader = errors.New("is no header but a part of the request: use PathExact, PathPrefix, PathRegex and Methods")

// sumOf stands for the content of list, the same over restarts.
func sumOf(list any) [sha256.Size]byte {
	b, _ := json.Marshal(list) // of texts, numbers and bools
	return sha256.Sum256(b)
}

// List are the permissions, in order. It must not be changed.
func (p *Permissions) List() []Permission {
	if p == nil {
		return nil
	}
	return p.list
}

// Len is how many there are.
func (p *Permissions) Len() int { return len(p.List()) }

// Tokens are those of the intention: a request that has brought none of them is denied, and Steps say nothing of it. Empty: none has to be
// brought. It must not be changed.
func (p *Permissions) Tokens() []TokenRequirement {
	if p == nil {
		return nil
	}
	return p.tokens
}

// Steps are what a request is compared with, in order; the first one that it meets decides. It must not be changed.
func (p *Permissions) Steps() []Step {
	if p == nil {
		return nil
	}
	return p.steps
}

// Searches reports whether some condition looks through the whole of a text, so that a decision takes the longer the longer that is: ":path" or
// the value of a header, whose name is in lower case.
func (p *Permissions) Searches(text string) bool { return p != nil && p.searched[text] }

// Equal reports whether p and o are the same. It is for who compares by reflection.
func (p *Permissions) Equal(o *Permissions) bool { return p == o }

// Equal reports whether t and o are the same. It is for who compares by reflection.
func (t *Tokens) Equal(o *Tokens) bool { return t == o }

// compare is a total order, the same over restarts. Nil comes first.
func (p *Permissions) compare(o *Permissions) int {
	switch {
	case p == o:
		return 0
	case p == nil:
		return -1
	case o == nil:
		return 1
	}
	return bytes.Compare(p.sum[:], o.sum[:])
}

// List are the requirements. It must not be changed.
func (t *Tokens) List() []TokenRequirement {
	if t == nil {
		return nil
	}
	return t.list
}

func (t *Tokens) compare(o *Tokens) int {
	switch {
	case t == o:
		return 0
	case t == nil:
		return -1
	case o == nil:
		return 1
	}
	return bytes.Compare(t.sum[:], o.sum[:])
}

// MarshalJSON is that of the list.
func (p *Permissions) MarshalJSON() ([]byte, error) { return json.Marshal(p.list) }

// MarshalJSON is that of the list.
func (t *Tokens) MarshalJSON() ([]byte, error) { return json.Marshal(t.list) }

// UnmarshalJSON reads what json.Marshal made of an intention. Of equal permissions there is one alone afterwards, too.
func (i *Intention) UnmarshalJSON(b []byte) error {
	type plain Intention // without methods
	in := struct {
		*plain
		Permissions []Permission
		JWT         []TokenRequirement
	}{plain: (*plain)(i)}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields() // what a later release adds may deny
	if err := d.Decode(&in); err != nil {
		return err
	}
	return i.Ask(in.Permissions, NewTokens(in.JWT))
}

// Ask has i, of which Action says what it does without permissions, ask for what the permissions and the tokens of an entry say. An intention
// that denies does not look at tokens.
func (i *Intention) Ask(list []Permission, t *Tokens) (err error) {
	i.JWT, i.Permissions = nil, nil
	if len(list) == 0 && i.Action != Allow {
		return nil
	}
	i.JWT = t
	i.Permissions, err = permissionsWith(list, t)
	return err
}

// ConnectionsOnly is p for a destination that speaks tcp: permissions deny there. A nil p stays nil.
func (p *Policy) ConnectionsOnly() *Policy {
	if p == nil || p.connections || !p.hasPermissions() {
		return p
	}
	q := *p
	q.connections = true
	return &q
}

// hasPermissions reports whether any intention about p's destination has some.
func (p *Policy) hasPermissions() bool {
	conditional := func(m map[string]*Intention) bool {
		for _, i := range m {
			if i.Permissions != nil {
				return true
			}
		}
		return false
	}
	if p.own.rest != nil && p.own.rest.Permissions != nil || conditional(p.own.exact) {
		return true
	}
	for _, i := range p.own.foreign {
		if i.Permissions != nil {
			return true
		}
	}
	return false
}

// Permissions is the intention about a source whose permissions decide about its requests; nil: none does, so that Exact, Rest or
// Foreign say all. The source is one that Exact yields, the wildcard for those that it does not, or a workload of another trust domain.
// A nil p has none.
func (p *Policy) Permissions(source Source) *Intention {
	if p == nil || p.connections {
		return nil
	}
	i, name := p.own.find(source.Service), source.Service
	switch {
	case source.ID != "":
		if i, name = p.own.foreign[source.ID], string(source.ID); p.foreignDenied(source.ID, i) != nil {
			return nil
		}
	case source.IsWildcard():
		i = p.own.rest
	}
	if i == nil || i.breadth() != requests || p.only != nil && !p.only.hasRequests(p.outline(i, name)) {
		return nil
	}
	return i
}

// unheard is the step of a request whose decision nobody waits for.
var unheard = Step{Action: Deny}

// decide is the step that a request meets first; nil: it meets none.
func (p *Permissions) decide(r *Request) *Step {
	for i := range p.steps {
		if r.ended() {
			return &unheard
		}
		if p.steps[i].meets(r) {
			return &p.steps[i]
		}
	}
	return nil
}

// outline says what the permissions come to in a Set: for the guard and each of them its action and what stands for the rest of it, and at its end the
// default.
func (p *Permissions) outline(otherwise Action) string {
	b := make([]byte, 0, len(p.list)*17+1)
	if p.steps[0].Permission == 0 && p.steps[0].Action == Deny {
		b = append(append(b, signs[Deny]), "canonical-paths."...)
	}
	for i := range p.list {
		sum := sumOf(&p.list[i])
		b = append(b, signs[p.list[i].Action])
		b = base64.RawURLEncoding.AppendEncode(b, sum[:12])
	}
	if len(p.tokens) > 0 {
		sum := sumOf(p.tokens)
		b = base64.RawURLEncoding.AppendEncode(append(b, signs[Deny]), sum[:12])
	}
	if len(p.list) == 0 {
		otherwise = Allow
	}
	for i := range p.list { // to demand a token for some of what is allowed by default takes the rest of it away
		if otherwise == Allow && p.list[i].Action == Allow && len(p.list[i].JWT) > 0 {
			sum := sumOf(&p.list[i])
			b = base64.RawURLEncoding.AppendEncode(append(b, signs[Deny]), sum[:12])
		}
	}
	return string(append(b, signs[otherwise]))
}

// signs begin the permissions of an outline.
var signs = [...]byte{Deny: '!', Allow: '+'}

const outlined = 1 + 16 // bytes of a permission in an outline
