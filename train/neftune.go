package train

import (
	"math"

	"github.com/tunekit/tunekit/data"
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/par"
)

// neftuneSite sets the random numbers of NEFTune apart from those of dropout.
const neftuneSite = math.MaxUint32

// neftune is noise for the embedded tokens of b [N, width], uniform within
// ± alpha/√(length·width) with the length of each token's own sequence (Jain et al.
// 2023, arXiv:2310.05914). It depends on the seed, the step and the token alone.
func neftune(b *data.Batch, width int, alpha float64, seed uint64, step int) []float32 {
	out := make([]float32, len(b.IDs)*width)
	d := kernels.Drop{Seed: seed, Step: uint32(step), Site: neftuneSite}
	for s := 0; s+1 < len(b.Seq); s++ {
		from, to := int(b.Seq[s]), int(b.Seq[s+1])
		size := alpha / math.Sqrt(float64((to-from)*width))
		par.For(to-from, 16, func(lo, hi int) {
			for n := from + lo; n < from+hi; n++ {
				row, x := d.DropRow(b.Key[n]), out[n*width:(n+1)*width]
				for c := range x {
					x[c] = float32(size * ((float64(kernels.DropWord(row, c))+0.5)/(1<<31) - 1))
				}
			}
		})
	}
	return out
}
