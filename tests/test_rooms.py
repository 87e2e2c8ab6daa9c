"""Who may import whom: data flows one way, and imports never circle."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = "tardis_imagetrove"
ROOT = Path(__file__).resolve().parent.parent / PACKAGE

#: What each room may import of the package's other rooms and modules.
MAY_IMPORT = {
    "scp": {"spool", "disk", "errors", "uids"},
    "spool": {"disk", "errors", "uids"},
    "reasons": {"errors"},
    "formats": {"disk", "errors", "uids"},
    "folders": {"archive", "errors", "formats", "spool", "uids"},
    "deidentification": {"errors", "formats"},
    "mytardis": {"disk", "errors", "parameters"},
    "ingest": {
        "archive",
        "deidentification",
        "disk",
        "errors",
        "formats",
        "models",
        "mytardis",
        "reasons",
        "sandbox",
        "scp",
        "spool",
    },
    "sandbox": {"errors"},
    "imaging": {"errors", "formats", "sandbox"},
    "bids": {"disk", "errors", "formats"},
    "filters": {"deidentification", "errors", "formats", "imaging", "parameters", "sandbox"},
    "conversion": {
        "archive",
        "conf",
        "deidentification",
        "disk",
        "errors",
        "filters",
        "formats",
        "ingest",
        "models",
        "mytardis",
        "parameters",
        "reasons",
        "sandbox",
        "spool",
    },
    "signin": {"mytardis", "errors"},
    "rapidconnect": {"signin"},
    "contrib": {"errors", "formats"},
}
#: Nothing but views, commands, tasks and the like may import these.
ON_TOP = {"operations"}
#: These can be used without Django or MyTARDIS.
KNOW_NO_DJANGO = {
    "bids",
    "scp",
    "spool",
    "disk",
    "errors",
    "formats",
    "deidentification",
    "archive",
    "get",
    "imaging",
    "parameters",
    "reasons",
    "sandbox",
    "scu",
    "tar",
    "uids",
    "folders",
}
#: Modules outside ``mytardis/`` that may import MyTARDIS, since MyTARDIS looks for them by their names, or a
#: task or a page has to be of its class.
MAY_IMPORT_MYTARDIS = {"api", "apps", "checks", "signin.root_urls", "tasks", "views"}


def modules() -> dict[str, ast.Module]:
    """Every module of the package but its migrations, by its name within it (``scp.pdu``; ``scp`` itself)."""
    found = {}
    for path in ROOT.rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        if "migrations" not in parts:
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            found[name] = ast.parse(path.read_text())
    return found


MODULES = modules()


def imported(name: str) -> Iterator[tuple[str, bool]]:
    """What a module imports anywhere: names within the package begin with a dot.

    Yields:
        The module's name, and whether it is imported with the module and not by a function.
    """
    is_package = (ROOT / Path(*name.split("."), "__init__.py")).exists() if name else True
    here = name.split(".") if name else []
    folder = here if is_package else here[:-1]
    at_once = {id(node) for node in MODULES[name].body}
    for node in ast.walk(MODULES[name]):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, id(node) in at_once
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module, id(node) in at_once
        elif isinstance(node, ast.ImportFrom):
            base = folder[: len(folder) - node.level + 1] + (node.module or "").split(".") * bool(node.module)
            for alias in node.names:
                whole = ".".join([*base, alias.name])
                yield "." + (whole if whole in MODULES else ".".join(base)), id(node) in at_once


def room(name: str) -> str:
    return name.partition(".")[0]


def test_the_table_is_about_rooms_that_there_are():
    assert {*MAY_IMPORT, *KNOW_NO_DJANGO, *ON_TOP} <= {room(name) for name in MODULES}
    assert MODULES.keys() >= MAY_IMPORT_MYTARDIS


@pytest.mark.parametrize("name", MAY_IMPORT)
def test_a_room_knows_only_its_neighbours(name):
    strange = {
        (module, found)
        for module in MODULES
        if room(module) == name
        for found, _ in imported(module)
        if found.startswith(".") and found != "." and room(found[1:]) not in {name, *MAY_IMPORT[name]}
    }
    assert strange == set()


@pytest.mark.parametrize("name", sorted(ON_TOP))
def test_no_room_below_imports_what_stands_on_top(name):
    below = {*MAY_IMPORT, "models"}
    found = {
        module
        for module in MODULES
        if room(module) in below
        for other, _ in imported(module)
        if other.startswith(".") and room(other[1:]) == name
    }
    assert found == set()


@pytest.mark.parametrize("name", sorted(KNOW_NO_DJANGO))
def test_what_needs_no_django_imports_none(name):
    found = {
        (module, found)
        for module in MODULES
        if room(module) == name
        for found, _ in imported(module)
        if room(found) in ("django", "tardis", "celery", "tastypie")
    }
    assert found == set()


def test_mytardis_is_touched_in_its_room_alone():
    touching = {
        module
        for module in MODULES
        if room(module) != "mytardis"
        for found, _ in imported(module)
        if room(found) == "tardis"
    }
    assert touching <= MAY_IMPORT_MYTARDIS
    models = {
        module
        for module in MODULES
        if room(module) != "mytardis"
        for found, _ in imported(module)
        if found.startswith("tardis.tardis_portal.models")
    }
    assert models == set()


@pytest.mark.parametrize("lazy", [False, True], ids=["at once", "with those of functions"])
def test_imports_never_circle(lazy):
    graph = {
        name: {found[1:] for found, at_once in imported(name) if found.startswith(".") and (at_once or lazy)}
        for name in MODULES
    }
    done: set[str] = set()

    def visit(name: str, path: list[str]) -> None:
        assert name not in path, " -> ".join([*path[path.index(name) :], name])
        if name in done:
            return
        for other in sorted(graph[name]):
            visit(other, [*path, name])
        done.add(name)

    for name in graph:
        visit(name, [])


def assigned_states(tree: ast.Module) -> list[int]:
    """Lines that set ``state`` or ``reasons``: by attribute, or by name in a call that writes rows."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, (ast.Assign, ast.AugAssign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            parts = [part for target in targets for part in getattr(target, "elts", [target])]
            if any(isinstance(part, ast.Attribute) and part.attr in STATE_FIELDS for part in parts):
                found.append(node.lineno)
        elif isinstance(node, ast.Call):
            function = node.func
            name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
            keywords = {keyword.arg for keyword in node.keywords}
            if name in WRITE_ROWS and keywords & {"state", "reason_code"}:
                found.append(node.lineno)
    return found


STATE_FIELDS = ("state", "reasons", "reason_code")
#: Calls that write rows of a series or a filter run.
WRITE_ROWS = {"update", "create", "get_or_create", "update_or_create", "Series", "FilterRun"}


def test_one_module_assigns_the_states_of_series_and_runs():
    # ``self.reasons`` of an exception is not a row's.
    found = {
        (name, line)
        for name, tree in MODULES.items()
        if name not in ("ingest.states", "models")
        for line in assigned_states(tree)
    }
    ours = {module for module, _ in found}
    assert ours <= MAY_HAVE_REASONS, found
    assert assigned_states(MODULES["ingest.states"])


#: Modules with a class of their own that has ``reasons``.
MAY_HAVE_REASONS = {"ingest.series"}


@pytest.mark.parametrize(
    "code",
    [
        "series.state = 'held'",
        "series.state, series.reason = 'held', 'why'",
        "Series.objects.filter(pk=1).update(state='held')",
        "FilterRun.objects.create(archive=archive, state='done')",
        "FilterRun(archive=archive, state='done')",
        "run.reasons += [1]",
    ],
)
def test_an_assignment_is_recognised(code):
    assert assigned_states(ast.parse(code)) == [1]
