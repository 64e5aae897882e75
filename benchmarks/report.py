"""Tables and plots of `docs/performance.md` from `benchmarks/results/*.json`.

    python benchmarks/report.py [--check]

The text between `<!-- bench:NAME -->` and `<!-- /bench -->` is made of `results/NAME.json`; of
`goals`, from the figures of all results. Everything else in the document is left as it is. A plot
lies in `docs/plots`. With --check nothing is written, and a document that differs fails.
"""

from __future__ import annotations

import argparse
import io
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import goals
import results

DOCUMENT = Path(__file__).parents[1] / "docs" / "performance.md"
BLOCK = re.compile(r"(<!-- bench:(?P<name>[\w-]+) -->\n)(.*?)(<!-- /bench -->)", re.S)


def filled(document: str, found: Mapping[str, Mapping[str, Any]]) -> str:
    """The document with every block made anew; a block without a result stays as it is."""

    def block(match: re.Match[str]) -> str:
        name = match["name"]
        if name == "goals":
            body = table(goals.rows(found))
        elif name in found:
            body = section(found[name])
        else:
            return match[0]
        return f"{match[1]}{body}\n{match[4]}"

    return BLOCK.sub(block, document)


def section(result: Mapping[str, Any]) -> str:
    """A result as Markdown: note, table, plots, and where it comes from."""
    parts = [result["note"]] if "note" in result else []
    if result["rows"]:
        parts.append(table(result["rows"]))
    parts += [
        f"![{plot['title']}](plots/{file})"
        for plot, file in zip(result.get("plots", ()), plot_files(result), strict=True)
    ]
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    parts.append(f"`{result['command']}` · {result['date']} · {result['machine']} · {versions}")
    return "\n\n".join(parts)


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Columns in the order in which they first appear; numbers stand to the right."""
    heads = list(dict.fromkeys(head for row in rows for head in row))
    numbers = [all(not isinstance(row.get(head), str) for row in rows) for head in heads]
    lines = [heads, ["---:" if right else "---" for right in numbers]]
    lines += [[text(row.get(head)) for head in heads] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def text(value: Any) -> str:
    """A cell: whole numbers with commas, others with three digits that say something."""
    match value:
        case None:
            return ""
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}"
        case float() if abs(value) >= 100:
            return f"{value:,.0f}"
        case float():
            return f"{value:.3g}"
        case _:
            return str(value)


def plot_files(result: Mapping[str, Any]) -> list[str]:
    """Names of the files of a result's plots."""
    return [f"{result['name']}-{i}.svg" for i, _ in enumerate(result.get("plots", ()), 1)]


def draw(result: Mapping[str, Any], directory: Path) -> None:
    """Draw the plots of a result, the same bytes from the same figures."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "streamsvc"
    from matplotlib import pyplot

    directory.mkdir(exist_ok=True)
    for plot, file in zip(result.get("plots", ()), plot_files(result), strict=True):
        figure, axes = pyplot.subplots(figsize=(6.4, 3.6), layout="constrained")
        x, y, by = plot["x"], plot["y"], plot.get("by")
        where = plot.get("where", {}).items()
        points = [r for r in result["rows"] if x in r and y in r and where <= r.items()]
        for line in dict.fromkeys(row.get(by) for row in points):
            mine = [row for row in points if row.get(by) == line]
            axes.plot([r[x] for r in mine], [r[y] for r in mine], marker="o", label=line)
        log = plot.get("log", "")
        axes.set(title=plot["title"], xlabel=plot.get("label", x), ylabel=y)
        axes.set(xscale="log" if "x" in log else "linear", yscale="log" if "y" in log else "linear")
        if "y" not in log:
            axes.set_ylim(bottom=0)
        if by is not None:
            axes.legend()
        axes.grid(alpha=0.3)
        drawn = io.BytesIO()
        figure.savefig(drawn, format="svg", metadata={"Date": None})
        pyplot.close(figure)
        (directory / file).write_bytes(drawn.getvalue())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true")
    found, old = results.read_all(), DOCUMENT.read_text()
    new = filled(old, found)
    if parser.parse_args().check:
        sys.exit("Run `python benchmarks/report.py`." if new != old else 0)
    for result in found.values():
        draw(result, DOCUMENT.parent / "plots")
    DOCUMENT.write_text(new)
    for name in found.keys() - {match["name"] for match in BLOCK.finditer(old)}:
        print(f"{DOCUMENT.name} has no place for {name}: <!-- bench:{name} -->", file=sys.stderr)


if __name__ == "__main__":
    main()
