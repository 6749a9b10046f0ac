"""`--target map:FILE`: a port with names of its own, described by a TOML file."""

from __future__ import annotations

import itertools
import sys

import pytest
from property_tests.harness.ports import REPOSITORY, construct, trace_of, update
from property_tests.harness.renamed_port import PORT, write_renamed

from kvlockstep import ConformanceError, check_target
from kvlockstep._contract import contract_of
from kvlockstep._engine import Lockstep
from kvlockstep._growth import growing, growth_step
from kvlockstep._jobs import Job, releases_of
from kvlockstep._options import settings_from
from kvlockstep._port_map import read_map
from kvlockstep._prompt_steps import MakePrompt
from kvlockstep._stand_ins import StandIn, bare
from kvlockstep._steps import CausalMask, Copy, Extend, Extract, Hold, Merge, Reload, Trim
from kvlockstep._surface import compare_surfaces
from kvlockstep._targets import TargetError, contracts_of, load_target
from kvlockstep._workers import run_jobs

RELEASE = "0.32.2"
_numbers = itertools.count()


@pytest.fixture
def map_port(tmp_path, monkeypatch):
    """Return `map_port(*changes, port=...)`: it writes port and map and returns the target."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    known = set(sys.modules)

    def write(*changes, port=PORT):
        name = f"renamed_port_{next(_numbers)}"
        return f"map:{write_renamed(tmp_path, name, *changes, port=port)}"

    yield write
    for name in set(sys.modules) - known:
        if name.startswith("renamed_port"):
            del sys.modules[name]


def lockstep(spec):
    return Lockstep(contract_of(RELEASE), load_target(spec, RELEASE))


def test_renamed_port_conforms(map_port, tmp_path):
    """A port that differs by its names only passes the gate, and what it lacks is told."""
    (tmp_path / "none").mkdir()

    report = check_target(
        map_port(),
        cache=("KVCache", "RotatingKVCache", "BatchKVCache", "functions"),
        steps=250,
        traces=tmp_path / "none",
        report=tmp_path / "report",
    )

    assert report.exit_status == 0
    reached = {(cell.cache, cell.operation) for cell in report.cells[RELEASE]}
    missing = {
        ("KVCache", "update"),
        ("KVCache", "trim"),
        ("KVCache", "merge"),
        ("KVCache", "reload"),
        ("KVCache", "fetch"),
        ("RotatingKVCache", "update"),
        ("BatchKVCache", "extend"),
        ("BatchKVCache", "extract"),
        ("functions", "causal_mask"),
    } - reached
    assert missing == set()
    assert {"KVCache.make_mask", "RotatingKVCache.trim", "ArraysCache"} <= report.lacking


def test_fault_is_told_in_the_releases_names(map_port, tmp_path):
    """A fault in a renamed method is found, and told under the release's names."""
    fault = PORT.replace("return self.inner.trim(count)", "return self.inner.trim(count) + 1")

    with pytest.raises(ConformanceError) as info:
        check_target(map_port(port=fault), cache="KVCache", steps=150, report=tmp_path / "report")

    assert "0.32.2/KVCache/trim/result\n  1. a = KVCache()\n  2. a: trim 1\n" in str(info.value)


def test_several_caches_meet_as_the_ports_own(map_port):
    """Peers and lists of caches reach the port as its own, and come back under the map's names."""
    pair = construct("BatchKVCache", left_padding=(0,)), update(2)
    steps = (
        *(construct(slot="s"), update(3, slot="s"), Merge(slot="s", to="a")),
        *(construct("BatchKVCache", slot="b", left_padding=(1,)), update(4, slot="b")),
        *(Extend(slot="a", peer="b"), Extract(slot="a", index=1, to="e"), update(1, slot="e")),
        *(Copy(slot="e", to="c"), update(1, slot="c"), Reload(slot="e", to="r"), Trim(n=1)),
        *(Hold(slot="c", what="copy"), Trim(slot="c", n=1), *pair),
    )

    run = lockstep(map_port()).run(trace_of(*steps))

    assert run.divergences == []
    # A batch of this port has no trim.
    assert run.lacking == {"BatchKVCache.trim"}
    assert sum(step is not None for step in run.log) == len(steps) - 1


def test_growth_step_is_set_under_the_ports_name(map_port):
    """The growth step is the port's own attribute while a trace runs, and put back."""
    engine = lockstep(map_port())
    store = engine.target.module.KVCache._outfit.port
    modules = engine.contract.module, engine.target.module

    with growth_step(2, growing(*modules)):
        # The other classes of the map have none: then no class gets another.
        assert store.block == 256
    others = "RotatingKVCache", "BatchKVCache"
    for name in others:
        delattr(engine.target.module, name)
    with growth_step(2, growing(*modules)):
        assert (store.block, engine.contract.module.KVCache.step) == (2, 2)
    assert store.block == 256
    engine = Lockstep(engine.contract, engine.target)
    assert engine.run(trace_of(construct(), update(3), update(2), step_size=2)).divergences == []


def test_name_that_means_something_else_is_hidden(map_port):
    """Where the port uses a name of the release's for something else, the map's name counts."""
    cache = load_target(map_port(), RELEASE).module.KVCache()

    assert isinstance(cache, StandIn)
    assert cache.trim(n=0) == 0
    with pytest.raises(AssertionError, match="something else"):
        bare(cache).trim()


def test_aliases_stay_aliases(map_port):
    """A stand-in hands out the port's own objects: a handle sees a later write in place."""
    steps = construct(), update(2), Hold(what="state"), Hold(what="result"), update(1), update(1)

    for mode in ("value", "in-place"):
        assert lockstep(map_port()).run(trace_of(*steps, mode=mode)).divergences == []


def test_surface_is_compared_under_the_releases_names(map_port):
    """Renamed parameters are the release's; others, and other defaults, are told."""
    contract = contract_of(RELEASE)
    target = load_target(map_port(), RELEASE)
    other = load_target(map_port(('{ max_size = "size", keep = "sinks" }', "{}")), RELEASE)

    assert compare_surfaces(contract, target, RELEASE)[1] == []
    assert compare_surfaces(contract, other, RELEASE)[1] == [
        "surface 0.32.2: RotatingKVCache: expected parameters (max_size, keep=0), got "
        "(size, sinks=0)"
    ]


def test_map_makes_the_promises(map_port):
    """Contract, level, error mode and transactions are what the map says."""
    spec = map_port(
        ('errors = "type+message"', 'errors = "type"\nlevel = "buffer"\ntransactional = true'),
        ('contract = "0.32.2"', 'contract = "0.31.3"'),
        ('keys_and_values = "rows"\n', ""),
    )
    target = load_target(spec, "0.31.3")

    assert contracts_of(spec) == ("0.31.3",)
    assert load_target(spec, RELEASE).contract == "0.31.3"
    assert (target.spec, target.contract, target.level) == (spec, "0.31.3", "buffer")
    assert (target.errors, target.transactional) == ("type", True)


def test_map_without_names_is_the_module_itself(tmp_path, map_port):
    """A map that only says where the port is, or what it promises, puts nothing in between."""
    spec = map_port()
    file = tmp_path / "plain.toml"
    name = next(path.stem for path in tmp_path.glob("renamed_port_*.py"))
    file.write_text(f'version = 1\nmodule = "{name}"\nfolder = "."\n')

    assert load_target(f"map:{file}", RELEASE).module is sys.modules[name]
    assert not hasattr(load_target(spec, RELEASE).module, "Store")


def test_functions_take_the_ports_arguments(map_port):
    """Keyword arguments are handed on under the port's names, and caches come back in stand-ins."""
    steps = (
        CausalMask(n=2, offset=1, window=2, left_padding=(1,)),
        *(MakePrompt(layers=2), update(2, slot="p1")),
        *(MakePrompt(layers=1, max_kv_size=8, to="q"), update(2, slot="q0")),
    )

    run = lockstep(map_port()).run(trace_of(*steps))

    assert run.divergences == []
    assert [step is None for step in run.log] == [False] * 5


def test_packages_need_not_be_run(tmp_path, monkeypatch):
    """With `skip_init` the packages around the module are not run."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    inner = tmp_path / "site" / "heavy_port" / "models"
    inner.mkdir(parents=True)
    for folder in (inner.parent, inner):
        (folder / "__init__.py").write_text("import a_dependency_that_is_not_there\n")
    (inner / "base.py").write_text("STEP = 16\n")
    (inner / "cache.py").write_text("from .base import STEP\nclass KVCache:\n    step = STEP\n")
    file = tmp_path / "port.toml"
    text = 'version = 1\nmodule = "heavy_port.models.cache"\nfolder = "site"\n'
    file.write_text(text)

    with pytest.raises(TargetError, match="No module named 'a_dependency_that_is_not_there'"):
        load_target(f"map:{file}", RELEASE)
    file.write_text(f"{text}skip_init = true\n")

    assert load_target(f"map:{file}", RELEASE).module.KVCache.step == 16
    for name in [name for name in sys.modules if name.startswith("heavy_port")]:
        del sys.modules[name]


def test_port_of_another_folder_is_refused(tmp_path, monkeypatch):
    """A module that this environment has already is not taken for the one in the folder."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    file = tmp_path / "port.toml"
    file.write_text('version = 1\nmodule = "json"\nfolder = "."\n')

    with pytest.raises(TargetError) as info:
        load_target(f"map:{file}", RELEASE)

    assert f"module 'json': expected one in the folder {tmp_path}, got " in str(info.value)


def test_workers_load_the_map(map_port):
    """A worker process reads the map by its path."""
    settings = settings_from({"target": map_port()})
    (release,) = releases_of(settings)

    ((_, report),) = run_jobs([Job("smoke", release)], settings, 1)

    assert (release, report.broken, report.jobs) == (RELEASE, [], 1)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("version = 1", "version = 2", "Invalid enum value 2 - at `$.version`"),
        ("version = 1", "version = 1\nspeed = 1", "contains unknown field `speed`"),
        ("version = 1", "version =", "Invalid value (at line 2"),
        ('contract = "0.32.2"', "contract = 32", "Expected `str`, got `int` - at `$.contract`"),
        ('contract = "0.32.2"', 'contract = "9.9"', "contract: expected one of 0.31.3, 0.32.2, "),
        ('folder = "."', 'folder = "nowhere"', "folder: expected the folder of an installed "),
        ('errors = "type+message"', 'errors = "all"', "Invalid enum value 'all' - at `$.errors`"),
        ("[classes.KVCache]", "[classes.PagedCache]", "classes: expected one of KVCache, Concat"),
        ('name = "Store"', 'name = "Shop"', "classes.KVCache: expected something of renamed_po"),
        ('"drop_last"', '"drop"', "classes.KVCache.methods.trim: expected a method of Store ("),
        ("keys_and_values =", "fetch =", "classes.KVCache.methods: expected one of "),
        ('n = "count"', 'm = "count"', "classes.KVCache.methods.trim.arguments: expected one of n"),
        ('n = "count"', 'n = "k"', "expected an argument of the port's (count), got 'k'"),
        ('keep = "sinks"', 'keep = "sink"', "expected an argument of the port's (size, sinks), g"),
        ('keep = "sinks"', 'kept = "sinks"', "arguments: expected one of max_size, keep, got 'kep"),
        ('owner = "test"', 'owned = "x"', "classes.KVCache.always: expected an argument of the po"),
        ('offset = "seen"', 'offset = "sees"', "attributes.offset: expected an attribute of Store"),
        ('offset = "seen"', 'offs = "seen"', "classes.KVCache.attributes: expected one of "),
        ('name = "caches_for"', 'name = "made"', "functions.make_prompt_cache: expected something"),
        (
            'limit"',
            'size"',
            "functions.make_prompt_cache.arguments: expected an argument of the po",
        ),
        ("make_prompt_cache =", "make_cache =", "functions: expected one of create_causal_mask, "),
        ('"push"', '"not a name"', "Expected `str` matching regex"),
    ],
)
def test_wrong_map_is_refused(map_port, old, new, told):
    """What does not fit is told: the file, the field, what was expected and what came."""
    spec = map_port((old, new))

    with pytest.raises(TargetError) as info:
        load_target(spec, RELEASE)

    assert str(info.value).startswith(f"target {spec!r}: {spec.removeprefix('map:')}: ")
    assert told in str(info.value)


def test_missing_map_is_refused(tmp_path):
    """A file that is not there is named."""
    for call in (contracts_of, lambda spec: load_target(spec, RELEASE)):
        with pytest.raises(TargetError, match=r"none\.toml"):
            call(f"map:{tmp_path / 'none.toml'}")


def test_errors_go_through_as_they_are(map_port):
    """What the port refuses is raised through a stand-in as without one, message and all."""
    steps = construct(), update(2), update(1, batch=3), Trim(n=1.5), update(1)

    run = lockstep(map_port()).run(trace_of(*steps))

    assert run.divergences == []
    assert run.steps == len(steps)


def test_map_of_the_readme_is_read(tmp_path):
    """The example in conformance/README.md is a map, with all keys but the two told of later."""
    text = (REPOSITORY / "conformance" / "README.md").read_text(encoding="utf-8")
    example = text.partition("## Port maps")[2].partition("```toml\n")[2].partition("```")[0]
    file = tmp_path / "port.toml"
    file.write_text(example)

    described = read_map(file)

    assert described.classes["KVCache"].methods["trim"].arguments == {"n": "count"}
    told = {name.partition(" ")[0].strip("[") for name in example.splitlines() if name}
    fields = {name.partition(".")[0].strip("]") for name in told}
    assert set(described.__struct_fields__) - fields == {"folder", "skip_init"}
