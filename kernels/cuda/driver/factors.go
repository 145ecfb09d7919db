package driver

// Factorer is a Driver beside which a library of decompositions can be loaded.
type Factorer interface {
	Driver
	// Factors loads the library. It is closed before the driver is. The error says what
	// was looked for, or which call failed.
	Factors() (Factors, error)
}

// Factors is a library of decompositions, in the stream of its driver and used from its
// thread.
type Factors interface {
	// Version names the library with its version, e.g. cusolver-12.2.0, and Path says
	// where it lies.
	Version() string
	Path() string
	// Room is the bytes of the device that Invert works in.
	Room(a Ptr, n int) (int64, error)
	// Invert replaces A, float32 [n, n] by rows, by L⁻¹ where A = L·Lᵀ. Of both the lower
	// triangle alone is read and written. failed is two int32: both 0, or that of the step
	// that failed is not; the first is above 0 where A is not positive definite. It does
	// not wait.
	Invert(a Ptr, n int, room Ptr, bytes int64, failed Ptr) error
	Close() error
}
