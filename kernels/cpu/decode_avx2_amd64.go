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
	}
}

// decodeKAVX2 is decodeK for AVX2.
func (u *unitType) decodeKAVX2(k kUnits, codes, high []byte, p *paramRoom, dst []float32, ldd int) {
	switch u.loop {
	case loopK4:
		decode256K4(k.n, &codes[0], k.ldb, &p[0], &u.base[0], &dst[0], ldd, k.shift)
	case loopK5:
		decode256K5(k.n, &codes[0], k.ldb, &p[0], &u.base[0], &dst[0], ldd, k.shift, &high[0], k.ldh, k.bit, k.bitStep)
	case loopK6:
		decode256K6(&codes[0], &high[0], &p[0], &dst[0], k.shift, k.bit)
	}
}
