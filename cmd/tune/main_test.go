package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/tunekit/tunekit/cmd/internal/cli"
	"github.com/tunekit/tunekit/formats/hub/hubtest"
)

// The scripts in testdata/script run the real commands: the test binary calls
// itself under their names.
func TestMain(m *testing.M) {
	testscript.Main(cleanup{m}, map[string]func(){
		"tune":  func() { os.Exit(cli.Main("tune", os.Args[1:])) },
		"quant": func() { os.Exit(cli.Main("quant", os.Args[1:])) },
	})
}

// cleanup removes the fixtures after the last test.
type cleanup struct{ *testing.M }

func (c cleanup) Run() int {
	defer func() {
		if fixtureDir != "" {
			os.RemoveAll(fixtureDir)
		}
	}()
	return c.M.Run()
}

var (
	fixtureDir  string
	fixtureOnce sync.Once
	fixtureErr  error
)

// fixtures returns the folder of the generated models and data, made once.
func fixtures(t testing.TB) string {
	t.Helper()
	fixtureOnce.Do(func() {
		if fixtureDir, fixtureErr = os.MkdirTemp("", "tunekit-fixtures-"); fixtureErr == nil {
			fixtureErr = writeFixtures(fixtureDir)
		}
	})
	if fixtureErr != nil {
		t.Fatal(fixtureErr)
	}
	return fixtureDir
}

func TestScripts(t *testing.T) {
	fix := fixtures(t)
	testscript.Run(t, testscript.Params{
		Dir:           "testdata/script",
		UpdateScripts: os.Getenv("UPDATE_SCRIPTS") != "",
		Setup: func(env *testscript.Env) error {
			if err := os.Symlink(fix, filepath.Join(env.WorkDir, "fix")); err != nil {
				return err
			}
			env.Setenv("HF_HOME", filepath.Join(env.WorkDir, "hf"))
			fake, err := filepath.Abs("../../kernels/cuda/driver/testdata/fakecuda.c")
			if err != nil {
				return err
			}
			env.Setenv("FAKECUDA_SOURCE", fake)
			env.Setenv("FAKENCCL_SOURCE", filepath.Join(filepath.Dir(fake), "fakenccl.c"))
			env.Setenv("FAKECUSOLVER_SOURCE", filepath.Join(filepath.Dir(fake), "fakecusolver.c"))
			env.Setenv("FAKECUBLAS_SOURCE", filepath.Join(filepath.Dir(fake), "fakecublaslt.c"))
			return copyTree(filepath.Join(fix, "work"), env.WorkDir)
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"code": cmdCode, "copytree": cmdCopyTree, "cut": cmdCut, "poke": cmdPoke, "waitfor": cmdWaitFor, "clean": cmdClean, "lines": cmdLines, "helps": cmdHelps,
			"resolved": cmdResolved, "signal": cmdSignal, "exited": cmdExited, "samesteps": cmdSameSteps, "nearsteps": cmdNearSteps, "endrank": cmdEndRank, "hub": cmdHub,
		},
	})
}

// cmdCode runs a program and checks its exit code: code N PROG ARGS...
func cmdCode(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: code N PROG ARGS...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	var exit *exec.ExitError
	if err := ts.Exec(args[1], args[2:]...); errors.As(err, &exit) {
		got = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}

// cmdHub starts a hub of Hugging Face's kind for the rest of a script, which the
// environment names: hub. Its token is hf_secret.
func cmdHub(ts *testscript.TestScript, neg bool, args []string) {
	h := hubtest.New()
	ts.Defer(h.Close)
	ts.Setenv("HF_ENDPOINT", h.URL)
}

// cmdCopyTree copies a folder: copytree FROM TO.
func cmdCopyTree(ts *testscript.TestScript, neg bool, args []string) {
	ts.Check(copyTree(ts.MkAbs(args[0]), ts.MkAbs(args[1])))
}

func copyTree(from, to string) error {
	return filepath.WalkDir(from, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(from, p)
		if d.IsDir() {
			return os.MkdirAll(filepath.Join(to, rel), 0o755)
		}
		raw, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(to, rel), raw, 0o644)
	})
}

// cmdCut shortens a file: cut FILE N keeps N bytes, all but -N when negative.
func cmdCut(ts *testscript.TestScript, neg bool, args []string) {
	n, err := strconv.ParseInt(args[1], 10, 64)
	ts.Check(err)
	if n < 0 {
		st, err := os.Stat(ts.MkAbs(args[0]))
		ts.Check(err)
		n += st.Size()
	}
	ts.Check(os.Truncate(ts.MkAbs(args[0]), n))
}

// cmdPoke writes bytes into a file: poke FILE OFFSET HEX, from the end when
// OFFSET is negative.
func cmdPoke(ts *testscript.TestScript, neg bool, args []string) {
	raw, err := os.ReadFile(ts.MkAbs(args[0]))
	ts.Check(err)
	at, err := strconv.Atoi(args[1])
	ts.Check(err)
	if at < 0 {
		at += len(raw)
	}
	var b []byte
	_, err = fmt.Sscanf(args[2], "%x", &b)
	ts.Check(err)
	copy(raw[at:], b)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), raw, 0o644))
}

// cmdWaitFor waits until a file has content: waitfor FILE.
func cmdWaitFor(ts *testscript.TestScript, neg bool, args []string) {
	for range 6000 { // a minute
		if st, err := os.Stat(ts.MkAbs(args[0])); err == nil && st.Size() > 0 {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	ts.Fatalf("%s did not appear", args[0])
}

// cmdClean checks that below each folder nothing half-written is left: clean DIR...
func cmdClean(ts *testscript.TestScript, neg bool, args []string) {
	for _, dir := range args {
		for _, p := range litter(ts.MkAbs(dir)) {
			ts.Fatalf("left behind: %s", p)
		}
	}
}

// litter lists temporary files below dir.
func litter(dir string) []string {
	var out []string
	_ = filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err == nil && (strings.Contains(d.Name(), ".tmp-") || strings.HasSuffix(d.Name(), ".partial")) {
			out = append(out, p)
		}
		return nil // what cannot be read is no temporary file of ours
	})
	return out
}

// cmdLines checks how many lines a file has: lines N FILE.
func cmdLines(ts *testscript.TestScript, neg bool, args []string) {
	if got := strings.Count(ts.ReadFile(args[1]), "\n"); strconv.Itoa(got) != args[0] {
		ts.Fatalf("%s has %d lines, want %s", args[1], got, args[0])
	}
}

// cmdHelps asks every command of a program for help: helps PROG.
func cmdHelps(ts *testscript.TestScript, neg bool, args []string) {
	n := 0
	for _, words := range cli.CommandNames(args[0]) {
		if words[0] == "help" { // has no flags
			words = []string{"help", "help"}
			ts.Check(ts.Exec(args[0], words...))
		} else {
			ts.Check(ts.Exec(args[0], append(words, "--help")...))
		}
		out := ts.ReadFile("stdout")
		if !strings.Contains(out, "USAGE") || !strings.Contains(out, "examples:") && words[0] != "quant" {
			ts.Fatalf("%s %s --help shows no examples:\n%s", args[0], strings.Join(words, " "), out)
		}
		n++
	}
	if n == 0 {
		ts.Fatalf("%s has no commands", args[0])
	}
}

// stopped holds the command that a script signalled.
var stopped sync.Map

// cmdSignal signals the command in the background: signal TERM|INT|KILL.
func cmdSignal(ts *testscript.TestScript, neg bool, args []string) {
	cmds := ts.BackgroundCmds()
	stopped.Store(ts, cmds[len(cmds)-1])
	ts.Check(cmds[len(cmds)-1].Process.Signal(map[string]os.Signal{"TERM": syscall.SIGTERM, "INT": os.Interrupt, "KILL": os.Kill}[args[0]]))
}

// cmdExited checks the exit code of what was signalled, after a wait: exited N.
func cmdExited(ts *testscript.TestScript, neg bool, args []string) {
	cmd, _ := stopped.Load(ts)
	if got := cmd.(*exec.Cmd).ProcessState.ExitCode(); strconv.Itoa(got) != args[0] {
		ts.Fatalf("exit code %d, want %s", got, args[0])
	}
}

// cmdSameSteps compares two metrics files: the same steps, each once, with the
// same values but for times and memory: samesteps A B.
func cmdSameSteps(ts *testscript.TestScript, neg bool, args []string) {
	a, b := timeless(ts.ReadFile(args[0])), timeless(ts.ReadFile(args[1]))
	if !slices.Equal(a, b) {
		ts.Fatalf("%s and %s differ:\n%s\n%s", args[0], args[1], strings.Join(a, "\n"), strings.Join(b, "\n"))
	}
}

// cmdNearSteps compares the losses, gradient norms and counts of the steps and validations
// in two metrics files: nearsteps TOLERANCE A B.
func cmdNearSteps(ts *testscript.TestScript, neg bool, args []string) {
	tolerance, err := strconv.ParseFloat(args[0], 64)
	ts.Check(err)
	a, b := strings.Split(ts.ReadFile(args[1]), "\n"), strings.Split(ts.ReadFile(args[2]), "\n")
	if len(a) != len(b) || len(a) < 2 {
		ts.Fatalf("%s and %s have %d and %d lines", args[1], args[2], len(a)-1, len(b)-1)
	}
	for i := range a[:len(a)-1] {
		var x, y map[string]any
		ts.Check(errors.Join(json.Unmarshal([]byte(a[i]), &x), json.Unmarshal([]byte(b[i]), &y)))
		compared := 0
		for _, key := range []string{"step", "loss", "grad_norm", "tokens", "supervised_tokens", "learning_rate", "eval_loss", "eval_supervised_tokens"} {
			v, ok := x[key].(float64)
			w, too := y[key].(float64)
			if ok {
				compared++
			}
			if ok != too || !(math.Abs(v-w) <= tolerance*max(1, math.Abs(v))) {
				ts.Fatalf("%s of line %d: %v in %s, %v in %s", key, i+1, x[key], args[1], y[key], args[2])
			}
		}
		if compared < 3 {
			ts.Fatalf("line %d of %s says nothing: %s", i+1, args[1], a[i])
		}
	}
}

// cmdEndRank kills a process that the command in the background has started, or stops it
// without an end: endrank [stop].
func cmdEndRank(ts *testscript.TestScript, neg bool, args []string) {
	how := syscall.SIGKILL
	if slices.Equal(args, []string{"stop"}) {
		how = syscall.SIGSTOP
	}
	cmds := ts.BackgroundCmds()
	cmd := cmds[len(cmds)-1]
	stopped.Store(ts, cmd)
	lists, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", cmd.Process.Pid))
	ts.Check(err)
	for _, list := range lists {
		raw, err := os.ReadFile(list)
		ts.Check(err)
		if ids := strings.Fields(string(raw)); len(ids) > 0 {
			pid, err := strconv.Atoi(ids[0])
			ts.Check(err)
			ts.Check(syscall.Kill(pid, how))
			return
		}
	}
	ts.Fatalf("process %d has started none", cmd.Process.Pid)
}

var timesRE = regexp.MustCompile(`"(tokens_per_second|step_seconds|answer_seconds|memory_bytes|eval_seconds|eval_[a-z_]*per_second)": *[0-9.e+-]+,?`)

func timeless(metrics string) []string {
	return strings.Split(timesRE.ReplaceAllString(metrics, ""), "\n")
}

// cmdResolved takes the resolved recipe out of a plan in JSON: resolved PLAN FILE.
func cmdResolved(ts *testscript.TestScript, neg bool, args []string) {
	var plan struct{ Recipe string }
	ts.Check(json.Unmarshal([]byte(ts.ReadFile(args[0])), &plan))
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), []byte(plan.Recipe), 0o644))
}
