"""What README and docs point at is there, and their Python runs."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXT = "\n".join(page.read_text() for page in PAGES)


def functions_of(file):
    (path,) = (ROOT / "tests").rglob(file)
    tree = ast.parse(path.read_text())
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("reference", sorted(set(re.findall(r"(test_\w+\.py::test_\w+)", TEXT))))
def test_named_tests_exist(reference):
    file, name = reference.split("::")
    assert name in functions_of(file)


def test_named_test_files_exist():
    for file in set(re.findall(r"\btest_\w+\.py\b", TEXT)):
        assert len(list((ROOT / "tests").rglob(file))) == 1, file


@pytest.mark.parametrize("program", sorted(set(re.findall(r"\blaunch\.(\w+)", TEXT))))
def test_named_programs_exist(program):
    assert (ROOT / "launch" / f"{program}.py").is_file()


@pytest.mark.parametrize(
    "path", sorted(set(re.findall(r"(?:configs|\.github|launch)/[\w/]+\.\w+", TEXT)))
)
def test_named_files_exist(path):
    assert (ROOT / path).is_file()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_work(page):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).is_file(), target


def headings_of(page):
    """The `##` headings of a page, without what stands in blocks of code."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    return re.findall(r"^## (.+)$", text, re.MULTILINE)


def contents_of(page):
    """The links of the list below the title of a page."""
    _, _, body = page.read_text().partition("\n\n")
    return re.findall(r"^- \[(.+)\]\((#[\w-]+)\)$", body.partition("\n\n")[0], re.MULTILINE)


@pytest.mark.parametrize("page", PAGES[1:], ids=lambda page: page.name)
def test_longer_pages_begin_with_their_contents(page):
    """Every page of three sections or more lists them all, in their order."""
    headings = headings_of(page)
    anchors = [re.sub(r"[^\w -]", "", text.lower()).replace(" ", "-") for text in headings]
    expected = [(text, f"#{anchor}") for text, anchor in zip(headings, anchors, strict=True)]
    assert contents_of(page) == (expected if len(headings) >= 3 else [])


def commands():
    """(program, flag) of every command on a page."""
    found = set()
    for block in re.findall(r"```bash\n(.*?)```", TEXT, re.DOTALL):
        for line in re.sub(r"\\\n", " ", block).splitlines():
            if match := re.search(r"python -m (launch\.\w+)(.*)", line.partition("#")[0]):
                flags = re.findall(r"--([a-z]\w*)(?![\w.]*\.)", match.group(2))
                found |= {(match.group(1), flag) for flag in flags}
    return sorted(found)


@pytest.mark.parametrize(("program", "flag"), commands())
def test_flags_of_commands_exist(program, flag):
    text = (ROOT / f"{program.replace('.', '/')}.py").read_text()
    shared = re.findall(r"^from launch import (.*)", text, re.MULTILINE)
    files = {ROOT / f"launch/{name}.py" for names in shared for name in names.split(", ")}
    text += "".join(file.read_text() for file in files)
    assert re.search(rf'"(no)?{flag}"', text), f"{program} has no --{flag}"


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 200


@pytest.mark.usefixtures("full_optimisation")
def test_the_ten_lines_of_the_readme_run(tmp_path, monkeypatch, capsys):
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})
    assert "VideoGenerator(" in capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "samples").glob("*.mp4")) == [
        "sample_00000.mp4",
        "sample_00001.mp4",
    ]


def test_the_differences_are_all_pinned():
    """Every row of the table of differences names a test."""
    table = (ROOT / "docs/differences.md").read_text()
    rows = [line for line in table.splitlines() if line.startswith("| ")][1:]
    assert len(rows) > 15
    assert all("::test_" in row for row in rows)
