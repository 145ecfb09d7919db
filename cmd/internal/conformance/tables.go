package main

import (
	"fmt"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/autograd/model/arch/archtest"
	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/kernels/block"
	"github.com/tunekit/tunekit/kernels/dtype"
	"github.com/tunekit/tunekit/quant"
)

// text is the document around the tables.
const text = `# What is supported

Written by ` + "`make conformance`" + ` from the subtests of the golden tests: ✓ is what is said above each table, compared and found in that run; refused is an error that names
what is in the way; not measured has nothing to compare with, or no test. Numbers point to the reasons below a table.

## Architectures

A row is an architecture, and the tiny checkpoints in shared/data/golden/arch that have it. Logits, greedy text (with a cache) and gradients are those of Transformers and
PEFT, of every form in which the case's config.json is published. HF: a folder is written and read again. GGUF export: tensors and keys are those of llama.cpp's converter;
import: the GGUF is read back as the same model; to folder: a folder made from that GGUF says the same. Merge: the merged adapter gives PEFT's logits.
llama.cpp: it makes of the GGUF in F32 what Transformers makes of the folder, logits and greedy text, or differs whatever a file says and agrees where the model has no use for what differs;
quantized: it makes of Q4_K_M, and of F16, what we make of the same file; LoRA: with the adapter in a GGUF of its own it gives PEFT's logits, where matrices are refused with the others alone.
GPTQ, AWQ (ours alone, no other program's): the folder has less error than rounding to nearest, opens again, and computes what the model does within what the bits leave;
an interrupted run makes the same files.

Architectures without a case, and the halves of larger models that read text, are compared with what Transformers and PEFT compute of tiny models that are filled from the names of
their tensors: logits, greedy text, gradients, a folder and a GGUF (TestClasses in autograd/model/arch, where there is a list of them, and in lora);
llama.cpp makes of that GGUF what we do, or export says what it makes otherwise (TestLlamaCppClasses in lora). Where an architecture has no case they stand in its row, in italics;
export, import and to folder then say one thing, that the GGUF and a folder made from it are read back as the same model.

%s
## Block types

Values and bytes are those of ggml, torch and bitsandbytes, bit for bit; of integer codes and 4-bit floats of folders those that the consumers of GPTQ, AWQ and compressed-tensors decode. Programs are those that
[interop.md](interop.md) names with the type: they load what is written here, or what they write is loaded here.

%s
## Folder layouts

Decode: folders of GPTQModel, AutoRound, llm-compressor and bitsandbytes. Encode: what was read is written, and read again as the same. Programs: the schemes (in groups of 128 or
of the scheme's own) of which no refusal is known; tgi and exllama were not run, their rules are from their documentation.
EXL2 has been given to no program, for none reads it on a CPU: reading is held by a decoder in numpy, written from the published layout, and writing by our own reading. It is read at all widths, mixed within a matrix,
and decoded; it is written with 2, 3, 4, 5, 6 or 8 bits for whole matrices.
An NVFP4 matrix of a GGUF may have the number of the tensor, or of each expert, beside it (.scale; .input_scale is said, not applied: llama.cpp's CPU has no use for it either). ModelOpt's and compressed-tensors' NVFP4, and MXFP4, become
matrices of GGUF without being decoded (types COPY, NVFP4 and MXFP4_MOE), held by llama.cpp's converter.
Read and not written: NVFP4 as ModelOpt exports it (held by ModelOpt), and its FP8, also where hf_quant_config.json alone says so; Quark's FP8; compressed-tensors' integers of 1, 2, 3, 5, 6 and 7 bits,
MXFP6, and FP8 by tensor, group and block; MXFP8; FP8 by blocks as Transformers writes it, and FBGEMM's by rows; the FP4 experts of DeepSeek V4; Quark's and ModelOpt's MXFP4; GPTQModel's FP8 that is divided by its scales, and its
words of 8, 16 and 64 bits; AutoRound's 5, 6 and 7 bits, its integers of 4 bits with powers of two (mx_int) and its 4-bit floats whose scales have 5 bits of exponent (nvfp4_v2)
(from compressed-tensors' integers on held by compressed-tensors, AutoRound and Transformers, or by numpy in the layout that the program states: formats/testdata/foreign).
Of torchao, in safetensors: Int8Tensor, IntxUnpackedToInt8Tensor (1 to 8 bits), Float8Tensor, MXTensor (FP8, FP4) and NVFP4Tensor, also with swizzled scales, as they are stored; Int4Tensor and Int4TilePackedTo4dTensor
(as a GPU of NVIDIA orders it; one of AMD has another order under the same name), whose zero points are floats, decoded to the type of their scales with one rounding. Of HQQ: 1 to 8 bits along both axes, decoded as HQQ does,
each step rounded to the type of its scales. Inputs that torchao rounds by token, by tensor (all tokens of a product) or on one measured scale are rounded. Held by torchao and HQQ, the two of int4 by numpy (formats/testdata/torchao).
Refused by name: methods that are not read, transforms and rotations, weights without their zeros (sparse, marlin-24), Marlin's order, inputs that ModelOpt or torchao scales before their product, SVDQuant, weights of torchao in a pickle, other classes of it (preshuffled, plain_int32, opaque, sparse), and codes of compressed-tensors
whose packing neither their number nor the version that wrote them tells.

%s
## Families of quantized folders

Decode: weights are what the programs named store and decode, bit for bit; numpy is the layout that a program's source states, where the program needs a GPU; ourselves: what is written here gives nearly the model's logits. What is decoded is run, evaluated, trained over and
exported like any other type. Encode: what was read is written, and read again as the same. The last column names the programs of make interop that load what is written here, or whose folders are read there.
Scales of a rounded cache of keys and values are said and left out.

%s`

// ofArchs are the columns of architectures; ROW is a case.
var ofArchs = []column{
	{"logits", []string{"autograd/model TestGolden/ROW/*/logits"}},
	{"greedy text", []string{"autograd/model TestGolden/ROW/*/greedy"}},
	{"LoRA gradients", []string{"autograd/model TestGolden/ROW/lora"}},
	{"full gradients", []string{"autograd/model TestGolden/ROW/full"}},
	{"HF", []string{"autograd/model/arch TestFolder/ROW"}},
	{"GGUF export", []string{"autograd/model/arch TestGGUF/ROW/export"}},
	{"GGUF import", []string{"autograd/model/arch TestGGUF/ROW/import"}},
	{"GGUF to folder", []string{"autograd/model/arch TestGGUF/ROW/folder"}},
	{"merge", []string{"lora TestGoldenArchs/ROW/merged"}},
	{"llama.cpp", []string{"lora TestLlamaCpp/ROW/F32"}},
	{"llama.cpp, quantized", []string{"lora TestLlamaCpp/ROW/Q4_K_M"}},
	{"llama.cpp, LoRA", []string{"lora TestLlamaCpp/ROW/adapter"}},
	{"GPTQ", []string{"quant TestGoldenArchs/ROW/gptq"}},
	{"AWQ", []string{"quant TestGoldenArchs/ROW/awq"}},
}

// ofClasses are those columns where an architecture has no case; ROW is a class.
var ofClasses = []column{
	{"logits", []string{"autograd/model/arch TestClasses/ROW"}},
	{"greedy text", []string{"autograd/model/arch TestClasses/ROW"}},
	{"LoRA gradients", []string{"lora TestClasses/ROW"}},
	{"full gradients", []string{"autograd/model/arch TestClasses/ROW"}},
	{"HF", []string{"autograd/model/arch TestClasses/ROW/folder"}},
	{"GGUF export", []string{"autograd/model/arch TestClasses/ROW/gguf"}},
	{"GGUF import", []string{"autograd/model/arch TestClasses/ROW/gguf"}},
	{"GGUF to folder", []string{"autograd/model/arch TestClasses/ROW/gguf"}},
	{"merge", []string{"lora TestClasses/ROW"}},
	{"llama.cpp", []string{"lora TestLlamaCppClasses/ROW"}},
	{title: "llama.cpp, quantized"}, {title: "llama.cpp, LoRA"}, {title: "GPTQ"}, {title: "AWQ"},
}

// archTable has a row for each architecture.
func archTable(shared string, outcomes map[string]outcome) (string, error) {
	cases := map[string][]string{} // by architecture
	for _, name := range archtest.Cases {
		src, err := arch.Open(filepath.Join(shared, "golden/arch", name))
		if err != nil {
			return "", err
		}
		cases[src.Architecture()] = append(cases[src.Architecture()], name)
		src.Close()
	}
	classes, err := classesByArch(".")
	if err != nil {
		return "", err
	}
	var t table
	t.head(append([]string{"architecture", "cases"}, titles(ofArchs)...)...)
	for _, a := range arch.Names() {
		cells, columns, rows := []string{a, strings.Join(cases[a], ", ")}, ofArchs, cases[a]
		if len(rows) == 0 && len(classes[a]) > 0 {
			columns, cells[1], rows = ofClasses, "*"+strings.Join(classes[a], "*, *")+"*", nil
			for _, name := range classes[a] {
				rows = append(rows, strings.ReplaceAll(name, " ", "_")) // as go test has it
			}
		}
		for i := range columns {
			cells = append(cells, t.all(&columns[i], rows, outcomes))
		}
		t.row(cells...)
	}
	return t.String(), nil
}

// classesByArch are the classes of TestClasses by architecture; root is the folder of the module.
func classesByArch(root string) (map[string][]string, error) {
	classes, err := archtest.Classes(filepath.Join(root, "autograd/model/arch/testdata/classes.json"))
	if err != nil {
		return nil, err
	}
	by := map[string][]string{}
	for _, name := range slices.Sorted(maps.Keys(classes)) {
		src, err := arch.FromReader(headers{class: classes[name]})
		if err != nil {
			return nil, fmt.Errorf("class %s: %w", name, err)
		}
		by[src.Architecture()] = append(by[src.Architecture()], name)
	}
	return by, nil
}

// headers is a folder of a class of which the names and shapes alone are read.
type headers struct {
	formats.Reader // nil: no weight is read
	class          *archtest.Class
}

func (h headers) Path() string                { return "" }
func (h headers) Format() string              { return "hf" }
func (h headers) Config() []byte              { return h.class.Config }
func (h headers) File(string) ([]byte, error) { return nil, nil }
func (h headers) Tensors() (list []formats.Tensor) {
	for _, name := range slices.Sorted(maps.Keys(h.class.Tensors)) {
		list = append(list, formats.Tensor{Name: name, Shape: h.class.Tensors[name], Type: dtype.Of(dtype.F32)})
	}
	return list
}

// all is the cell of several cases: what all of them say, or what each of those says
// that are not like the first.
func (t *table) all(c *column, cases []string, outcomes map[string]outcome) string {
	if len(cases) == 0 {
		return "not measured"
	}
	var said []string
	for i, name := range cases {
		cell := t.note(c.cell(name, outcomes))
		if i == 0 {
			said = append(said, cell)
		} else if cell != said[0] {
			said = append(said, name+": "+cell)
		}
	}
	return strings.Join(said, "; ")
}

func titles(columns []column) (out []string) {
	for _, c := range columns {
		out = append(out, c.title)
	}
	return out
}

// ofBlocks are the columns of block types; ROW is the type's name.
var ofBlocks = []column{
	{"decode", []string{"kernels/block TestGGUF/ROW/decode", "kernels/block TestScalars/ROW/decode", "kernels/block TestBnB4/ROW", "kernels/block TestCheckpoints/ROW/*", "kernels/block TestFloat4/ROW/decode/*"}},
	{"encode", []string{"kernels/block TestGGUF/ROW/encode", "kernels/block TestScalars/ROW/encode", "kernels/block TestBnB4/ROW", "kernels/block TestFloat4/ROW/encode/*"}},
}

// blockTypes are the types that weights can be stored in.
func blockTypes() []dtype.Kind {
	return slices.DeleteFunc(dtype.Kinds(), func(k dtype.Kind) bool { return !block.CanEncode(k) })
}

// blockTable has a row for each type; interop is the text that says which program
// was seen to load what.
func blockTable(interop string, outcomes map[string]outcome) string {
	var t table
	t.head(append(append([]string{"type"}, titles(ofBlocks)...), "programs that load it")...)
	for _, k := range blockTypes() {
		cells := []string{k.String()}
		for i := range ofBlocks {
			cells = append(cells, t.note(ofBlocks[i].cell(k.String(), outcomes)))
		}
		loads := programs(interop, k.String()+"(_[SML])?") // a mixture, too: Q4_K_M
		if k.Info().Family == dtype.Int {
			loads = "by layout, see below"
		}
		t.row(append(cells, loads)...)
	}
	return t.String()
}

// programs are those whose row in the table of interop.md has the word.
func programs(interop, word string) string {
	named := regexp.MustCompile(`\b` + word + `\b`)
	var out []string
	for line := range strings.Lines(interop) {
		cells := strings.Split(line, "|")
		if len(cells) != 6 || !named.MatchString(cells[3]) {
			continue
		}
		if name := strings.TrimSpace(cells[1]); !slices.Contains(out, name) {
			out = append(out, name)
		}
	}
	if len(out) == 0 {
		return "not measured"
	}
	return strings.Join(out, ", ")
}

// ofFolders are the columns of layouts; ROW is the layout's name.
var ofFolders = []column{
	{"decode", []string{"formats TestQuantizedFolders/ROW/*", "formats TestBitsandbytesFolders/ROW/*", "formats TestRewriteFolders/*/ROW/*", "formats TestPackedFolders/ROW", "quant TestTiles/ROW"}},
	{"encode", []string{"formats TestRewriteFolders/*/ROW/*", "formats TestEXL2Written/ROW", "quant TestTiles/ROW"}},
}

// folderTable has a row for each layout of a folder.
func folderTable(interop string, outcomes map[string]outcome) string {
	var t table
	t.head(append(append([]string{"layout"}, titles(ofFolders)...), "programs that load it", "loaded there by make interop")...)
	for _, l := range formats.Layouts() {
		cells := []string{l}
		for i := range ofFolders {
			cells = append(cells, t.note(ofFolders[i].cell(l, outcomes)))
		}
		loads, seen := strings.Join(quant.Loads(l), "; "), programs(interop, "(?i:"+l+")")
		if l == formats.FP8 { // FP8 alone is a word of others, too
			seen = programs(interop, "fine-grained FP8")
		}
		if l == formats.Plain {
			seen = programs(interop, "merged")
			loads = seen
		}
		t.row(append(cells, loads, seen)...)
	}
	return t.String()
}

// family is a way in which programs store quantized weights.
type family struct {
	name, by       string   // by: whose numbers decoding is compared with
	decode, encode []string // patterns of tests, as in column
	word           string   // what interop.md calls it, a regular expression; "": it is in no row
}

var families = []family{
	{"bitsandbytes NF4", "bitsandbytes", []string{"formats TestBitsandbytesFolders/*/nf4*"}, []string{"formats TestRewriteFolders/nf4*/*/*", "quant TestLikeBitsandbytes/NF4/*"}, "NF4"},
	{"bitsandbytes FP4", "bitsandbytes", []string{"formats TestBitsandbytesFolders/*/fp4*"}, []string{"formats TestRewriteFolders/fp4*/*/*", "quant TestLikeBitsandbytes/FP4/*"}, "FP4"},
	{"bitsandbytes int8", "bitsandbytes", []string{"formats TestBitsandbytesFolders/*/int8"}, []string{"quant TestLikeInt8"}, `LLM\.int8`},
	{"GPTQ, zeros less one (v1)", "GPTQModel", []string{"formats TestQuantizedFolders/gptq/gptq-*"}, []string{"formats TestRewriteFolders/gptq-*/gptq/*"}, "GPTQ"},
	{"GPTQ, plain zeros (v2)", "numpy", []string{"formats TestForeign/gptq-*-v2"}, []string{"formats TestRewriteFolders/*/gptq_v2/*"}, "gptq_v2"},
	{"AWQ gemm", "GPTQModel", []string{"formats TestQuantizedFolders/awq/*"}, []string{"formats TestRewriteFolders/awq-*/awq/*"}, "AWQ"},
	{"compressed-tensors pack-quantized", "llm-compressor", []string{"formats TestQuantizedFolders/*/ct-w4a16-*", "formats TestForeign/pack*"}, []string{"formats TestRewriteFolders/ct-w4a16-*/compressed-tensors/*"}, "W4A16"},
	{"compressed-tensors int-quantized (W8A8)", "llm-compressor", []string{"formats TestQuantizedFolders/*/ct-w8a8-*", "formats TestForeign/int8-*"}, []string{"formats TestRewriteFolders/ct-w8a8-*/*/*"}, "W8A8"},
	{"compressed-tensors float-quantized (FP8 static)", "llm-compressor", []string{"formats TestQuantizedFolders/*/ct-fp8-*"}, nil, "F8_E4M3"},
	{"compressed-tensors float-quantized (FP8 dynamic)", "ourselves", []string{"quant TestActivations"}, []string{"quant TestActivations"}, "FP8_DYNAMIC"},
	{"compressed-tensors FP8 by group and block, mixed groups", "compressed-tensors", []string{"formats TestForeign/fp8-group", "formats TestForeign/fp8-block-*"}, []string{"quant TestTiles/compressed-tensors"}, "F8_E4M3"},
	{"compressed-tensors NVFP4", "llm-compressor", []string{"formats TestQuantizedFolders/*/ct-nvfp4", "formats TestForeign/nvfp4-*"}, []string{"quant TestFP4/NVFP4A16"}, "NVFP4A16"},
	{"compressed-tensors MXFP4", "llm-compressor", []string{"formats TestQuantizedFolders/*/ct-mxfp4"}, []string{"quant TestFP4/MXFP4A16"}, "MXFP4A16"},
	{"AutoRound integers", "AutoRound", []string{"formats TestQuantizedFolders/gptq/autoround-*", "formats TestForeign/auto-round-[2-8]*"}, []string{"formats TestRewriteFolders/autoround-*/*/*"}, ""},
	{"AutoRound MXFP4, MXINT4, NVFP4 with E5M3 scales", "AutoRound", []string{"formats TestForeign/auto-round-mx*", "formats TestForeign/auto-round-e5m3*"}, nil, ""},
	{"Quark FP8, MXFP4", "numpy", []string{"formats TestForeign/quark-*"}, nil, ""},
	{"ModelOpt NVFP4", "ModelOpt", []string{"formats TestPackedFolders/modelopt"}, nil, ""},
	{"ModelOpt FP8 by block, MXFP4", "numpy", []string{"formats TestForeign/modelopt-*"}, nil, ""},
	{"fine-grained FP8 (DeepSeek)", "Transformers", []string{"formats TestForeign/fp8-fine-grained"}, []string{"quant TestTiles/fp8"}, "fine-grained FP8"},
	{"FBGEMM FP8", "numpy", []string{"formats TestForeign/fbgemm-*"}, nil, ""},
	{"MXFP4 of gpt-oss", "llm-compressor", []string{"formats TestMXFP4Golden"}, nil, ""},
	{"torchao int4", "numpy", []string{"formats TestTorchAO/int4*"}, nil, ""},
	{"torchao int8, IntX, FP8, MX, NVFP4", "torchao", []string{"formats TestTorchAO/int8-*", "formats TestTorchAO/float8-*", "formats TestTorchAO/intx*", "formats TestTorchAO/mx-*", "formats TestTorchAO/nvfp4*"}, nil, "int8 by row"},
	{"HQQ", "HQQ", []string{"formats TestTorchAO/hqq-*"}, nil, ""},
	{"EXL2", "numpy", []string{"formats TestPackedFolders/exl2"}, []string{"formats TestEXL2Written/exl2"}, ""},
}

// ofFamilies are the columns of all families, for their tests to be run.
func ofFamilies() (out []column) {
	for _, f := range families {
		out = append(out, column{f.name, slices.Concat(f.decode, f.encode)})
	}
	return out
}

// familyTable has a row for each family.
func familyTable(interop string, outcomes map[string]outcome) string {
	var t table
	t.head("family", "compared with", "decode", "encode", "make interop")
	for _, f := range families {
		cells := []string{f.name, f.by, t.note((&column{"decode", f.decode}).cell("", outcomes)), "not written", "not measured"}
		if f.encode != nil {
			cells[3] = t.note((&column{"encode", f.encode}).cell("", outcomes))
		}
		if f.word != "" {
			cells[4] = programs(interop, f.word)
		}
		t.row(cells...)
	}
	return t.String()
}
