"""The law of imports and of file names; DESIGN of the project in a few lines."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "maskflow_jax"
FILES = sorted([*PACKAGE.rglob("*.py"), *(ROOT / "launch").rglob("*.py")])
MAY_IMPORT = {
    "io": set(),
    "parallel": set(),
    "flow": set(),
    "models": {"io"},
    "tokenizers": {"io"},
    "data": {"tokenizers", "io"},
    "sampling": {"flow"},
    "training": {"flow", "models", "data", "parallel", "io"},
    "evaluation": {"flow", "sampling", "tokenizers", "data", "io"},
    "profiling": {"models"},
}
# training takes models apart and puts them together (graphdef, merge); it never defines one.
MAY_USE_NNX = {"models", "tokenizers", "training"}


def imported(path):
    """Full dotted names of all that a file imports, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path} imports relatively"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=str)
def test_imports_run_one_way(path):
    part = path.relative_to(PACKAGE).with_suffix("").parts[0]
    for name in imported(path):
        package, *rest = name.split(".")
        assert package not in ("launch", "configs", "tests"), name
        if package == "maskflow_jax" and part != "__init__":
            assert rest[0] in MAY_IMPORT[part] | {part}, f"{part} may not import {name}"
        if name.startswith("flax"):
            assert part in MAY_USE_NNX, f"{part} may not import {name}"
    if part == "training":
        assert "nnx.Module)" not in path.read_text(), "models are defined in models"


@pytest.mark.parametrize("path", FILES, ids=str)
def test_files(path):
    text = path.read_text()
    assert path.stem not in ("utils", "common", "base", "helpers")
    assert len(text.splitlines()) <= 350
    if path.name == "__init__.py" and path.parent != PACKAGE:
        assert not text, "packages are empty but the root"
    else:
        assert ast.get_docstring(ast.parse(text)), "a file says in its docstring what it is for"
