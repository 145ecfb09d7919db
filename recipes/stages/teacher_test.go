package stages

import (
	"strings"
	"testing"

	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/recipes"
	"github.com/tunekit/tunekit/train"
)

// TestReaderWithoutTokenizer: rows of tokens may have none, and then no teacher of other
// tokens can read them.
func TestReaderWithoutTokenizer(t *testing.T) {
	if err := checkReader(train.Reader{}, recipes.Ref{}); fail.Code(err) != int(fail.Usage) || !strings.Contains(err.Error(), "there is no tokenizer of the rows") {
		t.Error(err)
	}
}
