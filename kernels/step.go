package kernels

// Failed carries an error out of the depth of a method, which has none to return,
// to the Run it was called in.
type Failed struct{ Err error }

// Step calls step for a backend's Run and returns its error, or that of a method
// which panicked with Failed.
func Step(step func() error) (err error) {
	defer func() {
		switch v := recover().(type) {
		case nil:
		case Failed:
			err = v.Err
		default:
			panic(v)
		}
	}()
	return step()
}
