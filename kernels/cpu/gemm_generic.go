package cpu

import "unsafe"

// genericKernel is the specification of every micro-kernel.
var genericKernel = func() *kernel {
	k := &kernel{mr: 4, ku: 1, wide: make([]micro, 5), narrow: make([]micro, 5)}
	for mr := 1; mr <= k.mr; mr++ {
		k.wide[mr] = genericMicro(mr, 32)
		k.narrow[mr] = genericMicro(mr, 16)
	}
	return k
}()

func genericMicro(mr, nr int) micro {
	return func(k int, a, b, c *float32, ldc, acc int, alpha float32) {
		tileGeneric(k, unsafe.Slice(a, k*mr), unsafe.Slice(b, k*nr), unsafe.Slice(c, (mr-1)*ldc+nr), mr, nr, ldc, acc != 0, alpha)
	}
}

// tileGeneric: c[i][j] = alpha·Σ_k a[k][i]·b[k][j], plus c[i][j] with acc.
func tileGeneric(k int, a, b, c []float32, mr, nr, ldc int, acc bool, alpha float32) {
	var s [4]float32
	for i := range mr {
		for j := 0; j < nr; j += 4 {
			s = [4]float32{}
			for p := range k {
				x := a[p*mr+i]
				q := b[p*nr+j:][:4]
				s[0] += float32(x * q[0])
				s[1] += float32(x * q[1])
				s[2] += float32(x * q[2])
				s[3] += float32(x * q[3])
			}
			out := c[i*ldc+j:][:4]
			for x, v := range s {
				v = float32(alpha * v)
				if acc {
					v += out[x]
				}
				out[x] = v
			}
		}
	}
}
