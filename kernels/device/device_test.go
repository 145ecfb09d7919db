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

func TestOfRank(t *testing.T) {
	for _, c := range []struct {
		name string
		rank int
		want string
	}{{"", 1, ""}, {"auto", 2, "auto"}, {"cpu", 1, "cpu"}, {"cuda", 0, "cuda:0"}, {"cuda", 1, "cuda:1"}, {"cuda:2", 0, "cuda:2"}, {"cuda:2", 3, "cuda:5"}, {"cuda:x", 1, "cuda:x"}} {
		if got := OfRank(c.name, c.rank); got != c.want {
			t.Errorf("rank %d of %q computes on %q, want %q", c.rank, c.name, got, c.want)
		}
	}
}

// TestHostShares: what the program may take and what may be pinned are the limit together;
// where nothing is known memory can still be pinned.
func TestHostShares(t *testing.T) {
	for _, c := range []struct{ limit, available, heap, pinned int64 }{
		{1001, 1 << 40, 501, 500}, {1000, 0, 500, 500}, {0, 1000, 0, 500}, {NoLimit, 1000, 0, 500}, {0, 0, 0, NoLimit}, {NoLimit, 0, 0, NoLimit},
	} {
		if heap, pinned := hostShares(c.limit, c.available); heap != c.heap || pinned != c.pinned {
			t.Errorf("of a limit of %d and %d available the program has %d and %d may be pinned, want %d and %d", c.limit, c.available, heap, pinned, c.heap, c.pinned)
		}
	}
}
