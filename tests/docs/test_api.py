"""Every public name is on one API page, and says what its arguments are, with an example that can be copied and run."""

import ast
import builtins
import doctest
import inspect
import itertools
import re
from pathlib import Path

import flax.linen as nn
import pytest

import jaxpg

PACKAGE = Path(jaxpg.__file__).parent
API = PACKAGE.parent / "docs" / "api"
MODULES = [name for name in jaxpg.__all__ if inspect.ismodule(getattr(jaxpg, name))]
PUBLIC = {f"jaxpg.{name}": getattr(jaxpg, name) for name in jaxpg.__all__ if name not in MODULES} | {
    f"jaxpg.{module}.{name}": getattr(getattr(jaxpg, module), name)
    for module in MODULES
    for name in getattr(jaxpg, module).__all__
}
ON_PAGES = [(path.stem, name) for path in API.glob("*.md") for name in re.findall(r"^::: (\S+)", path.read_text(), re.M)]
DIRECTIVES = [name for _, name in ON_PAGES]


def is_ours(value):
    """A function or a class that is defined here, which has a docstring."""
    value = inspect.unwrap(value) if callable(value) else value
    return (inspect.isfunction(value) or inspect.isclass(value)) and value.__module__.startswith("jaxpg.")


def is_of_gymnax(value):
    return getattr(value, "__module__", "").startswith("gymnax.")


def parameters(value):
    """What a call takes, less what flax adds to every module, without stars."""
    of_flax = {"parent", "name"} if inspect.isclass(value) and issubclass(value, nn.Module) else set()
    return set(inspect.signature(value).parameters) - of_flax


def documented(doc):
    """The names that the section ``Args`` or ``Attributes`` explains."""
    section = re.search(r"^(?:Args|Attributes):\n((?: {4}.*\n?)+)", doc, re.M)
    return set(re.findall(r"^ {4}\*{0,2}(\w+): ", section[1], re.M)) if section else set()


def unbound(doc):
    """Names that the example of a docstring uses and that it neither imports nor makes."""
    tree = ast.parse("".join(example.source for example in doctest.DocTestParser().get_examples(doc)))
    bound, used = set(dir(builtins)), set()
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name, ctx=ast.Load()):
                used.add(name)
            case ast.Name(id=name) | ast.arg(arg=name) | ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                bound.add(name)
            case ast.alias(name=name, asname=other):
                bound.add(other or name.partition(".")[0])
    return used - bound


def attribute_docstrings():
    """``name: text`` of every assignment of a module that a string follows."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        body = ast.parse(path.read_text()).body
        for node, after in itertools.pairwise(body):
            match node, after:
                case (
                    ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)),
                    ast.Expr(value=ast.Constant(value=str(text))),
                ):
                    found[name] = text
    return found


OURS = {name: value for name, value in PUBLIC.items() if is_ours(value)}
CALLABLES = {name: value for name, value in OURS.items() if not getattr(value, "_is_protocol", False)}
DATA = sorted({name for name, value in PUBLIC.items() if name not in OURS and not is_of_gymnax(value)})


def test_every_public_module_says_what_is_public():
    for name in MODULES:
        module = getattr(jaxpg, name)
        assert all(hasattr(module, public) for public in module.__all__), name


def test_every_public_name_is_on_exactly_one_page():
    """Under one of its names, where it has two, as ``jaxpg.SGD`` and ``jaxpg.updates.SGD``."""
    assert sorted(set(DIRECTIVES) - set(PUBLIC)) == []
    shown = [id(PUBLIC[name]) for name in DIRECTIVES]
    assert len(shown) == len(set(shown))
    assert [name for name, value in PUBLIC.items() if id(value) not in shown and not is_of_gymnax(value)] == []


def test_names_of_gymnax_are_explained_in_words():
    page = (API / "spaces.md").read_text()
    assert [name for name, value in PUBLIC.items() if is_of_gymnax(value) and f"`{name}(" not in page] == []


def test_names_of_a_module_are_on_its_page():
    assert [(page, name) for page, name in ON_PAGES if name.count(".") > 1 and name.split(".")[1] != page] == []


def test_the_overview_links_every_name_to_its_page():
    links = re.findall(r"\[`jaxpg\.(\w+)`\]\((\w+\.md)(?:#(\S+))?\)", (API / "index.md").read_text())
    assert sorted(name for name, _, _ in links) == sorted(jaxpg.__all__)
    for name, page, anchor in links:
        if name in MODULES:
            assert (page, anchor) == (f"{name}.md", "")
        else:
            assert anchor == f"jaxpg.{name}"
            assert f"::: {anchor}\n" in f"{(API / page).read_text()}\n"


@pytest.mark.parametrize("name", CALLABLES)
def test_all_arguments_are_explained(name):
    assert documented(inspect.getdoc(CALLABLES[name])) == parameters(CALLABLES[name])


@pytest.mark.parametrize("name", CALLABLES)
def test_there_is_an_example_that_can_be_copied(name):
    doc = inspect.getdoc(CALLABLES[name])
    assert "Examples:\n    >>> " in doc  # other places are not rendered as code
    assert unbound(doc) == set()


@pytest.mark.parametrize("name", OURS)
def test_docstrings_render_as_markdown(name):
    """Roles of Sphinx do not, and neither does a class that has no docstring of its own."""
    members = vars(OURS[name]).values() if inspect.isclass(OURS[name]) else ()
    methods = [member for member in members if inspect.isfunction(member) and member.__module__.startswith("jaxpg.")]
    docs = [OURS[name].__doc__, *map(inspect.getdoc, methods)]
    assert docs[0]
    assert [doc for doc in docs if doc and re.search(r":\w+:`", doc)] == []


def test_data_and_aliases_are_followed_by_a_docstring():
    docstrings = attribute_docstrings()
    assert [name for name in DATA if name.rpartition(".")[2] not in docstrings] == []


def test_what_is_missing_is_found():
    def new(first, *others): ...

    args = "Args:\n    first: One.\n        more: of it.\n    **others: Two."
    doc = f"New.\n\n{args}\n\nExamples:\n    >>> import a\n    >>> a.b(c)\n"
    assert documented(doc) == parameters(new)
    assert documented("New.") == set()
    assert unbound(doc) == {"c"}
