package level

import (
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

func TestPick(t *testing.T) {
	for _, l := range Supported() {
		if c := pick(l.String()); c.level != l || !c.forced || c.err != nil {
			t.Errorf("%s=%v: %v, forced %v, %v", Variable, l, c.level, c.forced, c.err)
		}
	}
	if c := pick(""); c.forced || c.err != nil || !has(c.level) {
		t.Errorf("no %s: %v, forced %v, %v", Variable, c.level, c.forced, c.err)
	}
	known := strings.Join(names, ", ")
	if c := pick("sse9"); c.err == nil || !strings.Contains(c.err.Error(), "sse9") || !strings.Contains(c.err.Error(), known) {
		t.Errorf("unknown level: %v names neither the value nor the known ones", c.err)
	}
	for l := range AMX + 1 {
		if has(l) {
			continue
		}
		if c := pick(l.String()); c.err == nil || c.forced || !strings.Contains(c.err.Error(), "it has [generic") {
			t.Errorf("level that is not here: %v does not say which are", c.err)
		}
	}
}

func TestPrefer(t *testing.T) {
	own := pick("")
	for _, l := range Supported() {
		if got := prefer(own, l.String()); got != l {
			t.Errorf("%v of an earlier run: %v", l, got)
		}
		if got := prefer(pick("generic"), l.String()); got != Generic {
			t.Errorf("%v of an earlier run, generic forced: %v", l, got)
		}
	}
	for _, name := range []string{"", "sse9"} {
		if got := prefer(own, name); got != own.level {
			t.Errorf("%q of an earlier run: %v, not %v", name, got, own.level)
		}
	}
}
