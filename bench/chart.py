"""Charts as SVG: ratios to Redis on a logarithmic scale, so that half the cost is as far from 1 as twice the cost.

No library: the files are small, readable, and follow the reader's choice of light or dark.
"""

import math

STYLE = """
  text { font: 13px system-ui, sans-serif; fill: #1f2328 }
  .title { font-weight: 600; font-size: 15px }
  .small { font-size: 11px; fill: #59636e }
  .value { font-size: 11px }
  .grid { stroke: #d1d9e0; stroke-width: 1 }
  .redis { stroke: #59636e; stroke-width: 1.5; stroke-dasharray: 5 3 }
  .haproxy { fill: #b6bdc6; stroke: #b6bdc6 }
  .nutcracker { fill: #848d97; stroke: #848d97 }
  .forwarding { fill: #d4903a; stroke: #d4903a }
  .nearhit { fill: #2f74d0; stroke: #2f74d0 }
  .line { fill: none; stroke-width: 2.5 }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 }
    .small { fill: #9198a1 }
    .grid { stroke: #3d444d }
    .redis { stroke: #9198a1 }
    .haproxy { fill: #656c76; stroke: #656c76 }
    .nutcracker { fill: #9198a1; stroke: #9198a1 }
    .forwarding { fill: #e0a458; stroke: #e0a458 }
    .nearhit { fill: #5b9bf0; stroke: #5b9bf0 }
    .line { fill: none }
  }
"""
NAMES = {
    "haproxy": "haproxy",
    "nutcracker": "nutcracker (twemproxy)",
    "forwarding": "nearhit, forwarding",
    "nearhit": "nearhit",
}


class Drawing:
    def __init__(self, width, height, title):
        self.width, self.height, self.parts = width, height, []
        self.label = title

    def text(self, x, y, words, kind="", anchor="start"):
        words = str(words).replace("&", "&amp;").replace("<", "&lt;")
        self.parts.append(f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}" text-anchor="{anchor}">{words}</text>')

    def line(self, x1, y1, x2, y2, kind):
        self.parts.append(f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{kind}"/>')

    def bar(self, x, y, width, height, kind):
        self.parts.append(f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" class="{kind}"/>')

    def curve(self, points, kind):
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        self.parts.append(f'<polyline points="{path}" class="{kind} line"/>')
        self.parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" class="{kind}"/>' for x, y in points]

    def legend(self, x, y, kinds):
        for kind in kinds:
            self.bar(x, y - 10, 12, 12, kind)
            self.text(x + 18, y, NAMES[kind])
            x += 40 + 7.2 * len(NAMES[kind])

    def write(self, path):
        head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {self.height}" '
        head += f'width="{self.width}" height="{self.height}" role="img" aria-label="{self.label}">'
        with open(path, "w") as file:
            file.write("\n".join([head, f"<style>{STYLE}</style>", *self.parts, "</svg>"]) + "\n")


class Scale:
    """Ratios to places, by their logarithm; grid lines at powers of 2."""

    def __init__(self, ratios, top, bottom):
        logs = [math.log2(ratio) for ratio in ratios] + [0.0]
        self.low, self.high = math.floor(min(logs) - 0.1), math.ceil(max(logs) + 0.1)
        self.top, self.bottom = top, bottom

    def place(self, ratio):
        share = (math.log2(ratio) - self.low) / (self.high - self.low)
        return self.bottom - share * (self.bottom - self.top)

    def draw(self, drawing, left, right):
        for power in range(self.low, self.high + 1):
            y = self.place(2.0**power)
            drawing.line(left, y, right, y, "redis" if power == 0 else "grid")
            drawing.text(left - 8, y + 4, f"{2.0**power:g}", "small", "end")


def write_bars(path, results):
    """GET and SET of 32 B by 50 clients: a group for each depth, a bar for each target."""
    kinds = list(NAMES)
    groups = []
    for cell, measured in results.items():
        if cell.startswith(("GET 32 B", "SET 32 B")) and "c=1 " not in cell and "redis" in measured:
            ratios = {kind: measured[kind].ratio(measured["redis"]) for kind in kinds if kind in measured}
            groups.append((cell, ratios))
    if not groups:
        raise SystemExit("--svg: no cell of GET or SET with 32 B was measured")
    left, width, bar = 60, 40 + 124 * len(groups) + 20, 26
    drawing = Drawing(width, 400, "CPU time of an operation as a ratio to Redis asked directly")
    drawing.text(16, 26, "CPU time of an operation as a ratio to Redis asked directly", "title")
    drawing.text(16, 44, "proxy and Redis together; less is better; 32 B values, logarithmic scale", "small")
    scale = Scale([ratio for _, ratios in groups for ratio in ratios.values()], 76, 330)
    scale.draw(drawing, left, width - 16)
    base = scale.place(1.0)
    for number, (cell, ratios) in enumerate(groups):
        x = left + 10 + number * 124
        for kind, ratio in ratios.items():
            y = scale.place(ratio)
            drawing.bar(x, min(y, base), bar - 3, abs(y - base), kind)
            drawing.text(x + (bar - 3) / 2, y - 5 if ratio >= 1 else y + 13, f"{ratio:.2f}", "value", "middle")
            x += bar
        words = cell.split()
        drawing.text(left + 10 + number * 124 + 2 * bar, 350, f"{words[0]}  {words[-1]}", "", "middle")
    drawing.legend(left, 384, [kind for kind in kinds if any(kind in ratios for _, ratios in groups)])
    drawing.write(path)


def write_lines(path, panels):
    """A panel for each of `panels`, by name: the points (value, ratio) of each target. Both axes are logarithmic."""
    across, tall, left, top = 420, 250, 56, 70
    height = top + tall * math.ceil(len(panels) / 2) + 40
    drawing = Drawing(2 * across, height, "CPU time of a GET as a ratio to Redis, as the load grows")
    drawing.text(16, 26, "CPU time of a GET as a ratio to Redis asked directly, as the load grows", "title")
    drawing.text(16, 44, "dashed: Redis; less is better; logarithmic scales", "small")
    ratios = [ratio for lines in panels.values() for points in lines.values() for _, ratio in points]
    for number, (name, lines) in enumerate(panels.items()):
        x0, y0 = (number % 2) * across + left, top + (number // 2) * tall
        right = x0 + across - left - 28
        scale = Scale(ratios, y0 + 20, y0 + tall - 50)
        scale.draw(drawing, x0, right)
        drawing.text(x0, y0 + 8, name)
        values = [math.log10(value) for points in lines.values() for value, _ in points]
        low, span = min(values), max(max(values) - min(values), 1e-9)
        for kind, points in lines.items():
            spots = [(x0 + 8 + (math.log10(v) - low) / span * (right - x0 - 16), scale.place(r)) for v, r in points]
            drawing.curve(spots, kind)
        for (x, _), (value, _) in zip(spots, points):
            drawing.text(x, y0 + tall - 32, short(value), "small", "middle")
    drawing.legend(left, height - 14, list(dict.fromkeys(kind for lines in panels.values() for kind in lines)))
    drawing.write(path)


def short(value):
    """10000 as 10k, 65536 as 64Ki."""
    for step, units in ((1000, ("", "k", "M")), (1024, ("", "Ki", "Mi"))):
        unit = 0
        while value >= step and value % step == 0 and unit < 2:
            value, unit = value // step, unit + 1
        if unit:
            return f"{value}{units[unit]}"
    return str(value)
