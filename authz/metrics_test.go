package authz

import "testing"

func TestReasonsHaveWords(t *testing.T) {
	labels, texts := map[string]reason{}, map[string]reason{}
	for r := range reasons {
		label, text := r.words()
		if _, taken := labels[label]; taken || label == "" {
			t.Errorf("reason %d has the label %q, which is empty or another one's", r, label)
		}
		if _, taken := texts[text]; taken || text == "" {
			t.Errorf("reason %d has the text %q, which is empty or another one's", r, text)
		}
		labels[label], texts[text] = r, r
	}
}
