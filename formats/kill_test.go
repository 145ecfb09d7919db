package formats

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/tunekit/tunekit/formats/atomic"
	"github.com/tunekit/tunekit/formats/atomic/testdir"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// TestMain lets the test binary act as a writer that a test kills.
func TestMain(m *testing.M) {
	if path := os.Getenv("FORMATS_TEST_WRITE"); path != "" {
		ack := bufio.NewReader(os.Stdin)
		step := func(name string) {
			fmt.Println(name)
			ack.ReadByte() // the parent lets it go on, or kills it
		}
		if err := killable(path, step); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

const killTensors = 40

// killable writes a GGUF file or a sharded folder of killTensors tensors, and
// calls done before each one it has to write.
func killable(path string, done func(string)) error {
	var plan []TensorPlan
	for i := range killTensors {
		plan = append(plan, TensorPlan{Name: fmt.Sprintf("t%02d.weight", i), Shape: []int64{16, int64(256 * (1 + i%3))}, Type: dtype.Of(dtype.F32)})
	}
	var w Writer
	var err error
	if filepath.Ext(path) == ".gguf" {
		w, err = CreateGGUF(path, []KV{{"general.architecture", "llama"}}, plan)
	} else {
		w, err = CreateFolder(path, FolderOptions{Config: []byte("{}"), Plan: plan, MaxShard: 100_000})
	}
	if err != nil {
		return err
	}
	for i, p := range plan {
		if w.Has(p.Name) {
			continue
		}
		done(p.Name)
		data := make([]byte, p.Size())
		for k := 0; k < len(data); k += 4 {
			binary.LittleEndian.PutUint32(data[k:], uint32(k*31+i))
		}
		if err := w.Write(p.Name, data); err != nil {
			return err
		}
	}
	done("commit")
	return w.Commit()
}

// TestKill kills a writing process (SIGKILL) again and again, each time a
// little later, until it finishes; the artifact must be that of a writer that
// was never disturbed, and nothing written before a kill is written again.
func TestKill(t *testing.T) {
	for _, name := range []string{"m.gguf", "m"} {
		calm := filepath.Join(t.TempDir(), name)
		if err := killable(calm, func(string) {}); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(t.TempDir(), name)
		kills, steps := 0, 0
		for n := 2; ; n += 2 {
			got, killed := runKilled(t, path, n, kills%2 == 1)
			steps += got
			if !killed {
				break
			}
			kills++
			if _, err := os.Stat(path); err == nil && got < n {
				t.Error("the artifact is there before its last step")
			}
		}
		// A step that a kill met may come again; everything else comes once.
		if kills < 4 || steps > killTensors+1+kills {
			t.Errorf("%s: %d kills, %d steps for %d tensors", name, kills, steps, killTensors)
		}
		if name == "m" {
			if treeSum(t, calm) != treeSum(t, path) {
				t.Error("the folder differs from an undisturbed one")
			}
		} else if string(must(os.ReadFile(calm))) != string(must(os.ReadFile(path))) {
			t.Error("the file differs from an undisturbed one")
		}
	}
}

// runKilled starts a writer and kills it when it announces its n-th step, or
// with late just after it was let go on.
func runKilled(t *testing.T, path string, n int, late bool) (steps int, killed bool) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "FORMATS_TEST_WRITE="+path)
	cmd.Stderr = os.Stderr
	out, err1 := cmd.StdoutPipe()
	in, err2 := cmd.StdinPipe()
	if err := errors.Join(err1, err2, cmd.Start()); err != nil {
		t.Fatal(err)
	}
	for s := bufio.NewScanner(out); s.Scan(); {
		steps++
		if steps < n || late {
			in.Write([]byte{0})
		}
		if steps == n {
			cmd.Process.Kill()
			killed = true
		}
	}
	if err := cmd.Wait(); err != nil && !killed {
		t.Fatal(err)
	}
	return steps, killed
}

// TestWriterFaults fails every operation of writing a GGUF file and a folder:
// nothing half-written is ever visible, and the next try continues.
func TestWriterFaults(t *testing.T) {
	plan := []TensorPlan{{Name: "a.weight", Shape: []int64{8}}, {Name: "b.weight", Shape: []int64{8}}}
	creators := map[string]func(d atomic.Disk, path string) (Writer, error){
		"gguf": func(d atomic.Disk, path string) (Writer, error) {
			return createGGUF(d, path, []KV{{"general.type", "adapter"}}, plan)
		},
		"folder": func(d atomic.Disk, path string) (Writer, error) {
			return createFolder(d, path, FolderOptions{Config: []byte("{}"), Plan: plan, MaxShard: 40})
		},
	}
	write := func(w Writer, err error) error {
		if err != nil {
			return err
		}
		defer w.Suspend()
		for _, p := range plan {
			if !w.Has(p.Name) {
				err = errors.Join(err, w.Write(p.Name, make([]byte, 32)))
			}
		}
		return errors.Join(err, w.Commit())
	}
	for name, create := range creators {
		for k := 1; ; k++ {
			path := filepath.Join(t.TempDir(), "m")
			f := &testdir.Faults{K: k, Err: syscall.ENOSPC, Short: true}
			err := write(create(atomic.Disk{FS: f}, path))
			if _, e := os.Stat(path); e == nil {
				if v := Verify(path); v != nil {
					t.Errorf("%s, op %d (%s): %v", name, k, f.Hit(), v)
				}
			} else {
				if err == nil {
					t.Errorf("%s, op %d (%s): no error and no file", name, k, f.Hit())
				}
				if err := write(create(atomic.Disk{FS: atomic.Real}, path)); err != nil {
					t.Errorf("%s, op %d (%s): the next try: %v", name, k, f.Hit(), err)
				}
				if err := Verify(path); err != nil {
					t.Errorf("%s, op %d (%s): %v", name, k, f.Hit(), err)
				}
			}
			if f.Hit() == "" {
				if k < 20 {
					t.Errorf("%s has only %d operations", name, k-1)
				}
				break
			}
		}
	}
}
