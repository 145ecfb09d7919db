module github.com/tunekit/tunekit/kernels/cuda/gen

go 1.26.0

require github.com/tunekit/tunekit v0.0.0

require github.com/ebitengine/purego v0.11.3 // indirect

replace github.com/tunekit/tunekit => ../../..
