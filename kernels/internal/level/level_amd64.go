package level

import (
	"sync"
	"time"

	"golang.org/x/sys/cpu"
)

// Conjunctions, computed once: a single feature bit proves nothing about the
// others (GODEBUG=cpu.avx512f=off clears that bit alone).
var (
	hasAVX2   = cpu.X86.HasAVX2 && cpu.X86.HasFMA && cpu.X86.HasF16C && cpu.X86.HasBMI1 && cpu.X86.HasBMI2 && cpu.X86.HasPOPCNT
	hasAVX512 = hasAVX2 && cpu.X86.HasAVX512F && cpu.X86.HasAVX512BW && cpu.X86.HasAVX512DQ && cpu.X86.HasAVX512VL
	hasBF16   = hasAVX512 && cpu.X86.HasAVX512BF16
	hasAMX    = hasBF16 && cpu.X86.HasAMXTile && cpu.X86.HasAMXBF16 && wholeTiles()
	hasVNNI   = hasAVX512 && cpu.X86.HasAVX512VNNI
	hasVBMI   = hasAVX512 && cpu.X86.HasAVX512VBMI
	hasBITALG = hasAVX512 && cpu.X86.HasAVX512BITALG
)

// HasVNNI reports whether the processor has an int8 dot product beside AVX-512.
func HasVNNI() bool { return hasVNNI }

// HasVBMI reports whether the processor permutes bytes beside AVX-512.
func HasVBMI() bool { return hasVBMI }

// HasBITALG reports whether the processor picks bits and counts those of bytes beside AVX-512.
func HasBITALG() bool { return hasBITALG }

func has(l Level) bool {
	switch l {
	case AVX2:
		return hasAVX2
	case AVX512:
		return hasAVX512
	case AVX512BF16:
		return hasBF16
	case AMX:
		return hasAMX && permitted()
	}
	return l == Generic
}

// permitted asks the system, once, for the state of tiles: without its leave the
// first instruction of AMX ends the process. Nobody asks where a lower level is forced.
var permitted = sync.OnceValue(permitTiles)

// wholeTiles reports whether tiles have the sizes that the kernels are made for
// (Intel SDM volume 2, CPUID leaves 1DH and 1EH): 8 tiles of 16 rows of 64 bytes.
func wholeTiles() bool {
	var r [4]uint32
	if cpuid(0, 0, &r[0]); r[0] < 0x1e {
		return false
	}
	cpuid(0x1d, 1, &r[0])
	tiles := r[1]>>16 >= 8 && r[1]&0xffff >= 64 && r[2]&0xffff >= 16
	cpuid(0x1e, 0, &r[0])
	return tiles && r[1]&0xff >= 16 && r[1]>>8&0xffff >= 64
}

// ratioBF16 times multiply-adds of bf16 pairs against those of f32, ratioAMX
// those of tiles. It takes about 50 µs.
func ratioBF16() float64 { return ratio(rateBF16, 1000, 24*64) }
func ratioAMX() float64  { return ratio(rateAMX, 200, 4*tileFlops) }

// tileFlops is the operations of one product of tiles.
const tileFlops = 2 * 16 * 16 * 32

// ratio is the rate of n rounds of other, of so many operations, in terms of that
// of f32, on registers: interleaved slices of a few µs, the best of each counts, so
// an interrupt spoils a slice and not the result.
func ratio(other func(int), n int, flops float64) float64 {
	const rounds = 1000
	var best [2]time.Duration
	rateFMA(rounds) // wake the wide units
	other(1)
	for range 8 {
		for i, f := range [2]func(){func() { rateFMA(rounds) }, func() { other(n) }} {
			t := time.Now()
			f()
			if d := time.Since(t); best[i] == 0 || d < best[i] {
				best[i] = d
			}
		}
	}
	return float64(n) * flops / float64(best[1]) / (rounds * 24 * 32 / float64(best[0]))
}
