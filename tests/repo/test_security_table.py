"""The security review names tests that exist, and leaves no requirement out."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

from gateway.settings import CHECKOUT

PAGE = (CHECKOUT / "docs" / "security.md").read_text()
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in PAGE.partition("## The review")[2].splitlines()
    if line.startswith("| ") and not line.startswith("| ASVS")
]
TEST = re.compile(r"(tests/[\w/]+\.py)::(test_\w+)")
# How many requirements of levels 1 and 2 each section of ASVS 5.0.0 has; they are numbered first.
SECTIONS = {
    "1.1": 2, "1.2": 9, "1.3": 11, "1.4": 3, "1.5": 2, "2.1": 3, "2.2": 3, "2.3": 4, "2.4": 1,
    "3.2": 2, "3.3": 4, "3.4": 6, "3.5": 5, "3.7": 2, "4.1": 3, "4.2": 1, "4.3": 2, "4.4": 4,
    "5.1": 1, "5.2": 3, "5.3": 2, "5.4": 3, "6.1": 3, "6.2": 12, "6.3": 4, "6.4": 4, "6.5": 5,
    "6.6": 3, "6.8": 4, "7.1": 3, "7.2": 4, "7.3": 2, "7.4": 5, "7.5": 2, "7.6": 2, "8.1": 2,
    "8.2": 3, "8.3": 1, "8.4": 1, "9.1": 3, "9.2": 4, "10.1": 2, "10.2": 2, "10.3": 4, "10.4": 11,
    "10.5": 5, "10.6": 2, "10.7": 3, "11.1": 2, "11.2": 3, "11.3": 3, "11.4": 4, "11.5": 1,
    "11.6": 1, "12.1": 3, "12.2": 2, "12.3": 4, "13.1": 1, "13.2": 5, "13.3": 2, "13.4": 5,
    "14.1": 2, "14.2": 4, "14.3": 3, "15.1": 3, "15.2": 3, "15.3": 7, "16.1": 1, "16.2": 5,
    "16.3": 4, "16.4": 3, "16.5": 3, "17.1": 1, "17.2": 4, "17.3": 2,
}  # fmt: skip
CODE = re.compile(
    r"\bpickle\.|shell=True|os\.system|(?<![.\w])eval\(|(?<![.\w])exec\(|yaml\.load|marshal\.|"
    r"allow_pickle=True|^\s*(?:import|from) (?:xml|lxml|jinja2|mako|pickle)\b",
    re.MULTILINE,
)


@cache
def names_in(file: str) -> frozenset[str]:
    path = CHECKOUT / file
    assert path.is_file(), file
    nodes = ast.walk(ast.parse(path.read_text()))
    return frozenset(
        node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )


def test_every_test_that_a_row_names_exists() -> None:
    named = [found for _, _, proof in ROWS for found in TEST.findall(proof)]
    assert len(named) >= 100
    missing = [f"{file}::{name}" for file, name in named if name not in names_in(file)]
    assert missing == []


def test_every_row_has_its_test_or_a_reason() -> None:
    assert len(ROWS) >= 60
    for numbers, what, proof in ROWS:
        without = TEST.sub("", proof).replace(",", "").strip()
        if TEST.search(proof):
            assert without == "", f"{numbers}: {without}"
            assert what, numbers
        else:
            assert re.fullmatch(r"Reason: .{15,}", proof), numbers


def test_every_requirement_of_the_first_two_levels_has_one_row() -> None:
    given = [number for numbers, _, _ in ROWS for number in numbers.split(", ")]
    wanted = {f"{section}.{n}" for section, count in SECTIONS.items() for n in range(1, count + 1)}
    assert sorted(number for number in given if given.count(number) > 1) == []
    assert set(given) == wanted


def test_no_text_becomes_code() -> None:
    for folder in ("functions", "gateway"):
        for path in sorted(Path(CHECKOUT / folder).rglob("*.py")):
            found = CODE.search(path.read_text())
            assert found is None, f"{path}: {found}"
