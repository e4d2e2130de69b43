#!/usr/bin/env python3
"""The table (standard output, Markdown) and the chart (docs/benchmark.svg) of what converge.py, edge.py and seeding.py wrote to tests/output/benchmark.jsonl."""
import json
from pathlib import Path

import matplotlib

matplotlib.use("svg")
matplotlib.rcParams.update({"svg.hashsalt": "benchmark", "svg.fonttype": "none"})
from matplotlib import pyplot  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
LINES = [json.loads(line) for line in (ROOT / "tests/output/benchmark.jsonl").read_text().splitlines()]
# A measurement that was repeated counts once, as it was last.
FOUND = {line["name"]: line for line in LINES}

CHARTS = [
    ("CPU of the load balancer, µs a request", "CPU us/request", ["edge", "hand-made, with a log", "hand-made"]),
    ("CPU of nginx, µs a request", "CPU us/request", ["static, ours", "static, Debian"]),
    ("Full TLS handshakes a second of CPU", "handshakes/CPU s", ["edge", "hand-made, with a log", "hand-made"]),
    ("Median latency, ms", "p50 ms", ["edge", "nginx alone"]),
]


def main():
    print("| what | median | least | most |\n|---|---|---|---|")
    for name, line in FOUND.items():
        if "median" in line:
            print(f"| {name} | {line['median']} | {line['least']} | {line['most']} |")
    print("\n| what | wall s | CPU of the controller s | CPU of the hosts s |\n|---|---|---|---|")
    for name, line in FOUND.items():
        if "wall_s" in line:
            print(f"| {name} | {line['wall_s']} | {line['controller_cpu_s']} | {line['hosts_cpu_s']} |")
    figure, axes = pyplot.subplots(len(CHARTS), 1, figsize=(7, 6.5), gridspec_kw={"height_ratios": [len(names) for _, _, names in CHARTS]})
    for axis, (title, unit, names) in zip(axes, CHARTS):
        lines = [FOUND[f"edge, {name}: {unit}"] for name in names]
        spread = [[line["median"] - line["least"] for line in lines], [line["most"] - line["median"] for line in lines]]
        bars = axis.barh(names, [line["median"] for line in lines], xerr=spread, color=["#2563eb"] + ["#94a3b8"] * (len(names) - 1), height=0.6, error_kw={"ecolor": "#475569", "capsize": 3})
        axis.bar_label(bars, fmt=lambda value: f"{value:,.0f}" if value > 10 else f"{value:.1f}", padding=6)
        axis.set_title(title, loc="left", fontsize=10)
        axis.invert_yaxis()
        axis.margins(x=0.15)
        axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(ROOT / "docs/benchmark.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
