package atomic_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/tunekit/tunekit/formats/atomic"
	"github.com/tunekit/tunekit/formats/atomic/testdir"
	"github.com/tunekit/tunekit/formats/fail"
)

// job is one way of writing; it must leave what want says or what was there.
type job struct {
	name   string
	before map[string]string // files below the target folder before
	run    func(d atomic.Disk, dir string) error
	want   map[string]string
	resume bool // an unfinished part may stay behind after an error
}

var part2 = atomic.Plan{ID: "x", Files: []atomic.PlanFile{{Name: "a", Size: 6}, {Name: "b", Size: 3}}, Dir: true}

var jobs = []job{
	{name: "file", want: map[string]string{"m": "hello"}, run: func(d atomic.Disk, dir string) error {
		return d.WriteFile(filepath.Join(dir, "m"), []byte("hello"))
	}},
	{name: "file over file", before: map[string]string{"m": "old one"}, want: map[string]string{"m": "hello"}, run: func(d atomic.Disk, dir string) error {
		return d.WriteFile(filepath.Join(dir, "m"), []byte("hello"))
	}},
	{name: "stream", want: map[string]string{"m": "hello world"}, run: func(d atomic.Disk, dir string) error {
		w, err := d.Create(filepath.Join(dir, "m"), -1)
		if err != nil {
			return err
		}
		defer w.Abort()
		for _, s := range []string{"hello", " ", "world"} {
			if _, err := w.Write([]byte(s)); err != nil {
				return err
			}
		}
		return w.Commit()
	}},
	{name: "folder", want: map[string]string{"m/a": "1", "m/s/b": "2"}, run: func(d atomic.Disk, dir string) error { return folder(d, dir) }},
	{name: "partial file", resume: true, want: map[string]string{"m": "abcdef"}, run: func(d atomic.Disk, dir string) error {
		return partial(d, filepath.Join(dir, "m"), atomic.Plan{ID: "y", Files: []atomic.PlanFile{{Size: 6}}}, map[string]atomic.Piece{"k2": {Off: 3, Data: []byte("def")}, "k1": {Data: []byte("abc")}})
	}},
	{name: "partial folder", resume: true, want: map[string]string{"m/a": "abcdef", "m/b": "ghi"}, run: func(d atomic.Disk, dir string) error {
		return partial(d, filepath.Join(dir, "m"), part2, map[string]atomic.Piece{"k2": {Off: 3, Data: []byte("def")}, "k1": {Data: []byte("abc")}, "k3": {File: 1, Data: []byte("ghi")}})
	}},
}

func folder(d atomic.Disk, dir string) error {
	f, err := d.Dir(filepath.Join(dir, "m"))
	if err != nil {
		return err
	}
	defer f.Abort()
	if err := errors.Join(f.WriteFile("a", []byte("1")), f.Mkdir("s"), f.WriteFile("s/b", []byte("2"))); err != nil {
		return err
	}
	return f.Commit()
}

func partial(d atomic.Disk, path string, plan atomic.Plan, pieces map[string]atomic.Piece) error {
	p, err := d.Resume(path, plan)
	if err != nil {
		return err
	}
	defer p.Suspend()
	for _, key := range []string{"k1", "k2", "k3"} {
		if piece, ok := pieces[key]; ok && !p.Has(key) {
			if err := p.Write(key, piece); err != nil {
				return err
			}
		}
	}
	return p.Commit()
}

// tree reads all files below dir.
func tree(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		rel, _ := filepath.Rel(dir, path)
		out[filepath.ToSlash(rel)] = string(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// visible are the files at the target path, without temporaries.
func visible(all map[string]string) map[string]string {
	out := map[string]string{}
	for name, text := range all {
		if !strings.Contains(name, ".tmp-") && !strings.Contains(name, ".part/") {
			out[name] = text
		}
	}
	return out
}

func equal(a, b map[string]string) bool { return fmt.Sprint(a) == fmt.Sprint(b) }

// TestFaults fails every operation of every job in turn: the target holds the
// whole new content or what it held before; only success means success; the
// next try with a sound disk works and leaves no litter.
func TestFaults(t *testing.T) {
	for _, j := range jobs {
		for _, f := range []*testdir.Faults{
			{Err: syscall.ENOSPC}, {Err: syscall.EIO}, {Err: syscall.EIO, Short: true}, {Err: fs.ErrPermission}, {Err: syscall.EIO, Crash: true},
		} {
			t.Run(fmt.Sprintf("%s/%v/%v", j.name, f.Err, f.Crash), func(t *testing.T) {
				t.Parallel()
				k := 1
				for ; faultAt(t, j, k, &testdir.Faults{Err: f.Err, Short: f.Short, Crash: f.Crash}); k++ {
					if k > 500 {
						t.Fatal("no end of operations")
					}
				}
				if k < 10 {
					t.Errorf("only %d operations could fail", k-1)
				}
			})
		}
	}
}

// faultAt runs j with a fault at operation k; false when j has fewer.
func faultAt(t *testing.T, j job, k int, f *testdir.Faults) bool {
	dir := t.TempDir()
	for name, text := range j.before {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o777), os.WriteFile(path, []byte(text), 0o666)); err != nil {
			t.Fatal(err)
		}
	}
	f.K = k
	err := j.run(atomic.Disk{FS: f}, dir)
	got := visible(tree(t, dir))
	done := equal(got, j.want)
	if !done && !equal(got, j.before) {
		t.Errorf("op %d (%s): the target holds %v", k, f.Hit(), got)
	}
	if err == nil && !done {
		t.Errorf("op %d (%s): no error, but the target holds %v", k, f.Hit(), got)
	}
	if code := fail.Code(err); err != nil && code != int(fail.Input) && code != int(fail.Limit) {
		t.Errorf("op %d (%s): exit code %d: %v", k, f.Hit(), code, err)
	}
	if err != nil && errors.Is(err, syscall.ENOSPC) != (fail.Code(err) == int(fail.Limit)) {
		t.Errorf("op %d (%s): disk full is exit code %d: %v", k, f.Hit(), fail.Code(err), err)
	}
	again(t, j, k, f, dir, done)
	return f.Hit() != ""
}

// again runs the job on a sound disk after the fault.
func again(t *testing.T, j job, k int, f *testdir.Faults, dir string, done bool) {
	if !done || !j.resume || j.name == "partial file" {
		if err := j.run(atomic.Disk{FS: atomic.Real}, dir); err != nil && !(done && errors.Is(err, fs.ErrExist)) {
			t.Errorf("op %d (%s): the next try: %v", k, f.Hit(), err)
		}
	}
	atomic.Clean(dir)
	if all := tree(t, dir); !equal(all, j.want) {
		t.Errorf("op %d (%s): in the end there is %v", k, f.Hit(), all)
	}
}

// TestDamagedPart damages an unfinished part after its writer died, as a power
// cut does, and continues: the result must be whole all the same.
func TestDamagedPart(t *testing.T) {
	pieces := map[string]atomic.Piece{"k1": {Data: []byte("abc")}, "k2": {Off: 3, Data: []byte("def")}, "k3": {File: 1, Data: []byte("ghi")}}
	for name, damage := range map[string]func(part string) error{
		"nothing":            func(part string) error { return nil },
		"data lost":          func(part string) error { return os.WriteFile(filepath.Join(part, "data", "a"), make([]byte, 6), 0o666) },
		"data short":         func(part string) error { return os.Truncate(filepath.Join(part, "data", "a"), 2) },
		"data long":          func(part string) error { return os.Truncate(filepath.Join(part, "data", "b"), 20) },
		"file lost":          func(part string) error { return os.Remove(filepath.Join(part, "data", "b")) },
		"all data lost":      func(part string) error { return os.RemoveAll(filepath.Join(part, "data")) },
		"journal lost":       func(part string) error { return os.Remove(filepath.Join(part, "journal")) },
		"journal empty":      func(part string) error { return os.Truncate(filepath.Join(part, "journal"), 0) },
		"journal torn":       func(part string) error { return tear(filepath.Join(part, "journal"), 7) },
		"journal of zeros":   func(part string) error { return os.WriteFile(filepath.Join(part, "journal"), make([]byte, 300), 0o666) },
		"journal lies":       func(part string) error { return lie(filepath.Join(part, "journal")) },
		"journal with a NUL": func(part string) error { return appendTo(filepath.Join(part, "journal"), "\x00\x00{\n") },
	} {
		path := filepath.Join(t.TempDir(), "m")
		p, err := atomic.Resume(path, part2)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(p.Write("k1", pieces["k1"]), p.Write("k3", pieces["k3"]), p.Suspend()); err != nil {
			t.Fatal(err)
		}
		if err := damage(path + ".part"); err != nil {
			t.Fatal(err)
		}
		if err := partial(atomic.Disk{FS: atomic.Real}, path, part2, pieces); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if got := tree(t, filepath.Dir(path)); !equal(got, map[string]string{"m/a": "abcdef", "m/b": "ghi"}) {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func tear(path string, n int64) error {
	st, err := os.Stat(path)
	if err != nil {
		return err
	}
	return os.Truncate(path, st.Size()-n)
}

func lie(path string) error {
	return appendTo(path, `{"key":"k2","sha256":"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","pieces":[[0,-5,2],[9,0,0],[0,0,9223372036854775807]]}`+"\n")
}

func appendTo(path, text string) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(b, text...), 0o666)
}

// TestPlanChanges checks that an unfinished part of another plan is not used.
func TestPlanChanges(t *testing.T) {
	path := filepath.Join(t.TempDir(), "m")
	p, err := atomic.Resume(path, part2)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(p.Write("k1", atomic.Piece{Data: []byte("xyz")}), p.Suspend()); err != nil {
		t.Fatal(err)
	}
	other := part2
	other.ID = "another"
	if p, err = atomic.Resume(path, other); err != nil || p.Has("k1") {
		t.Errorf("a key of another plan was kept: %v", err)
	}
	if _, err := atomic.Resume(path, part2); fail.Code(err) != int(fail.Input) || !strings.Contains(err.Error(), "another process") {
		t.Errorf("two writers: %v", err)
	}
	if err := p.Write("k1", atomic.Piece{Off: 4, Data: []byte("xyz")}); err == nil {
		t.Error("bytes outside the plan were written")
	}
	if err := p.Commit(); err == nil {
		t.Error("committed after a failed write")
	}
	p.Abort()
	if left := tree(t, filepath.Dir(path)); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

// TestDeadWriters checks that temporaries of dead writers go and those of
// living ones stay.
func TestDeadWriters(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "m")
	for _, name := range []string{"m.tmp-0123456789ab", "other.tmp-0123456789ab", "m.tmp-short", "m.tmp-0123456789xy"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o666); err != nil {
			t.Fatal(err)
		}
	}
	alive, err := atomic.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := atomic.WriteFile(path, []byte("second")); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "m.tmp-0123456789ab")); err == nil {
		t.Error("the file of a dead writer is still there")
	}
	atomic.Clean(dir)
	if _, err := alive.Write([]byte("first")); err != nil {
		t.Fatal(err)
	}
	if err := alive.Commit(); err != nil {
		t.Errorf("the living writer lost its file: %v", err)
	}
	if got := tree(t, dir); !equal(got, map[string]string{"m": "first", "m.tmp-short": "", "m.tmp-0123456789xy": ""}) {
		t.Errorf("%v", got)
	}
}

// TestRefusals are targets that are not written.
func TestRefusals(t *testing.T) {
	dir := t.TempDir()
	full := filepath.Join(dir, "full")
	if err := atomic.MkdirAll(filepath.Join(full, "x")); err != nil {
		t.Fatal(err)
	}
	victim := filepath.Join(dir, "victim")
	link := filepath.Join(dir, "link")
	if err := errors.Join(atomic.WriteFile(victim, []byte("precious")), os.Symlink(victim, link)); err != nil {
		t.Fatal(err)
	}
	if _, err := atomic.Create(full); fail.Code(err) != int(fail.Input) {
		t.Errorf("a file over a folder: %v", err)
	}
	f, err := atomic.Dir(full)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Commit(); !errors.Is(err, fs.ErrExist) {
		t.Errorf("a folder over a full one: %v", err)
	}
	if _, err := atomic.Resume(full, part2); !errors.Is(err, fs.ErrExist) {
		t.Errorf("a partial folder over a full one: %v", err)
	}
	if err := atomic.WriteFile(link, []byte("new")); err != nil {
		t.Error(err)
	}
	if b, _ := os.ReadFile(victim); string(b) != "precious" {
		t.Errorf("a link was followed: the victim holds %q", b)
	}
	if err := atomic.WriteFile(filepath.Join(dir, "no", "such"), nil); fail.Hint(err) == "" {
		t.Errorf("no folder: %v without a hint", err)
	}
	if err := atomic.MkdirAll(filepath.Join(victim, "x")); err == nil {
		t.Error("a folder below a file")
	}
	for _, bad := range []string{"../x", "/x", ""} {
		g, err := atomic.Dir(filepath.Join(dir, "n"))
		if err != nil {
			t.Fatal(err)
		}
		if err := g.WriteFile(bad, nil); err == nil {
			t.Errorf("%q was written", bad)
		}
		if g.Commit() == nil {
			t.Error("committed after an error")
		}
	}
	w, err := atomic.CreateSized(filepath.Join(dir, "sized"), 4)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte("123")); err != nil {
		t.Fatal(err)
	}
	if err := w.Commit(); err == nil || !strings.Contains(err.Error(), "3 bytes were written, 4 were announced") {
		t.Errorf("a short file: %v", err)
	}
	if err := atomic.RemoveAll(full); err != nil {
		t.Error(err)
	}
	if err := atomic.RemoveAll(full); err != nil {
		t.Errorf("removing nothing: %v", err)
	}
	if got := tree(t, dir); !equal(got, map[string]string{"victim": "precious", "link": "new"}) {
		t.Errorf("%v", got)
	}
}

// TestLog checks appending, and the repair of a torn last line.
func TestLog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "metrics.jsonl")
	if err := os.WriteFile(path, []byte("{1}\n{2}\n{3"), 0o666); err != nil {
		t.Fatal(err)
	}
	l, err := atomic.OpenLog(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(l.WriteLine([]byte("{4}")), l.Sync(), l.Close()); err != nil {
		t.Fatal(err)
	}
	if err := l.WriteLine([]byte("a\nb")); err == nil {
		t.Error("two lines were written as one")
	}
	if b, _ := os.ReadFile(path); !bytes.Equal(b, []byte("{1}\n{2}\n{4}\n")) {
		t.Errorf("%q", b)
	}
}
