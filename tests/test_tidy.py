"""The rules of the house, read from the source itself: floors, the world, sizes, opening docstrings.

The limits are ratchets: a file or function listed as an exception may shrink, never grow.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
OURS = ("kbroker", "protocol", "tests", "compat", "docs", "tools")
SOURCES = sorted([*ROOT.glob("kbroker/**/*.py"), *ROOT.glob("protocol/kafka_wire/**/*.py")])

# The ten floors: an import points to its own floor or a lower one. The longest matching prefix counts.
FLOORS = {
    "kafka_wire": 0,
    "kbroker": 1,  # the package itself holds only the version
    "kbroker.env": 1,
    "kbroker.config": 1,
    "kbroker.awaited": 1,
    "kbroker.watermark": 1,
    "kbroker.turns": 1,
    "kbroker.regex": 1,
    "kbroker.filters": 1,
    "kbroker.log": 2,
    "kbroker.cluster": 3,
    "kbroker.replication": 4,
    "kbroker.coordinators": 5,
    "kbroker.groups": 6,
    "kbroker.transactions": 6,
    "kbroker.delay": 6,
    "kbroker.views": 6,
    "kbroker.api": 7,
    "kbroker.server": 8,
    "kbroker.cli": 9,
    "kbroker.testing": 9,
    "kbroker.http": 9,
    "kbroker.client": 9,
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
# The client's part runs in its user's process, not in the broker.
MAY_TOUCH_THE_WORLD = ("kbroker.env", "kbroker.testing", "kbroker.cli", "kbroker.client", "kbroker.__main__")
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
PUBLIC_ALL_THE_SAME = {"_replace", "_asdict", "_fields", "_make", "_exit", "_value_"}  # of the standard library
LIBRARY_INTERNALS = {  # module -> what it uses though its library keeps it to itself
    "kbroker.cli.client.bridge": {"_manager"},  # kafka-python sends no request it does not declare
    "kbroker.cli.groups.reads": {"_manager", "_coordinators", "_find_coordinator_id"},
    "kbroker.testing.scheduler": {"_run", "_r"},  # trio's only randomness, to be seeded
    "kafka_wire.compression": {"_Decompress"},  # the type of a zlib object, for mypy
}


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


def test_a_package_names_its_modules() -> None:
    """Its docstring is the map by which a newcomer finds his way: nothing that is there is missing on it."""
    missing = []
    for path in SOURCES:
        package = path.parent.parent if path.name == "__init__.py" else path.parent
        name = path.parent.name if path.name == "__init__.py" else path.stem
        if package in (ROOT, ROOT / "protocol", ROOT / "kbroker") or package.name == "messages":
            continue  # floors are drawn in docs/design.md, families are found by `kafka_wire.api`
        if not re.search(rf"\b{name}\b", ast.get_docstring(parse(package / "__init__.py")) or ""):
            missing.append(str(path.relative_to(ROOT)))
    assert not missing, f"not in the docstring of their package: {missing}"


def test_files_that_are_spoken_of_are_there() -> None:
    """In the source's docstrings and comments, and in the docs: `cluster/admin.py` is a file whose path ends so.

    A file that a page has its reader write is there, too.
    """
    there = [f"/{path.relative_to(ROOT).as_posix()}" for folder in OURS for path in ROOT.glob(f"{folder}/**/*.py")]
    gone = []
    for path in [*SOURCES, *ROOT.glob("*.md"), *(each for folder in OURS for each in ROOT.glob(f"{folder}/**/*.md"))]:
        text = path.read_text(encoding="utf-8")
        written = re.findall(r"<!-- file: (\S+) -->", text)
        for number, line in enumerate(text.splitlines(), 1):
            for name in re.findall(r"(?<![\w./{}-])[a-z_][a-z_/]*\.py\b", line):
                if name not in written and not any(each.endswith(f"/{name}") for each in there):
                    gone.append(f"{path.relative_to(ROOT)}:{number} {name}")
    assert not gone, "\n".join(gone)


def test_every_invariant_has_a_test_and_no_other_is_cited() -> None:
    """An id that is cited in source or docs is one of docs/invariants.md; each of those is in the name of a test."""
    said = re.findall(r"\*\*([A-Z]\d+)\*\*", (ROOT / "docs/invariants.md").read_text(encoding="utf-8"))
    assert len(said) == len(set(said))
    tested, cited = set[str](), set[str]()
    for path in ROOT.glob("tests/**/test_*.py"):
        for name in re.findall(r"def test_((?:[A-Z]\d+_)+)", path.read_text(encoding="utf-8")):
            tested |= set(name.split("_"))
    for path in [*SOURCES, *ROOT.glob("docs/*.md")]:
        cited |= set(re.findall(r"\b[LRGPTDB]\d{1,2}\b", path.read_text(encoding="utf-8")))
    assert set(said) <= tested, f"without a test: {set(said) - tested}"
    assert cited <= set(said), f"cited, and not in docs/invariants.md: {cited - set(said)}"


def local_imports() -> dict[str, set[str]]:
    """Module -> modules of ours that it imports, anywhere in its text: also inside functions and for types only."""
    known = {module_name(path) for path in SOURCES}
    graph = {}
    for path in SOURCES:
        found = {name for _, name in imports(parse(path)) if name in known}
        # `from package import module` names the package too: that is no import of the package's own text
        graph[module_name(path)] = found - {module_name(path)}
    return graph


def test_no_two_modules_import_each_other() -> None:
    """Nor in a longer circle, nor for types only: who can be understood only together belongs together."""
    graph, circles = local_imports(), []
    for start in graph:
        seen, todo = set[str](), [start]
        while todo:
            for name in graph[todo.pop()]:
                if name not in seen:
                    seen.add(name)
                    todo.append(name)
        if start in seen:
            circles.append(start)
    assert not circles


def private_names(tree: ast.Module) -> set[str]:
    """The private names a module defines: of classes, functions, attributes, slots."""
    names = set[str]()
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            if is_self(node.value):
                names.add(node.attr)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
    return names


def foreign_privates(path: Path) -> list[str]:
    """Private attributes of other modules' objects, and private names imported, with their lines."""
    tree = parse(path)
    allowed = PUBLIC_ALL_THE_SAME | LIBRARY_INTERNALS.get(module_name(path), set())
    own, found = private_names(tree) | allowed, []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            found += [f"{node.lineno} {alias.name}" for alias in node.names if is_private(alias.name, allowed)]
        elif isinstance(node, ast.Attribute) and is_private(node.attr, own) and not is_self(node.value):
            found.append(f"{node.lineno} {node.attr}")
    return found


def is_self(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id in ("self", "cls")


def is_private(name: str, allowed: set[str]) -> bool:
    return name.startswith("_") and not name.startswith("__") and name != "_" and name not in allowed


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_nobody_touches_what_is_private_to_another_module(path: Path) -> None:
    assert foreign_privates(path) == []
