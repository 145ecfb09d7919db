package main

import (
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

var (
	rawWords = regexp.MustCompile(`(LONG|BYTE) \$0x([0-9a-f]+)`)
	memory   = regexp.MustCompile(`^(-?\d+)\((\w+)\)$`)
)

// Every instruction written as bytes must decode (objdump) to its comment.
func TestRawBytesDecode(t *testing.T) {
	if _, err := exec.LookPath("objdump"); err != nil {
		t.Skip("objdump is not installed")
	}
	var files []string
	for _, dir := range []string{"..", "../internal/*", "../../internal/*", "../../block/internal/*"} {
		found, err := filepath.Glob(dir + "/*_amd64.s")
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, found...)
	}
	checked := 0
	for _, f := range files {
		code, want := rawInstructions(t, f)
		if len(want) == 0 {
			continue
		}
		got := disassemble(t, code)
		if len(got) != len(want) {
			t.Fatalf("%s: %d instructions decode, %d meant", f, len(got), len(want))
		}
		for i := range got {
			if got[i] != want[i] {
				t.Errorf("%s: instruction %d is %q, meant %q", f, i, got[i], want[i])
			}
		}
		checked += len(got)
	}
	if checked == 0 {
		t.Fatal("no instruction found")
	}
}

// rawInstructions returns the bytes of a file's raw instructions and what
// objdump should say of each.
func rawInstructions(t *testing.T, path string) (code []byte, want []string) {
	t.Helper()
	src, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(src)) {
		ins, comment, ok := strings.Cut(strings.TrimSpace(line), " // ")
		words := rawWords.FindAllStringSubmatch(ins, -1)
		if !ok || words == nil {
			continue
		}
		for _, w := range words {
			v, err := strconv.ParseUint(w[2], 16, 32)
			if err != nil {
				t.Fatal(err)
			}
			if w[1] == "LONG" {
				code = binary.LittleEndian.AppendUint32(code, uint32(v))
			} else {
				code = append(code, byte(v))
			}
		}
		want = append(want, inObjdump(comment))
	}
	return code, want
}

// inObjdump writes an instruction in Go's syntax the way objdump does.
func inObjdump(s string) string {
	op, args, _ := strings.Cut(s, " ")
	var out []string
	for _, a := range strings.Split(args, ", ") {
		m := memory.FindStringSubmatch(a)
		if m == nil {
			out = append(out, "%"+strings.ToLower(strings.NewReplacer("Z", "zmm", "Y", "ymm").Replace(a)))
			continue
		}
		reg := strings.ToLower(m[2])
		if reg[0] != 'r' {
			reg = "r" + reg
		}
		disp := ""
		if n, _ := strconv.Atoi(m[1]); n != 0 {
			disp = "0x" + strconv.FormatInt(int64(n), 16)
		}
		out = append(out, disp+"(%"+reg+")")
	}
	return strings.ToLower(op) + " " + strings.Join(out, ",")
}

func disassemble(t *testing.T, code []byte) (out []string) {
	t.Helper()
	f := filepath.Join(t.TempDir(), "code.bin")
	if err := os.WriteFile(f, code, 0o600); err != nil {
		t.Fatal(err)
	}
	text, err := exec.Command("objdump", "-D", "-b", "binary", "-m", "i386:x86-64", "--no-show-raw-insn", f).Output()
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if parts := strings.SplitN(line, "\t", 2); len(parts) == 2 {
			out = append(out, strings.Join(strings.Fields(parts[1]), " "))
		}
	}
	return out
}
