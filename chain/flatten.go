package chain

import (
	"maps"
	"math"
	"slices"
	"strings"
)

// maxLegs bounds the legs that the splitters of a chain come to when those that lead to other splitters are replaced by what those have.
// Ten splitters of ten legs each, one behind the other, would come to 10^10.
const maxLegs = 4096

// roundWeight rounds to 0.01.
func roundWeight(w float64) float64 { return math.Round(w*100) / 100 }

// circle is an error if nodes lead in a circle.
func (w *compiler) circle(start string) error {
	const entered, left = 1, 2
	state := map[string]int{}
	var way []string
	var visit func(key string) *Mistake
	visit = func(key string) *Mistake {
		way = append(way, key)
		switch state[key] {
		case entered:
			name := strings.TrimPrefix(key, string(SplitterNode)+":")
			service := w.service
			service.Service = strings.TrimSuffix(name, "."+service.Namespace+"."+service.Partition)
			m := &Mistake{Kind: SplitterKind, Service: service}
			if s := w.entries.Splitters[service.Fold()]; s != nil {
				m.Origin = s.Origin
			}
			return m.say("detected circular reference: [%s]", strings.Join(way, " -> "))
		case 0:
			state[key] = entered
			// Consul visits the last one first, which shows in the error.
			for _, next := range slices.Backward(w.nodes[key].nexts()) {
				if m := visit(next); m != nil {
					return m
				}
			}
			state[key] = left
		}
		way = way[:len(way)-1]
		return nil
	}
	if m := visit(start); m != nil {
		return m
	}
	return nil
}

// flatten replaces legs that lead to another splitter by the legs of that. The innermost splitters come first, so the result is rounded
// as if each was.
func (w *compiler) flatten(start string) error {
	legs := 0
	done := map[string]bool{}
	var visit func(key string) *Mistake
	visit = func(key string) *Mistake {
		if done[key] {
			return nil
		}
		done[key] = true
		n := w.nodes[key]
		for _, next := range n.nexts() {
			if m := visit(next); m != nil {
				return m
			}
		}
		if n.Type != SplitterNode {
			return nil
		}
		var flat []NodeSplit
		for _, leg := range n.Splits {
			inner := w.nodes[leg.Next]
			if inner.Type != SplitterNode {
				flat = append(flat, leg)
				continue
			}
			if legs += len(inner.Splits); legs > maxLegs {
				return Mistake{Kind: SplitterKind, Service: w.service}.say("discovery chain %q comes to more than %d legs of splitters", w.service.Service, maxLegs)
			}
			for _, i := range inner.Splits {
				flat = append(flat, NodeSplit{Definition: i.Definition.under(leg.Definition), Weight: roundWeight(leg.Weight * i.Weight / 100), Next: i.Next})
			}
		}
		n.Splits = flat
		return nil
	}
	if m := visit(start); m != nil {
		return m
	}
	return nil
}

// under is the leg s of a splitter that the leg outer of another leads to.
func (s *Split) under(outer *Split) *Split {
	if outer.RequestHeaders == nil && outer.ResponseHeaders == nil {
		return s
	}
	merged := *s
	merged.RequestHeaders = s.RequestHeaders.after(outer.RequestHeaders)
	merged.ResponseHeaders = outer.ResponseHeaders.after(s.ResponseHeaders)
	return &merged
}

// after are both modifiers, first and then m: m's count where both say something of one header. A request meets the outer splitter first
// and its answer the inner one.
func (m *HeaderModifiers) after(first *HeaderModifiers) *HeaderModifiers {
	switch {
	case first == nil:
		return m
	case m == nil:
		return first
	}
	merged := &HeaderModifiers{Add: over(first.Add, m.Add), Set: over(first.Set, m.Set), Remove: slices.Clone(first.Remove)}
	for _, name := range m.Remove {
		if !slices.Contains(first.Remove, name) {
			merged.Remove = append(merged.Remove, name)
		}
	}
	return merged
}

// over are the values of both, upper's where both have one; nil if there is none.
func over(lower, upper map[string]string) map[string]string {
	if len(lower) == 0 {
		return upper
	}
	merged := maps.Clone(lower)
	maps.Copy(merged, upper)
	return merged
}
