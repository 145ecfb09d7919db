package quant

import (
	"strings"
	"testing"

	"github.com/tunekit/tunekit/formats/fail"
)

// TestUndivided: where no group divides the columns, the hint is one that the method
// takes: EXL2 has no group of a whole row.
func TestUndivided(t *testing.T) {
	for name, want := range map[string]string{"gptq": "group_size: -1", "exl2": "ignore"} {
		m, err := MethodNamed(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, group := range []int{0, 48} {
			_, err := resolveGroup(group, []linear{{name: "a", cols: 80}}, m.undivided())
			if hint := fail.Hint(err); !strings.Contains(hint, want) || name == "exl2" && strings.Contains(hint, "-1") {
				t.Errorf("%s, group %d: hint %q, want %q", name, group, hint, want)
			}
		}
	}
}
