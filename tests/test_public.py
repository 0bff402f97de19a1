"""What ``jaxpg`` offers is what ``dir`` and an editor complete: public names, with signatures and docstrings."""

import ast
import inspect
import types
from pathlib import Path

import pytest

import jaxpg

PUBLIC = [name for name in dir(jaxpg) if name != "__version__"]


def test_dir_lists_the_public_names_and_nothing_else():
    assert sorted(PUBLIC) == sorted(jaxpg.__all__)
    assert set(dir(jaxpg)) - set(PUBLIC) == {"__version__"}
    assert all(hasattr(jaxpg, name) for name in dir(jaxpg))
    assert not {"Any", "annotations", "importlib", "core", "lab"} & set(dir(jaxpg))


def test_an_editor_sees_every_public_name_without_running_anything():
    """Names are imported when first used, so that a type checker reads them from one block of imports."""
    tree = ast.parse(Path(jaxpg.__file__).read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    imported = [alias.asname for line in block.body if isinstance(line, ast.ImportFrom) for alias in line.names]
    assert sorted(map(str, imported)) == sorted(PUBLIC)


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_has_a_docstring_and_options_by_name(name):
    thing = getattr(jaxpg, name)
    assert inspect.getdoc(thing)
    if not isinstance(thing, types.ModuleType):
        parameters = inspect.signature(thing).parameters.values()
        assert not any(p.kind in (p.VAR_KEYWORD, p.VAR_POSITIONAL) for p in parameters) or name == "reads"
        assert all(p.annotation is not p.empty for p in parameters)


@pytest.mark.parametrize("method", ["init", "update", "apply", "predict", "actor", "estimate", "batch", "losses"])
def test_every_method_of_an_algorithm_has_a_docstring_and_a_signature(method):
    function = getattr(jaxpg.Algorithm, method)
    assert inspect.getdoc(function)
    first, *others = inspect.signature(function).parameters.values()
    assert first.name == "self"
    assert others
    assert all(p.annotation is not p.empty for p in others)
