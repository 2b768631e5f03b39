"""A curve as an SVG picture: logarithmic axes, every measurement as a point, a line through the medians. It needs no
library, and reads well on a light and on a dark page."""
import html
import math
import statistics

WIDTH, HEIGHT = 720, 420
LEFT, RIGHT, TOP, BOTTOM = 78, 36, 84, 58
COLORS = [("#0b6bcb", "#6cb2ff"), ("#c2410c", "#ff9b62"), ("#15803d", "#5fd38b"), ("#7e22ce", "#c792ff"),
          ("#a16207", "#e6c352")]
STYLE = """
  svg { background: #ffffff; color: #1f2328; font-family: system-ui, sans-serif; font-size: 12px }
  .grid { stroke: currentColor; stroke-opacity: .13 } .axis { stroke: currentColor; stroke-opacity: .6 }
  .bar { stroke: currentColor; stroke-opacity: .55; stroke-dasharray: 6 4 }
  text { fill: currentColor } .title { font-size: 15px; font-weight: 600 } .line { fill: none; stroke-width: 2 }
"""


def short(value):
    """1500 -> 1.5 k, 0.25 -> 0.25"""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.3g}"


def binary(value):
    """4096 -> 4 KiB"""
    for unit, size in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.0f} B"


class axis:
    def __init__(self, values, begin, end, base=10):
        low, high = min(values), max(values)
        self.begin, self.end, self.base = begin, end, base
        self.low = math.floor(math.log(low, base) + 1e-9)
        self.high = max(self.low + 1, math.ceil(math.log(high, base) - 1e-9))

    def place(self, value):
        part = (math.log(value, self.base) - self.low) / (self.high - self.low)
        return self.begin + part * (self.end - self.begin)

    def ticks(self):
        return [self.base ** n for n in range(self.low, self.high + 1)]


def draw(title, x_label, y_label, series, bars=(), is_binary=False):
    """`series`: a list of (name, [(x, [y, ...]), ...]). `bars`: (name, y) of lines to hold something against. An x of 0 stands
    at the axis, one step below the least other x."""
    base_x = 2 ** 4 if is_binary else 10
    all_x = [x for _, points in series for x, _ in points if x > 0]
    zero_at = min(all_x) / base_x
    has_zero = any(x == 0 for _, points in series for x, _ in points)
    all_y = [y for _, points in series for _, values in points for y in values] + [y for _, y in bars]
    across = axis(all_x + [zero_at] * has_zero, LEFT, WIDTH - RIGHT, base_x)
    up = axis(all_y, HEIGHT - BOTTOM, TOP)
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
           f'aria-label="{html.escape(title)}"><style>{STYLE}']
    for n, (light, _) in enumerate(COLORS):
        out.append(f"  .s{n} {{ stroke: {light} }} .p{n} {{ fill: {light} }}")
    out.append("  @media (prefers-color-scheme: dark) { svg { background: #0d1117; color: #e6edf3 }")
    for n, (_, dark) in enumerate(COLORS):
        out.append(f"    .s{n} {{ stroke: {dark} }} .p{n} {{ fill: {dark} }}")
    out.append("  }</style>")
    out.append(f'<rect width="{WIDTH}" height="{HEIGHT}" fill="none"/>')
    out.append(f'<text class="title" x="{LEFT}" y="22">{html.escape(title)}</text>')
    for x in across.ticks():
        at = across.place(x)
        label = "0" if has_zero and x <= zero_at * 1.0001 else binary(x) if is_binary else short(x)
        out.append(f'<line class="grid" x1="{at:.1f}" x2="{at:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>')
        out.append(f'<text x="{at:.1f}" y="{HEIGHT - BOTTOM + 17}" text-anchor="middle">{label}</text>')
    for y in up.ticks():
        at = up.place(y)
        out.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>')
        out.append(f'<text x="{LEFT - 8}" y="{at + 4:.1f}" text-anchor="end">{short(y)}</text>')
    out.append(f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{HEIGHT - BOTTOM}" y2="{HEIGHT - BOTTOM}"/>')
    out.append(f'<line class="axis" x1="{LEFT}" x2="{LEFT}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>')
    middle = (TOP + HEIGHT - BOTTOM) / 2
    out.append(f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 16}" text-anchor="middle">{html.escape(x_label)}</text>')
    out.append(f'<text transform="translate(20 {middle}) rotate(-90)" text-anchor="middle">{html.escape(y_label)}</text>')
    for name, y in bars:
        at = up.place(y)
        out.append(f'<line class="bar" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>')
        out.append(f'<text x="{WIDTH - RIGHT - 4}" y="{at - 5:.1f}" text-anchor="end">{html.escape(name)}</text>')
    legend, row = LEFT, 44
    for n, (name, points) in enumerate(series):
        n %= len(COLORS)
        medians = [(across.place(x or zero_at), up.place(statistics.median(values))) for x, values in points]
        out.append(f'<polyline class="line s{n}" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in medians)}"/>')
        for x, values in points:
            for y in values:
                out.append(f'<circle class="p{n}" cx="{across.place(x or zero_at):.1f}" cy="{up.place(y):.1f}" r="3"/>')
        width = 40 + 6.4 * len(name)
        if legend > LEFT and legend + width > WIDTH:
            legend, row = LEFT, row + 20
        out.append(f'<line class="line s{n}" x1="{legend:.0f}" x2="{legend + 18:.0f}" y1="{row}" y2="{row}"/>')
        out.append(f'<text x="{legend + 23:.0f}" y="{row + 4}">{html.escape(name)}</text>')
        legend += width
    out.append("</svg>")
    return "\n".join(out) + "\n"
