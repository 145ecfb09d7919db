package cpu

import "github.com/tunekit/tunekit/kernels/internal/level"

//go:generate go run -C gen .

// Level names the kernels in use: generic, neon, avx2, avx512, avx512bf16 or amx. It
// is chosen once, by what the processor has and by what is faster on it, or forced
// by TUNE_KERNELS. It is part of the address of every result.
func Level() string { return level.Current().String() }

// CheckLevel returns an error when TUNE_KERNELS asks for a level that does not
// exist or that this processor cannot run.
func CheckLevel() error { return level.Check() }

// PreferLevel goes on at the level of earlier results, where TUNE_KERNELS forces
// none and this processor has it; "" is the level of its own. Nothing may run.
func PreferLevel(name string) { level.Prefer(name) }

func levelName() string { return Level() }

// fastBF16 reports whether a product of bf16 operands is clearly faster than one of f32.
func fastBF16() bool { return level.Current() >= level.AVX512BF16 }

// onTiles reports whether products of bf16 are made on tiles.
func onTiles() bool { return level.Current() == level.AMX }

// Supported lists the kernel levels this processor can run, slowest first.
func Supported() []string {
	var out []string
	for _, l := range level.Supported() {
		out = append(out, l.String())
	}
	return out
}
