package ptxsim

import (
	"fmt"
	"math"
	"strings"
	"testing"
)

// copyIn copies 16 bytes a thread of the first four from global to shared memory.
const copyIn = `setp.gt.u32 %p1, %r1, 3; cvt.u32.u64 %r10, %rd4; shl.b32 %r11, %r1, 4; add.s32 %r10, %r10, %r11; cvt.u64.u32 %rd7, %r11; add.s64 %rd8, %rd1, %rd7; mov.u32 %r12, 16;
@%p1 bra $S; cp.async.cg.shared.global [%r10], [%rd8], 16, %r12; $S: cp.async.commit_group; `

// What goes wrong with copies and with warps is an error that says it.
func TestTensorChecks(t *testing.T) {
	read := "xor.b64 %rd6, %rd5, 16; setp.gt.u32 %p2, %r1, 15; @%p2 bra $E; ld.shared.u32 %r3, [%rd6]; $E: mov.u32 %r4, 1;"
	for _, c := range []struct{ name, body, says string }{
		{"no wait", copyIn + "bar.sync 0; " + read + " cp.async.wait_group 0;", "on its way"},
		{"no barrier", copyIn + "cp.async.wait_group 0; " + read, "race: "},
		{"wait that leaves one", copyIn + "cp.async.commit_group; cp.async.wait_group 2; bar.sync 0; " + read + " cp.async.wait_group 0;", "on its way"},
		{"never awaited", copyIn, "copies to shared memory are on their way"},
		{"over what is read", "st.shared.u32 [%rd5], %r1; bar.sync 0; xor.b64 %rd6, %rd5, 16; ld.shared.u32 %r3, [%rd6]; " + copyIn + "cp.async.wait_group 0;", "another thread of the block read it"},
		{"over another", copyIn + copyIn2 + "cp.async.wait_group 0;", "another copy on its way"},
		{"unaligned", "cvt.u32.u64 %r10, %rd4; mov.u32 %r12, 16; cp.async.cg.shared.global [%r10], [%rd1+8], 16, %r12; cp.async.commit_group; cp.async.wait_group 0;", "to be a multiple of 16"},
		{"a shuffle is no barrier", "st.shared.u32 [%rd5], %r1; mov.u32 %r5, 31; mov.u32 %r6, -1; shfl.sync.bfly.b32 %r4|%p2, %r1, 1, %r5, %r6; xor.b64 %rd6, %rd5, 4; ld.shared.u32 %r3, [%rd6];", "race: "},
		{"matrices of some lanes", "st.shared.u32 [%rd5], %r1; bar.sync 0; setp.lt.u32 %p1, %r1, 5; @%p1 bra $A; ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r3,%r4,%r5,%r6}, [%r10]; $A: mov.u32 %r4, 1;", "do not come"},
		{"matrices past the end", "st.shared.u32 [%rd5], %r1; bar.sync 0; shl.b32 %r10, %r1, 4; ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r3,%r4,%r5,%r6}, [%r10];", "of 256 bytes of shared memory"},
	} {
		_, err := launch(t, New(1<<20), 1, 64, c.body)
		if err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want %q", c.name, err, c.says)
		}
	}
	if data, err := launch(t, New(1<<20), 1, 64, copyIn+"cp.async.wait_group 0; bar.sync 0; setp.gt.u32 %p2, %r1, 15; @%p2 bra $E; xor.b64 %rd6, %rd5, 16; ld.shared.u32 %r3, [%rd6]; st.global.u32 [%rd3+64], %r3; $E: mov.u32 %r4, 1;"); err != nil {
		t.Error(err)
	} else {
		for i := range 16 {
			if got := word(data[64+4*i:], 4); got != uint64(i^4) {
				t.Errorf("copied and awaited: word %d is %d", i, got)
			}
		}
	}
}

const copyIn2 = "@%p1 bra $T; cp.async.cg.shared.global [%r10], [%rd8], 16, %r12; $T: cp.async.commit_group; "

// Fragments lie as the tables of the PTX manual have them (9.7.14.5.8 and
// 9.7.14.5.15): a product of a matrix with one column or row of ones names each
// element of the other.
func TestMultiply(t *testing.T) {
	// A[i][k] = 16i + k (bf16 holds to 256), B[k][j] = 1 where k = 2j, as %r1 has it.
	body := `and.b32 %r3, %r1, 31; shr.u32 %r4, %r3, 2; and.b32 %r5, %r3, 3; shl.b32 %r5, %r5, 1;
	shl.b32 %r6, %r4, 4; add.s32 %r6, %r6, %r5;` // 16·row + 2·(lane%4)
	for i, add := range []string{"0", "128", "8", "136"} { // row+8, col+8
		r := []string{"%r20", "%r21", "%r22", "%r23"}[i]
		body += `add.s32 %r7, %r6, ` + add + `; cvt.rn.f32.s32 %f1, %r7; add.s32 %r7, %r7, 1; cvt.rn.f32.s32 %f2, %r7; mov.b32 %r8, %f1; mov.b32 %r9, %f2;
	shr.u32 %r8, %r8, 16; and.b32 %r9, %r9, -65536; or.b32 ` + r + `, %r8, %r9;`
	}
	// b0 holds k = 2t, 2t+1 of column lane/4: ones where 2t = 2·column, so t = column.
	body += `and.b32 %r10, %r3, 3; setp.eq.s32 %p1, %r10, %r4; selp.b32 %r24, 16256, 0, %p1; add.s32 %r11, %r10, 4; setp.eq.s32 %p1, %r11, %r4; selp.b32 %r25, 16256, 0, %p1;
	mov.f32 %f10, 0f3f800000; mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%f3,%f4,%f5,%f6}, {%r20,%r21,%r22,%r23}, {%r24,%r25}, {%f10,%f10,%f10,%f10};
	`
	for i, f := range []string{"%f3", "%f4", "%f5", "%f6"} {
		data, err := launch(t, New(1<<20), 1, 32, body+"st.global.f32 [%rd3], "+f+";")
		if err != nil {
			t.Fatal(err)
		}
		for l := range 32 {
			row, col := l/4+i/2*8, l%4*2+i%2
			want := float32(16*row+2*col) + 1
			if got := math.Float32frombits(uint32(word(data[4*l:], 4))); got != want {
				t.Errorf("sum %d of lane %d is %v, want %v", i, l, got, want)
			}
		}
	}
}

// As above in tf32 (9.7.14.5.7: an element a register, of k = lane%4 and four further on). What has more than 10 bits
// behind the point must be rounded first.
func TestMultiplyTF32(t *testing.T) {
	// A[i][k] = 8i + k + 1/4096, which cvt rounds off; B[k][j] = 1 where k = j.
	for _, rounded := range []bool{true, false} {
		body := `and.b32 %r3, %r1, 31; shr.u32 %r4, %r3, 2; and.b32 %r5, %r3, 3; shl.b32 %r6, %r4, 3; add.s32 %r6, %r6, %r5; mov.f32 %f2, 0f39800000;`
		for i, add := range []string{"0", "64", "4", "68"} {
			r := []string{"%r20", "%r21", "%r22", "%r23"}[i]
			body += `add.s32 %r7, %r6, ` + add + `; cvt.rn.f32.s32 %f1, %r7; add.rn.f32 %f1, %f1, %f2; `
			if rounded {
				body += `cvt.rna.tf32.f32 ` + r + `, %f1;`
			} else {
				body += `mov.b32 ` + r + `, %f1;`
			}
		}
		body += `setp.eq.s32 %p1, %r5, %r4; selp.b32 %r24, 1065353216, 0, %p1; add.s32 %r11, %r5, 4; setp.eq.s32 %p1, %r11, %r4; selp.b32 %r25, 1065353216, 0, %p1;
	mov.f32 %f10, 0f3f800000; mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%f3,%f4,%f5,%f6}, {%r20,%r21,%r22,%r23}, {%r24,%r25}, {%f10,%f10,%f10,%f10};
	`
		for i, f := range []string{"%f3", "%f4", "%f5", "%f6"} {
			data, err := launch(t, New(1<<20), 1, 32, body+"st.global.f32 [%rd3], "+f+";")
			if !rounded {
				if err == nil || !strings.Contains(err.Error(), "was not rounded to tf32") {
					t.Errorf("what was not rounded: %v", err)
				}
				continue
			}
			if err != nil {
				t.Fatal(err)
			}
			for l := range 32 {
				row, col := l/4+i/2*8, l%4*2+i%2
				want := float32(8*row+col) + 1
				if row == 0 && col == 0 {
					want += 1.0 / 4096
				}
				if got := math.Float32frombits(uint32(word(data[4*l:], 4))); got != want {
					t.Errorf("sum %d of lane %d is %v, want %v", i, l, got, want)
				}
			}
		}
	}
	for x, want := range map[uint32]uint32{
		0x3f800fff: 0x3f800000, 0x3f801000: 0x3f802000, 0x3f803000: 0x3f804000, 0xbf801000: 0xbf802000, // halves away from zero
		0x7f7fffff: 0x7f800000, 0x7f800000: 0x7f800000, 0xff800000: 0xff800000, 0x7f800001: 0x7fffffff, 0x00001000: 0x00002000, 0x80000fff: 0x80000000,
	} {
		if got := toTF32(uint64(x)); got != uint64(want) {
			t.Errorf("cvt.rna.tf32.f32 of %08x is %08x, want %08x", x, got, want)
		}
	}
}

// Bytes lie four a register (9.7.14.5.10): products with random ones are those of the whole matrices, -128 among them, and
// sums wrap.
func TestMultiplyBytes(t *testing.T) {
	// A byte of a register is a hash of its matrix, row and column, as whole numbers: (131·row + 37·col + 59·matrix)·113 >> 3.
	value := func(matrix, row, col int) int32 { return int32(int8((131*row + 37*col + 59*matrix) * 113 >> 3)) }
	body := `and.b32 %r3, %r1, 31; shr.u32 %r4, %r3, 2; and.b32 %r5, %r3, 3; shl.b32 %r5, %r5, 2;`
	for i, r := range []string{"%r20", "%r21", "%r22", "%r23", "%r24", "%r25"} {
		matrix, row, col := 0, i%2*8, i/2*16 // beside those of the lane
		if i >= 4 {
			matrix, row, col = 1, 0, (i-4)*16
		}
		body += `mov.u32 ` + r + `, 0;`
		for j := range 4 {
			body += fmt.Sprintf(`mul.lo.s32 %%r6, %%r4, 131; mul.lo.s32 %%r7, %%r5, 37; add.s32 %%r6, %%r6, %%r7; add.s32 %%r6, %%r6, %d; mul.lo.s32 %%r6, %%r6, 113; shr.s32 %%r6, %%r6, 3;
	and.b32 %%r6, %%r6, 255; shl.b32 %%r6, %%r6, %d; or.b32 %s, %s, %%r6;`, 131*row+37*(col+j)+59*matrix, 8*j, r, r)
		}
	}
	body += `mov.u32 %r10, 2147483600; mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%r11,%r12,%r13,%r14}, {%r20,%r21,%r22,%r23}, {%r24,%r25}, {%r10,%r10,%r10,%r10};`
	least := false
	for i, r := range []string{"%r11", "%r12", "%r13", "%r14"} {
		data, err := launch(t, New(1<<20), 1, 32, body+"st.global.u32 [%rd3], "+r+";")
		if err != nil {
			t.Fatal(err)
		}
		for l := range 32 {
			row, col, want := l/4+i/2*8, l%4*2+i%2, int32(2147483600)
			for k := range 32 {
				want += value(0, row, k) * value(1, col, k)
				least = least || value(0, row, k) == -128
			}
			if got := int32(word(data[4*l:], 4)); got != want {
				t.Errorf("sum %d of lane %d is %d, want %d", i, l, got, want)
			}
		}
	}
	if !least {
		t.Error("no byte is -128")
	}
}

// What accesses cost is counted: sectors of a warp, and passes over banks.
func TestCounts(t *testing.T) {
	for _, c := range []struct {
		body                   string
		sectors, passes, least int64
	}{
		{"st.global.u32 [%rd3], %r1;", 4, 0, 0},
		{"ld.global.u32 %r3, [%rd1]; ", 1, 0, 0},
		{"st.shared.u32 [%rd5], %r1; ", 0, 1, 1},
		{"shl.b64 %rd9, %rd2, 1; and.b64 %rd9, %rd9, 252; add.s64 %rd9, %rd9, %rd4; setp.gt.u32 %p1, %r1, 31; @%p1 bra $A; st.shared.u32 [%rd9], %r1; $A: mov.u32 %r3, 1;", 0, 2, 1},
		{"setp.gt.u32 %p1, %r1, 31; @%p1 bra $A; shl.b64 %rd9, %rd2, 1; add.s64 %rd9, %rd9, %rd4; mov.f32 %f1, 0f00000000; st.shared.v2.f32 [%rd9], {%f1,%f1}; $A: mov.u32 %r3, 1;", 0, 2, 2},
	} {
		s := New(1 << 20)
		s.Profile = true
		if _, err := launch(t, s, 1, 32, c.body); err != nil {
			t.Fatal(err)
		}
		if n := s.Counts["k"]; n.GlobalSectors != c.sectors || n.SharedPasses != c.passes || n.SharedLeast != c.least || n.Launches != 1 {
			t.Errorf("%s: %+v", c.body, *n)
		}
	}
}
