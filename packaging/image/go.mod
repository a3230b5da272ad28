// Kernels and firmware of the flash images, pinned by go.sum; no code is taken from them.
module tidegate/packaging/image

go 1.26.0

require (
	github.com/gokrazy/firmware v0.0.0-20260522070551-527ce0ed43cf
	github.com/gokrazy/kernel.arm64 v0.0.0-20260705071517-37841c4d6ff1
	github.com/gokrazy/kernel.rpi v0.0.0-20251127164438-9778ec0261de
)
