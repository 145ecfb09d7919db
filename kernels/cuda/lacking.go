package cuda

import "github.com/tunekit/tunekit/kernels"

// What is not there yet. Each ends the step with an error that names it.

// Conv1D is not there yet.
func (c *CUDA) Conv1D(kernels.Dst, *kernels.ConvArgs) { c.lacks("a convolution") }

// Conv1DBackward is not there yet.
func (c *CUDA) Conv1DBackward(_, _, _ kernels.Dst, _ kernels.Buffer, _ *kernels.ConvArgs) {
	c.lacks("a convolution")
}

// DeltaScan is not there yet.
func (c *CUDA) DeltaScan(_, _, _, _ kernels.Heads, _ *kernels.DeltaArgs) {
	c.lacks("the gated delta rule")
}

// DeltaScanBackward is not there yet.
func (c *CUDA) DeltaScanBackward(_ *kernels.DeltaGrads, _, _, _, _ kernels.Heads, _ *kernels.DeltaArgs) {
	c.lacks("the gated delta rule")
}

// SSMScan is not there yet.
func (c *CUDA) SSMScan(_, _, _, _ kernels.Heads, _ *kernels.SSMArgs) { c.lacks("a selective scan") }

// SSMScanBackward is not there yet.
func (c *CUDA) SSMScanBackward(_ *kernels.SSMGrads, _, _, _, _ kernels.Heads, _ *kernels.SSMArgs) {
	c.lacks("a selective scan")
}

// Sinkhorn is not there yet.
func (c *CUDA) Sinkhorn(kernels.Dst, *kernels.SinkhornArgs) { c.lacks("Sinkhorn's normalisation") }

// SinkhornBackward is not there yet.
func (c *CUDA) SinkhornBackward(kernels.Dst, kernels.Buffer, *kernels.SinkhornArgs) {
	c.lacks("Sinkhorn's normalisation")
}

// Divergence is not there yet.
func (c *CUDA) Divergence(*kernels.DivergenceOut, kernels.Dst, *kernels.DivergenceArgs) {
	c.lacks("the divergence from a teacher")
}

// noF16 refuses products of operands rounded to half precision.
func (c *CUDA) noF16(asked bool) {
	if asked {
		c.lacks("products in half precision")
	}
}
