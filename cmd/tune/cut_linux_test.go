package main

import (
	"bufio"
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels/dry"
	"github.com/tunekit/tunekit/recipes/stages"
)

// TestCutInUse: a model's file that is cut while a command has it open is a bad
// input that is named, not the end of the program: in the goroutine that answers
// requests, and in one that copies weights.
func TestCutInUse(t *testing.T) {
	dir := t.TempDir()
	m := filepath.Join(dir, "m")
	if err := copyTree(filepath.Join(fixtures(t), "model"), m); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("tune", "chat", "--model", m, "--threads", "2")
	var errs bytes.Buffer
	cmd.Stderr = &errs
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(in, "hello\n"); err != nil {
		t.Fatal(err)
	}
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil { // an answer: the file is open
		t.Fatal(err, errs.String())
	}
	if err := os.Truncate(filepath.Join(m, "model.safetensors"), 4096); err != nil {
		t.Fatal(err)
	}
	_, _ = io.WriteString(in, "hello again\n")
	in.Close()
	_ = cmd.Wait() // its code is looked at
	if code := cmd.ProcessState.ExitCode(); code != 3 || !strings.Contains(errs.String(), "model.safetensors: ") || !strings.Contains(errs.String(), "cut while it was in use") {
		t.Errorf("exit code %d: %s", code, errs.String())
	}

	if err := os.RemoveAll(m); err != nil {
		t.Fatal(err)
	}
	if err := copyTree(filepath.Join(fixtures(t), "model"), m); err != nil {
		t.Fatal(err)
	}
	err = func() (err error) {
		defer formats.CatchFaults(&err)()
		return stages.ExportSafetensors(t.Context(), dry.New(dry.Options{}), m, filepath.Join(dir, "out"), "F32", func(done, total int64) {
			_ = os.Truncate(filepath.Join(m, "model.safetensors"), 4096)
		}, nil)
	}()
	if fail.Code(err) != 3 || !strings.Contains(err.Error(), "model.safetensors") {
		t.Errorf("a copy: %v", err)
	}
}
