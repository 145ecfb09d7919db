package device

import (
	"strings"
	"testing"

	"github.com/tunekit/tunekit/formats/fail"
)

func TestOpen(t *testing.T) {
	for _, name := range []string{"", "auto", "cpu"} {
		b, err := Open(name, Options{MemoryLimit: 1 << 20})
		if err != nil || b.Info().Name != "cpu" {
			t.Errorf("%q: %v", name, err)
		}
	}
	gpu := List()[1].Usable
	if gpu {
		t.Log("this machine has a GPU: that its absence is told is not tested")
	}
	for _, c := range []struct {
		name string
		code int
	}{{"cuda", 4}, {"cuda:0", 4}, {"cuda:12", 4}, {"cuda:x", 2}, {"cuda:-1", 2}, {"gpu", 2}, {"CPU", 2}} {
		if gpu && (c.name == "cuda" || c.name == "cuda:0") {
			continue
		}
		_, err := Open(c.name, Options{})
		if fail.Code(err) != c.code || !strings.Contains(err.Error(), c.name) || fail.Hint(err) == "" {
			t.Errorf("%q: %v (exit %d, hint %q), want exit %d", c.name, err, fail.Code(err), fail.Hint(err), c.code)
		}
	}
	if l := List(); !l[0].Usable || l[1].Usable != gpu || !gpu && !strings.Contains(l[1].Detail, "lib") {
		t.Errorf("list %+v", l)
	}
}
