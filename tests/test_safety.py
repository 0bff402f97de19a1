"""A file that somebody else wrote cannot make jaxpg do what it says: nothing here unpickles, evaluates text or asks a shell."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import jaxpg

HOUSE = Path(jaxpg.__file__).parent
FILES = sorted([*HOUSE.rglob("*.py"), *(HOUSE.parent / "experiments").rglob("*.py")])

PICKLES = {"pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
PICKLES |= {"jax.experimental.serialize_executable", "pandas.read_pickle", "torch.load"}  # modules and functions that unpickle
EVALUATES = {"eval", "exec", "compile", "__import__", "runpy.run_path", "runpy.run_module", "code.interact"}
SHELLS = {"os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput"}
YAML = {"yaml.load", "yaml.load_all", "yaml.unsafe_load", "yaml.unsafe_load_all", "yaml.full_load", "yaml.full_load_all"}
FORBIDDEN = PICKLES | EVALUATES | SHELLS | YAML
ARRAYS = {"numpy.load", "jax.numpy.load"}


def imported(tree: ast.AST) -> Iterator[tuple[int, str, str]]:
    """(line, the name in the file, what it stands for) of everything that is imported."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                name = alias.asname or alias.name.partition(".")[0]  # `import a.b` loads a.b, and binds a
                yield node.lineno, name, alias.name if alias.asname else name
                yield node.lineno, "", alias.name
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                yield node.lineno, alias.asname or alias.name, f"{node.module}.{alias.name}"


def meaning(node: ast.AST, names: dict[str, str]) -> str:
    """What ``a.b.c`` stands for, in full; empty for anything that is no name."""
    if isinstance(node, ast.Name):
        return names.get(node.id, node.id)
    if isinstance(node, ast.Attribute):
        before = meaning(node.value, names)
        return f"{before}.{node.attr}" if before else ""
    return ""


def forbidden(name: str) -> bool:
    """Something on the list, or inside it; the module of builtins is no way around."""
    parts = name.removeprefix("builtins.").split(".")
    return any(".".join(parts[:i]) in FORBIDDEN for i in range(1, len(parts) + 1))


def is_false(call: ast.Call, keyword: str) -> bool:
    """``keyword=False``, written out."""
    return any(k.arg == keyword and isinstance(k.value, ast.Constant) and k.value.value is False for k in call.keywords)


def our_own(argument: ast.AST) -> bool:
    """A module of jaxpg: ``"jaxpg..."`` or ``f"jaxpg...{name}"``."""
    first = argument.values[0] if isinstance(argument, ast.JoinedStr) and argument.values else argument
    return isinstance(first, ast.Constant) and str(first.value).startswith("jaxpg.")


def dangers(source: str) -> list[str]:
    """Each use of what could run the contents of a file, as ``line: name``."""
    tree = ast.parse(source)
    found = [(line, what) for line, _, what in imported(tree) if forbidden(what)]
    names = {name: what for _, name, what in imported(tree) if name}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name | ast.Attribute) and forbidden(meaning(node, names)):
            found.append((node.lineno, meaning(node, names)))
        if not isinstance(node, ast.Call):
            continue
        name = meaning(node.func, names)
        if name in ARRAYS and not is_false(node, "allow_pickle"):
            found.append((node.lineno, f"{name} without allow_pickle=False"))
        if name == "importlib.import_module" and not (node.args and our_own(node.args[0])):
            found.append((node.lineno, f"{name} of something else than jaxpg"))
        if any(k.arg == "shell" for k in node.keywords) and not is_false(node, "shell"):
            found.append((node.lineno, f"{name} with a shell"))
    return sorted({f"{line}: {what}" for line, what in found})


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(HOUSE.parent)))
def test_a_file_runs_no_data(path: Path) -> None:
    assert dangers(path.read_text()) == []


def test_all_rooms_and_experiments_are_looked_at() -> None:
    seen = {str(path.relative_to(HOUSE.parent)) for path in FILES}
    assert {"jaxpg/__init__.py", "jaxpg/lab/store/results.py", "experiments/results.py"} <= seen


BAD = [
    *(f"import {module}" for module in ("pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve")),
    "from pickle import loads",
    "from joblib import load as read",
    "import pickle as p",
    "import dill.source",
    "def read(path):\n    import pickle\n    return pickle",
    "from jax.experimental import serialize_executable",
    "from jax.experimental.serialize_executable import deserialize_and_load",
    "import importlib\nimportlib.import_module('pickle')",
    "from importlib import import_module\nimport_module(name)",
    "__import__('pickle')",
    "eval('1')",
    "exec('x = 1')",
    "compile('1', 'x', 'eval')",
    "run = eval",
    "list(map(exec, lines))",
    "import builtins\nbuiltins.eval('1')",
    "from builtins import exec as run",
    "import numpy as np\nnp.load('x')",
    "import numpy as np\nnp.load('x', allow_pickle=True)",
    "import numpy as np\nnp.load('x', None, False)",
    "import numpy as np\nnp.load('x', **options)",
    "import numpy\nnumpy.load('x')",
    "from numpy import load\nload('x')",
    "import jax.numpy as jnp\njnp.load('x')",
    "import yaml\nyaml.load(text)",
    "from yaml import load, Loader\nload(text, Loader)",
    "import subprocess\nsubprocess.run('ls', shell=True)",
    "import subprocess as sp\nsp.Popen('ls', shell=wanted)",
    "from subprocess import run\nrun('ls', shell=1)",
    "import subprocess\nsubprocess.getoutput('ls')",
    "import os\nos.system('ls')",
    "from os import popen",
]


@pytest.mark.parametrize("source", BAD)
def test_each_danger_is_found(source: str) -> None:
    assert dangers(source) != []


@pytest.mark.parametrize("source", [
    "import re\nre.compile('a')",
    "from re import compile\ncompile('a')",
    "traced.compile(); model.eval()",
    "import json\njson.load(file)",
    "import numpy as np\nwith np.load('x', allow_pickle=False) as file: pass",
    "import importlib\nimportlib.import_module(f'jaxpg.{name}')",
    "import subprocess\nsubprocess.run(['ls'], shell=False)",
    "import yaml\nyaml.safe_load(text)",
    "import os\nos.replace('a', 'b')",
])  # fmt: skip
def test_what_is_harmless_passes(source: str) -> None:
    assert dangers(source) == []
