"""Draw docs/architecture.svg: the rooms of the library by floor, the way of a slide and the way of a run.

    python docs/draw_architecture.py > docs/architecture.svg

Floors are those that tests/test_floors.py holds; what a room does is the first line of its docstring.
"""

import ast
import sys
from collections.abc import Iterator
from html import escape
from pathlib import Path

ROOT = Path(__file__).parents[1]
LIBRARY = ROOT / "scripts" / "myostage"

WIDTH = 1180
HOUSE = 700
ROOM, GAP, TOP = 50, 8, 50
LONGEST = 70  # characters of a line below a room
INK, PALE, WALL = "#1b1f24", "#5b6570", "#c3cad2"
FILL = {"ground": "#f2f4f7", "slide": "#e3f1ec", "run": "#e6ecf8"}

# Rule, the room that does its work, and what it writes.
SLIDE = (
    ("check", "slides", "slides.parquet: size, um/px, reader"),
    ("tile", "slides", "tiles.parquet: tissue, overlapping tiles"),
    ("segment", "cells", "cells.parquet: outlines, each cell once"),
    ("crop", "cells", "crops.parquet: 64 px around each cell"),
    ("embed", "features", "tokens: what enters the last block"),
)
RUN = (
    ("split", "learning", "splits.parquet: folds of animals"),
    ("train", "learning", "model, history, held-out predictions"),
    ("predict", "learning", "stage probabilities of every cell"),
    ("evaluate", "evaluation", "metrics.parquet, comparisons.parquet"),
    ("look", "figures", "figures, with the rows behind them"),
    ("summary", "report", "summary.html: answers in sentences"),
)


def floors() -> list[set[str]]:
    """The table FLOORS of tests/test_floors.py, ground floor first, without rooms within a package."""
    tree = ast.parse((ROOT / "tests" / "test_floors.py").read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "FLOORS":
            table = ast.literal_eval(node.value)
            return [rooms for floor in table if (rooms := {room for room in floor if "." not in room})]
    raise SystemExit("tests/test_floors.py has no table FLOORS")


def purpose(room: str) -> str:
    """First line of a room's docstring, or its first clause where the line is long."""
    place = LIBRARY / room
    file = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
    line = (ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or room).splitlines()[0]
    return line if len(line) <= LONGEST else line.split(":")[0].split(",")[0].rstrip(".") + "."


def text(x: float, y: float, words: str, size: int = 12, weight: str = "normal", fill: str = INK) -> str:
    return (
        f'<text x="{x:g}" y="{y:g}" font-size="{size}" font-weight="{weight}" fill="{fill}">'
        f"{escape(words)}</text>"
    )


def box(x: float, y: float, width: float, height: float, fill: str) -> str:
    return (
        f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="4" fill="{fill}"'
        f' stroke="{WALL}"/>'
    )


def wrapped(words: str, characters: int) -> list[str]:
    lines = [""]
    for word in words.split():
        if lines[-1] and len(lines[-1]) + 1 + len(word) > characters:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines


def house(table: list[set[str]]) -> Iterator[str]:
    yield text(20, 30, "Rooms of scripts/myostage: imports go down only", 15, "bold")
    for height, rooms in enumerate(reversed(table)):
        y = TOP + height * (ROOM + GAP)
        width = (HOUSE - 40 - GAP * (len(rooms) - 1)) / len(rooms)
        for at, room in enumerate(sorted(rooms)):
            x = 20 + at * (width + GAP)
            yield box(x, y, width, ROOM, FILL["ground"])
            yield text(x + 10, y + 18, room, 13, "bold")
            for line, words in enumerate(wrapped(purpose(room), int(width / 5.9))[:2]):
                yield text(x + 10, y + 32 + 12 * line, words, 10, fill=PALE)


def way(title: str, steps: tuple[tuple[str, str, str], ...], y: float, fill: str) -> Iterator[str]:
    x, width, high, apart = HOUSE + 40, WIDTH - HOUSE - 60, 36, 14
    yield text(x, y, title, 15, "bold")
    for at, (rule, room, written) in enumerate(steps):
        top = y + 20 + at * (high + apart)
        yield box(x, top, width, high, fill)
        yield text(x + 10, top + 23, rule, 13, "bold")
        yield text(x + 90, top + 23, room, 12)
        yield text(x + 165, top + 23, written, 11, fill=PALE)
        if at:
            yield f'<path d="M{x + 40} {top - apart}v{apart - 4}" stroke="{INK}" marker-end="url(#tip)"/>'


def main() -> None:
    table = floors()
    height = max(TOP + len(table) * (ROOM + GAP), 690)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}"'
        f' height="{height}" font-family="DejaVu Sans, Verdana, sans-serif">',
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="4" refY="4" markerWidth="7" markerHeight="7"'
        f' orient="auto"><path d="M0 0L8 4L0 8z" fill="{INK}"/></marker></defs>',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
        *house(table),
        *way("The way of a slide: rule, room, output", SLIDE, 30, FILL["slide"]),
        text(HOUSE + 40, 312, "tokens, with the proportions of each group, go to", 12, fill=PALE),
        *way("The way of a run: rule, room, output", RUN, 350, FILL["run"]),
        "</svg>",
    ]
    sys.stdout.write("\n".join(parts) + "\n")


if __name__ == "__main__":
    main()
