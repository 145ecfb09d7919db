package cpu

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"unsafe"

	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// TestLimit: a refusal names purpose, size and limit, and changes nothing.
func TestLimit(t *testing.T) {
	c := New(Options{MemoryLimit: 1000})
	a, err := c.Alloc(kernels.Gradients, dtype.Of(dtype.F32), 200)
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.Alloc(kernels.Optimizer, dtype.Of(dtype.F32), 51)
	var e *kernels.MemoryError
	if !errors.As(err, &e) || e.Purpose != kernels.Optimizer || e.Asked != 204 || e.Limit != 1000 || e.InUse[kernels.Gradients] != 800 {
		t.Fatalf("error %v", err)
	}
	if _, err := c.Load(kernels.Mapped, dtype.Of(dtype.Q8_0), 100, 32, make([]byte, 3400), kernels.Borrow); err != nil {
		t.Errorf("mapped pages counted against the limit: %v", err)
	}
	c.Free(a)
	if b, err := c.Alloc(kernels.Optimizer, dtype.Of(dtype.F32), 250); err != nil || b.Len() != 250 {
		t.Errorf("after Free: %v", err)
	}
	if in := c.Info(); in.PeakTotal != 1000 || in.Mem.Peak[kernels.Mapped] != 3400 {
		t.Errorf("peak %d, %v", in.PeakTotal, in.Mem.Peak)
	}
}

// TestReuse: a step that frees and takes the same sizes gets the same memory,
// and what is kept never passes the busiest moment.
func TestReuse(t *testing.T) {
	c := New(Options{})
	sizes := []int{1, 100, 70_000, 1 << 20, 3 << 20, 5_000_001}
	seen := map[*byte]bool{}
	for step := range 5 {
		var bufs []kernels.Buffer
		for _, n := range sizes {
			b, err := c.Alloc(kernels.Activations, dtype.Of(dtype.U8), n)
			if err != nil {
				t.Fatal(err)
			}
			p := unsafe.SliceData(raw(b))
			if uintptr(unsafe.Pointer(p))%64 != 0 {
				t.Errorf("%d bytes at %p: not aligned", n, p)
			}
			if step > 0 && !seen[p] {
				t.Errorf("step %d: %d bytes came from somewhere new", step, n)
			}
			seen[p] = true
			bufs = append(bufs, b)
		}
		for _, b := range bufs {
			c.Free(b)
		}
	}
	for n := 1 << 20; n < 200<<20; n += n / 3 { // sizes that never come back
		b, err := c.Alloc(kernels.Activations, dtype.Of(dtype.U8), n)
		if err != nil {
			t.Fatal(err)
		}
		c.Free(b)
		if a := c.arena; a.touched() > int(c.peak)+int(c.peak)/16+arenaSlack || len(a.regions) > 1 {
			t.Fatalf("%d bytes are held, %d were in use; %d regions", a.touched(), c.peak, len(a.regions))
		}
	}
}

// TestRegion: blocks never overlap, free neighbours become one hole, and the
// lowest place is taken first; with a limit, pages of free memory go back before
// more is touched than that, and what is in use stays as it is.
func TestRegion(t *testing.T) {
	for _, limit := range []int{0, 128 << 20} {
		t.Run(fmt.Sprint("limit ", limit), func(t *testing.T) { testRegion(t, limit) })
	}
}

func testRegion(t *testing.T, limit int) {
	a := newArena()
	a.limit = limit
	r := rand.New(rand.NewPCG(1, 2))
	type block struct {
		piece
		mark byte
	}
	var live []block
	used := 0
	for i := range 2000 {
		if len(live) > 0 && (r.IntN(5) < 2 || limit > 0 && used > limit-2<<20) {
			j := r.IntN(len(live))
			b := live[j]
			for k := 0; k < len(b.bytes); k += 4096 {
				if b.bytes[k] != b.mark {
					t.Fatal("a block was overwritten")
				}
			}
			used -= roundUp(len(b.bytes), 64)
			a.give(b.piece)
			live = slices.Delete(live, j, j+1)
			continue
		}
		p, err := a.take(mapFrom+r.IntN(1<<20), 0)
		if err != nil {
			t.Fatal(err)
		}
		if p.region == nil {
			t.Skip("nothing is mapped here")
		}
		for k := 0; k < len(p.bytes); k += 4096 {
			p.bytes[k] = byte(i)
		}
		live = append(live, block{p, byte(i)})
		used += roundUp(len(p.bytes), 64)
		touched := 0
		for _, r := range a.regions {
			touched += r.touched
		}
		if touched < used || limit > 0 && touched > limit {
			t.Fatalf("%d bytes are touched, %d in use", touched, used)
		}
	}
	for _, b := range live {
		a.give(b.piece)
	}
	for _, r := range a.regions {
		if len(r.free) != 1 || r.free[0].at != 0 || r.free[0].size != len(r.mem) {
			t.Errorf("holes %v of a free region of %d bytes", r.free, len(r.mem))
		}
	}
	p, _ := a.take(mapFrom, 0)
	q, _ := a.take(mapFrom, 0)
	a.give(p)
	if again, _ := a.take(mapFrom, 0); &again.bytes[0] != &p.bytes[0] || &q.bytes[0] == &p.bytes[0] {
		t.Error("the lowest place is not taken first")
	}
}

// TestSmallBlocks: small blocks lie outside the Go heap, apart from large ones, and
// take and hold no more than was in use at a time, whatever sizes come and go.
func TestSmallBlocks(t *testing.T) {
	c := New(Options{})
	defer c.Close()
	r := rand.New(rand.NewPCG(1, 2))
	var held []kernels.Buffer
	for i := range 20000 {
		if len(held) > 0 && (len(held) > 400 || r.IntN(2) == 0) {
			j := r.IntN(len(held))
			c.Free(held[j])
			held = slices.Delete(held, j, j+1)
			continue
		}
		n := 1 << r.IntN(17)
		b, err := c.Alloc(kernels.Activations, dtype.Of(dtype.U8), n+r.IntN(n))
		if err != nil {
			t.Fatal(err)
		}
		if len(c.arena.small) == 0 && b.(*Buf).block.region == nil {
			t.Skip("nothing is mapped here")
		}
		held = append(held, b)
		if i == 0 && len(c.arena.regions) > 0 {
			t.Error("a small block lies among large ones")
		}
	}
	if n := c.arena.touched(); n > int(c.peak)*5/4 {
		t.Errorf("%d bytes are held, %d were in use", n, c.peak)
	}
}

// TestClose: nothing is held afterwards, and late frees are no error.
func TestClose(t *testing.T) {
	c := New(Options{MemoryLimit: 1 << 30})
	small, err := c.Alloc(kernels.Activations, dtype.Of(dtype.F32), 3)
	large, err2 := c.Alloc(kernels.Weights, dtype.Of(dtype.F32), mapFrom)
	if err != nil || err2 != nil || len(c.arena.regions) == 0 {
		t.Fatal(err, err2, len(c.arena.regions))
	}
	c.Close()
	c.Close()
	c.Free(small)
	c.Free(large)
	if in := c.Info(); len(c.arena.regions) > 0 || kernels.Total(in.Mem.Now) > 0 {
		t.Errorf("%d regions, in use %v", len(c.arena.regions), in.Mem.Now)
	}
}

// TestMisuse: errors of the program panic.
func TestMisuse(t *testing.T) {
	c := New(Options{})
	alloc := func(n int) kernels.Buffer {
		b, err := c.Alloc(kernels.Activations, dtype.Of(dtype.F32), n)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for name, f := range map[string]func(){
		"free twice":       func() { b := alloc(3); c.Free(b); c.Free(b) },
		"free empty twice": func() { b := alloc(0); c.Free(b); c.Free(b) },
		"use after free":   func() { b := alloc(3); c.Free(b); c.Fill(b, 1) },
		"slice after free": func() { b := alloc(3); s := c.Slice(b, 1, 1); c.Free(b); c.Fill(s, 1) },
		"slice past end":   func() { c.Slice(alloc(3), 2, 2) },
		"alloc of blocks":  func() { c.Alloc(kernels.Weights, dtype.Of(dtype.Q4_0), 32) },
		"wrong type":       func() { b, _ := c.Alloc(kernels.Activations, dtype.Of(dtype.I32), 3); c.Fill(b, 1) },
		"short upload":     func() { c.Upload(alloc(3), make([]byte, 8)) },
		"short load":       func() { c.Load(kernels.Weights, dtype.Of(dtype.F32), 2, 2, make([]byte, 15), kernels.Copy) },
		"small buffer":     func() { c.Sum(kernels.To(alloc(1)), alloc(3), nil, 4) },
		"use after close": func() {
			d := New(Options{})
			b, _ := d.Alloc(kernels.Activations, dtype.Of(dtype.F32), 3)
			d.Close()
			d.Fill(b, 1)
		},
		"alloc after close": func() {
			d := New(Options{})
			d.Close()
			d.Alloc(kernels.Activations, dtype.Of(dtype.F32), 3)
		},
		"bad sequences": func() {
			x := alloc(8)
			s, _ := c.Alloc(kernels.Activations, dtype.Of(dtype.I32), 2)
			copy(i32(s), []int32{0, 3})
			h := kernels.Heads{Buffer: x, Tok: 2, Head: 2}
			c.Attention(h, nil, h, h, h, &kernels.AttnArgs{N: 4, H: 1, K: 1, Dk: 2, Seq: s})
		},
		"rotation past the head": func() {
			h := kernels.Heads{Buffer: alloc(4), Tok: 4, Head: 4}
			c.Rope(h, h, &kernels.RopeArgs{N: 1, H: 1, D: 4, Rot: 2, Off: 3, CS: alloc(2)})
		},
		"row of no table": func() {
			i, _ := c.Alloc(kernels.Activations, dtype.Of(dtype.I32), 1)
			copy(i32(i), []int32{2})
			c.Gather(kernels.To(alloc(3)), &kernels.GatherArgs{N: 1, Table: kernels.Mat{Buffer: alloc(6), Rows: 2, Cols: 3, Of: 2}, Idx: i})
		},
		"ring too small": func() {
			i, _ := c.Alloc(kernels.Activations, dtype.Of(dtype.I32), 2)
			copy(i32(i), []int32{0, 9})
			h := kernels.Heads{Buffer: alloc(2), Tok: 2, Head: 2}
			kv := &kernels.KV{Keys: alloc(8), Values: alloc(8), Slots: 1, Max: 4, K: 1, Dk: 2, Ring: true}
			c.KVAttention(h, h, kv, &kernels.KVAttnArgs{N: 1, H: 1, Slot: c.Slice(i, 0, 1), Pos: c.Slice(i, 1, 1), Scale: 1, Window: 5})
		},
	} {
		t.Run(name, func(t *testing.T) {
			defer func() {
				if recover() == nil {
					t.Error("no panic")
				}
			}()
			f()
		})
	}
}
