package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	ucli "github.com/urfave/cli/v2"

	"github.com/tunekit/tunekit/formats/fail"
)

// full is a disk without space.
type full struct{}

func (full) Write([]byte) (int, error) { return 0, syscall.ENOSPC }

// TestFullOutput: what could not be written is never success, whatever wrote it.
func TestFullOutput(t *testing.T) {
	for _, argv := range [][]string{{"init", "--list"}, {"schema"}, {"help", "recipe"}, {}, {"inspect", "--help"}, {"verify", "../../../recipes/pocket/model"}} {
		var stderr bytes.Buffer
		if code := run(t.Context(), "tune", argv, full{}, &stderr); code != int(fail.Limit) || !strings.Contains(stderr.String(), "no space left") {
			t.Errorf("%v: exit %d: %s", argv, code, &stderr)
		}
	}
}

// TestCrash gives a fault of the program an exit code of its own.
func TestCrash(t *testing.T) {
	err := command(context.Background(), &ucli.App{Name: "tune", Action: func(*ucli.Context) error { panic("upside down") }}, nil)
	if fail.Code(err) != int(fail.Internal) || !strings.Contains(err.Error(), "upside down") || !strings.Contains(err.Error(), "console_test.go") {
		t.Errorf("%v", err)
	}
}

// TestInterruptedCommand: a command that ended because it was asked to is no fault.
func TestInterruptedCommand(t *testing.T) {
	if code := fail.Code(limits(errors.Join(errors.New("walk"), context.Canceled))); code != int(fail.Interrupted) {
		t.Errorf("exit %d", code)
	}
	if code := fail.Code(limits(fail.Inputf("a", "", "%w", context.Canceled))); code != int(fail.Input) {
		t.Errorf("exit %d", code)
	}
}

// TestControlCharacters: names from files are no orders to a terminal, in
// results and in errors, and JSON stays what it was.
func TestControlCharacters(t *testing.T) {
	dir := t.TempDir()
	const name = "a\x1b]0;PWN\a\u009b31mé\t\xff"
	head, err := json.Marshal(map[string]any{name: map[string]any{"dtype": "F32", "shape": []int{0}, "data_offsets": []int{0, 0}}, "__metadata__": map[string]string{name: name}})
	if err != nil {
		t.Fatal(err)
	}
	st := filepath.Join(dir, "a.safetensors")
	rows := filepath.Join(dir, "c.jsonl")
	recipe := filepath.Join(dir, "r.yaml")
	for path, b := range map[string][]byte{st: append([]byte{byte(len(head)), byte(len(head) >> 8), 0, 0, 0, 0, 0, 0}, head...), rows: []byte(`{"\u001b]0;PWN\u0007\u009b":1}` + "\n"),
		recipe: []byte("version: 1\n\"\\u001b]0;PWN\\u0007\": 1\n")} {
		if err := os.WriteFile(path, b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, argv := range [][]string{{"inspect", st}, {"inspect", "--json", st}, {"verify", st}, {"validate", recipe}, {"validate", name},
		{"ingest", "--model", "../../../recipes/pocket/model", "--data", rows}, {"inspect", name}} {
		var out bytes.Buffer
		code := run(t.Context(), "tune", argv, &out, &out)
		if i := strings.IndexFunc(out.String(), func(r rune) bool { return r < ' ' && r != '\n' && r != '\t' || r >= 0x7f && r < 0xa0 }); i >= 0 {
			t.Errorf("%q: exit %d: control character at %d of %q", argv, code, i, &out)
		}
		if argv[0] == "inspect" && len(argv) > 2 && (!json.Valid(out.Bytes()) || !strings.Contains(out.String(), `a\u001b]0;PWN\u0007\u009b31mé`)) {
			t.Errorf("%s", &out)
		}
	}
	if s := harmless("a\r\u0085é\n\t\xff"); s != "a\\u000d\\u0085é\n\t\xff" {
		t.Errorf("%q", s)
	}
}
