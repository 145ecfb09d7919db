package main

import (
	"encoding/binary"
	"encoding/hex"
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
	memory   = regexp.MustCompile(`^(-?\d+)\((\w+)\)(?:\((\w+)\*1\))?(\{1to16\})?$`)
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
	op, args, some := strings.Cut(s, " ")
	if !some {
		return strings.ToLower(op)
	}
	register := func(name string) string {
		if name = strings.ToLower(name); name[0] != 'r' {
			name = "r" + name
		}
		return "%" + name
	}
	var out []string
	for _, a := range strings.Split(args, ", ") {
		m := memory.FindStringSubmatch(a)
		if m == nil {
			out = append(out, "%"+strings.ToLower(strings.NewReplacer("Z", "zmm", "Y", "ymm", "T", "tmm").Replace(a)))
			continue
		}
		regs := register(m[2])
		if m[3] != "" {
			regs += "," + register(m[3]) + ",1"
		}
		disp := ""
		if n, _ := strconv.Atoi(m[1]); n != 0 {
			disp = "0x" + strconv.FormatInt(int64(n), 16)
		}
		out = append(out, disp+"("+regs+")"+m[4])
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

var armWord = regexp.MustCompile(`WORD \$(0x[0-9a-f]{8}) // (.*)`)

// Every word of the arm64 files must decode (go tool objdump) to its comment.
func TestWordsDecode(t *testing.T) {
	files, err := filepath.Glob("../*_arm64.s")
	if err != nil {
		t.Fatal(err)
	}
	inner, err := filepath.Glob("../internal/*/*_arm64.s")
	if err != nil {
		t.Fatal(err)
	}
	meant := map[string]string{}
	var words []string
	for _, f := range append(files, inner...) {
		src, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range armWord.FindAllStringSubmatch(string(src), -1) {
			if old, ok := meant[m[1]]; !ok {
				words = append(words, m[1])
			} else if old != m[2] {
				t.Errorf("%s: %s is %q and %q", f, m[1], old, m[2])
			}
			meant[m[1]] = m[2]
		}
	}
	if len(words) == 0 {
		t.Fatal("no instruction found")
	}
	for i, got := range disassembleWords(t, words) {
		if want := meant[words[i]]; got != want {
			t.Errorf("%s is %q, meant %q", words[i], got, want)
		}
	}
}

func disassembleWords(t *testing.T, words []string) (out []string) {
	t.Helper()
	dir := t.TempDir()
	src := filepath.Join(dir, "w.s")
	text := "TEXT ·f(SB), 4, $0\n\tWORD $" + strings.Join(words, "\n\tWORD $") + "\n"
	if err := os.WriteFile(src, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	run := func(args ...string) []byte {
		cmd := exec.Command("go", append([]string{"tool"}, args...)...)
		cmd.Env = append(os.Environ(), "GOARCH=arm64")
		b, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("go tool %v: %v\n%s", args, err, b)
		}
		return b
	}
	object := filepath.Join(dir, "w.o")
	run("asm", "-p", "w", "-o", object, src)
	for line := range strings.Lines(string(run("objdump", "-gnu", object))) {
		if _, gnu, ok := strings.Cut(line, " // "); ok {
			out = append(out, strings.TrimSpace(gnu))
		}
	}
	if len(out) != len(words) {
		t.Fatalf("%d words decode of %d", len(out), len(words))
	}
	return out
}

// Instructions of AMX have the bytes of GNU as 2.40, whatever disassembler is here:
// echo 'ldtilecfg (%r9); tileloadd 0x400(%r13,%r9,1), %tmm5; …' | as -o t.o - && objdump -d t.o
func TestTileBytes(t *testing.T) {
	out = &file{arch: "amd64"}
	ldtilecfg("R9")
	ldtilecfg("AX")
	tilerelease()
	tilezero(3)
	tileload("BX", "R9", 0, 4)
	tileload("CX", "R10", 64, 7)
	tileload("R13", "R9", 1024, 5)
	tilestore(2, "R11", "SI", 0)
	tilestore(3, "DX", "SI", 64)
	tdpbf16ps(6, 4, 0)
	tdpbf16ps(7, 5, 3)
	path := filepath.Join(t.TempDir(), "tiles.s")
	if err := os.WriteFile(path, out.asm.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	code, _ := rawInstructions(t, path)
	want := "c4c2784901 c4e2784900 c4e27849c0 c4e27b49d8 c4a27b4b240b c4a27b4b7c1140 c4827b4bac0d00040000 c4c27a4b1433 c4e27a4b5c3240 c4e24a5cc4 c4e2425cdd"
	if got := hex.EncodeToString(code); got != strings.ReplaceAll(want, " ", "") {
		t.Errorf("bytes %s, want %s", got, want)
	}
}
