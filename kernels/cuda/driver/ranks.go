package driver

// Linker is a Driver that can be connected with those of other processes.
type Linker interface {
	Driver
	// Ranks loads the library that connects. It is closed before the driver is. The error
	// says what was looked for, or which call failed.
	Ranks() (Ranks, error)
	// Idle reports whether everything that was called is done.
	Idle() (bool, error)
}

// Ranks connects a device with those of other processes of this machine. It is used from
// the thread of its driver, and queues in its stream.
type Ranks interface {
	// Version names the library with its version, e.g. nccl-2.27.3, and Path says where it
	// lies.
	Version() string
	Path() string
	// ID makes what every rank is to be given to Join.
	ID() ([]byte, error)
	// Join waits until all of size ranks have called it with the same id.
	Join(id []byte, rank, size int) error
	// AllGather makes the n bytes at src of every rank, in the order of the ranks, those
	// at dst. It does not wait.
	AllGather(dst, src Ptr, n int64) error
	// Failed is what went wrong meanwhile, in this rank or on the way to another.
	Failed() error
	// Abort ends what waits for other ranks. Nothing but Close may follow.
	Abort() error
	// Close gives everything back.
	Close() error
}
