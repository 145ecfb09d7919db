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

// tileGeneric: c[i][j] = alpha·Σ_k a[k][i]·b[k][j], plus c[i][j] with acc; nr is
// a multiple of 4.
func tileGeneric(k int, a, b, c []float32, mr, nr, ldc int, acc bool, alpha float32) {
	for i := 0; i < mr; i += 2 {
		second := min(i+1, mr-1) // the same row twice at an odd end
		for j := 0; j < nr; j += 4 {
			var s0, s1, s2, s3, t0, t1, t2, t3 float32
			for p := range k {
				x, y := a[p*mr+i], a[p*mr+second]
				q := b[p*nr+j:][:4]
				s0 += float32(x * q[0])
				s1 += float32(x * q[1])
				s2 += float32(x * q[2])
				s3 += float32(x * q[3])
				t0 += float32(y * q[0])
				t1 += float32(y * q[1])
				t2 += float32(y * q[2])
				t3 += float32(y * q[3])
			}
			store4(c[i*ldc+j:], acc, float32(alpha*s0), float32(alpha*s1), float32(alpha*s2), float32(alpha*s3))
			if second > i {
				store4(c[second*ldc+j:], acc, float32(alpha*t0), float32(alpha*t1), float32(alpha*t2), float32(alpha*t3))
			}
		}
	}
}

func store4(c []float32, acc bool, v0, v1, v2, v3 float32) {
	c = c[:4]
	if acc {
		v0, v1, v2, v3 = c[0]+v0, c[1]+v1, c[2]+v2, c[3]+v3
	}
	c[0], c[1], c[2], c[3] = v0, v1, v2, v3
}
