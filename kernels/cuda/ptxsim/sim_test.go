package ptxsim

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tunekit/tunekit/kernels/cuda/driver"
)

// Every committed kernel is understood.
func TestParse(t *testing.T) {
	files, err := filepath.Glob("../ptx/*.ptx")
	if err != nil || len(files) == 0 {
		t.Fatalf("no PTX: %v", err)
	}
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		m, err := parse(string(text))
		if err != nil {
			t.Errorf("%s: %v", f, err)
			continue
		}
		for name := range m.bodies {
			if _, err := m.find(name); err != nil {
				t.Errorf("%s: %v", f, err)
			}
		}
		if n := strings.Count(string(text), ".entry"); len(m.entries) != n {
			t.Errorf("%s: %d entries of %d", f, len(m.entries), n)
		}
	}
}

const frame = `.version 8.4
.target sm_80
.address_size 64
.visible .entry k(
	.param .align 8 .b8 k_param_0[16]
)
{
	.reg .pred %p<9>;
	.reg .b16 %rs<9>;
	.reg .b32 %r<30>;
	.reg .f32 %f<30>;
	.reg .b64 %rd<30>;
	.reg .f64 %fd<9>;
	.shared .align 4 .b8 sh[256];
	ld.param.u64 %rd1, [k_param_0];
	cvta.to.global.u64 %rd1, %rd1;
	mov.u32 %r1, %tid.x;
	mul.wide.u32 %rd2, %r1, 4;
	add.s64 %rd3, %rd1, %rd2;
	mov.u64 %rd4, sh;
	add.s64 %rd5, %rd4, %rd2;
	mov.u32 %r2, %ctaid.x;
`

// launch runs body in blocks of threads over 64 words that hold their numbers.
func launch(t *testing.T, s *Sim, blocks, threads uint32, body string) ([]byte, error) {
	t.Helper()
	return launchIn(t, s, frame, blocks, threads, body)
}

func launchIn(t *testing.T, s *Sim, frame string, blocks, threads uint32, body string) ([]byte, error) {
	t.Helper()
	m, err := s.Load([]byte(frame + body + "\n\tret;\n\n}\n"))
	if err != nil {
		t.Fatal(err)
	}
	f, err := s.Function(m, "k")
	if err != nil {
		t.Fatal(err)
	}
	p, err := s.Alloc(256)
	if err != nil {
		t.Fatal(err)
	}
	data := make([]byte, 256)
	for i := range 64 {
		putWord(data[4*i:], 4, uint64(i))
	}
	if err := s.ToDevice(p, data); err != nil {
		t.Fatal(err)
	}
	params := make([]byte, 16)
	putWord(params, 8, uint64(p))
	if err := s.Launch(f, driver.Dim{X: blocks, Y: 1, Z: 1}, driver.Dim{X: threads, Y: 1, Z: 1}, 0, params); err != nil {
		return nil, err
	}
	return data, s.ToHost(data, p)
}

// What no GPU reports is an error that says what happened where.
func TestChecks(t *testing.T) {
	for _, c := range []struct {
		name, body string
		blocks     uint32
		says       string
	}{
		{"outside", "st.global.u32 [%rd3+256], %r1;", 1, "outside of every allocation"},
		{"unaligned", "st.global.u32 [%rd3+2], %r1;", 1, "not aligned"},
		{"unwritten", "ld.shared.u32 %r3, [%rd5];", 1, "never written"},
		{"past shared", "st.shared.u32 [%rd5+256], %r1;", 1, "of 256 bytes of shared memory"},
		{"race across warps", "st.shared.u32 [%rd5], %r1; bar.sync 0; st.shared.u32 [%rd5], %r1; xor.b64 %rd6, %rd5, 128; ld.shared.u32 %r3, [%rd6];", 1, "race: "},
		{"race in a warp", "st.shared.u32 [%rd5], %r1; xor.b64 %rd6, %rd5, 4; ld.shared.u32 %r3, [%rd6];", 1, "race: "},
		{"two writers", "st.global.u32 [%rd1], %r1;", 1, "race: thread"},
		{"write after read", "ld.global.u32 %r3, [%rd1]; st.global.u32 [%rd3], %r1;", 1, "another thread of the block read it"},
		{"order of blocks", "st.global.u32 [%rd3], %r1;", 2, "depends on the order of blocks"},
		{"divergent barrier", "setp.lt.u32 %p1, %r1, 5; @%p1 bra $A; bar.sync 0; bra.uni $B; $A: bar.sync 0; $B: mov.u32 %r4, 1;", 1, "divergent barrier"},
		{"barrier of warps", "setp.lt.u32 %p1, %r1, 32; @%p1 bra $A; bar.sync 0; bra.uni $B; $A: bar.sync 0; $B: mov.u32 %r4, 1;", 1, "divergent barrier"},
		{"barrier of some", "setp.lt.u32 %p1, %r1, 5; @%p1 bar.sync 0;", 1, "only some lanes wait"},
		{"left before", "setp.lt.u32 %p1, %r1, 5; @%p1 ret; bar.sync 0;", 1, "others of the block have left"},
		{"mask names absent lanes", "setp.lt.u32 %p1, %r1, 5; @%p1 bra $A; mov.u32 %r5, 31; mov.u32 %r6, -1; shfl.sync.bfly.b32 %r4|%p2, %r1, 1, %r5, %r6; $A: mov.u32 %r4, 1;", 1, "do not come"},
		{"endless", "$A: add.s32 %r4, %r4, 1; bra.uni $A;", 1, "does not end"},
	} {
		s := New(1 << 20)
		s.perLaunch = 1 << 16
		_, err := launch(t, s, c.blocks, 64, c.body)
		if err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want %q", c.name, err, c.says)
			continue
		}
		if _, again := s.Alloc(4); again == nil {
			t.Errorf("%s: the device goes on afterwards", c.name)
		}
	}
}

// With the barrier that was missing there is no race.
func TestBarriersOrder(t *testing.T) {
	for name, body := range map[string]string{
		"warps": "st.shared.u32 [%rd5], %r1; bar.sync 0; xor.b64 %rd6, %rd5, 128; ld.shared.u32 %r3, [%rd6]; st.global.u32 [%rd3], %r3;",
		"lanes": "st.shared.u32 [%rd5], %r1; mov.u32 %r6, -1; bar.warp.sync %r6; xor.b64 %rd6, %rd5, 4; ld.shared.u32 %r3, [%rd6]; st.global.u32 [%rd3], %r3;",
	} {
		data, err := launch(t, New(1<<20), 1, 64, body)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		for i := range 64 {
			want := uint64(i ^ map[string]int{"warps": 32, "lanes": 1}[name])
			if got := word(data[4*i:], 4); got != want {
				t.Errorf("%s: thread %d read %d, want %d", name, i, got, want)
			}
		}
	}
}

// Values as PTX defines them, of the thread's number.
func TestValues(t *testing.T) {
	for _, c := range []struct {
		body string
		want func(i uint32) uint32
	}{
		{"setp.lt.u32 %p1, %r1, 9; @%p1 bra $A; mul.lo.s32 %r3, %r1, 3; bra.uni $B; $A: mov.u32 %r3, 7; $B: add.s32 %r3, %r3, 1;", func(i uint32) uint32 {
			if i < 9 {
				return 8
			}
			return 3*i + 1
		}},
		{"mov.u32 %r5, 31; mov.u32 %r6, -1; shfl.sync.bfly.b32 %r3|%p2, %r1, 5, %r5, %r6;", func(i uint32) uint32 { return i ^ 5 }},
		{"mov.u32 %r5, 31; mov.u32 %r6, -1; shfl.sync.idx.b32 %r3|%p2, %r1, 7, %r5, %r6;", func(i uint32) uint32 { return i&^31 + 7 }},
		{"bfi.b32 %r3, %r1, 268435455, 4, 8;", func(i uint32) uint32 { return 0x0ffff00f | i<<4 }},
		{"mov.u32 %r4, 287454020; prmt.b32 %r3, %r4, %r1, 16417;", func(i uint32) uint32 { return i<<24 | 0x442233 }},
		{"neg.s32 %r4, %r1; shr.s32 %r3, %r4, 1;", func(i uint32) uint32 { return uint32(-int32(i) >> 1) }},
		{"cvt.rn.f32.u32 %f1, %r1; mov.f32 %f2, 0fBF000000; mul.rn.f32 %f1, %f1, %f2; cvt.rni.s32.f32 %r3, %f1;", func(i uint32) uint32 { return -(i / 2) - i%4/3 }},
		{"neg.s32 %r4, %r1; div.s32 %r3, %r4, 5;", func(i uint32) uint32 { return uint32(-int32(i) / 5) }},
		{"cvt.u16.u32 %rs1, %r1; shl.b16 %rs2, %rs1, 12; cvt.u32.u16 %r3, %rs2;", func(i uint32) uint32 { return i << 12 & 0xffff }},
	} {
		data, err := launch(t, New(1<<20), 1, 64, c.body+" st.global.u32 [%rd3], %r3;")
		if err != nil {
			t.Errorf("%s: %v", c.body, err)
			continue
		}
		for i := range uint32(64) {
			if got := uint32(word(data[4*i:], 4)); got != c.want(i) {
				t.Errorf("%s: thread %d has %#x, want %#x", c.body, i, got, c.want(i))
				break
			}
		}
	}
}
