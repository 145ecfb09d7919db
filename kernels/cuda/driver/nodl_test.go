//go:build nodl

package driver

import (
	"strings"
	"testing"

	"github.com/tunekit/tunekit/formats/fail"
)

func TestStaticBuildSaysSo(t *testing.T) {
	_, err := Open(0)
	if fail.Code(err) != int(fail.Limit) || !strings.Contains(err.Error(), "-tags nodl") || !strings.Contains(fail.Hint(err), "make build") {
		t.Errorf("%v (hint %q)", err, fail.Hint(err))
	}
}
