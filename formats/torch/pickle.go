package torch

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
)

// A pickle is a program for a machine with a stack and a memo. This one knows the
// opcodes of protocols 2 to 5 that dictionaries of tensors need, and makes plain
// values of them: nothing of Python is looked up, and nothing is called.

// Bounds of what a pickle may ask for. Those of known models have some hundred
// bytes a tensor.
const (
	maxPickle  = 64 << 20
	maxObjects = 4 << 20
)

// Values are nil, bool, int64, float64, string, or one of these.
type (
	long   string   // an integer beyond 64 bits: its bytes as stored
	tuple  []any    // also torch.Size
	global string   // "module.name", of the list in globals.go
	inert  struct{} // something that no tensor depends on: bytes, a set, a device
	mark   struct{} // between the items of MARK
	list   struct{ items []any }
	dict   struct { // in order; keys may be anything
		keys   []any
		values []any
	}
)

// plain names a value for a message. Containers share their items, so that a few
// bytes can make one that is endless when written out: they are named by their kind.
func plain(v any) string {
	switch v := v.(type) {
	case string:
		return fmt.Sprintf("%.100q", v)
	case int64, bool:
		return fmt.Sprint(v)
	case nil:
		return "None"
	case float64:
		return "a float"
	case long:
		return "a long integer"
	case tuple:
		return "a tuple"
	case *list:
		return "a list"
	case *dict:
		return "a dictionary"
	}
	return "an object"
}

// get returns the value of a string key.
func (d *dict) get(key string) any {
	for i, k := range d.keys {
		if k == key {
			return d.values[i]
		}
	}
	return nil
}

// machine runs pickles one after another.
type machine struct {
	in      *bufio.Reader
	pos     int64 // bytes taken
	left    int64 // bytes there are
	stack   []any
	memo    map[uint32]any
	objects int
	load    func(pid tuple) (any, error) // of persistent ids
}

func newMachine(r io.ReaderAt, size int64, load func(tuple) (any, error)) *machine {
	return &machine{in: bufio.NewReader(io.NewSectionReader(r, 0, size)), left: size, load: load}
}

// take returns the next n bytes.
func (m *machine) take(n uint64) ([]byte, error) {
	switch {
	case n > uint64(m.left):
		return nil, fmt.Errorf("the pickle @%d asks for %d bytes, %d are left", m.pos, n, m.left)
	case m.pos+int64(n) > maxPickle:
		return nil, fmt.Errorf("the pickle is longer than %d bytes, which no known model's is", maxPickle)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(m.in, b); err != nil {
		return nil, fmt.Errorf("reading the pickle @%d: %w", m.pos, err)
	}
	m.pos, m.left = m.pos+int64(n), m.left-int64(n)
	return b, nil
}

// number reads an unsigned integer of n bytes.
func (m *machine) number(n uint64) (uint64, error) {
	b, err := m.take(n)
	var v [8]byte
	copy(v[:], b)
	return binary.LittleEndian.Uint64(v[:]), err
}

// text reads bytes behind a length of n bytes.
func (m *machine) text(n uint64) (string, error) {
	size, err := m.number(n)
	if err != nil {
		return "", err
	}
	b, err := m.take(size)
	return string(b), err
}

// line reads to the end of a line.
func (m *machine) line() (string, error) {
	var s []byte
	for {
		b, err := m.take(1)
		if err != nil {
			return "", err
		}
		if b[0] == '\n' {
			return string(s), nil
		}
		if s = append(s, b[0]); len(s) > 1<<10 {
			return "", fmt.Errorf("a name in the pickle @%d is longer than %d bytes", m.pos, 1<<10)
		}
	}
}

func (m *machine) push(v any) { m.stack = append(m.stack, v) }

func (m *machine) pop() (any, error) {
	n := len(m.stack)
	if n == 0 {
		return nil, fmt.Errorf("the pickle @%d takes from an empty stack", m.pos)
	}
	v := m.stack[n-1]
	if _, ok := v.(mark); ok {
		return nil, fmt.Errorf("the pickle @%d takes a value where there is a mark", m.pos)
	}
	m.stack = m.stack[:n-1]
	return v, nil
}

// toMark takes the items behind the last mark, and the mark.
func (m *machine) toMark() ([]any, error) {
	for i := len(m.stack) - 1; i >= 0; i-- {
		if _, ok := m.stack[i].(mark); ok {
			items := append([]any(nil), m.stack[i+1:]...)
			m.stack = m.stack[:i]
			return items, nil
		}
	}
	return nil, fmt.Errorf("the pickle @%d has no mark on its stack", m.pos)
}

// tuple of the n items on top.
func (m *machine) tuple(n int) error {
	t := make(tuple, n)
	for i := n - 1; i >= 0; i-- {
		var err error
		if t[i], err = m.pop(); err != nil {
			return err
		}
	}
	m.push(t)
	return nil
}

// run reads one pickle to its end and returns its value.
func (m *machine) run() (any, error) {
	m.stack, m.memo = m.stack[:0], map[uint32]any{}
	for {
		op, err := m.number(1)
		if err != nil {
			return nil, err
		}
		if op == '.' {
			v, err := m.pop()
			if err == nil && len(m.stack) != 0 {
				err = fmt.Errorf("the pickle ends @%d with %d values too many", m.pos, len(m.stack))
			}
			return v, err
		}
		if m.objects++; m.objects > maxObjects {
			return nil, fmt.Errorf("the pickle has more than %d operations, which no known model's has", maxObjects)
		}
		if err := m.step(byte(op)); err != nil {
			return nil, err
		}
	}
}

// step does one operation.
func (m *machine) step(op byte) error {
	switch op {
	case 0x80: // PROTO
		v, err := m.number(1)
		if err == nil && (v < 2 || v > 5) {
			err = fmt.Errorf("the pickle says protocol %d; PyTorch writes 2 to 5", v)
		}
		return err
	case 0x95: // FRAME: its length says nothing that the operations do not
		_, err := m.number(8)
		return err
	case '(':
		m.push(mark{})
	case '0': // POP
		_, err := m.pop()
		return err
	case '1': // POP_MARK
		_, err := m.toMark()
		return err
	case '2': // DUP
		v, err := m.pop()
		m.stack = append(m.stack, v, v)
		return err
	case 'N':
		m.push(nil)
	case 0x88:
		m.push(true)
	case 0x89:
		m.push(false)
	case '}':
		m.push(&dict{})
	case ']':
		m.push(&list{})
	case ')':
		m.push(tuple{})
	case 0x8f: // EMPTY_SET
		m.push(inert{})
	case 't':
		items, err := m.toMark()
		m.push(tuple(items))
		return err
	case 0x85, 0x86, 0x87:
		return m.tuple(int(op - 0x84))
	case 'a', 'e', 's', 'u', 0x90, 0x91:
		return m.collect(op)
	case 'q', 'r', 0x94, 'h', 'j':
		return m.remember(op)
	case 'c', 0x93:
		return m.global(op)
	case 'R', 0x81, 0x92, 'b':
		return m.call(op)
	case 'Q': // BINPERSID
		v, err := m.pop()
		if err != nil {
			return err
		}
		pid, ok := v.(tuple)
		if !ok {
			return fmt.Errorf("the pickle @%d has a persistent id that is no tuple", m.pos)
		}
		s, err := m.load(pid)
		m.push(s)
		return err
	default:
		return m.scalar(op)
	}
	return nil
}

// scalar pushes a number or a text.
func (m *machine) scalar(op byte) error {
	width := map[byte]uint64{'J': 4, 'K': 1, 'M': 2, 'G': 8, 0x8a: 1, 0x8b: 4, 'X': 4, 0x8c: 1, 0x8d: 8, 'T': 4, 'U': 1, 'B': 4, 'C': 1, 0x8e: 8, 0x96: 8}[op]
	switch op {
	case 'J', 'K', 'M': // BININT, BININT1, BININT2
		v, err := m.number(width)
		if op == 'J' {
			v = uint64(int64(int32(v)))
		}
		m.push(int64(v))
		return err
	case 'G': // BINFLOAT, the one number that is stored the other way around
		b, err := m.take(width)
		if err == nil {
			m.push(math.Float64frombits(binary.BigEndian.Uint64(b)))
		}
		return err
	case 0x8a, 0x8b: // LONG1, LONG4
		s, err := m.text(width)
		m.push(integer(s))
		return err
	case 'X', 0x8c, 0x8d, 'T', 'U': // texts; those of Python 2 are bytes
		s, err := m.text(width)
		m.push(s)
		return err
	case 'B', 'C', 0x8e, 0x96: // bytes and bytearrays
		_, err := m.text(width)
		m.push(inert{})
		return err
	}
	return fmt.Errorf("the pickle @%d has the operation %s, which no dictionary of tensors needs", m.pos-1, strconv.QuoteRune(rune(op)))
}

// integer is the value of a little-endian two's complement number.
func integer(s string) any {
	if len(s) > 8 {
		return long(s)
	}
	var v int64
	for i := len(s) - 1; i >= 0; i-- {
		v = v<<8 | int64(s[i])
	}
	if n := len(s); n > 0 && n < 8 && s[n-1]&0x80 != 0 {
		v -= 1 << (8 * n)
	}
	return v
}

// collect puts items into a list, a dictionary or a set.
func (m *machine) collect(op byte) error {
	var items []any
	var err error
	switch op {
	case 'a':
		items = make([]any, 1)
		items[0], err = m.pop()
	case 's':
		items = make([]any, 2)
		if items[1], err = m.pop(); err == nil {
			items[0], err = m.pop()
		}
	default:
		items, err = m.toMark()
	}
	if err != nil {
		return err
	}
	if op == 0x91 { // FROZENSET
		m.push(inert{})
		return nil
	}
	into, err := m.pop()
	if err != nil {
		return err
	}
	m.push(into)
	switch c := into.(type) {
	case *list:
		if op == 'a' || op == 'e' {
			c.items = append(c.items, items...)
			return nil
		}
	case *dict:
		if op == 's' || op == 'u' {
			return m.set(c, items)
		}
	case inert:
		return nil
	}
	return fmt.Errorf("the pickle @%d puts items into what cannot take them", m.pos)
}

// set adds keys and values, which take turns.
func (m *machine) set(d *dict, items []any) error {
	if len(items)%2 != 0 {
		return fmt.Errorf("the pickle @%d has a key without a value", m.pos)
	}
	for i := 0; i < len(items); i += 2 {
		d.keys, d.values = append(d.keys, items[i]), append(d.values, items[i+1])
	}
	return nil
}

// remember puts a value into the memo, or takes it from there.
func (m *machine) remember(op byte) error {
	at, err := uint64(len(m.memo)), error(nil)
	switch op {
	case 'q', 'h':
		at, err = m.number(1)
	case 'r', 'j':
		at, err = m.number(4)
	}
	if err != nil {
		return err
	}
	if op == 'h' || op == 'j' {
		v, ok := m.memo[uint32(at)]
		if !ok {
			return fmt.Errorf("the pickle @%d reads place %d of its memo, where nothing is", m.pos, at)
		}
		m.push(v)
		return nil
	}
	v, err := m.pop()
	if err != nil {
		return err
	}
	m.push(v)
	m.memo[uint32(at)] = v
	return nil
}

// global pushes a name of Python's, if it is one that tensors need.
func (m *machine) global(op byte) error {
	var name [2]string
	for i := range name {
		var err error
		if op == 'c' {
			if name[i], err = m.line(); err != nil {
				return err
			}
			continue
		}
		v, err := m.pop()
		s, ok := v.(string)
		if err != nil || !ok {
			return fmt.Errorf("the pickle @%d has a global without a name", m.pos)
		}
		name[1-i] = s
	}
	full := strings.Replace(name[0], "__builtin__", "builtins", 1) + "." + name[1]
	if err := known(full); err != nil {
		return err
	}
	m.push(global(full))
	return nil
}

// call makes a value of a global and its arguments, as far as it is known what it
// would give: REDUCE, NEWOBJ, NEWOBJ_EX and BUILD.
func (m *machine) call(op byte) error {
	args, err := m.pop()
	if err != nil {
		return err
	}
	if op == 0x92 { // NEWOBJ_EX has keyword arguments on top
		if args, err = m.pop(); err != nil {
			return err
		}
	}
	what, err := m.pop()
	if err != nil {
		return err
	}
	if op == 'b' { // attributes, such as the _metadata of a state dict
		switch what.(type) {
		case *dict, *Tensor, inert:
			m.push(what)
			return nil
		}
		return fmt.Errorf("the pickle @%d sets attributes of what has none", m.pos)
	}
	name, ok := what.(global)
	list, ok2 := args.(tuple)
	if !ok || !ok2 {
		return fmt.Errorf("the pickle @%d calls what is no function", m.pos)
	}
	v, err := m.build(name, list)
	m.push(v)
	return err
}
