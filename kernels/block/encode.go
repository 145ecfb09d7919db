package block

import "fmt"

// EncodeRows quantizes x [rows*Cols] into the rows row0 … row0+rows of m, for
// types whose rows are independent: all but NF4 and FP4 whose blocks cross the
// ends of rows, which need the whole matrix.
func EncodeRows(m Raw, row0, rows int, x, importance []float32) error {
	return fmt.Errorf("block: encoding %v is not possible", m.Type)
}
