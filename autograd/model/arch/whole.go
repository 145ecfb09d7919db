package arch

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/tunekit/tunekit/formats"
)

// larger is a model that does more than read text, such as one that sees images or hears, around a model of the table
// that reads text, whatever text_config says it is. Of texts it computes what that model
// does; its other tensors are carried along.
type larger struct {
	name, class string
	published   string // the class in published folders, where it is called otherwise
	types       string // further values of model_type, that have the class too
	memory      string // what the half's names begin with in memory where they begin with model. otherwise
	text        string // model_type of the half where text_config has none
	tied        bool   // the head is the embedding where config.json says nothing
}

// What names of the halves begin with in memory.
const (
	inModel = "model.language_model."
	inText  = "model.text_model."
	inOwn   = "language_model.model." // the half has its head, too
)

// wholes is the table of larger models. Those around one family only are in its own file.
var wholes = []larger{
	{name: "audioflamingo3", class: "AudioFlamingo3ForConditionalGeneration", memory: inModel, text: "qwen2"},
	{name: "aya_vision", class: "AyaVisionForConditionalGeneration", memory: inModel, text: "cohere2", tied: true},
	{name: "cohere2_vision", class: "Cohere2VisionForConditionalGeneration", memory: inModel, text: "cohere2", tied: true},
	{name: "deepseek_vl", class: "DeepseekVLForConditionalGeneration", memory: inModel, text: "llama", tied: true},
	{name: "deepseek_vl_hybrid", class: "DeepseekVLHybridForConditionalGeneration", memory: inModel, text: "llama", tied: true},
	{name: "exaone4_5", class: "Exaone4_5_ForConditionalGeneration", memory: inModel, text: "exaone4"},
	{name: "glm4v", class: "Glm4vForConditionalGeneration", memory: inModel, text: "glm4v_text"},
	{name: "glm4v_moe", class: "Glm4vMoeForConditionalGeneration", memory: inModel, text: "glm4v_moe_text"},
	{name: "glm46v", class: "Glm46VForConditionalGeneration", memory: inModel, text: "glm4v_text"},
	{name: "glmasr", class: "GlmAsrForConditionalGeneration", memory: inModel, text: "llama", tied: true},
	{name: "got_ocr2", class: "GotOcr2ForConditionalGeneration", types: "pp_chart2table", memory: inModel, text: "qwen2", tied: true},
	{name: "granite_speech", class: "GraniteSpeechForConditionalGeneration", memory: inModel, text: "granite", tied: true},
	{name: "idefics2", class: "Idefics2ForConditionalGeneration", memory: inText, text: "mistral"},
	{name: "idefics3", class: "Idefics3ForConditionalGeneration", memory: inText, text: "llama"},
	{name: "internvl", class: "InternVLForConditionalGeneration", memory: inModel, text: "qwen2", tied: true},
	{name: "janus", class: "JanusForConditionalGeneration", memory: inModel, text: "llama", tied: true},
	{name: "kimi_k25", class: "Kimi_K25ForConditionalGeneration", published: "KimiK25ForConditionalGeneration", memory: inModel, text: "deepseek_v3", tied: true},
	{name: "lfm2_vl", class: "Lfm2VlForConditionalGeneration", memory: inModel, text: "lfm2", tied: true},
	{name: "lighton_ocr", class: "LightOnOcrForConditionalGeneration", memory: inModel, text: "qwen3", tied: true},
	{name: "llama4", class: "Llama4ForConditionalGeneration", memory: inOwn, text: "llama4_text"},
	{name: "llava", class: "LlavaForConditionalGeneration", memory: inModel, text: "llama"},
	{name: "llava_next", class: "LlavaNextForConditionalGeneration", memory: inModel, text: "llama"},
	{name: "llava_next_video", class: "LlavaNextVideoForConditionalGeneration", memory: inModel, text: "llama"},
	{name: "llava_onevision", class: "LlavaOnevisionForConditionalGeneration", memory: inModel, text: "qwen2"},
	{name: "ovis2", class: "Ovis2ForConditionalGeneration", memory: inModel, text: "qwen2", tied: true},
	{name: "qianfan_ocr", class: "QianfanOCRForConditionalGeneration", memory: inModel, text: "qwen3"},
	{name: "qwen2_audio", class: "Qwen2AudioForConditionalGeneration", memory: inModel, text: "qwen2"},
	{name: "qwen3_asr", class: "Qwen3ASRForConditionalGeneration", memory: inModel, text: "qwen3", tied: true},
	{name: "qwen3_vl", class: "Qwen3VLForConditionalGeneration", memory: inModel, text: "qwen3_vl_text"},
	{name: "qwen3_vl_moe", class: "Qwen3VLMoeForConditionalGeneration", memory: inModel, text: "qwen3_vl_moe_text"},
	{name: "smolvlm", class: "SmolVLMForConditionalGeneration", memory: inText, text: "llama"},
	{name: "video_llama_3", class: "VideoLlama3ForConditionalGeneration", memory: inModel, text: "qwen2"},
	{name: "video_llava", class: "VideoLlavaForConditionalGeneration", memory: inModel, text: "llama"},
	{name: "vipllava", class: "VipLlavaForConditionalGeneration", memory: inModel, text: "llama"},
	{name: "voxtral", class: "VoxtralForConditionalGeneration", memory: inModel, text: "llama"},
}

// wholeOf is the larger model of a class, or where config.json names none of a
// model_type; nil: neither is of one. A class without a head, as AutoModel saves it, is
// that of the same model.
func wholeOf(class, modelType string) *larger {
	for i := range wholes {
		w := &wholes[i]
		types := append(strings.Fields(w.types), w.name)
		bare := strings.TrimSuffix(w.class, "ForConditionalGeneration") + "Model"
		if class == w.class || class != "" && class == w.published || (class == "" || class == bare) && slices.Contains(types, modelType) {
			return w
		}
	}
	return nil
}

// Whole says how names of a model begin that is half of a larger one: in memory and in
// its folder, where those of a model by itself begin with model. The zero value is a model by itself.
type Whole struct{ Memory, Folder string }

// halfDefaults are sizes that classes of halves have for keys that a text_config leaves
// out, as those of published models often do; a config.json of the half alone states them.
var halfDefaults = map[string]map[string]string{
	"llama":   {"vocab_size": "32000", "hidden_size": "4096", "intermediate_size": "11008", "num_hidden_layers": "32", "num_attention_heads": "32"},
	"mistral": {"vocab_size": "32000", "hidden_size": "4096", "intermediate_size": "14336", "num_hidden_layers": "32", "num_attention_heads": "32"},
	"qwen2":   {"vocab_size": "151936", "hidden_size": "4096", "intermediate_size": "22016", "num_hidden_layers": "32", "num_attention_heads": "32", "num_key_value_heads": "32"},
	"qwen3":   {"vocab_size": "151936", "hidden_size": "4096", "intermediate_size": "22016", "num_hidden_layers": "32", "num_attention_heads": "32"},
	"granite": {"vocab_size": "32000", "hidden_size": "4096", "intermediate_size": "11008", "num_hidden_layers": "32", "num_attention_heads": "32"},
	"cohere2": {"vocab_size": "256000", "hidden_size": "8192", "intermediate_size": "22528", "num_hidden_layers": "40", "num_attention_heads": "64"},
}

// half reads the half of w that reads text.
func (s *Source) half(w *larger, c *Config) error {
	if !c.has("text_config") {
		c.fail("text_config", "missing, without which %s has no half that reads text", w.class)
		return c.err
	}
	t := c.text()
	kind := t.String(w.text, "model_type")
	if s.arch = byHF("", kind); s.arch == nil || s.arch.Carried != nil {
		s.arch = nil
		return unknown(kind, fmt.Sprintf("config.json: text_config: model_type %q", kind), Names())
	}
	t.assume(halfDefaults[s.arch.Name])
	if _, has := c.raw["tie_word_embeddings"]; !has {
		t.raw["tie_word_embeddings"] = json.RawMessage(strconv.FormatBool(w.tied))
	}
	if err := t.noZeroFactors(); err != nil {
		return err
	}
	if err := t.resolve(); err != nil {
		return err
	}
	var err error
	s.Spec, err = s.arch.Spec(t)
	if rule := t.ropeRule(); rule != nil && len(s.Spec.Ropes) > 0 && s.Spec.Ropes[0].Sections == nil { // which are one position in text
		s.Spec.Ropes[0].Sections, _ = get[[]int](rule, "mrope_section")
	}
	if s.notes = t.notes; w.memory != inOwn {
		s.plainHead(w.class)
	}
	if sees, _ := get[map[string]json.RawMessage](c, "vision_config"); sees != nil {
		deep, _ := get[[]int](c.within(sees), "deepstack_visual_indexes")
		s.Spec.Deep = len(deep)
	}
	s.Spec.Whole = Whole{Memory: w.memory, Folder: w.folder(s.Reader)}
	return cmp.Or(err, t.err, c.err)
}

// plainHead leaves out what Transformers leaves out of a half whose head is a larger
// model's: factors on logits, their cap, and a bias.
func (s *Source) plainHead(class string) {
	p := &s.Spec
	if p.LogitCap != 0 || p.LogitScale != 0 && p.LogitScale != 1 {
		s.notes = append(s.notes, fmt.Sprintf("text_config scales or caps logits, which programs that run the half that reads text alone do, and Transformers does not do in %s; here it is not done", class))
	}
	p.LogitCap, p.HeadBias = 0, false
	if p.LogitScale != 0 {
		p.LogitScale = 1
	}
}

// folder is what the half's names begin with in a folder: of the ways in which releases of
// Transformers saved such models, with a head and without one, the one in which the
// embedding is there; else the first.
func (w *larger) folder(r formats.Reader) string {
	all := []string{inOwn, inModel, "language_model."}
	if w.memory == inText {
		all = []string{inText, "text_model."}
	}
	if r.Format() == InMemory {
		return w.memory
	}
	tensors := r.Tensors()
	for _, prefix := range all {
		if slices.ContainsFunc(tensors, func(t formats.Tensor) bool { return strings.HasPrefix(t.Name, prefix+UsualEmbed) }) {
			return prefix
		}
	}
	return all[0]
}

// headPrefix is what the head's name begins with where those of layers begin with prefix.
func headPrefix(prefix string) string {
	if prefix == inOwn {
		return "language_model."
	}
	return ""
}

// in gives rules of a model by itself the names that it has in a larger one.
func (w Whole) in(list []Rule) {
	to := func(name, prefix string) string {
		if rest, ok := strings.CutPrefix(name, "model."); ok {
			return prefix + rest
		}
		if strings.HasPrefix(name, UsualHead) {
			return headPrefix(prefix) + name
		}
		return name
	}
	for i := range list {
		r := &list[i]
		r.Name, r.layerPath = to(r.Name, w.Memory), strings.TrimSuffix(to(r.layerPath, w.Memory), ".")
		for _, form := range append([][]Piece{r.HF, r.Other}, r.Also...) {
			for j := range form {
				form[j].Name = to(form[j].Name, w.Folder)
			}
		}
	}
}

// other tells whether a tensor of a larger model's folder is of another part than the
// half that reads text, and of which.
func (w Whole) other(name string) (part string, ok bool) {
	if w.Folder == "" || strings.HasPrefix(name, w.Folder) || strings.HasPrefix(name, headPrefix(w.Folder)+UsualHead) {
		return "", false
	}
	path := strings.Split(name, ".")
	n := 1
	if path[0] == "model" {
		n = 2
	}
	return strings.Join(path[:min(n, len(path))], ".") + ".", true
}
