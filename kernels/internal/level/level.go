// Package level decides which kernels run on this processor: plain Go, NEON,
// AVX2, AVX-512, AVX-512 with its bf16 dot product or AVX-512 with AMX's bf16
// tiles. Every vector path asks Current and nothing else, so one variable forces
// any level that the machine has: TUNE_KERNELS=generic|neon|avx2|avx512|avx512bf16|amx.
package level

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
)

// Level is a set of kernels. An AVX level includes those below it.
type Level uint8

const (
	Generic    Level = iota // plain Go, the specification
	NEON                    // Advanced SIMD, which every arm64 has
	AVX2                    // AVX2, FMA, F16C
	AVX512                  // AVX-512 F, BW, DQ, VL and what AVX2 has
	AVX512BF16              // and a bf16 dot product clearly faster than f32 arithmetic
	AMX                     // and tiles of bf16 that are much faster, which the system lets this process use
)

// Variable is the environment variable that forces a level.
const Variable = "TUNE_KERNELS"

var names = []string{"generic", "neon", "avx2", "avx512", "avx512bf16", "amx"}

func (l Level) String() string { return names[l] }

// current is 1 + the level in use; 0 while nobody has asked.
var current atomic.Int32

// Current is the level in use: the forced one, else the best that the
// processor has and that pays here.
func Current() Level {
	if v := current.Load(); v > 0 {
		return Level(v - 1)
	}
	c := choose()
	current.CompareAndSwap(0, int32(c.level)+1)
	return Level(current.Load() - 1)
}

// Check returns an error when TUNE_KERNELS names a level that does not exist or
// that this processor cannot run. Current then uses the best level there is.
func Check() error { return choose().err }

// Supported lists the levels this processor can run, slowest first.
func Supported() []Level {
	out := []Level{Generic}
	for l := NEON; l <= AMX; l++ {
		if has(l) {
			out = append(out, l)
		}
	}
	return out
}

// Force switches to l until restore is called. It is for tests: no kernel may
// be running, and l must be Supported.
func Force(l Level) (restore func()) {
	if !has(l) {
		panic(fmt.Sprintf("level: %v is not supported here", l))
	}
	old := Current()
	current.Store(int32(l) + 1)
	return func() { current.Store(int32(old) + 1) }
}

// Prefer makes Current the level called name where TUNE_KERNELS does not force
// one and this processor has it: results of an earlier run are gone on with at
// their level. Any other name leaves the choice that Current makes of itself.
// No kernel may be running.
func Prefer(name string) { current.Store(int32(prefer(choose(), name)) + 1) }

func prefer(c choice, name string) Level {
	if i := slices.Index(names, name); i >= 0 && !c.forced && has(Level(i)) {
		return Level(i)
	}
	return c.level
}

type choice struct {
	level  Level
	forced bool
	err    error
}

var choose = sync.OnceValue(func() choice { return pick(os.Getenv(Variable)) })

// pick is what the value of TUNE_KERNELS asks for.
func pick(name string) choice {
	if name == "" {
		return choice{level: best()}
	}
	i := slices.Index(names, name)
	if i < 0 {
		return choice{level: best(), err: fmt.Errorf("%s=%s: no such level; known are %s", Variable, name, strings.Join(names, ", "))}
	}
	if !has(Level(i)) {
		return choice{level: best(), err: fmt.Errorf("%s=%s: this processor cannot run it; it has %v", Variable, name, Supported())}
	}
	return choice{level: Level(i), forced: true}
}

// How many times the arithmetic of the f32 kernels that of bf16 must reach to be
// used. For the dot product processors differ by far: half (Intel with AVX-512
// BF16) or twice (Zen 4, Zen 5), so that noise cannot decide. Tiles are 16 times as
// fast on registers (Sapphire Rapids) and have to be loaded, too; what emulates
// them is slower than f32.
const (
	fasterBF16 = 1.3
	fasterAMX  = 4
)

// best is the highest supported level whose kernels pay.
func best() Level {
	all := Supported()
	top := all[len(all)-1]
	if top == AMX && ratioAMX() < fasterAMX {
		top = AVX512BF16
	}
	if top == AVX512BF16 && ratioBF16() < fasterBF16 {
		return AVX512
	}
	return top
}
