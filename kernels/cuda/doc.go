// Package cuda is the backend that computes on an NVIDIA GPU.
//
// # State
//
// No part of it has run on a GPU yet. The kernels are shown to compute what
// kernels.Backend promises by interpreting them (kernels/cuda/ptxsim), and the
// calls into NVIDIA's driver against a stand-in of its library that only checks
// arguments (kernels/cuda/driver). Speed is not a claim. Products in bf16 and f16 run on
// tensor cores (mma.h, and wgmma_90a.cu on compute capability 9.0), after what is not stored in 16 bits, rows of whole 16
// bytes, was made so in scratch memory; products of up to 16 rows decode as
// they multiply, in f32 (thin.h); attention of bf16, where its arguments allow
// the rounding, runs on tensor cores (flash.cu). Other products in f32 and other
// attention are plain f32 kernels. What is not there (rounding to the types of GGUF,
// very wide states of scans) ends the step with an error that names it, and nothing
// is computed on the CPU instead.
//
// # How it works
//
// Kernels are C++ without headers in src, made into PTX of compute capability 8.0
// (those of files in _90a: sm_90a) by NVRTC 12.4 (make generate-cuda) and committed in ptx; the driver translates
// them for its GPU when they are first used. Each has one structure as its
// parameter, which has a twin here. Sums have a fixed order and there are no
// atomics, so a result has the same bits in every run on one kind of GPU.
//
// A device is one goroutine that is locked to its OS thread, where the driver
// keeps its context. Methods may be called from any goroutine and put their work
// into its queue, which is also the order of the GPU's stream; Alloc (of new
// memory), Download and Run wait for it. The first thing that fails stays the
// device's error: what follows is dropped, and Run, Download and Alloc return it.
//
// Launches that repeat are started as graphs (graphs.go).
//
// Freed memory is kept by size and used again, which is safe in one stream; where
// the device has no more, it is given back first.
//
// The interface driver.Driver is what a device must do. It has two
// implementations, and the tests of this package run on both.
package cuda
