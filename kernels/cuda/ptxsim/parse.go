package ptxsim

import (
	"encoding/binary"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// module is the code of one PTX text.
type module struct {
	target  string
	consts  []byte            // constant memory
	symbols map[string]uint64 // addresses of constants
	bodies  map[string]body   // of entries by name
	entries map[string]*entry // those that were asked for
	externs map[string]int    // how dynamic shared arrays are aligned, by name
}

// body is an entry as text: its parameter's size, its most threads, and its statements.
type body struct{ params, threads, code string }

// find decodes an entry when it is first asked for; nil where there is none.
func (m *module) find(name string) (*entry, error) {
	b, ok := m.bodies[name]
	if !ok || m.entries[name] != nil {
		return m.entries[name], nil
	}
	e, err := m.entry(name, b.params, b.code, m.externs)
	if err != nil {
		return nil, fmt.Errorf("entry %s: %w", name, err)
	}
	e.most, _ = strconv.Atoi(b.threads)
	m.entries[name] = e
	return e, nil
}

// entry is one kernel.
type entry struct {
	name      string
	params    int  // bytes of its parameter
	shared    int  // bytes of its static shared memory
	most      int  // threads of a block; 0: any number
	groups    bool // it has products of warpgroups
	code      []instr
	regs      int              // slots of the register file
	fixed     []fixedReg       // slots that hold the same in every lane
	special   map[string]int   // slots of %tid.x and the like
	slots     map[string]int   // by name of a register, or text of a constant
	width     map[string]uint8 // bits, by the class of a register: %rd
	addresses map[string]uint64
	dynamic   map[string]int // extern shared arrays: begin after the static ones
	labels    map[string]int
}

type fixedReg struct {
	slot  int
	value uint64
}

var (
	targetDecl = regexp.MustCompile(`\.version 8\.4\s+\.target (sm_80|sm_90a)\s+\.address_size 64`)
	constDecl  = regexp.MustCompile(`^\.(?:visible )?\.?const \.align (\d+) \.b8 (\w+)\[(\d+)\](?: = \{([0-9, ]+)\})?$`)
	sharedDecl = regexp.MustCompile(`^\.shared \.align (\d+) \.b8 (\w+)\[(\d+)\]$`)
	externDecl = regexp.MustCompile(`^\.extern \.shared \.align (\d+) \.b8 (\w+)\[\]$`)
	entryDecl  = regexp.MustCompile(`^\.visible \.entry (\w+)\( \.param \.align \d+ \.b8 \w+_param_0\[(\d+)\] \)(?: \.maxntid (\d+), 1, 1)?(?: \.minnctapersm \d+)?$`)
	nameDecl   = regexp.MustCompile(`^\.reg \.(\w+) (%\w+)$`)
	regDecl    = regexp.MustCompile(`^\.reg \.(\w+) (%\w+)<(\d+)>$`)
	label      = regexp.MustCompile(`^(\$?\w+):\s*`)
	comment    = regexp.MustCompile(`//[^\n]*`)
	spaces     = regexp.MustCompile(`\s+`)
)

// parse reads the PTX that NVRTC writes; what it does not know is an error.
func parse(text string) (*module, error) {
	text = comment.ReplaceAllString(text, "")
	target := targetDecl.FindStringSubmatch(text)
	if target == nil {
		return nil, fmt.Errorf("not PTX 8.4 for sm_80 or sm_90a with addresses of 64 bits")
	}
	m := &module{target: target[1], symbols: map[string]uint64{}, entries: map[string]*entry{}, bodies: map[string]body{}, externs: map[string]int{}, consts: make([]byte, 16)}
	_, text, _ = strings.Cut(text, ".address_size 64")
	for text = strings.TrimSpace(text); text != ""; text = strings.TrimSpace(text) {
		end := strings.IndexAny(text, ";{")
		if end >= 0 && strings.Contains(text[:end], "=") && text[end] == '{' { // values of a constant
			end = strings.IndexByte(text, ';')
		}
		if end < 0 {
			return nil, fmt.Errorf("%.60q ends without a semicolon", text)
		}
		head := strings.TrimSpace(spaces.ReplaceAllString(text[:end], " "))
		if text[end] == ';' {
			text = text[end+1:]
			if d := externDecl.FindStringSubmatch(head); d != nil {
				m.externs[d[2]], _ = strconv.Atoi(d[1])
				continue
			}
			if err := m.constant(head); err != nil {
				return nil, err
			}
			continue
		}
		d := entryDecl.FindStringSubmatch(head)
		if d == nil {
			return nil, fmt.Errorf("%q is not an entry with one structure as its parameter", head)
		}
		text = text[end+1:]
		stop := strings.Index(text, "\n}")
		if stop < 0 {
			return nil, fmt.Errorf("entry %s has no end", d[1])
		}
		m.bodies[d[1]] = body{d[2], d[3], text[:stop]}
		text = text[stop+2:]
	}
	return m, nil
}

// constant adds a constant array.
func (m *module) constant(decl string) error {
	d := constDecl.FindStringSubmatch(decl)
	if d == nil {
		return fmt.Errorf("unknown declaration %.80q", decl)
	}
	align, _ := strconv.Atoi(d[1])
	size, _ := strconv.Atoi(d[3])
	for len(m.consts)%align != 0 {
		m.consts = append(m.consts, 0)
	}
	m.symbols[d[2]] = uint64(len(m.consts))
	data := make([]byte, size)
	for i, v := range strings.Split(d[4], ", ") {
		b, err := strconv.ParseUint(v, 10, 8)
		if err != nil || i >= size {
			return fmt.Errorf("constant %s: value %q", d[2], v)
		}
		data[i] = byte(b)
	}
	m.consts = append(m.consts, data...)
	return nil
}

func (m *module) entry(name, params, body string, externs map[string]int) (*entry, error) {
	e := &entry{name: name, slots: map[string]int{}, special: map[string]int{}, width: map[string]uint8{}, addresses: map[string]uint64{}, dynamic: externs, labels: map[string]int{}}
	e.params, _ = strconv.Atoi(params)
	e.addresses[name+"_param_0"] = 0
	for s, at := range m.symbols {
		e.addresses[s] = at
	}
	var statements []string
	for _, s := range strings.Split(body, ";") {
		s = strings.TrimSpace(spaces.ReplaceAllString(s, " "))
		for l := label.FindStringSubmatch(s); l != nil; l = label.FindStringSubmatch(s) {
			e.labels[l[1]] = len(statements)
			s = s[len(l[0]):]
		}
		for strings.HasPrefix(s, "{ ") || strings.HasPrefix(s, "} ") || s == "}" { // of a register that only a few instructions know
			s = strings.TrimSpace(s[1:])
		}
		switch {
		case s == "" || strings.HasPrefix(s, ".pragma"):
		case strings.HasPrefix(s, "."):
			if err := e.declare(s); err != nil {
				return nil, err
			}
		default:
			statements = append(statements, s)
		}
	}
	align := 16
	for _, n := range externs {
		align = max(align, n)
	}
	e.shared = (e.shared + align - 1) / align * align
	for s := range externs {
		e.addresses[s] = uint64(e.shared)
	}
	for _, s := range statements {
		in, err := e.decode(s)
		if err != nil {
			return nil, fmt.Errorf("%q: %w", s, err)
		}
		e.code = append(e.code, in)
	}
	if e.groups {
		e.guard(statements)
	}
	return e, nil
}

func (e *entry) declare(s string) error {
	if d := sharedDecl.FindStringSubmatch(s); d != nil {
		align, _ := strconv.Atoi(d[1])
		size, _ := strconv.Atoi(d[3])
		e.shared = (e.shared + align - 1) / align * align
		e.addresses[d[2]] = uint64(e.shared)
		e.shared += size
		return nil
	}
	d := regDecl.FindStringSubmatch(s)
	if d == nil {
		d = nameDecl.FindStringSubmatch(s)
	}
	if d == nil {
		return fmt.Errorf("unknown declaration %q", s)
	}
	w, ok := map[string]uint8{"pred": 1, "b16": 16, "b32": 32, "f32": 32, "b64": 64, "f64": 64}[d[1]]
	if !ok {
		return fmt.Errorf("registers of type %s", d[1])
	}
	e.width[d[2]] = w
	return nil
}

var register = regexp.MustCompile(`^(%[a-z]+)\d+$`)

// slot is the place of an operand: a register, or a constant, which has one too.
func (e *entry) slot(op string) (int, error) {
	if s, ok := e.slots[op]; ok {
		return s, nil
	}
	s := e.regs
	if e.width[op] > 0 { // a register by itself
	} else if r := register.FindStringSubmatch(op); r != nil {
		if e.width[r[1]] == 0 {
			return 0, fmt.Errorf("register %s is not declared", op)
		}
	} else if strings.HasPrefix(op, "%") {
		if specials[op] == nil {
			return 0, fmt.Errorf("special register %s", op)
		}
		e.special[op] = s
	} else {
		v, err := e.constantValue(op)
		if err != nil {
			return 0, err
		}
		e.fixed = append(e.fixed, fixedReg{s, v})
	}
	e.slots[op] = s
	e.regs++
	return s, nil
}

func (e *entry) constantValue(op string) (uint64, error) {
	if at, ok := e.addresses[op]; ok {
		return at, nil
	}
	if len(op) == 10 && strings.HasPrefix(op, "0f") || len(op) == 18 && strings.HasPrefix(op, "0d") {
		return strconv.ParseUint(op[2:], 16, 64)
	}
	if v, err := strconv.ParseInt(op, 0, 64); err == nil {
		return uint64(v), nil
	}
	v, err := strconv.ParseUint(op, 0, 64)
	if err != nil {
		return 0, fmt.Errorf("operand %q", op)
	}
	return v, nil
}

// isFixed says whether a slot holds the same in every lane and always.
func (e *entry) isFixed(slot int) bool {
	return slices.ContainsFunc(e.fixed, func(f fixedReg) bool { return f.slot == slot })
}

func (e *entry) fixedValue(slot int) uint64 {
	return e.fixed[slices.IndexFunc(e.fixed, func(f fixedReg) bool { return f.slot == slot })].value
}

// bitsOf is the width of a register, 0 of anything else.
func (e *entry) bitsOf(op string) uint8 {
	if w := e.width[op]; w > 0 {
		return w
	}
	if r := register.FindStringSubmatch(op); r != nil {
		return e.width[r[1]]
	}
	return 0
}

// operands splits at commas outside of braces.
func operands(s string) (out []string) {
	depth, from := 0, 0
	for i, c := range s {
		switch c {
		case '{':
			depth++
		case '}':
			depth--
		case ',':
			if depth == 0 {
				out = append(out, strings.TrimSpace(s[from:i]))
				from = i + 1
			}
		}
	}
	return append(out, strings.TrimSpace(s[from:]))
}

func word(p []byte, size int) uint64 {
	switch size {
	case 1:
		return uint64(p[0])
	case 2:
		return uint64(binary.LittleEndian.Uint16(p))
	case 4:
		return uint64(binary.LittleEndian.Uint32(p))
	}
	return binary.LittleEndian.Uint64(p)
}

func putWord(p []byte, size int, v uint64) {
	switch size {
	case 1:
		p[0] = byte(v)
	case 2:
		binary.LittleEndian.PutUint16(p, uint16(v))
	case 4:
		binary.LittleEndian.PutUint32(p, uint32(v))
	default:
		binary.LittleEndian.PutUint64(p, v)
	}
}
