package bench

import (
	"errors"
	"regexp"
	"testing"
	"time"

	"github.com/tunekit/tunekit/kernels/cpu"
)

// Every row but the largest can be set up and called.
func TestRun(t *testing.T) {
	dev := cpu.New(cpu.Options{})
	seen := map[string]bool{}
	err := Run(dev, Options{
		Filter: regexp.MustCompile(`product .*/512×(576|1536)×|attention/(forward|backward),|around/RMSNorm|encode/(Q|I)|threads/a`),
		Time:   time.Microsecond,
		Peak:   func(Limit) float64 { return 1 },
		Row: func(r Row) error {
			seen[r.Group] = true
			if r.Rate <= 0 || r.Median > r.Rate || r.Calls < 1 || r.Unit == "" || (r.Share > 0) != (r.Limit != None) {
				t.Errorf("%+v", r)
			}
			return nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, g := range []string{"product f32", "attention", "around", "encode"} {
		if !seen[g] {
			t.Errorf("no row of %s", g)
		}
	}
	if m := dev.Info().Mem.Now; m[0]+m[4] != 0 {
		t.Errorf("memory left: %v", m)
	}
}

// Memory that is refused ends the run with an error, and so does the caller.
func TestRunEnds(t *testing.T) {
	small := cpu.New(cpu.Options{MemoryLimit: 1 << 20})
	one := Options{Filter: regexp.MustCompile("RMSNorm"), Time: time.Microsecond, Row: func(Row) error { return errors.New("enough") }}
	if err := Run(small, one); err == nil {
		t.Error("no error for too little memory")
	}
	if err := Run(cpu.New(cpu.Options{}), one); err == nil || err.Error() != "enough" {
		t.Errorf("%v", err)
	}
}
