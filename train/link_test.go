package train

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/cpu"
)

// wired is the CPU under a name of its own, with a way to the other ranks: a group.
type wired struct {
	*cpu.CPU
	name     string
	group    Comm
	way      string
	why      error
	fails    int // the turn of gathering that does
	gathered int
	joined   bool
}

func (d *wired) Info() kernels.Info {
	in := d.CPU.Info()
	in.Name = d.name
	return in
}

func (d *wired) RanksWay() (string, error) { return d.way, d.why }
func (d *wired) RanksID() ([]byte, error)  { return []byte("the id"), nil }
func (d *wired) LeaveRanks() error         { d.joined = false; return nil }

func (d *wired) JoinRanks(id []byte, rank, size int, alive func() error) error {
	if d.joined = true; string(id) != "the id" || rank != d.group.Rank() || size != d.group.Size() {
		return fmt.Errorf("rank %d of %d has the id %q", rank, size, id)
	}
	return alive()
}

func (d *wired) GatherRanks(dst kernels.Buffer, rank, n int, _ func() error) error {
	if d.gathered++; d.gathered == d.fails {
		return fail.Limitf(d.name, "", "gradients were not gathered")
	}
	own := make([]float32, n)
	if err := d.Download(kernels.Bytes(own), d.Slice(dst, rank*n, n)); err != nil {
		return err
	}
	wide := make([]float64, n)
	for i, v := range own {
		wide[i] = float64(v)
	}
	all, err := d.group.Gather(wide)
	for r := range all {
		for i, v := range all[r] {
			own[i] = float32(v)
		}
		d.Upload(d.Slice(dst, r*n, n), kernels.Bytes(own))
	}
	return err
}

// wiredJobs are jobs on devices that are wired, as change leaves them.
func wiredJobs(t *testing.T, ranks int, change func(rank int, d *wired)) (jobs []Job, devices []*wired, said *[]string) {
	said = new([]string)
	for rank, m := range newGroup(ranks) {
		d := &wired{CPU: cpu.New(cpu.Options{}), name: fmt.Sprintf("gpu:%d", rank), group: m, way: "wire-1"}
		if change != nil {
			change(rank, d)
		}
		j := smallJobOn(t, "", d)
		if rank == 0 {
			j.Dir = t.TempDir()
			j.Log = func(s string) { *said = append(*said, s) }
		}
		jobs, devices = append(jobs, j), append(devices, d)
	}
	return jobs, devices, said
}

// TestLinked: gradients that are gathered on the devices make the bits of those that are
// added in the host's memory; that is chosen where every rank can and has a device of its
// own, and said either way.
func TestLinked(t *testing.T) {
	for _, ranks := range []int{2, 3} {
		host := rankJobs(t, ranks, t.TempDir())
		runRanks(t, host)
		for what, c := range map[string]struct {
			change func(rank int, d *wired)
			says   string
			linked bool
		}{
			"all can":      {nil, "are gathered by wire-1", true},
			"one cannot":   {func(rank int, d *wired) { d.why = map[int]error{1: errors.New("no wire")}[rank] }, "added in the host's memory: rank 1 has no way to gather", false},
			"rank 0 not":   {func(rank int, d *wired) { d.why = map[int]error{0: errors.New("no wire")}[rank] }, "added in the host's memory: no wire", false},
			"versions":     {func(rank int, d *wired) { d.way = fmt.Sprintf("wire-%d", rank) }, "rank 1 has another version of the library than rank 0", false},
			"one device":   {func(rank int, d *wired) { d.name = "gpu:0" }, "rank 1 shares its device with another rank", false},
			"other device": {func(rank int, d *wired) { d.name = fmt.Sprintf("gpu:%d", 7-rank) }, "are gathered by wire-1", true},
		} {
			if ranks > 2 && !c.linked {
				continue
			}
			jobs, devices, said := wiredJobs(t, ranks, c.change)
			runRanks(t, jobs)
			if hash(t, jobs[0]) != hash(t, host[0]) || curveOf(t, jobs[0].Dir) != curveOf(t, host[0].Dir) {
				t.Errorf("%d ranks, %s: other bits than in the host's memory", ranks, what)
			}
			if !strings.Contains(strings.Join(*said, "\n"), c.says) {
				t.Errorf("%d ranks, %s: %q, want %q", ranks, what, *said, c.says)
			}
			for rank, d := range devices {
				if d.joined || (d.gathered > 0) != c.linked {
					t.Errorf("%d ranks, %s: rank %d gathered %d times, still connected: %v", ranks, what, rank, d.gathered, d.joined)
				}
			}
		}
	}
}

// A rank that must have a way and has none, or fails as it gathers, ends all with its error.
func TestLinkFails(t *testing.T) {
	must := fail.Limitf("gpu:1", "", "TUNE_WIRE=1, but there is none")
	for what, c := range map[string]struct {
		change func(rank int, d *wired)
		says   string
	}{
		"must":    {func(rank int, d *wired) { d.why = map[int]error{1: must}[rank] }, "TUNE_WIRE=1"},
		"gathers": {func(rank int, d *wired) { d.fails = map[int]int{1: 3}[rank] }, "gradients were not gathered"},
	} {
		jobs, devices, _ := wiredJobs(t, 2, c.change)
		errs := together(2, func(m Comm) error {
			defer devices[m.Rank()].group.(member).Close()
			j := jobs[m.Rank()]
			j.Comm = m
			_, err := Run(t.Context(), j)
			return err
		})
		if errs[0] == nil || fail.Code(errs[1]) != int(fail.Limit) || !strings.Contains(errs[1].Error(), c.says) {
			t.Errorf("%s: %v", what, errs)
		}
	}
}
