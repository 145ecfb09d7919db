package cpu

import (
	"encoding/binary"

	blocks "github.com/tunekit/tunekit/kernels/block"
)

// Q4_K, Q5_K and Q6_K by units: blocks of 256 elements, so of eight units. Units
// 2i and 2i+1 of Q4_K and Q5_K are the low and the high nibbles of the same 32 bytes.

// kUnits says where the codes of n units are.
type kUnits struct {
	n          int
	codes, ldb int // offset of the first, bytes to the next
	shift      int // of the nibble: 0 or 4
	high, ldh  int // the same of the high bits
	bit        int // shift of the high bits
	bitStep    int // from one unit to the next
}

func (u *unitType) isK() bool { return u.loop >= loopK4 && u.loop <= loopK6 }

// unitK locates unit i of the block at offset at.
func (u *unitType) unitK(at, i int) kUnits {
	switch u.loop {
	case loopK4:
		return kUnits{n: 1, codes: at + 16 + i/2*32, shift: i % 2 * 4}
	case loopK5:
		return kUnits{n: 1, codes: at + 48 + i/2*32, shift: i % 2 * 4, high: at + 16, bit: i}
	}
	return kUnits{n: 1, codes: at + i/4*64 + i%2*32, shift: i % 4 / 2 * 4, high: at + 128 + i/4*32, bit: i % 4 * 2}
}

// scalesK are the two f16 of the block at offset at; Q6_K has one.
func (u *unitType) scalesK(at int) (d, dmin float32) {
	b := u.raw.Data[at:]
	if u.loop == loopK6 {
		return blocks.FromF16(binary.LittleEndian.Uint16(b[208:])), 0
	}
	return blocks.FromF16(binary.LittleEndian.Uint16(b)), blocks.FromF16(binary.LittleEndian.Uint16(b[2:]))
}

// paramsK writes the scales of unit i of the block at offset at.
func (u *unitType) paramsK(p []float32, at, i int, d, dmin float32) {
	if u.loop == loopK6 {
		b := u.raw.Data[at+192:]
		p[0], p[4] = d*float32(int8(b[2*i])), d*float32(int8(b[2*i+1]))
		return
	}
	b := u.raw.Data[at+4:][:12]
	var s, m byte
	if i < 4 {
		s, m = b[i]&63, b[4+i]&63
	} else {
		s, m = b[4+i]&15|b[i-4]>>6<<4, b[4+i]>>4|b[i]>>6<<4
	}
	p[0], p[1], p[2] = d*float32(s), 0, -(dmin * float32(m))
}

// rowK decodes n elements of a row.
func (u *unitType) rowK(dst []float32, p *paramRoom, row, col, n int) {
	for n > 0 {
		at := row*u.row + col/256*u.unit
		first := col % 256 / unitSize
		units := min(8-first, n/unitSize)
		d, dmin := u.scalesK(at)
		switch {
		case u.loop == loopK6 && units == 8:
			for i := range 16 {
				p[i] = d * float32(int8(u.raw.Data[at+192+i]))
			}
			u.decodeK6Block(at, p, dst)
		case u.loop == loopK6:
			for i := range units {
				u.paramsK(p[:], at, first+i, d, 0)
				u.decodeK(u.unitK(at, first+i), p, dst[i*unitSize:], unitSize)
			}
		default:
			u.everySecond(dst, p, at, first, units, d, dmin)
			u.everySecond(dst[unitSize:], p, at, first+1, units-1, d, dmin)
		}
		dst, col, n = dst[units*unitSize:], col+units*unitSize, n-units*unitSize
	}
}

// everySecond decodes units first, first+2, … of those that are left in a block.
func (u *unitType) everySecond(dst []float32, p *paramRoom, at, first, left int, d, dmin float32) {
	if left <= 0 {
		return
	}
	k := u.unitK(at, first)
	k.n, k.ldb, k.bitStep = (left+1)/2, 32, 2
	for i := range k.n {
		u.paramsK(p[i*unitParams:], at, first+2*i, d, dmin)
	}
	u.decodeK(k, p, dst, 2*unitSize)
}

// stripK decodes the unit at column col of n rows.
func (u *unitType) stripK(dst []float32, ldd int, p *paramRoom, row, n, col int) {
	at, i := row*u.row+col/256*u.unit, col%256/unitSize
	if u.loop == loopK6 {
		for r := range n {
			d, _ := u.scalesK(at + r*u.row)
			u.paramsK(p[:], at+r*u.row, i, d, 0)
			u.decodeK(u.unitK(at+r*u.row, i), p, dst[r*ldd:], ldd)
		}
		return
	}
	k := u.unitK(at, i)
	k.n, k.ldb, k.ldh = n, u.row, u.row
	for r := range n {
		d, dmin := u.scalesK(at + r*u.row)
		u.paramsK(p[r*unitParams:], at+r*u.row, i, d, dmin)
	}
	u.decodeK(k, p, dst, ldd)
}
