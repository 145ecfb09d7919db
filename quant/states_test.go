package quant

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/tunekit/tunekit/autograd"
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/cpu"
)

// A store gives back what it was given, wherever it lies, keeps what did not
// change, takes no more of the device than it may, and leaves nothing behind.
func TestStore(t *testing.T) {
	const rows, cols = 4, 8
	for _, room := range []int64{-1, 0, 4 * rows * cols, 8 * rows * cols} {
		dev := cpu.New(cpu.Options{})
		disk := &spill{path: filepath.Join(t.TempDir(), "out")}
		s := newStore(dev, room, disk)
		want := map[int][][]float32{}
		for round := range uint64(3) {
			for pass := range 2 {
				tape := &autograd.Tape{Dev: dev}
				held := s.load(pass, tape)
				if round == 2 && len(held) != 2 {
					t.Fatalf("room %d: %d tensors", room, len(held))
				}
				for j, x := range held {
					v, err := tape.Values(x)
					if err != nil || !slices.Equal(v, want[pass][j]) {
						t.Errorf("room %d, round %d, pass %d: tensor %d comes back as another, %v", room, round, pass, j, err)
					}
				}
				now := [][]float32{normal(10*round+uint64(pass), rows*cols), normal(100+10*round+uint64(pass), rows*cols)}
				xs := []*autograd.Tensor{tape.Upload(now[0], rows, cols), tape.Upload(now[1], rows, cols)}
				if round == 1 { // the first stays
					xs[0], now[0] = held[0], want[pass][0]
				}
				if err := s.keep(pass, xs); err != nil {
					t.Fatal(err)
				}
				want[pass] = now
				tape.Free()
			}
			if used := kernels.Total(dev.Info().Mem.Now); room >= 0 && used > room || room < 0 && used != 16*rows*cols {
				t.Errorf("room %d, round %d: %d bytes of the device", room, round, used)
			}
		}
		s.free()
		if used := kernels.Total(dev.Info().Mem.Now); used != 0 {
			t.Errorf("room %d: %d bytes are left", room, used)
		}
		if want := int64(16 * rows * cols); room == 0 && disk.end != want || room < 0 && disk.end != 0 {
			t.Errorf("room %d: %d bytes of the disk", room, disk.end)
		}
		disk.close()
		if left, _ := os.ReadDir(filepath.Dir(disk.path)); len(left) > 0 {
			t.Errorf("room %d: %v is left", room, left)
		}
	}
}
