package level

import (
	"os"
	"os/exec"
	"strings"
	"testing"
)

func TestForceRestores(t *testing.T) {
	before := Current()
	for _, l := range Supported() {
		restore := Force(l)
		if Current() != l {
			t.Errorf("Current() = %v while %v is forced", Current(), l)
		}
		restore()
		if Current() != before {
			t.Fatalf("Current() = %v after restore, %v before", Current(), before)
		}
	}
}

// The variable is read once a process, so each value needs one of its own.
func TestVariable(t *testing.T) {
	if os.Getenv("LEVEL_TEST_CHILD") == "1" {
		os.Stdout.WriteString(Current().String())
		if err := Check(); err != nil {
			os.Stdout.WriteString(" " + err.Error())
		}
		os.Exit(0)
	}
	run := func(value string) string {
		cmd := exec.Command(os.Args[0], "-test.run=^TestVariable$")
		cmd.Env = append(os.Environ(), "LEVEL_TEST_CHILD=1", Variable+"="+value)
		out, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		return string(out)
	}
	for _, l := range Supported() {
		if got := run(l.String()); got != l.String() {
			t.Errorf("%s=%s: %q", Variable, l, got)
		}
	}
	if got := run("sse9"); !strings.Contains(got, "sse9") || !strings.Contains(got, "avx512bf16") {
		t.Errorf("unknown level: %q names neither the value nor the known ones", got)
	}
}
