"""Line charts as SVG, small and plain: panels in a grid, one line a series, every point labelled."""
import math
from dataclasses import dataclass
from html import escape

COLORS = ["#2b6cb0", "#c05621", "#2f855a", "#6b46c1"]
WIDTH, HEIGHT = 300, 230  # of a panel
LEFT, RIGHT, TOP, BOTTOM = 46, 14, 34, 44


@dataclass
class Panel:
    title: str
    label: str   # of the x axis
    ticks: list  # names of the places on it
    lines: dict  # name of a series: a value or None a tick
    log: bool = False  # a logarithmic y axis


def scale(values, log):
    """The values of the grid lines, lowest first."""
    if log:
        low, high = math.floor(math.log10(min(values) * 0.8)), math.ceil(math.log10(max(values) * 1.08))
        return [10.0**k for k in range(low, high + 1)]
    step = 10.0 ** math.floor(math.log10(max(values)))
    step = next(k * step for k in (0.25, 0.5, 1, 1.5, 2, 2.5, 5) if 4 * k * step >= max(values) * 1.08)
    return [k * step for k in range(5)]


def figure(v):
    return f"{v:,.0f}" if v >= 20 else f"{v:.1f}" if v >= 2 else f"{v:.2f}"


def text(x, y, s, size=11, anchor="middle", color="#333", weight="normal"):
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" fill="{color}" font-weight="{weight}">{escape(s)}</text>'


def panel(p, x0, y0):
    values = [v for line in p.lines.values() for v in line if v is not None]
    if not values:
        return []
    grid = scale(values, p.log)
    at = math.log10 if p.log else float
    low, high = at(grid[0]), at(grid[-1])
    w, h = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
    px = lambda i: x0 + LEFT + w * (i + 0.5) / len(p.ticks)
    py = lambda v: y0 + TOP + h * (1 - (at(v) - low) / (high - low))
    out = [text(x0 + LEFT, y0 + 16, p.title, 12, "start", "#111", "bold"), text(x0 + LEFT + w / 2, y0 + HEIGHT - 8, p.label, 10, color="#555")]
    for k, v in enumerate(grid):
        out.append(f'<line x1="{x0 + LEFT}" x2="{x0 + LEFT + w}" y1="{py(v):.1f}" y2="{py(v):.1f}" stroke="{"#999" if k == 0 else "#e5e5e5"}"/>')
        out.append(text(x0 + LEFT - 5, py(v) + 3.5, f"{v:,g}", 9, "end", "#777"))
    out += [text(px(i), y0 + HEIGHT - BOTTOM + 15, t, 10) for i, t in enumerate(p.ticks)]
    for n, (name, line) in enumerate(p.lines.items()):
        color, spots = COLORS[n], [(px(i), py(v), v) for i, v in enumerate(line) if v is not None]
        out.append(f'<polyline fill="none" stroke="{color}" stroke-width="2" points="{" ".join(f"{a:.1f},{b:.1f}" for a, b, _ in spots)}"/>')
        for i, v in enumerate(line):
            if v is None:
                continue
            others = [l[i] for k, l in enumerate(p.lines.values()) if k != n and l[i] is not None]
            above = all(v >= o for o in others)
            out.append(f'<circle cx="{px(i):.1f}" cy="{py(v):.1f}" r="2.6" fill="{color}"/>')
            out.append(text(px(i), py(v) - 6 if above else min(py(v) + 13, y0 + TOP + h - 3), figure(v), 9, color=color))
    return out


def draw(panels, columns):
    rows = -(-len(panels) // columns)
    width, height = columns * WIDTH, rows * HEIGHT + 26
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" font-family="-apple-system, Segoe UI, Helvetica, Arial, sans-serif">',
           f'<rect width="{width}" height="{height}" fill="#fff"/>']
    x = LEFT
    for n, name in enumerate(panels[0].lines):
        out += [f'<rect x="{x}" y="9" width="14" height="4" fill="{COLORS[n]}"/>', text(x + 20, 15, name, 11, "start")]
        x += 40 + 7 * len(name)
    for i, p in enumerate(panels):
        out += panel(p, i % columns * WIDTH, 26 + i // columns * HEIGHT)
    return "\n".join(out + ["</svg>"]) + "\n"
