package jinja

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"
)

// formatSpec is Python's format: fill and align, sign, zeros, width, grouping, precision, type.
var formatSpec = regexp.MustCompile(`^(?:(.)?([<>^=]))?([-+ ])?(0)?([0-9]{1,4})?([,_])?(?:\.([0-9]{1,3}))?([a-zA-Z%])?$`)

// formatted is format(v, spec), of repr(v) or str(v) where as is "r" or "s".
func (m *machine) formatted(v any, as, spec string) (string, error) {
	switch as {
	case "":
	case "r":
		var b strings.Builder
		if err := m.repr(&b, v); err != nil {
			return "", err
		}
		v = b.String()
	case "s":
		s, err := m.str(v)
		if err != nil {
			return "", err
		}
		v = s
	default:
		return "", fmt.Errorf("format conversion !%s is not supported", as)
	}
	if spec == "" {
		return m.str(v)
	}
	p := formatSpec.FindStringSubmatch(spec)
	if p == nil {
		return "", fmt.Errorf("format %q is not supported", spec)
	}
	fill, align, sign, zero, group, precision, kind := p[1], p[2], p[3], p[4], p[6], p[7], p[8]
	body, number, known := "", true, true
	switch x := v.(type) {
	case int64:
		switch {
		case kind == "" || kind == "d":
			if precision != "" {
				return "", fmt.Errorf("precision not allowed in integer format specifier")
			}
			body = strconv.FormatInt(x, 10)
		case strings.Contains("fFeEgG%", kind):
			body = floatBody(float64(x), precision, kind)
		case strings.Contains("xXob", kind) && precision == "" && group == "":
			body = fmt.Sprintf("%"+kind, x)
		default:
			known = false
		}
	case float64:
		switch {
		case kind == "" && precision == "":
			body = floatRepr(x)
		case kind != "" && strings.Contains("fFeEgG%", kind):
			body = floatBody(x, precision, kind)
		default:
			known = false
		}
	case string:
		number = false
		if known = (kind == "" || kind == "s") && sign == "" && group == "" && align != "="; !known {
			break
		}
		body = x
		if n, err := strconv.Atoi(precision); err == nil && utf8.RuneCountInString(x) > n {
			body = string([]rune(x)[:n])
		}
	default:
		known = false
	}
	if !known {
		return "", fmt.Errorf("format %q of a value of type %s is not supported", spec, typeName(v))
	}
	minus := ""
	if number {
		if strings.HasPrefix(body, "-") {
			minus, body = "-", body[1:]
		} else if sign == "+" || sign == " " {
			minus = sign
		}
		if group != "" {
			body = grouped(body, group)
		}
	}
	width, _ := strconv.Atoi(p[5])
	if zero != "" && align == "" && number {
		if group != "" {
			return "", fmt.Errorf("format %q is not supported", spec)
		}
		fill, align = "0", "="
	} else if zero != "" && fill == "" {
		fill = "0"
	}
	if fill == "" {
		fill = " "
	}
	pad := max(width-utf8.RuneCountInString(minus+body), 0)
	switch {
	case align == "=":
		return minus + strings.Repeat(fill, pad) + body, nil
	case align == "^":
		return strings.Repeat(fill, pad/2) + minus + body + strings.Repeat(fill, pad-pad/2), nil
	case align == ">" || align == "" && number:
		return strings.Repeat(fill, pad) + minus + body, nil
	}
	return minus + body + strings.Repeat(fill, pad), nil
}

// floatBody is f in one of Python's formats, six digits where none are asked for.
func floatBody(f float64, precision, kind string) string {
	n, err := strconv.Atoi(precision)
	if err != nil {
		n = 6
	}
	if kind == "%" {
		return strconv.FormatFloat(100*f, 'f', n, 64) + "%"
	}
	s := fmt.Sprintf("%."+strconv.Itoa(n)+kind, f)
	switch low := strings.ToLower(strings.TrimPrefix(s, "+")); {
	case strings.HasSuffix(low, "inf"), low == "nan":
		return low
	}
	return s
}

// grouped parts the digits before the point by threes.
func grouped(s, by string) string {
	end := strings.IndexFunc(s, func(r rune) bool { return r < '0' || r > '9' })
	if end < 0 {
		end = len(s)
	}
	whole, rest := s[:end], s[end:]
	for i := len(whole) - 3; i > 0; i -= 3 {
		whole = whole[:i] + by + whole[i:]
	}
	return whole + rest
}
