package main

import (
	"fmt"
	"math"
)

// The values of IQ4 and the midpoints between them.
var (
	iq4Values = []float32{-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113}
	iq4Mid    = []float32{-115.5, -93.5, -74, -57, -42, -28.5, -16, -4.5, 7, 19, 31.5, 45.5, 61, 79, 101}
)

// iq4Bucket is the width of the buckets that the range is cut into: at most one
// midpoint lies in each or close to it, so that a value rounded into the bucket
// beside its own still finds its code.
const iq4Bucket = 9

// iq4Tables writes for the buckets -16 … 15 the midpoint and the code below it.
func iq4Tables() {
	var mid, code [32]float32
	for i := range mid {
		low, high := float32(iq4Bucket*(i-16))-iq4Bucket/2.0-0.5, float32(iq4Bucket*(i-16))+iq4Bucket/2.0+0.5
		n := 0
		for n < 15 && iq4Mid[n] < low {
			n++
		}
		mid[i], code[i] = math.MaxFloat32, float32(n)
		if n < 15 && iq4Mid[n] <= high {
			mid[i] = iq4Mid[n]
			if n < 14 && iq4Mid[n+1] <= high {
				panic("two midpoints in a bucket")
			}
		}
	}
	fmt.Fprintln(&out.asm)
	data := func(name string, vs []uint32) {
		for i, v := range vs {
			fmt.Fprintf(&out.asm, "DATA %s<>+%d(SB)/4, $0x%08x\n", name, 4*i, v)
		}
		fmt.Fprintf(&out.asm, "GLOBL %s<>(SB), RODATA|NOPTR, $%d\n", name, 4*len(vs))
	}
	bits := func(vs []float32) (o []uint32) {
		for _, v := range vs {
			o = append(o, math.Float32bits(v))
		}
		return o
	}
	var codes []uint32
	for _, c := range code {
		codes = append(codes, uint32(c))
	}
	data("iq4Mid", bits(mid[:]))
	data("iq4Code", codes)
	data("iq4Value", bits(iq4Values))
}

// Registers of the IQ4 tables.
const (
	zInv   = 30 // 1/bucket
	zMid0  = 28
	zMid1  = 27
	zCode0 = 26
	zCode1 = 25
	zValue = 24
	zOne   = 23
)

func iq4Constants() {
	broadcastF(12582912+16, zMagic)
	broadcastF(1.0/iq4Bucket, zInv)
	broadcast(1, zOne)
	for i, z := range []int{zMid0, zMid1} {
		e("VMOVUPS iq4Mid<>+%d(SB), Z%d", 64*i, z)
	}
	for i, z := range []int{zCode0, zCode1} {
		e("VMOVUPS iq4Code<>+%d(SB), Z%d", 64*i, z)
	}
	e("VMOVUPS iq4Value<>(SB), Z%d", zValue)
}

// iq4 leaves the code of v, within ±139, in c; it uses t and K1.
func iq4(v, c, t int) {
	zMove(v, c)
	e("VFMADD132PS Z%d, Z%d, Z%d", zInv, zMagic, c) // the bucket; exactness is not needed
	zMove(c, t)
	e("VPERMI2PS Z%d, Z%d, Z%d", zMid1, zMid0, t)
	zCompare(">=", v, t, "", "K1")
	e("VPERMI2D Z%d, Z%d, Z%d", zCode1, zCode0, c)
	e("VPADDD Z%d, Z%d, K1, Z%d", zOne, c, c)
}

// laneIQ4 is scaleIQ4.
func laneIQ4() {
	const (
		at, amax, scale, best, id, qx, q2, q, v, w, t, u, zero = 1, 0, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14
	)
	text("IQ4", "is scaleIQ4. num are the tries' numerators after the first. out is the scale.",
		arg{"n", "int", "AX"}, arg{"x", "*float32", "BX"}, arg{"w", "*float32", "CX"}, arg{"num", "*float32", "SI"}, arg{"tries", "int", "DI"}, arg{"out", "*float32", "R9"})
	extremes()
	iq4Constants()
	broadcastF(1e-15, t)
	zCompare(">=", amax, t, "", "K4")
	zZero(zero)
	fit := func(name string) {
		zZero(qx)
		zZero(q2)
		elements(name, func() {
			lane("BX", v)
			lane("CX", w)
			zMul(id, v, u)
			iq4(u, q, t)
			e("VPERMPS Z%d, Z%d, Z%d", zValue, q, q)
			zMul(w, q, w)
			zMul(w, v, v)
			zAdd(qx, v, qx)
			zMul(w, q, w)
			zAdd(q2, w, q2)
		})
	}
	broadcast(0x80000000, t)
	z3("VPXORD", t, at, id)
	broadcastF(-127, t)
	zDiv(id, t, id)
	broadcastF(1, t)
	zDiv(t, id, id)
	fit("first")
	zCompare(">", q2, zero, "", "K2")
	e("VDIVPS.Z Z%d, Z%d, K2, Z%d", q2, qx, scale)
	zMul(scale, qx, best)
	label("try")
	e("VBROADCASTSS (SI), Z%d", id)
	e("ADDQ $4, SI")
	zDiv(id, at, id)
	fit("fit")
	zCompare(">", q2, zero, "", "K2")
	zMul(qx, qx, t)
	zMul(best, q2, u)
	zCompare(">", t, u, "K2", "K3")
	e("VDIVPS Z%d, Z%d, K3, Z%d", q2, qx, scale)
	e("VMULPS Z%d, Z%d, K3, Z%d", qx, scale, best)
	e("DECQ DI")
	e("JNE try")
	e("VMOVAPS.Z Z%d, K4, Z%d", scale, scale)
	e("VMOVUPS Z%d, (R9)", scale)
	ret()
}
