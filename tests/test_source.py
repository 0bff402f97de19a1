"""What ruff and import-linter cannot say of the source: built-ins that are used, arguments of calls, what an import loads."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import jaxpg

PACKAGE = Path(jaxpg.__file__).parent
LAB = sorted(PACKAGE.glob("lab/**/*.py"))
LIBRARY = sorted({*PACKAGE.rglob("*.py")} - {*LAB})
EXPERIMENTS = sorted(PACKAGE.parent.glob("experiments/**/*.py"))


def dangers(source):
    """Uses of what could run the contents of a file, as ``line: code``. Of ``eval`` ruff sees calls only."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Name(id="eval" | "exec" | "compile" | "__import__"):
                yield f"{node.lineno}: {node.id}"
            case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name), args=args, keywords=keywords):
                given = {keyword.arg: ast.unparse(keyword.value) for keyword in keywords}
                if (
                    (name == "import_module" and not re.match("f?'jaxpg[.]", ast.unparse(args[0])))
                    or (name == "load" and (args or given) and given.get("allow_pickle") != "False" and not makes_env(node))
                    or given.get("shell", "False") != "False"
                ):
                    yield f"{node.lineno}: {ast.unparse(node)}"


def makes_env(call):
    """``registry.load`` of MuJoCo Playground makes an environment of its own, by its name."""
    return ast.unparse(call.func).endswith("registry.load") and len(call.args) == 1


def used(source):
    """Names of variables and attributes."""
    nodes = list(ast.walk(ast.parse(source)))
    return {node.id for node in nodes if isinstance(node, ast.Name)} | {n.attr for n in nodes if isinstance(n, ast.Attribute)}


def test_no_file_makes_the_program_do_what_it_says():
    files = [*LIBRARY, *LAB, *EXPERIMENTS]
    assert len(files) > 50
    found = {str(path.relative_to(PACKAGE.parent)): list(dangers(path.read_text())) for path in files}
    # Import one package each: whose name is in our code, or the module that a user names with --env.
    by_name = {
        f"jaxpg/{path}.py" for path in ("envs/_suites", "lab/cli/deferred", "lab/engine/environments", "lab/engine/loggers")
    }
    assert all(["import_module" in use for use in found.pop(path)] == [True] for path in by_name)
    assert {path: uses for path, uses in found.items() if uses} == {}


@pytest.mark.parametrize("source", [
    "run = eval", "list(map(exec, lines))", "compile('1', 'x', 'eval')", "__import__('pickle')",
    "importlib.import_module('pickle')", "import_module(name)", "importlib.import_module(f'{name}.jaxpg.')",
    "np.load('x')", "np.load('x', allow_pickle=True)", "np.load('x', None, False)", "np.load(**options)", "load('x')",
    "sp.Popen('ls', shell=wanted)", "run('ls', shell=1)",
])  # fmt: skip
def test_each_danger_is_found(source):
    assert len(list(dangers(source))) == 1


@pytest.mark.parametrize("source", [
    "re.compile('a'); traced.compile(); model.eval()", "json.loads(text); load()",
    "with np.load('x', allow_pickle=False): pass",
    "importlib.import_module(f'jaxpg.{name}')", "importlib.import_module('jaxpg.types')", "subprocess.run('ls', shell=False)",
])  # fmt: skip
def test_what_is_harmless_passes(source):
    assert list(dangers(source)) == []


@pytest.mark.parametrize("path", LIBRARY, ids=lambda path: path.stem)
def test_the_library_opens_no_file_and_asks_nobody(path):
    assert not used(path.read_text()) & {"open", "input"}


@pytest.mark.parametrize("path", LAB, ids=lambda path: path.stem)
def test_the_lab_computes_no_gradient_and_writes_no_loop_of_jax(path):
    assert not used(path.read_text()) & {"grad", "value_and_grad", "jvp", "vjp", "hessian", "lax"}


def test_importing_the_library_loads_nothing_of_the_lab():
    """``jaxpg.sweep`` and ``jaxpg.load_policy`` name functions of the lab; only asking for them imports it."""
    paths = (path.relative_to(PACKAGE.parent).with_suffix("") for path in LIBRARY if path.stem != "__main__")
    modules = ", ".join(".".join(path.parts).removesuffix(".__init__") for path in paths)
    code = f"import sys, {modules}; sys.exit(any(name.startswith('jaxpg.lab') for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0
