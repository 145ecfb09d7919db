//go:build !amd64

package block

import "github.com/tunekit/tunekit/kernels/dtype"

func laneEncoder(dtype.Kind) chunkEncoder { return nil }

func (g *lattice) closestLanes(at, n int, x, weight []float32, scale float32, levels *[8]float32) (place int, ok bool) {
	return 0, false
}

func (s *iqGroup) roundLanes(codes *[8]uint16, inverse float32) bool { return false }

func (r *eights) expandLanes(dst []float32) bool { return false }

// Finite reports whether no value is NaN or infinite.
func Finite(x []float32) bool { return plainFinite(x) }

func scaled(v, x, s []float32, limit float32) (lo, hi float32) { return plainScaled(v, x, s, limit) }

func unscaled(v, s []float32, scale, zero, top float32) { plainUnscaled(v, s, scale, zero, top) }

// AdamW makes steps of moments in codes in one pass, of no block here.
func AdamW(p, g []float32, m, v []byte, mtop, vtop []float32, k *[8]float32) int { return 0 }

func topLanes([]float32) (float32, int) { return 0, 0 }

func (d *Dynamic) encodeLanes([]byte, []float32, float32) int { return 0 }

func (d *Dynamic) decodeLanes([]float32, []byte, float32) int { return 0 }
