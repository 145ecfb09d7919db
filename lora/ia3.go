package lora

import (
	"slices"
	"strings"

	"github.com/tunekit/tunekit/autograd"
)

// IA3 multiplies the outputs of layers, or the inputs of feed-forward ones, by one
// trained factor each (Liu et al. 2022, arXiv:2205.05638, section 3.3). As in
// PEFT, a factor of an output multiplies the bias, too.
type IA3 struct {
	Common      `yaml:",inline"`
	FeedForward Targets `yaml:"feedforward_modules,omitempty" json:"feedforward_modules" type:"text or list" doc:"those of target_modules whose inputs are multiplied" unset:"down_proj with the default target_modules"`
}

// resolve fills in PEFT's choice for the families of Llama.
func (o *IA3) resolve(string) error {
	if o.TargetModules.Empty() {
		o.TargetModules = Targets{Names: []string{"k_proj", "v_proj", "down_proj"}}
		if o.FeedForward.Empty() {
			o.FeedForward = Targets{Names: []string{"down_proj"}}
		}
	}
	return nil
}

func (o *IA3) words() string { return "on " + o.TargetModules.String() }

// feeds reports whether the layer at path has factors of its inputs: PEFT compares
// the ends of names, and an expression with the whole one.
func (o *IA3) feeds(path string) (bool, error) {
	if o.FeedForward.Regex != "" {
		re, err := compile("train.ia3.feedforward_modules", o.FeedForward.Regex)
		if err != nil {
			return false, err
		}
		return re.MatchString(path)
	}
	for _, name := range o.FeedForward.Names {
		if strings.HasSuffix(path, name) {
			return true, nil
		}
	}
	return o.FeedForward.All, nil
}

// forPEFT puts feedforward_modules into the keys of PEFT's file so that PEFT, too,
// takes these layers of chosen and no others: null would be the choice for the
// architecture, all-linear an expression that nothing matches, and names that are not
// among those of target_modules an error.
func (o *IA3) forPEFT(keys map[string]any, chosen []string) error {
	targets, feed := keys["target_modules"].(Targets), o.FeedForward
	if feed.Regex != "" {
		return nil
	}
	if feed.All || targets.Regex == "" && slices.ContainsFunc(feed.Names, func(n string) bool { return !slices.Contains(targets.Names, n) }) {
		var own []string
		for _, path := range chosen {
			feeds, err := o.feeds(path)
			if err != nil {
				return err
			}
			if feeds {
				own = append(own, path)
			}
		}
		feed.Names = own
		if targets.Regex == "" {
			keys["target_modules"] = Targets{Names: chosen}
		}
	}
	keys["feedforward_modules"] = append([]string{}, feed.Names...)
	return nil
}

// ia3 is the adapter of one layer.
type ia3 struct {
	direct
	feeds bool
}

func (o *IA3) attach(m *maker, layers []site) ([]variant, error) {
	return each(layers, func(s site) (variant, error) {
		feeds, err := o.feeds(s.path)
		if err != nil {
			return nil, err
		}
		dims := []int{s.linear.Out(), 1}
		if feeds {
			dims = []int{1, s.linear.In()}
		}
		p, err := m.param(s.path, "ia3_l", dims, ones)
		if err != nil {
			return nil, err
		}
		p.Mat.Rows, p.Mat.Cols, p.Mat.Of = 1, p.Len(), 1
		v := &ia3{direct{[]Param{p}, s.linear}, feeds}
		s.linear.Around = v
		return v, nil
	})
}

// Forward multiplies before or after the map.
func (v *ia3) Forward(t *autograd.Tape, x *autograd.Tensor, linear func(*autograd.Tensor) *autograd.Tensor) *autograd.Tensor {
	if v.feeds {
		scaled := t.MulColumns(x, v.ps[0].Param, nil)
		defer t.Done(scaled)
		return linear(scaled)
	}
	y := linear(x)
	defer t.Done(y)
	return t.MulColumns(y, v.ps[0].Param, nil)
}

func (o *IA3) merge(f *Folder, layers []shape) ([]edit, error) {
	return eachEdit(layers, func(s shape) (edit, error) {
		feeds, err := o.feeds(s.path)
		if err != nil {
			return edit{}, err
		}
		if feeds {
			l, err := f.take(s.path+".ia3_l", 1, int64(s.in))
			return edit{rows: func(_ int, w []float32) {
				for i := range w {
					w[i] *= l[i%s.in]
				}
			}}, err
		}
		l, err := f.take(s.path+".ia3_l", int64(s.out), 1)
		return edit{scale: l, rows: func(row0 int, w []float32) {
			for i := range w {
				w[i] *= l[row0+i/s.in]
			}
		}}, err
	})
}
