package lora

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tunekit/tunekit/formats/atomic/testdir"
	"github.com/tunekit/tunekit/formats/fail"
)

// TestHowItBegan: what says only how training began does not matter to who reads a folder.
func TestHowItBegan(t *testing.T) {
	for _, typ := range []string{"LOKR", "MISS", "LOHA", "OFT"} {
		all := map[string]any{}
		if err := json.Unmarshal([]byte(`{"peft_type":"`+typ+`","init_weights":false,"target_modules":["q_proj"],"r":8}`), &all); err != nil {
			t.Fatal(err)
		}
		if err := parseKind("adapter_config.json", all, &Folder{}); err != nil {
			t.Errorf("%s: %v", typ, err)
		}
	}
}

// TestProjectionsNotBySettings: the rank in a file's settings is held against its tensors
// before projections of it are made.
func TestProjectionsNotBySettings(t *testing.T) {
	no, key := false, int64(0)
	o := &VeRA{R: 65536, SaveProjection: &no, PRNGKey: &key}
	f := &Folder{Dir: "x", tensors: map[string]*stored{"a.vera_lambda_d": {shape: []int64{8}}}}
	if _, _, err := o.projections(f, 1<<20, 1<<20); fail.Code(err) != int(fail.Input) || !strings.Contains(err.Error(), "with r 65536") {
		t.Error(err)
	}
}

// TestUnreadMini: mini_r is looked at with init_weights: mini alone, as in PEFT.
func TestUnreadMini(t *testing.T) {
	good := filepath.Join(testdir.Shared(t, "golden/train/lora2"), "miss", "adapter")
	f, err := ReadFolder(edited(t, good, setConfig("mini_r", 2)))
	if err != nil {
		t.Fatal(err)
	}
	if o, ok := f.Options.(*MiSS); !ok || o.MiniR != 1 {
		t.Errorf("%+v", f.Options)
	}
}
