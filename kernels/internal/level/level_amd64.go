package level

import (
	"time"

	"golang.org/x/sys/cpu"
)

// Conjunctions, computed once: a single feature bit proves nothing about the
// others (GODEBUG=cpu.avx512f=off clears that bit alone).
var (
	hasAVX2   = cpu.X86.HasAVX2 && cpu.X86.HasFMA && cpu.X86.HasF16C && cpu.X86.HasBMI1 && cpu.X86.HasBMI2 && cpu.X86.HasPOPCNT
	hasAVX512 = hasAVX2 && cpu.X86.HasAVX512F && cpu.X86.HasAVX512BW && cpu.X86.HasAVX512DQ && cpu.X86.HasAVX512VL
	hasBF16   = hasAVX512 && cpu.X86.HasAVX512BF16
	hasVNNI   = hasAVX512 && cpu.X86.HasAVX512VNNI
	hasVBMI   = hasAVX512 && cpu.X86.HasAVX512VBMI
)

// HasVNNI reports whether the processor has an int8 dot product beside AVX-512.
func HasVNNI() bool { return hasVNNI }

// HasVBMI reports whether the processor permutes bytes beside AVX-512.
func HasVBMI() bool { return hasVBMI }

func has(l Level) bool {
	switch l {
	case AVX2:
		return hasAVX2
	case AVX512:
		return hasAVX512
	case AVX512BF16:
		return hasBF16
	}
	return l == Generic
}

// ratioBF16 times multiply-adds of bf16 pairs against those of f32, on
// registers: interleaved slices of 24000 instructions, the best of each counts,
// so an interrupt spoils a slice and not the result. It takes about 50 µs.
var ratioBF16 = func() float64 {
	var best [2]time.Duration
	rateFMA(1000) // wake the wide units
	for range 8 {
		for i, rate := range [2]func(int){rateFMA, rateBF16} {
			t := time.Now()
			rate(1000)
			if d := time.Since(t); best[i] == 0 || d < best[i] {
				best[i] = d
			}
		}
	}
	return 2 * float64(best[0]) / float64(best[1])
}
