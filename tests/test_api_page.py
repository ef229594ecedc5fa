"""docs/api.md names every public name with the first line of its docstring."""

import re
from pathlib import Path

import maskflow_jax as mf

PAGE = Path(__file__).parents[1] / "docs" / "api.md"


def described():
    """Public name -> what the page says of it."""
    rows = re.findall(r"^\| `(\w+)` \| .*? \| (.*) \|$", PAGE.read_text(), re.MULTILINE)
    return dict(rows)


def first_line(name):
    value = getattr(mf, name)
    if isinstance(value, dict):
        return None
    if not isinstance(value, type) and not callable(value):  # a module
        return None
    return value.__doc__.strip().splitlines()[0]


def test_the_page_lists_the_public_names_and_what_they_say_of_themselves():
    found, public = described(), set(mf.__all__) - {"__version__"}
    assert found.keys() == public
    for name in public:
        line = first_line(name)
        assert found[name]
        if line is not None:
            assert found[name] == line.replace("|", "\\|")
