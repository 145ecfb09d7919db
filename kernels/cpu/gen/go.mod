module github.com/tunekit/tunekit/kernels/cpu/gen

go 1.26.0
