//go:build unix

package atomic

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// TestPlantedPart: an unfinished part in a shared folder leads no writing to
// another file, whatever was put into it.
func TestPlantedPart(t *testing.T) {
	plan := Plan{ID: "1", Files: []PlanFile{{Size: 4}}}
	for what, plant := range map[string]func(victim, data string) error{
		"symlink":  os.Symlink,
		"hardlink": os.Link,
		"fifo":     func(_, data string) error { return syscall.Mkfifo(data, 0o600) },
	} {
		dir := t.TempDir()
		victim, path := filepath.Join(dir, "victim"), filepath.Join(dir, "x")
		if err := os.WriteFile(victim, []byte("mine"), 0o600); err != nil {
			t.Fatal(err)
		}
		p, err := Resume(path, plan)
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Suspend(); err != nil {
			t.Fatal(err)
		}
		data := filepath.Join(path+".part", "data")
		if err := os.Remove(data); err != nil {
			t.Fatal(err)
		}
		if err := plant(victim, data); err != nil {
			t.Fatal(err)
		}
		if p, err = Resume(path, plan); err == nil {
			t.Errorf("%s: taken for the own part", what)
			p.Suspend()
		}
		if b, _ := os.ReadFile(victim); string(b) != "mine" {
			t.Errorf("%s: another file was written: %q", what, b)
		}
	}
}

// TestForeignPart: the unfinished part of another user, who could change it, is
// not gone on with.
func TestForeignPart(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can give a folder away")
	}
	path := filepath.Join(t.TempDir(), "x")
	if err := os.Mkdir(path+".part", 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(path+".part", 65534, 65534); err != nil {
		t.Fatal(err)
	}
	if _, err := Resume(path, Plan{ID: "1"}); err == nil {
		t.Error("gone on with")
	}
}
