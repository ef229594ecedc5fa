"""What the README points at is there."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


@pytest.mark.parametrize("reference", sorted(set(re.findall(r"(test_\w+\.py::test_\w+)", README))))
def test_named_tests_exist(reference):
    file, name = reference.split("::")
    tree = ast.parse((ROOT / "tests" / file).read_text())
    assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("program", sorted(set(re.findall(r"python -m (launch\.\w+)", README))))
def test_named_programs_exist(program):
    assert (ROOT / f"{program.replace('.', '/')}.py").is_file()


@pytest.mark.parametrize(
    "path", sorted(set(re.findall(r"(?:configs|\.github|launch)/[\w/]+\.\w+", README)))
)
def test_named_files_exist(path):
    assert (ROOT / path).is_file()


def test_the_differences_are_all_pinned():
    """Every row of the table of differences names a test."""
    table = README.split("## Where it differs")[1].split("##")[0]
    rows = [line for line in table.splitlines() if line.startswith("| ")][1:]
    assert len(rows) > 15
    assert all("::test_" in row for row in rows)
