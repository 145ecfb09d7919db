package ptxsim

import (
	"fmt"
	"math"
	"strings"
	"testing"
)

// groupFrame is frame for sm_90a with room for a product of 64×8×16: each of 128 threads writes ones of bf16.
var groupFrame = strings.NewReplacer("sm_80", "sm_90a", "sh[256]", "sh[4096]", ".align 4 .b8", ".align 1024 .b8").Replace(frame) + `
	mov.u32 %r10, 1065369472;
	mov.f32 %f1, 0f40000000; mov.f32 %f2, 0f40000000; mov.f32 %f3, 0f40000000; mov.f32 %f4, 0f40000000;
	setp.ne.b32 %p1, 1, 0; setp.lt.u32 %p2, %r1, 64; setp.lt.u32 %p3, %r1, 96;
	st.shared.u32 [%rd5], %r10; st.shared.u32 [%rd5+512], %r10; st.shared.u32 [%rd5+1024], %r10; st.shared.u32 [%rd5+1536], %r10; st.shared.u32 [%rd5+2048], %r10;
`

// A product of warpgroups that waits for nothing that it must wait for is an error that says so; one that does is right.
func TestGroupChecks(t *testing.T) {
	// A at 0 and B at 2048 without a swizzle, columns of 16 bytes 128 apart, eight rows 256.
	a, b := uint64(8)<<16|uint64(16)<<32, uint64(2048>>4)|uint64(8)<<16|uint64(16)<<32
	multiply := func(a, b uint64) string {
		return fmt.Sprintf("mov.u64 %%rd7, %d; mov.u64 %%rd8, %d; wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%%f1,%%f2,%%f3,%%f4}, %%rd7, %%rd8, %%p1, 1, 1, 0, 0; ", a, b)
	}
	const shown, fence, commit, wait = "fence.proxy.async; bar.sync 0; ", "wgmma.fence.sync.aligned; ", "wgmma.commit_group.sync.aligned; ", "wgmma.wait_group.sync.aligned 0; "
	const result = "@%p2 st.global.f32 [%rd3], %f4;"
	right := shown + fence + multiply(a, b) + commit + wait + result
	for _, c := range []struct {
		name, body string
		threads    uint32
		says       string // "": it is right
	}{
		{"right", right, 128, ""},
		{"nothing makes writes visible", "bar.sync 0; " + fence + multiply(a, b) + commit + wait + result, 128, "without a fence.proxy.async"},
		{"made visible after the barrier", "bar.sync 0; fence.proxy.async; " + fence + multiply(a, b) + commit + wait + result, 128, "without a fence.proxy.async"},
		{"no barrier", "fence.proxy.async; " + fence + multiply(a, b) + commit + wait + result, 128, "race: "},
		{"no fence of registers", shown + multiply(a, b) + commit + wait + result, 128, "no wgmma.fence before the first"},
		{"a sum written after it", shown + fence + "mov.f32 %f3, %f2; " + multiply(a, b) + commit + wait + result, 128, "written since the last wgmma.fence"},
		{"a sum written between two", shown + fence + multiply(a, b) + commit + wait + "add.f32 %f1, %f1, %f1; " + multiply(a, b) + commit + wait + result, 128, "written since the last wgmma.fence"},
		{"a sum read before the wait", shown + fence + multiply(a, b) + commit + result + wait, 128, "still on its way"},
		{"a wait that leaves one", shown + fence + multiply(a, b) + commit + "wgmma.wait_group.sync.aligned 1; " + result + wait, 128, "still on its way"},
		{"never closed", shown + fence + multiply(a, b) + wait, 128, "ends while products"},
		{"never awaited", shown + fence + multiply(a, b) + commit, 128, "ends while products"},
		{"overwritten while it is read", shown + fence + multiply(a, b) + commit + "st.shared.u32 [%rd5], %r10; " + wait, 128, "is read by a product on its way"},
		{"overwritten without a barrier", shown + fence + multiply(a, b) + commit + wait + "st.shared.u32 [%rd5], %r10;", 128, "race: "},
		{"a warp that does not come", shown + fence + "setp.gt.u32 %p4, %r1, 95; @%p4 bra $A; " + multiply(a, b) + "$A: " + commit + wait, 128, "have not all multiplied the same"},
		{"another matrix for a warp", shown + fence + "mov.u64 %rd7, 1; @%p3 mov.u64 %rd7, 0; mov.u64 %rd8, " + fmt.Sprint(a) + "; add.s64 %rd7, %rd7, %rd8; mov.u64 %rd8, " + fmt.Sprint(b) + "; wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%f1,%f2,%f3,%f4}, %rd7, %rd8, %p1, 1, 1, 0, 0; " + commit + wait, 128, "do not all multiply the same"},
		{"three warps", right, 96, "not of whole groups of 128"},
		{"past the end", shown + fence + multiply(a, b+1<<7) + commit + wait, 128, "of 4096 bytes of shared memory"},
		{"never written", shown + fence + multiply(a, b+1<<5) + commit + wait, 128, "never written"},
		{"inside a pattern", shown + fence + multiply(a|1<<62|8, b) + commit + wait, 128, "begins inside a pattern of 1024 bytes"},
		{"a base offset", shown + fence + multiply(a|1<<49, b) + commit + wait, 128, "has a base offset"},
		{"bits that are none", shown + fence + multiply(a|1<<15, b) + commit + wait, 128, "mean nothing"},
	} {
		s := New(1 << 20)
		s.Hopper = true
		data, err := launchIn(t, s, groupFrame, 1, c.threads, c.body)
		switch {
		case c.says != "" && (err == nil || !strings.Contains(err.Error(), c.says)):
			t.Errorf("%s: %v, want %q", c.name, err, c.says)
		case c.says == "" && err != nil:
			t.Errorf("%s: %v", c.name, err)
		case c.says == "":
			for l := range 64 {
				if got := math.Float32frombits(uint32(word(data[4*l:], 4))); got != 18 {
					t.Errorf("%s: thread %d has %v, want 2 + 16 ones", c.name, l, got)
				}
			}
		}
	}
	if _, err := New(1 << 20).Load([]byte(groupFrame + "ret;\n\n}\n")); err == nil || !strings.Contains(err.Error(), "sm_90a") {
		t.Errorf("sm_90a on a device of 8.0: %v", err)
	}
}

// TestMatrixLayout: rows lie as the examples of the PTX manual have them (8.7, 9.7.15.5.1.2.1.3): what it calls the exact
// layout, in elements, with its swizzle on bytes.
func TestMatrixLayout(t *testing.T) {
	// at is where number i of a dimension lies, (shape):(stride).
	at := func(i int, shape, stride []int) (sum int) {
		for j, n := range shape {
			if j == len(shape)-1 {
				n = i + 1
			}
			sum += i % n * stride[j]
			i /= n
		}
		return sum
	}
	swizzle := func(p uint64, bits uint64) uint64 { return p ^ p&((1<<bits-1)<<7)>>3 }
	for _, c := range []struct {
		name               string
		element            int // bytes
		mn, mnAt, k, kAt   []int
		bits               uint64
		mode, lead, stride uint64
		across             bool
	}{
		{"K-major, no swizzle, tf32", 4, []int{8, 2}, []int{4, 32}, []int{4, 4}, []int{1, 64}, 0, 0, 64 * 4, 32 * 4, false},
		{"K-major, 32 bytes, tf32", 4, []int{8, 2}, []int{8, 64}, []int{4, 4}, []int{1, 4}, 1, 3, 0, 64 * 4, false},
		{"MN-major, no swizzle, bf16", 2, []int{8, 1, 2}, []int{1, 8, 64}, []int{8, 2}, []int{8, 128}, 0, 0, 128 * 2, 64 * 2, true},
		{"MN-major, 32 bytes, bf16", 2, []int{8, 2, 2}, []int{1, 8, 128}, []int{8, 2}, []int{16, 256}, 1, 3, 128 * 2, 256 * 2, true},
		{"MN-major, 64 bytes, bf16", 2, []int{8, 4, 2}, []int{1, 8, 256}, []int{8, 2}, []int{32, 512}, 2, 2, 256 * 2, 512 * 2, true},
		// As the canonical layout of the mode has it, with what wgmma_90a.cu chooses.
		{"K-major, 128 bytes, bf16", 2, []int{8, 8}, []int{64, 512}, []int{8, 2}, []int{1, 8}, 3, 1, 16, 1024, false},
		{"MN-major, 128 bytes, bf16", 2, []int{8, 8, 4}, []int{1, 8, 4096}, []int{8, 2}, []int{64, 512}, 3, 1, 8192, 1024, true},
	} {
		const start = 8192
		m, err := matrixOf(start>>4|c.lead>>4<<16|c.stride>>4<<32|c.mode<<62, c.across)
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		outer, inner := 16, 2
		if c.across {
			outer, inner = 4, 16
		}
		for i := range outer {
			for j := range inner {
				mn, k := i, j*16/c.element
				if c.across {
					mn, k = i*8, j
				}
				want := swizzle(uint64(start+c.element*(at(mn, c.mn, c.mnAt)+at(k, c.k, c.kAt))), c.bits)
				if got := m.chunk(i, j); got != want {
					t.Errorf("%s: 16 bytes %d, %d at %d, want %d", c.name, i, j, got, want)
				}
			}
		}
	}
}
