package consul

import (
	"context"
	"encoding/json"
	"time"

	"github.com/sallyport/sallyport/catalog"
	"github.com/sallyport/sallyport/definition"
	"github.com/sallyport/sallyport/intention"
)

const (
	// providerKind is the kind of the entries that say who issues tokens.
	providerKind = "jwt-provider"
	// tokensWait is how long contents wait for them, when an intention asks for tokens for the first time.
	tokensWait = time.Second
)

// tokenProviders is the answer of /v1/config/jwt-provider.
type tokenProviders struct {
	list     []*catalog.TokenProvider
	problems []Problem
}

// decodeTokenProviders reads all of them. One that is not understood is there, and none of its tokens counts.
func decodeTokenProviders(body []byte) (t tokenProviders, err error) {
	all, err := decodeList[json.RawMessage](body)
	if err != nil {
		return t, err
	}
	for _, raw := range all {
		n, err := decodeJSON[definition.Node](raw)
		if err != nil {
			return t, err
		}
		var problems []Problem
		d := lenient(&problems, Problem{}).Decoder(&n, "")
		p, _ := d.TokenProvider("")
		p.Origin = providerKind + "/" + p.Name
		for _, q := range problems {
			q.Entry = p.Origin
			t.problems = append(t.problems, q)
		}
		t.list = append(t.list, p)
	}
	return t, nil
}

// tokens has the entries read, or not any more. Agent.mu is held.
func (w *watcher) tokens(ctx context.Context, wanted bool) {
	k := &w.agent.known
	switch {
	case wanted && w.endTokens == nil:
		ctx, w.endTokens = context.WithCancel(ctx)
		follow(ctx, w.agent, &k.tokens, query[tokenProviders]{
			first: true, path: "/v1/config/" + providerKind, params: consistent(nil), decode: decodeTokenProviders,
		})
	case !wanted && w.endTokens != nil:
		w.endTokens()
		w.endTokens = nil
		k.tokens = queryState[tokenProviders]{}
	}
}

// tokenProviders puts who issues tokens into c, if one of its intentions asks for some; false: that is not known yet, and will be in a moment.
// Agent.mu is held.
func (b *assembly) tokenProviders(c *catalog.Contents) bool {
	b.asksForTokens = false
	for _, d := range c.Intentions {
		for i := range d.Intentions {
			b.ignoredTokens(&d.Intentions[i])
			b.asksForTokens = b.asksForTokens || asksForTokens(&d.Intentions[i])
		}
	}
	if !b.asksForTokens {
		b.tokensAsked = time.Time{}
		return true
	}
	if b.tokensAsked.IsZero() {
		b.tokensAsked = b.now
	}
	t, seed := &b.agent.known.tokens, b.agent.seed
	switch end := b.tokensAsked.Add(tokensWait); {
	case t.ok:
		c.TokenProviders = t.value.list
		b.problems = append(b.problems, t.value.problems...)
	case seed != nil:
		c.TokenProviders = seed.contents.TokenProviders
		b.fromFile = true
	case t.err == nil && b.now.Before(end):
		b.wake(end)
		return false
	default:
		b.pending("", "", providerKind, "who issues tokens is not known, so requests that need one are denied (the token needs mesh:read)")
	}
	return true
}

func asksForTokens(i *intention.Intention) bool {
	if i.JWT != nil {
		return true
	}
	for _, p := range i.Permissions.List() {
		if p.Action == intention.Allow && len(p.JWT) > 0 {
			return true
		}
	}
	return false
}

// ignoredTokens says where a permission that denies asks for tokens.
func (b *assembly) ignoredTokens(i *intention.Intention) {
	for n, p := range i.Permissions.List() {
		if p.Action == intention.Deny && len(p.JWT) > 0 {
			b.problem("", "", i.Origin, "permission %d of %s denies, and asks for tokens: it denies with a token or without, as who is denied for one can leave it away", n+1, i)
		}
	}
}
