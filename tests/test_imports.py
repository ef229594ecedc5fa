"""The law of imports, and of the files of the package and of the command line."""

import ast
import re
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "maskflow_jax"
MODULES = sorted(PACKAGE.rglob("*.py"))
PROGRAMS = sorted((ROOT / "launch").glob("*.py"))
SETTINGS = {"config", "config_files"}
LIBRARY = {"io", "parallel", "scenes", "flow", "models", "tokenizers", "data", "sampling"}
LIBRARY |= {"training"}
ALL = LIBRARY | SETTINGS | {"evaluation", "generation", "generator"}
MAY_IMPORT = {
    "io": set(),
    "parallel": set(),
    "flow": {"io"},
    "scenes": {"io"},
    "models": {"scenes", "io"},
    "tokenizers": {"io"},
    "data": {"tokenizers", "scenes", "io"},
    "sampling": {"flow", "scenes", "io"},
    "config": {"sampling", "scenes", "io"},
    "config_files": {"config", "sampling", "scenes", "io"},
    "training": SETTINGS | {"flow", "models", "data", "parallel", "scenes", "io"},
    "evaluation": {"flow", "sampling", "tokenizers", "data", "scenes", "io"},
    "profiling": ALL,
    "generation": ALL,
    "generator": ALL,
    "demonstration": ALL | {"profiling"},
    "doctor": ALL,
    "tokenizer_trainer": ALL,
    "evaluator": ALL,
    "results": ALL | {"evaluator"},
    "pages": ALL,
    "app": ALL,
}
# These take models apart and put them together (graphdef, merge); they never define one.
MAY_USE_NNX = {"models", "tokenizers", "evaluation", "training", "generation", "profiling"}


def imported(path):
    """Full dotted names of all that a file imports, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path} imports relatively"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def room(path):
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_one_way(path):
    part = room(path)
    for name in imported(path):
        package, *rest = name.split(".")
        assert package not in ("launch", "configs", "tests"), name
        if package == "maskflow_jax" and part != "__init__":
            assert rest[0] in MAY_IMPORT[part] | {part}, f"{part} may not import {name}"
        if name.startswith("flax.nnx"):
            assert part in MAY_USE_NNX, f"{part} may not import {name}"
    if part not in ("models", "tokenizers", "evaluation"):
        assert "nnx.Module)" not in path.read_text(), "models are defined in models"


def test_no_file_imports_itself_by_way_of_others():
    """Lazy imports within functions included."""
    names = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for path in MODULES
        if path != PACKAGE / "__init__.py"
    }
    graph = {}
    for name, path in names.items():
        targets = set()
        for target in imported(path):
            while target and target not in names:
                target = target.rpartition(".")[0]
            targets.add(target)
        graph[name] = targets - {name, ""}
    order = list(TopologicalSorter(graph).static_order())  # raises CycleError
    assert set(order) >= set(names)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_of_the_package(path):
    text = path.read_text()
    assert path.stem not in ("utils", "util", "common", "base", "helpers", "misc")
    assert len(text.splitlines()) <= 350
    if text:
        assert ast.get_docstring(ast.parse(text)), "a file says in its docstring what it is for"
    if path != PACKAGE / "__init__.py":
        # Options of other programs that the library passes on or recommends.
        text = re.sub(r"--(runner|file_format)\b", "", text)
        found = re.search(r"python -m launch|launch\.\w+|[\"' (`]--[a-z][a-z_]+", text)
        assert not found, f"the library names a program or a flag: {found.group()}"


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.name)
def test_programs_parse_call_and_print(path):
    text = path.read_text()
    assert len(text.splitlines()) <= 80
    assert not re.search(r"^class ", text, re.MULTILINE)
    assert not text or ast.get_docstring(ast.parse(text))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_functions_are_short_and_take_few_parameters(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno < 70, f"{node.name} is long"
            arguments = node.args
            count = len(arguments.args) + len(arguments.kwonlyargs) + len(arguments.posonlyargs)
            assert count <= 8, f"{node.name} takes {count} parameters"
