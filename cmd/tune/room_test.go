package main

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestRefusalNamesRoom: a command that memory has no room for ends before work, leaves
// nothing, and names a limit with which the same command ends well.
func TestRefusalNamesRoom(t *testing.T) {
	dir := workplace(t)
	if err := os.WriteFile(filepath.Join(dir, "text.txt"), []byte(strings.Repeat("The limit is that of the process, and a refusal names one that does. ", 400)), 0o644); err != nil {
		t.Fatal(err)
	}
	named := regexp.MustCompile(`(?m)^tune: hint: --memory-limit (\d+MiB)`)
	for _, line := range []string{
		"tune eval -q --model fix/model --data text.txt",
		"tune eval -q --model fix/model --reference fix/pickled --tasks kl --data train.jsonl --samples 8",
		"tune eval -q --model fix/model --tasks exact_match,speed --data train.jsonl --samples 4 --max-new-tokens 4",
		"tune merge -q --model fix/other --adapter fix/adapter-other --output out",
		"tune merge -q --model fix/other --adapter fix/adapter-other --trained-nf4 --output out.gguf",
		"tune generate -q --model fix/model --prompt a --max-new-tokens 300",
		"tune export -q --model fix/model --type Q8_0 --output out.gguf",
		"tune export -q --model fix/model --format safetensors --type F32 --output out",
		"quant gguf -q --model fix/model --type Q4_0 --output out.gguf",
		"quant imatrix -q --model fix/model --calibration text.txt --samples 4 --output out.gguf",
		"quant gptq -q --format compressed-tensors --model fix/model --calibration text.txt --samples 4 --max-length 256 --output out",
		"quant awq -q --model fix/model --calibration text.txt --samples 4 --max-length 256 --output out",
		"quant rtn -q --format compressed-tensors --model fix/model --output out",
		"quant nf4 -q --model fix/model --output out",
	} {
		name, args := strings.Fields(line)[0], strings.Fields(line)[1:]
		run := func(limit string) (code int, errs string) {
			cmd := exec.Command(name, append(args[:len(args):len(args)], "--memory-limit", limit)...)
			cmd.Dir = dir
			var b bytes.Buffer
			cmd.Stderr = &b
			var exit *exec.ExitError
			if err := cmd.Run(); errors.As(err, &exit) {
				return exit.ExitCode(), b.String()
			} else if err != nil {
				t.Fatal(err)
			}
			return 0, b.String()
		}
		code, errs := run("40964KiB") // the program's own, and 4 KiB
		made, _ := filepath.Glob(filepath.Join(dir, "out*"))
		found := named.FindStringSubmatch(errs)
		if code != 4 || len(made) > 0 || found == nil {
			t.Errorf("%s: exit code %d, made %v\n%s", line, code, made, errs)
			continue
		}
		if code, errs = run(found[1]); code != 0 {
			t.Errorf("%s --memory-limit %s: exit code %d\n%s", line, found[1], code, errs)
		}
		made, _ = filepath.Glob(filepath.Join(dir, "out*"))
		for _, f := range made {
			os.RemoveAll(f)
		}
	}
}
