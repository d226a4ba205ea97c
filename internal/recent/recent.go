// Package recent is a bounded cache of results that are expensive to compute: whether a token's
// signature is valid, the URI SAN of a certificate. A look-up takes no lock, allocates nothing and
// never waits for a writer.
package recent

import (
	"hash/maphash"
	"math/bits"
	"sync/atomic"
)

// ways is the associativity: how many answers share a place. One is evicted only when this many
// others hash to the same place.
const ways = 8

// Table maps texts to answers. It holds a bounded number of them and evicts some when it is full;
// their answers have to be computed again. All methods may be called by several goroutines. The
// answers must not be changed. Of two answers that are stored for one text at the same time either
// may be found later.
type Table[V any] struct {
	seed  maphash.Seed // random, so that nobody can choose texts that hash to one place
	slots []atomic.Pointer[entry[V]]
	mask  uint64
	turn  atomic.Uint32 // spreads evictions over the ways of a place
}

type entry[V any] struct {
	hash  uint64
	text  string
	value V
}

// New returns a table for at least size answers; a size below 1 counts as 1. It allocates 8 bytes
// an answer at once.
func New[V any](size int) *Table[V] {
	places := uint64(1) << bits.Len(uint(max(size-1, 0)/ways))
	return &Table[V]{seed: maphash.MakeSeed(), slots: make([]atomic.Pointer[entry[V]], places*ways), mask: places - 1}
}

// Load returns the answer for text, if the table has it.
func (t *Table[V]) Load(text string) (value V, ok bool) {
	hash := maphash.String(t.seed, text)
	place := t.place(hash)
	for i := range place {
		if e := place[i].Load(); e != nil && e.hash == hash && e.text == text {
			return e.value, true
		}
	}
	return value, false
}

// Store adds the answer for text. It replaces an older answer for text, else one that expired
// reports true for, else any other. A nil expired means that no answer ever expires.
func (t *Table[V]) Store(text string, value V, expired func(V) bool) {
	hash := maphash.String(t.seed, text)
	place := t.place(hash)
	victim := int(t.turn.Add(1) % ways)
	free := false
	for i := range place {
		e := place[i].Load()
		if e != nil && e.hash == hash && e.text == text {
			victim = i
			break
		}
		if !free && (e == nil || expired != nil && expired(e.value)) {
			victim, free = i, true
		}
	}
	place[victim].Store(&entry[V]{hash: hash, text: text, value: value})
}

func (t *Table[V]) place(hash uint64) []atomic.Pointer[entry[V]] {
	first := (hash & t.mask) * ways
	return t.slots[first : first+ways]
}
