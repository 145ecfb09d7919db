package cpu

// decodeAVX2 is decode for AVX2.
func (u *unitType) decodeAVX2(units int, d []byte, ldb int, p *paramRoom, dst []float32, ldd int) {
	switch u.loop {
	case loopQ40:
		decode256Q4_0(units, &d[0], ldb, &p[0], &u.base[0], &dst[0], ldd)
	case loopQ41:
		decode256Q4_1(units, &d[0], ldb, &p[0], &u.base[0], &dst[0], ldd)
	case loopQ80:
		decode256Q8_0(units, &d[0], ldb, &p[0], &u.base[0], &dst[0], ldd)
	case loopQ50:
		decode256Q5_0(units, &d[0], ldb, &p[0], &u.base[0], &dst[0], ldd)
	case loopQ51:
		decode256Q5_1(units, &d[0], ldb, &p[0], &u.base[0], &dst[0], ldd)
	case loopLow:
		decode256Low(units, &d[0], ldb, &p[0], &u.base[0], &dst[0], ldd)
	case loopHigh:
		decode256High(units, &d[0], ldb, &p[0], &u.base[0], &dst[0], ldd)
	case loopBytes:
		decode256Bytes(units, &d[0], ldb, &p[0], &u.base[0], &dst[0], ldd)
	case loopE4M3:
		decode256E4M3(units, &d[0], ldb, &p[0], &u.base[0], &dst[0], ldd)
	case loopE2M1:
		decode256E2M1(units, &d[0], ldb, &p[0], &u.base[0], &dst[0], ldd)
	}
}

// decodeK runs the inner loop of a K type for some units.
func (u *unitType) decodeK(k kUnits, p *paramRoom, dst []float32, ldd int) {
	_ = dst[(k.n-1)*ldd+unitSize-1]
	codes, high := u.raw.Data[k.codes:], u.raw.Data[k.high:]
	_, _ = codes[(k.n-1)*k.ldb+unitSize-1], high[(k.n-1)*k.ldh+unitSize-1]
	switch u.loop {
	case loopK4:
		decode256K4(k.n, &codes[0], k.ldb, &p[0], &u.base[0], &dst[0], ldd, k.shift)
	case loopK5:
		decode256K5(k.n, &codes[0], k.ldb, &p[0], &u.base[0], &dst[0], ldd, k.shift, &high[0], k.ldh, k.bit, k.bitStep)
	case loopK6:
		decode256K6(&codes[0], &high[0], &p[0], &dst[0], k.shift, k.bit)
	}
}

// decodeK6Block decodes the block of Q6_K at offset at, with sixteen scales in p.
func (u *unitType) decodeK6Block(at int, p *paramRoom, dst []float32) {
	_, _ = u.raw.Data[at+u.unit-1], dst[255]
	decode256K6Block(&u.raw.Data[at], &p[0], &dst[0])
}
