"""Tables as text or Markdown, and the JSON of everything."""

import json

from matrix import BASELINE

COLUMNS = ["cell", "target", "CPU us/op", "ratio", "op/s", "p50 us", "p99 us", "p99.9 us", ""]


def table(rows, is_markdown):
    """`rows` of texts, the first of them the heading. Figures stand to the right, notes (without a heading) do not."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]

    def line(row):
        texts = [
            text.rjust(width) if is_figure(number) else text.ljust(width)
            for number, (text, width) in enumerate(zip(row, widths))
        ]
        return "| " + " | ".join(texts) + " |" if is_markdown else "  ".join(texts).rstrip()

    def is_figure(number):
        return number > 0 and rows[0][number] and any(row[number][:1].isdigit() for row in rows)

    lines = [line(row) for row in rows]
    if is_markdown:
        rule = ["-" * (width - 1) + ":" if is_figure(number) else "-" * width for number, width in enumerate(widths)]
        lines.insert(1, "| " + " | ".join(rule) + " |")
    return "\n".join(lines)


def notes(cell, target, series):
    """What makes a figure less than it seems."""
    found = []
    share = series.hit_share() or 0
    if target.startswith("nearhit") and cell.workload.hits:
        if share < cell.workload.hits:
            found.append(f"NO FIGURE: {share:.0%} of reads hit")
        elif cell.workload.name == "mixture":
            found.append(f"{share:.0%} of reads hit")
    if series.of(lambda sample: sample.run.is_saturated):
        found.append("load saturated")
    return ", ".join(found)


def details(cell, measured):
    """The rows of one cell."""
    for target, series in measured.items():
        yield [
            cell.name,
            target,
            f"{series.cpu_us():.3f}",
            f"{series.ratio(measured[BASELINE]):.2f}",
            f"{series.rate():,.0f}",
            *(f"{series.latency(name):,.0f}" for name in ("p50", "p99", "p999")),
            notes(cell, target, series),
        ]


def summary(cells, results):
    """Ratios alone: what a README has room for."""
    targets = list(dict.fromkeys(target for cell in cells for target in results[cell.name]))
    rows = [["ratio to Redis", *targets]]
    for cell in cells:
        measured = results[cell.name]
        ratios = {target: f"{series.ratio(measured[BASELINE]):.2f}" for target, series in measured.items()}
        rows.append([cell.name, *(ratios.get(target, "") for target in targets)])
    return rows


def as_json(cell, measured):
    return {
        "workload": cell.workload.name,
        "size": cell.size,
        "connections": cell.connections,
        "pipeline": cell.pipeline,
        "targets": {
            target: {
                "cpu_us_per_op": round(series.cpu_us(), 4),
                "ratio": round(series.ratio(measured[BASELINE]), 4),
                "ops_per_s": round(series.rate()),
                "p50_us": series.latency("p50"),
                "p99_us": series.latency("p99"),
                "p99.9_us": series.latency("p999"),
                "hit_share": series.hit_share(),
                "load_share": round(series.load_share(), 3),
                "idle_share": round(series.idle_share(), 4),
                "rounds_cpu_us_per_op": [round(sample.cpu_ns / 1e3, 4) for sample in series.samples],
            }
            for target, series in measured.items()
        },
    }


def write_json(path, content):
    with open(path, "w") as file:
        json.dump(content, file, indent=2)
        file.write("\n")
