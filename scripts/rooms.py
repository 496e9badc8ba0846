"""Check how a package's modules import each other, by their text: none of them is imported, nor SGLang.

    python scripts/rooms.py [FOLDER]        default: sglang_mezo_plugin

A room is a folder of the package; the modules in its root are the room `commands`, but for `errors` and
`bounds`. Prints
the rooms from low to high, or a line for each fault, and then the exit code is 1:

- modules import each other in a circle, if only inside of functions
- sglang is imported elsewhere than in engine/, serving/ and plugin.py
- a room imports one that is not below it
- there are more than ten modules in the root

Imports under `if TYPE_CHECKING:` do not count, they never run; nor does that of `a` by all who import `a.b`.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

# From low to high. A room may import those of all levels below its own.
LEVELS = (
    ("errors",),
    ("noise", "patching"),
    ("models", "rewards", "tasks"),
    ("runs",),
    ("training",),
    ("client", "engine"),
    ("serving",),
    ("cli",),
    ("commands",),
)
BESIDE = {("tasks", "rewards")}  # within a level: a task's metric may be what a reward checks
LOWEST = ((), ("errors",), ("bounds",))  # what all rooms may import, though it lies in the root
IMPORT_SGLANG = ("engine", "serving", "plugin.py")
MOST_IN_ROOT = 10

LEVEL_OF = {room: level for level, rooms in enumerate(LEVELS) for room in rooms}


@dataclass(frozen=True)
class Module:
    """file: from the package's own folder on. imports: the line of each, and the dotted name asked for."""

    file: Path
    room: str
    imports: tuple[tuple[int, str], ...]


def read(package: Path) -> dict[str, Module]:
    """Return a package's modules, by their dotted names."""
    modules: dict[str, Module] = {}
    for file in sorted(package.rglob("*.py")):
        is_folder = file.name == "__init__.py"
        parts = (file.parent if is_folder else file.with_suffix("")).relative_to(package.parent).parts
        in_room = is_folder or len(parts) > 2
        room = "errors" if parts[1:] in LOWEST else parts[1] if in_room else "commands"
        folder = parts if is_folder else parts[:-1]
        imports = tuple(imported_by(ast.parse(file.read_text()), folder))
        modules[".".join(parts)] = Module(file.relative_to(package.parent), room, imports)
    return modules


def imported_by(tree: ast.Module, folder: tuple[str, ...]) -> Iterator[tuple[int, str]]:
    """Yield the line and the name of all that a module imports, in order. folder: where the module is."""
    pending: list[ast.AST] = [tree]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = folder[: len(folder) + 1 - node.level] if node.level else ()
            source = ".".join([*base, *filter(None, [node.module])])
            yield from ((node.lineno, f"{source}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            pending.extend(reversed(node.orelse))
        else:
            pending.extend(reversed(list(ast.iter_child_nodes(node))))


def edges(modules: Mapping[str, Module]) -> Iterator[tuple[str, int, str]]:
    """Yield who imports, in which line, which module of the same package."""
    for name, module in modules.items():
        for line, target in module.imports:
            while target and target not in modules:  # a function, say, of the module before the last dot
                target = target.rpartition(".")[0]
            if target:
                yield name, line, target


def circles(modules: Mapping[str, Module]) -> Iterator[str]:
    graph: dict[str, dict[str, None]] = {name: {} for name in modules}
    for name, _, target in edges(modules):
        graph[name][target] = None
    while True:
        try:
            TopologicalSorter(graph).prepare()
            return
        except CycleError as error:
            circle = error.args[1][:0:-1]  # there, what is imported comes before what imports it
            first = circle.index(min(circle))
            circle = [*circle[first:], *circle[: first + 1]]
            yield f"a circle of imports: {' -> '.join(circle)}"
            del graph[circle[-2]][circle[-1]]


def imports_of_sglang(modules: Mapping[str, Module]) -> Iterator[str]:
    for module in modules.values():
        if module.file.parts[1] not in IMPORT_SGLANG:
            for line, name in module.imports:
                if name.split(".")[0] == "sglang":
                    yield f"{module.file}:{line}: sglang is imported outside of {', '.join(IMPORT_SGLANG)}"


def imports_upwards(modules: Mapping[str, Module]) -> Iterator[str]:
    for room in sorted({module.room for module in modules.values()} - LEVEL_OF.keys()):
        yield f"{room}/ has no level: give it one in LEVELS of scripts/rooms.py"
    for name, line, target in edges(modules):
        above, below = modules[name].room, modules[target].room
        if above == below or (above, below) in BESIDE or not {above, below} <= LEVEL_OF.keys():
            continue
        if LEVEL_OF[above] <= LEVEL_OF[below]:
            yield f"{modules[name].file}:{line}: {target} is imported, and {below} is not below {above}"


def crowd(modules: Mapping[str, Module]) -> Iterator[str]:
    count = sum(
        len(module.file.parts) == 2 and module.file.name != "__init__.py" for module in modules.values()
    )
    if count > MOST_IN_ROOT:
        yield f"{count} modules are in the package's root, more than {MOST_IN_ROOT}: give some of them a room"


def main() -> None:
    folder = Path(sys.argv[1]) if sys.argv[1:] else Path(__file__).parents[1] / "sglang_mezo_plugin"
    modules = read(folder.resolve())
    if not modules:
        sys.exit(f"{folder} has no modules: name the folder of a package")
    checks = (circles, imports_of_sglang, imports_upwards, crowd)
    faults = dict.fromkeys(
        fault for check in checks for fault in check(modules)
    )  # a line may import two names
    if faults:
        print(*faults, sep="\n")
        sys.exit(1)
    rooms = {module.room for module in modules.values()}
    levels = [", ".join(room for room in level if room in rooms) for level in LEVELS]
    print(f"no import circle among {len(modules)} modules")
    print(" < ".join(filter(None, levels)))


if __name__ == "__main__":
    main()
