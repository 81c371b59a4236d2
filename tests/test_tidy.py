"""The rules of the house, read from the source itself: floors, the world, sizes, opening docstrings.

The limits are ratchets: a file or function listed as an exception may shrink, never grow.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = sorted([*ROOT.glob("kbroker/**/*.py"), *ROOT.glob("protocol/kafka_wire/**/*.py")])

# The ten floors: an import points to its own floor or a lower one. The longest matching prefix counts.
FLOORS = {
    "kafka_wire": 0,
    "kbroker": 1,  # the package itself holds only the version
    "kbroker.env": 1,
    "kbroker.config": 1,
    "kbroker.watermark": 1,
    "kbroker.turns": 1,
    "kbroker.log": 2,
    "kbroker.cluster": 3,
    "kbroker.replication": 4,
    "kbroker.coordinators": 5,
    "kbroker.groups": 6,
    "kbroker.transactions": 6,
    "kbroker.api": 7,
    "kbroker.server": 8,
    "kbroker.cli": 9,
    "kbroker.testing": 9,
    "kbroker.http": 9,
    "kbroker.__main__": 9,
}

# Above env, the world is an argument.
WORLD = {
    "os",
    "socket",
    "time",
    "random",
    "threading",
    "select",
    "selectors",
    "asyncio",
    "multiprocessing",
    "signal",
    "secrets",
    "subprocess",
    "shutil",
    "tempfile",
    "fcntl",
}
MAY_TOUCH_THE_WORLD = ("kbroker.env", "kbroker.testing", "kbroker.cli", "kbroker.__main__")
WORLDLY_CALLS = {
    ("trio", "sleep"),
    ("trio", "to_thread"),
    ("trio", "SocketStream"),
    ("trio", "open_tcp_listeners"),
    ("trio", "open_tcp_stream"),
    ("trio", "socket"),
}

FILE_LINES_MAX = 800
FUNCTION_LINES_MAX = 70
LONGER_FILES: dict[str, int] = {}
LONGER_FUNCTIONS: dict[str, int] = {}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = parts[1:] if parts[0] == "protocol" else parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def floor_of(module: str) -> int | None:
    while module:
        if module in FLOORS:
            return FLOORS[module]
        module = module.rpartition(".")[0]
    return None


def imports(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Every module a tree imports, with the line; `from a import b` yields both a and a.b, as b may be a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"relative import in line {node.lineno}"
            yield node.lineno, node.module
            for alias in node.names:
                yield node.lineno, f"{node.module}.{alias.name}"


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_module_is_tidy(path: Path) -> None:
    module, tree = module_name(path), parse(path)
    problems = [
        *floor_problems(module, tree),
        *world_problems(module, tree),
        *size_problems(path, tree),
    ]
    if len(path.read_text(encoding="utf-8").strip()) > 0 and not ast.get_docstring(tree):
        problems.append("no opening docstring")
    assert not problems, f"{path.relative_to(ROOT)}: " + "; ".join(problems)


def floor_problems(module: str, tree: ast.Module) -> Iterator[str]:
    own = floor_of(module)
    assert own is not None, f"{module} stands on no floor"
    for line, name in imports(tree):
        other = floor_of(name)
        if other is not None and other > own:
            yield f"line {line}: floor {own} imports {name} of floor {other}"
        if own == 0 and name.split(".")[0] == "trio":
            yield f"line {line}: the wire imports trio"


def world_problems(module: str, tree: ast.Module) -> Iterator[str]:
    if module.startswith(MAY_TOUCH_THE_WORLD):
        return
    for line, name in imports(tree):
        if name.split(".")[0] in WORLD:
            yield f"line {line}: imports {name}; the world is an argument (kbroker.env)"
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute) or not isinstance(node.value, ast.Name):
            continue
        if (node.value.id, node.attr) in WORLDLY_CALLS:
            yield f"line {node.lineno}: uses {node.value.id}.{node.attr}; the world is an argument (kbroker.env)"


def size_problems(path: Path, tree: ast.Module) -> Iterator[str]:
    name = str(path.relative_to(ROOT))
    lines = path.read_text(encoding="utf-8").count("\n")
    if lines > LONGER_FILES.get(name, FILE_LINES_MAX):
        yield f"{lines} lines, {LONGER_FILES.get(name, FILE_LINES_MAX)} allowed"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > LONGER_FUNCTIONS.get(f"{name}:{node.name}", FUNCTION_LINES_MAX):
                yield f"{node.name} has {length} lines"


def test_exceptions_are_still_needed() -> None:
    for name, allowed in LONGER_FILES.items():
        assert (ROOT / name).read_text(encoding="utf-8").count("\n") == allowed, f"lower the ratchet of {name}"


def test_public_functions_say_what_they_do() -> None:
    """A public def of more than five lines has a docstring."""
    mute = []
    for path in SOURCES:
        for node in parse(path).body:
            inside = node.body if isinstance(node, ast.ClassDef) else []
            for each in [node, *inside]:
                if not isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef) or each.name.startswith("_"):
                    continue
                if (each.end_lineno or 0) - each.lineno >= 5 and not ast.get_docstring(each):
                    mute.append(f"{path.relative_to(ROOT)}:{each.lineno} {each.name}")
    assert not mute, "\n".join(mute)
