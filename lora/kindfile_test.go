package lora

import (
	"encoding/json"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tunekit/tunekit/formats"
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

// TestIA3ForPEFT: PEFT takes the layers that were trained on their inputs, and no
// others. What it makes of each file was seen in PEFT 0.21.2: null is down_proj there
// (TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING), names that are not among
// those of target_modules are "`feedforward_modules` should be a subset of
// `target_modules`", and all-linear is an expression that matches nothing:
//
//	python -c "from peft import IA3Config; IA3Config(target_modules=['q_proj','down_proj'], feedforward_modules=['mlp.down_proj'])"
func TestIA3ForPEFT(t *testing.T) {
	_, m := loadModel(t, filepath.Join(testdir.Shared(t, "golden/train/lora"), "base-qwen2"))
	downs := []string{"model.layers.0.mlp.down_proj", "model.layers.1.mlp.down_proj"}
	for _, c := range []struct {
		target, feed Targets
		want         []string
		names        int // of target_modules as written
	}{
		{Targets{Names: []string{"q_proj", "down_proj"}}, Targets{}, []string{}, 2},
		{Targets{Names: []string{"q_proj", "down_proj"}}, Targets{Names: []string{"down_proj"}}, []string{"down_proj"}, 2},
		{Targets{Names: []string{"q_proj", "down_proj"}}, Targets{Names: []string{"mlp.down_proj"}}, downs, 4},
		{Targets{All: true}, Targets{Names: []string{"mlp.down_proj"}}, downs, 14},
		{Targets{Names: []string{"down_proj"}}, Targets{All: true}, downs, 2},
	} {
		var k Kinds
		o, err := k.Of("ia3")
		if err != nil {
			t.Fatal(err)
		}
		o.(*IA3).TargetModules, o.(*IA3).FeedForward = c.target, c.feed
		ad, err := Begin(m, "ia3", o, 1)
		if err != nil {
			t.Fatal(err)
		}
		b, err := ad.kindFile("base", ad.paths())
		ad.Close()
		if err != nil {
			t.Fatal(err)
		}
		var got struct {
			Target []string `json:"target_modules"`
			Feed   []string `json:"feedforward_modules"`
		}
		if err := json.Unmarshal(b, &got); err != nil {
			t.Fatal(err)
		}
		if got.Feed == nil || !slices.Equal(got.Feed, c.want) || len(got.Target) != c.names {
			t.Errorf("%v, %v: written %v of %v", c.target, c.feed, got.Feed, got.Target)
		}
		for _, n := range got.Feed {
			if !slices.Contains(got.Target, n) {
				t.Errorf("%s is not in %v", n, got.Target)
			}
		}
	}
}

// TestGoingOnTrainsAll: a norm that PEFT trained beside the adapter is used, and going on
// without training it is an error.
func TestGoingOnTrainsAll(t *testing.T) {
	dir := testdir.Shared(t, "golden/train/lora")
	_, m := loadModel(t, filepath.Join(dir, "base-llama"))
	with := func(from, name string) string {
		return edited(t, filepath.Join(dir, from, "adapter"), func(a *formats.Adapter) {
			setConfig("modules_to_save", []string{name})(a)
			for _, at := range []string{"model.layers.0.input_layernorm.weight", "model.norm.weight"} {
				a.Tensors = append(a.Tensors, formats.NamedTensor{Name: prefix + at, DType: "F32", Shape: []int64{64}, Data: make([]byte, 256)})
			}
		})
	}
	for _, name := range []string{"norm", "model.norm", "input_layernorm"} {
		lora, oft := with("lora", name), with("../lora2/oft", name)
		for _, folder := range []string{lora, oft} {
			f, err := ReadFolder(folder)
			if err != nil {
				t.Fatal(err)
			}
			ad, err := f.Attach(m, f.Config)
			if err != nil {
				t.Fatal(err)
			}
			ad.Close()
		}
		var k Kinds
		o, err := k.Of("oft")
		if err != nil {
			t.Fatal(err)
		}
		*InitOf(o) = oft
		if _, err := Begin(m, "oft", o, 1); fail.Code(err) != int(fail.Usage) || !strings.Contains(err.Error(), "modules_to_save: "+name) {
			t.Errorf("oft, %s: %v", name, err)
		}
		if _, err := Start(m, Config{InitFrom: lora}, 1); fail.Code(err) != int(fail.Usage) || !strings.Contains(err.Error(), "modules_to_save: "+name) {
			t.Errorf("lora, %s: %v", name, err)
		}
	}
}
