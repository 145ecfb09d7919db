package schema

import "testing"

// TestSizes: a size is written exactly, in the shortest form, and read back.
func TestSizes(t *testing.T) {
	for size, want := range map[Size]string{5e9: "5GB", 8 << 30: "8GiB", 1001: "1001", 1 << 10: "1KiB"} {
		if got := size.String(); got != want {
			t.Errorf("%d is %q, want %q", int64(size), got, want)
		}
		if back, err := ParseSize(want); err != nil || back != size {
			t.Errorf("%q reads as %d, error %v", want, back, err)
		}
	}
	for _, bad := range []string{"", "GB", "-1", "0", "0GB", "1XB", "1e40TB"} {
		if v, err := ParseSize(bad); err == nil {
			t.Errorf("%q is read as %d", bad, v)
		}
	}
}
