package recipes

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels/device"
)

// Team is the processes that a stage works in together, as one of them sees it. Rank 0 is
// the run itself, and alone writes what the stage makes; the others are this program
// again, on devices of their own, with the same recipe in the same run folder.
type Team struct {
	Rank, Size int
	// Peers are the connections of rank 0 with ranks 1, 2, …; of another rank with rank 0.
	Peers []io.ReadWriter

	others []*rank // of rank 0
}

// Failure waits for the end of a rank and returns what it says of it: an error of its
// own kind, or of kind Limit where it was ended. Of what cannot be known it is nil.
func (t *Team) Failure(of int) error {
	if t.Rank > 0 || of < 1 || of > len(t.others) {
		return nil
	}
	return t.others[of-1].end()
}

// Who names a rank other than this with its device and its process.
func (t *Team) Who(of int) string {
	if t.Rank > 0 || of < 1 || of > len(t.others) {
		return fmt.Sprintf("rank %d", of)
	}
	return t.others[of-1].name()
}

// ranks is the number of processes that a stage works in.
func (s *Stage) ranks() int {
	if s.Kind.Ranks == nil {
		return 1
	}
	return max(1, s.Kind.Ranks(s.Options))
}

// rankOrder is what a rank is told first.
type rankOrder struct {
	Rank, Size  int
	Recipe      string // its name in messages
	Text        []byte
	Sets        []string
	Dir         string // parent of run folders
	Stage       string
	Address     Digest
	Device      string
	Threads     int
	MemoryLimit int64
}

// rank is a process of another rank.
type rank struct {
	number int
	device string
	cmd    *exec.Cmd
	in     io.WriteCloser
	out    io.ReadCloser
	said   tail
	once   sync.Once
	err    error
}

func (r *rank) Read(b []byte) (int, error)  { return r.out.Read(b) }
func (r *rank) Write(b []byte) (int, error) { return r.in.Write(b) }

// HungUp reports whether its process is known to have closed the connection.
func (r *rank) HungUp() bool { return hungUp(r.out) }

// tail keeps the last bytes that are written to it.
type tail struct{ b []byte }

func (t *tail) Write(b []byte) (int, error) {
	const most = 16 << 10
	t.b = append(t.b, b...)
	t.b = t.b[max(0, len(t.b)-most):]
	return len(b), nil
}

// patience is how long a rank may take to end by itself once its connection is closed.
const patience = 10 * time.Second

// end closes the connection, waits for the process and returns what it says.
func (r *rank) end() error {
	r.once.Do(func() {
		r.in.Close()
		t := time.AfterFunc(patience, func() { _ = r.cmd.Process.Kill() })
		err := r.cmd.Wait()
		t.Stop()
		if err != nil {
			r.err = r.words(err)
		}
	})
	return r.err
}

// RankFailure is the last line on standard error of a rank that fails.
type RankFailure struct {
	Code    fail.Kind `json:"code"`
	Message string    `json:"message"`
	Hint    string    `json:"hint,omitempty"`
}

func (r *rank) name() string {
	return fmt.Sprintf("rank %d (%s, process %d)", r.number, r.device, r.cmd.Process.Pid)
}

// words makes an error of how a process ended.
func (r *rank) words(err error) error {
	who := r.name()
	lines := strings.Split(strings.TrimSpace(string(r.said.b)), "\n")
	last := lines[len(lines)-1]
	var f RankFailure
	if json.Unmarshal([]byte(last), &f) == nil && f.Message != "" {
		return &fail.Error{Kind: f.Code, Msg: who + ": " + f.Message, Hint: f.Hint}
	}
	if last != "" {
		last = ": " + last
	}
	return fail.Limitf("", "run the same command again to go on; where nobody ended that process, the system may have, for lack of memory", "%s ended: %v%s", who, err, last)
}

// deviceOf is the device of a rank.
func (x *run) deviceOf(rank int) string {
	name := x.opt.Device
	if name == "" {
		name = x.Device
	}
	return device.OfRank(name, rank)
}

// devices names those of n ranks.
func (x *run) devices(n int) string {
	first, last := x.deviceOf(0), x.deviceOf(n-1)
	if first == last {
		return "the CPU"
	}
	return first + " to " + last
}

// shares is what each of n ranks has of the host's memory and of its threads.
func (x *run) shares(n int) (memory int64, threads int) {
	if memory, threads = x.memoryLimit(), x.opt.Threads; threads == 0 {
		threads = x.Threads
	}
	if n == 1 {
		return memory, threads
	}
	if memory == 0 {
		if memory = x.dev.Info().Process.Bytes; memory == 0 {
			memory = device.HostMemory() / 10 * 9
		}
	}
	if threads == 0 {
		threads = runtime.GOMAXPROCS(0)
	}
	return memory / int64(n), max(1, threads/n)
}

// reopen opens the device again, as that of the first of n ranks.
func (x *run) reopen(memory int64, threads int) error {
	x.dev.Close()
	dev, err := x.open(memory, threads)
	if err == nil {
		x.dev = dev
	}
	return err
}

// work runs a stage, in as many processes as it wants, and says in res what memory it took.
func (x *run) work(ctx context.Context, j *Job, res *Result) error {
	n := j.ranks()
	if n == 1 {
		err := j.Kind.Run(ctx, x.env, j, res)
		res.Peak = x.dev.Info().PeakTotal
		return err
	}
	memory, threads := x.shares(n)
	if err := x.reopen(memory, threads); err != nil {
		return err
	}
	team, err := x.muster(j, res, n, memory, threads)
	if err == nil {
		x.env.team = team
		err = j.Kind.Run(ctx, x.env, j, res)
		x.env.team = nil
	}
	for _, r := range team.others { // all of them, before any is waited for
		r.in.Close()
	}
	for _, r := range team.others {
		_ = r.end() // what they say was asked where it is the cause
	}
	res.Peak = x.dev.Info().PeakTotal
	memory, threads = x.shares(1)
	if rerr := x.reopen(memory, threads); err == nil {
		err = rerr
	}
	return err
}

// muster starts the other ranks of a stage. Those that were started are in the team also
// where one cannot be.
func (x *run) muster(j *Job, res *Result, n int, memory int64, threads int) (*Team, error) {
	t := &Team{Size: n}
	if x.opt.StartRank == nil {
		return t, fail.Usagef(x.path, "leave ranks out", "stage %s wants %d ranks, and no processes can be started here", j.ID, n)
	}
	for i := 1; i < n; i++ {
		r := &rank{number: i, device: x.deviceOf(i), cmd: x.opt.StartRank()}
		if here := x.dev.Info(); !here.Copies { // all ranks compute there, whatever it was chosen by
			r.device = here.Name
		}
		r.cmd.Stderr = &r.said
		r.cmd.WaitDelay = patience
		var err error
		if r.in, err = r.cmd.StdinPipe(); err == nil {
			r.out, err = r.cmd.StdoutPipe()
		}
		if err == nil {
			err = r.cmd.Start()
		}
		if err != nil {
			return t, fail.Limitf(x.path, "", "rank %d of stage %s cannot be started: %w", i, j.ID, err)
		}
		t.others, t.Peers = append(t.others, r), append(t.Peers, r)
		order, err := json.Marshal(rankOrder{Rank: i, Size: n, Recipe: x.path, Text: x.text, Sets: x.sets, Dir: x.opt.Dir, Stage: j.ID, Address: res.Address,
			Device: r.device, Threads: threads, MemoryLimit: memory})
		if err == nil {
			_, err = r.Write(binary.LittleEndian.AppendUint64(nil, uint64(len(order))))
		}
		if err == nil {
			_, err = r.Write(order)
		}
		if err != nil {
			if own := r.end(); own != nil {
				err = own
			}
			return t, err
		}
	}
	return t, nil
}

// maxOrder bounds what a rank is told first: a recipe, and what is set in it.
const maxOrder = 2*maxRecipe + 1<<20

// pair is a connection of two pipes.
type pair struct {
	io.Reader
	io.Writer
}

// HungUp reports whether the other end is known to be closed.
func (p pair) HungUp() bool { return hungUp(p.Reader) }

// Rank does the part of one rank of a stage, which a run that reads from and writes to
// the other ends of in and out has started: RunOptions.StartRank.
func (k Kinds) Rank(ctx context.Context, in io.Reader, out io.Writer) error {
	var head [8]byte
	if _, err := io.ReadFull(in, head[:]); err != nil {
		return fail.Usagef("", "tune run starts ranks by itself", "a rank was told nothing: %w", err)
	}
	n := binary.LittleEndian.Uint64(head[:])
	if n > maxOrder {
		return fail.Usagef("", "tune run starts ranks by itself", "a rank was told %d bytes", n)
	}
	var text bytes.Buffer
	if _, err := io.CopyN(&text, in, int64(n)); err != nil {
		return err
	}
	var o rankOrder
	if err := json.Unmarshal(text.Bytes(), &o); err != nil {
		return err
	}
	r, err := k.Parse(o.Recipe, o.Text, o.Sets)
	if err != nil {
		return err
	}
	x, err := r.prepare(RunOptions{Dir: o.Dir, Device: o.Device, Threads: o.Threads, MemoryLimit: o.MemoryLimit})
	if err != nil {
		return err
	}
	defer x.dev.Close()
	x.env.team = &Team{Rank: o.Rank, Size: o.Size, Peers: []io.ReadWriter{pair{in, out}}}
	for i, j := range x.jobs {
		if j.ID == o.Stage {
			x.at = i
			return j.Kind.Run(ctx, x.env, j, &Result{Stage: j.ID, Kind: j.Kind.Name, Address: o.Address})
		}
	}
	return fail.Usagef(o.Recipe, "", "there is no stage %s", o.Stage)
}

// rankDir is where a rank keeps the state of unfinished work: rank 0 in dir itself.
func rankDir(dir string, t *Team) string {
	if t == nil || t.Rank == 0 {
		return dir
	}
	return filepath.Join(dir, fmt.Sprintf("rank-%d", t.Rank))
}
