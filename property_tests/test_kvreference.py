"""Tests of `kvreference`: real pip and a wheel made here, so that none but one needs a network.

The fixture `shop` is a package index of one wheel, ``mlx-lm 1.0.0``, and the pins for it.
"""

import base64
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
import venv
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

import kvreference
from kvreference import _home, _pins
from kvreference.__main__ import main
from kvreference._home import find_tree
from kvreference._verify import find_problems

SOURCE = Path(kvreference.__file__).resolve().parents[1]

FILES = {
    "mlx_lm/__init__.py": "raise RuntimeError('nobody may run this')\n",
    "mlx_lm/models/base.py": "def create_causal_mask():\n    return 'the mask of base.py'\n",
    "mlx_lm/models/cache.py": (
        "from .base import create_causal_mask\n\n\n"
        "class KVCache:\n    step = 256\n    mask = staticmethod(create_causal_mask)\n"
    ),
    "mlx_lm/utils.py": "TEMPERATURE = 0.0\n",
}


@dataclass(frozen=True)
class Shop:
    """A folder of wheels that pip installs from, and a folder of pins."""

    wheels: Path
    pins: Path

    def sell(self, release: str, files: dict[str, str]) -> None:
        """Put a wheel on the shelf, and pin it."""
        wheel = write_wheel(self.wheels, release, files)
        self.pin(release, hashlib.sha256(wheel.read_bytes()).hexdigest(), files)

    def pin(self, release: str, wheel: str, files: dict[str, str]) -> None:
        """Write the two files of a pin."""
        (self.pins / f"{release}.txt").write_text(f"mlx-lm=={release} --hash=sha256:{wheel}\n")
        digests = [
            f"{hashlib.sha256(files[file].encode()).hexdigest()}  {file}\n"
            for file in (_pins.BASE, _pins.CACHE)
        ]
        (self.pins / f"{release}.sha256").write_text("".join(digests))

    def sync(self, *releases: str, force: bool = False) -> dict[str, Path]:
        """Sync from this shop's pins."""
        return kvreference.sync(releases or None, force=force, pins=self.pins)

    def load(self, release: str) -> kvreference.Reference:
        """Load by this shop's pins."""
        return kvreference.load(release, pins=self.pins)

    def problems(self, release: str) -> list[str]:
        """Verify every file, and return what is wrong."""
        found = find_problems(_pins.read_pin(release, self.pins), find_tree(release))
        return [str(problem) for problem in found]

    def start(self, pip: str, *, force: bool = False) -> subprocess.Popen[str]:
        """Sync in a process of its own, which finds its pip in the folder `pip`."""
        pins = f"pathlib.Path({str(self.pins)!r})"
        code = f"import kvreference, pathlib; kvreference.sync(force={force}, pins={pins})"
        path = os.pathsep.join([pip, str(SOURCE)])
        return subprocess.Popen(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONPATH": path},
            stderr=subprocess.PIPE,
            text=True,
        )


def write_wheel(folder: Path, release: str, files: dict[str, str]) -> Path:
    """Write a wheel of mlx-lm that holds `files`, with a RECORD, and return its path."""
    info = f"mlx_lm-{release}.dist-info"
    files = {
        **files,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: mlx-lm\nVersion: {release}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": "[console_scripts]\nmlx_lm = mlx_lm:main\n",
    }
    rows = []
    for file, text in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).decode()
        rows.append(f"{file},sha256={digest.rstrip('=')},{len(text)}\n")
    files[f"{info}/RECORD"] = "".join([*rows, f"{info}/RECORD,,\n"])
    wheel = folder / f"mlx_lm-{release}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for file, text in files.items():
            archive.writestr(file, text)
    return wheel


def write_pip(folder: Path, body: str) -> str:
    """Write a package `pip` whose ``python -m pip`` runs `body`; return its PYTHONPATH."""
    (folder / "pip").mkdir(parents=True)
    (folder / "pip" / "__init__.py").touch()
    (folder / "pip" / "__main__.py").write_text(body)
    return str(folder)


def list_home() -> list[str]:
    """Return the names in the folder of installed releases, but for the lock."""
    return sorted(file.name for file in kvreference.home().glob("*") if file.name != ".lock")


@pytest.fixture
def shop(tmp_path, monkeypatch):
    """Return a shop with mlx-lm 1.0.0; pip knows no other, and the home is empty."""
    shop = Shop(tmp_path / "wheels", tmp_path / "pins")
    shop.wheels.mkdir()
    shop.pins.mkdir()
    shop.sell("1.0.0", FILES)
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(shop.wheels))
    monkeypatch.setenv("KVREFERENCE_HOME", str(tmp_path / "home"))
    return shop


@pytest.fixture(scope="session")
def releases():
    """Return the real pinned releases, installed: the only fixture that may need a network."""
    kvreference.sync()
    return kvreference.RELEASES


class TestPins:
    """The files under ``pins/``."""

    def test_real_pins_are_well_formed(self):
        """Every pin that we ship names its own release and both files."""
        for release in kvreference.RELEASES:
            assert _pins.read_pin(release).release == release

    def test_releases_are_sorted_as_versions(self, shop):
        """Releases come in the order of their numbers, not of their letters."""
        shop.sell("0.10.0", FILES)
        shop.sell("0.9.0", FILES)
        (shop.pins / "notes.txt").touch()

        assert _pins.list_releases(shop.pins) == ("0.9.0", "0.10.0", "1.0.0")

    @pytest.mark.parametrize(
        ("file", "text"),
        [
            ("1.0.0.txt", "mlx-lm==1.0.1 --hash=sha256:" + 64 * "0"),
            ("1.0.0.txt", "mlx-lm==1.0.0"),
            ("1.0.0.sha256", 64 * "0" + "  mlx_lm/models/cache.py"),
            ("1.0.0.sha256", 2 * (64 * "0" + "  mlx_lm/models/cache.py\n")),
        ],
    )
    def test_bad_pin_is_refused(self, shop, file, text):
        """A pin that names another release, or lacks a hash or a file, is refused by name."""
        (shop.pins / file).write_text(text)

        with pytest.raises(kvreference.ReferenceError, match=file) as caught:
            shop.sync()

        assert caught.value.kind == "pin"

    def test_pin_without_digests_is_refused(self, shop):
        """A requirements file alone is no pin."""
        (shop.pins / "1.0.0.sha256").unlink()

        with pytest.raises(kvreference.ReferenceError, match=r"1\.0\.0\.sha256"):
            shop.load("1.0.0")


class TestSync:
    """`kvreference.sync`, where it succeeds."""

    def test_installs_and_verifies(self, shop):
        """A sync leaves the release, complete, and nothing else."""
        done = shop.sync()

        assert {"1.0.0": find_tree("1.0.0")} == done
        assert shop.problems("1.0.0") == []
        assert list_home() == ["1.0.0"]
        assert not (done["1.0.0"] / "bin").exists()
        assert not list(done["1.0.0"].rglob("*.pyc"))

    def test_second_sync_starts_no_pip(self, shop, monkeypatch):
        """What is there and verified is left alone."""
        shop.sync()
        monkeypatch.setattr(sys, "executable", "/no/such/python")

        shop.sync("1.0.0")

    def test_nothing_asked_nothing_done(self, shop):
        """An empty list of releases is not all of them."""
        assert kvreference.sync([], pins=shop.pins) == {}
        assert list_home() == []

    def test_pip_prints_nothing(self, shop, capfd):
        """What pip prints is kept back when all went well."""
        shop.sync()

        assert capfd.readouterr() == ("", "")

    @pytest.mark.parametrize("force", [False, True])
    def test_changed_tree_is_replaced(self, shop, force):
        """A tree that has changed is made anew, forced or not."""
        tree = shop.sync()["1.0.0"]
        (tree / "mlx_lm" / "utils.py").write_text("TEMPERATURE = 1.0\n")

        shop.sync(force=force)

        assert shop.problems("1.0.0") == []
        assert list_home() == ["1.0.0"]

    def test_force_replaces_a_good_tree(self, shop):
        """`force` installs again even where nothing is wrong."""
        before = shop.sync()["1.0.0"].stat().st_ino

        assert before != shop.sync(force=True)["1.0.0"].stat().st_ino
        assert shop.problems("1.0.0") == []

    @pytest.mark.parametrize(("force", "installs"), [(False, 1), (True, 4)])
    def test_concurrent_syncs_all_succeed(self, shop, tmp_path, force, installs):
        """Processes that sync at once take turns and end well; nobody sees half a tree."""
        body = f"""
import os, pathlib, runpy, sys
log = pathlib.Path({str(tmp_path / "log")!r})
with log.open("a") as file:
    file.write("start\\n")
sys.path.remove({str(tmp_path / "fake")!r})
del sys.modules["pip"]
try:
    runpy.run_module("pip", run_name="__main__")
finally:
    with log.open("a") as file:
        file.write("end\\n")
"""
        pip = write_pip(tmp_path / "fake", body)
        running = [shop.start(pip, force=force) for _ in range(4)]
        while any(process.poll() is None for process in running):
            if not force and find_tree("1.0.0").exists():
                assert shop.problems("1.0.0") == []
        errors = [process.communicate()[1] for process in running]

        assert errors == [""] * 4
        assert [process.returncode for process in running] == [0] * 4
        assert (tmp_path / "log").read_text() == "start\nend\n" * installs
        assert list_home() == ["1.0.0"]
        assert shop.problems("1.0.0") == []

    def test_killed_sync_leaves_nothing_that_is_used(self, shop, tmp_path):
        """Half a tree from a killed sync is never loaded, and the next sync clears it away."""
        started = tmp_path / "started"
        body = f"""
import os, pathlib, sys, time
target = pathlib.Path(sys.argv[sys.argv.index("--target") + 1]) / "mlx_lm" / "models"
target.mkdir(parents=True)
(target / "cache.py").write_text("class KVC")
pathlib.Path({str(tmp_path / "pid")!r}).write_text(str(os.getpid()))
pathlib.Path({str(started)!r}).touch()
time.sleep(60)
"""
        process = shop.start(write_pip(tmp_path / "fake", body))
        while not started.exists():
            assert process.poll() is None, process.communicate()
            time.sleep(0.01)
        process.kill()
        process.communicate()
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)

        (leftover,) = list_home()
        with pytest.raises(kvreference.ReferenceError, match="not installed"):
            shop.load("1.0.0")
        shop.sync()

        assert leftover.startswith(".partial-1.0.0-")
        assert list_home() == ["1.0.0"]
        assert "KVCache" in vars(shop.load("1.0.0").cache)

    def test_leftovers_go_though_nothing_is_missing(self, shop):
        """A sync that has nothing to install still clears up."""
        shop.sync()
        (kvreference.home() / ".partial-1.0.0-x" / "new").mkdir(parents=True)

        shop.sync()

        assert list_home() == ["1.0.0"]


class TestSyncFails:
    """`kvreference.sync`, where it fails: each way is told from the others."""

    def fail(self, shop):
        """Sync, and return the error; nothing may be left behind."""
        with pytest.raises(kvreference.ReferenceError) as caught:
            shop.sync("1.0.0")
        assert "python -m kvreference sync 1.0.0" in str(caught.value)
        assert caught.value.release == "1.0.0"
        assert list_home() == []
        return caught.value

    def test_wrong_hash(self, shop):
        """A wheel with another hash is refused, and both hashes are shown."""
        wheel = hashlib.sha256(next(shop.wheels.iterdir()).read_bytes()).hexdigest()
        shop.pin("1.0.0", 64 * "0", FILES)

        error = self.fail(shop)

        assert error.kind == "hash"
        assert 64 * "0" in error.expected
        assert wheel in error.actual

    def test_wrong_digest(self, shop):
        """A wheel that does not hold the pinned files is not installed."""
        wheel = hashlib.sha256(next(shop.wheels.iterdir()).read_bytes()).hexdigest()
        shop.pin("1.0.0", wheel, {**FILES, _pins.CACHE: "another cache"})

        with pytest.raises(kvreference.ReferenceError, match=r"models/cache\.py") as caught:
            shop.sync()

        assert caught.value.kind == "pin"
        assert list_home() == []

    def test_no_network(self, shop, monkeypatch):
        """An index that nobody answers for is told as such."""
        monkeypatch.delenv("PIP_NO_INDEX")
        monkeypatch.delenv("PIP_FIND_LINKS")
        monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
        monkeypatch.setenv("PIP_RETRIES", "0")

        assert self.fail(shop).kind == "network"

    def test_no_index(self, shop, monkeypatch):
        """Without any index at all, what pip printed is shown."""
        monkeypatch.delenv("PIP_FIND_LINKS")

        error = self.fail(shop)

        assert error.kind == "network"
        assert "No matching distribution" in str(error)

    def test_release_not_in_the_index(self, shop):
        """An index that has other releases is told from one that does not answer."""
        next(shop.wheels.iterdir()).unlink()
        write_wheel(shop.wheels, "1.0.1", FILES)

        assert self.fail(shop).kind == "not-found"

    def test_no_pip(self, shop, monkeypatch, tmp_path):
        """A Python without pip (uv makes them) is told what to do."""
        venv.create(tmp_path / "venv", with_pip=False)
        monkeypatch.setattr(sys, "executable", str(tmp_path / "venv" / "bin" / "python"))

        error = self.fail(shop)

        assert error.kind == "pip"
        assert "ensurepip" in error.mend

    def test_no_python(self, shop, monkeypatch):
        """An embedded Python, whose executable is not one, is told as such."""
        monkeypatch.setattr(sys, "executable", "/no/such/python")

        with pytest.raises(kvreference.ReferenceError, match="cannot start '/no/such/python'"):
            shop.sync()

    @pytest.mark.parametrize(
        ("said", "kind"),
        [
            ("ERROR: Could not install: [Errno 28] No space left on device", "disk"),
            ("ReadTimeoutError: HTTPSConnectionPool: Read timed out.", "network"),
            ("ERROR: something that pip has not said before", "pip"),
        ],
    )
    def test_pip_says(self, shop, monkeypatch, tmp_path, said, kind):
        """A failure inside pip is sorted by what pip said, which is shown."""
        fake = write_pip(tmp_path / "fake", f"import sys; print({said!r}); sys.exit(3)")
        monkeypatch.setenv("PYTHONPATH", fake)

        error = self.fail(shop)

        assert kind == error.kind
        assert said in str(error)

    def test_home_cannot_be_made(self, shop, monkeypatch, tmp_path):
        """A home that is no folder names the setting that mends it."""
        (tmp_path / "file").touch()
        monkeypatch.setenv("KVREFERENCE_HOME", str(tmp_path / "file" / "home"))

        with pytest.raises(kvreference.ReferenceError, match="KVREFERENCE_HOME") as caught:
            shop.sync()

        assert caught.value.kind == "disk"

    def test_unknown_release(self, shop):
        """A release that is not pinned is refused with those that are."""
        with pytest.raises(kvreference.ReferenceError, match=r"one of 1\.0\.0"):
            shop.sync("9.9.9")


class TestHome:
    """Where releases live."""

    def test_variable(self, monkeypatch, tmp_path):
        """KVREFERENCE_HOME wins."""
        monkeypatch.setenv("KVREFERENCE_HOME", str(tmp_path))

        assert tmp_path == kvreference.home()

    def test_checkout(self, monkeypatch, tmp_path):
        """In a checkout, they live beside the package."""
        package = tmp_path / "reference" / "kvreference"
        package.mkdir(parents=True)
        (tmp_path / "pyproject.toml").touch()
        monkeypatch.delenv("KVREFERENCE_HOME", raising=False)
        monkeypatch.setattr(_home, "PACKAGE", package)

        assert package / "releases" == kvreference.home()

    @pytest.mark.parametrize(
        ("platform", "expected"), [("linux", "cache"), ("darwin", "me/Library/Caches")]
    )
    def test_installed(self, monkeypatch, tmp_path, platform, expected):
        """Installed as a wheel, they live in the user's cache directory."""
        monkeypatch.delenv("KVREFERENCE_HOME", raising=False)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        monkeypatch.setenv("HOME", str(tmp_path / "me"))
        monkeypatch.setattr(sys, "platform", platform)
        monkeypatch.setattr(_home, "PACKAGE", tmp_path / "site-packages" / "kvreference")

        assert tmp_path / expected / "kvreference" == kvreference.home()


class TestLoad:
    """`kvreference.load` of a pinned release."""

    def test_loads_under_a_private_name(self, shop):
        """The two modules are run as ``_kvreference_1_0_0.models``, and see each other."""
        tree = shop.sync()["1.0.0"]

        loaded = shop.load("1.0.0")

        assert loaded.name == "1.0.0"
        assert tree / _pins.CACHE == loaded.cache_file == Path(loaded.cache.__file__)
        assert loaded.cache.KVCache.__module__ == "_kvreference_1_0_0.models.cache"
        assert loaded.base.create_causal_mask is loaded.cache.KVCache.mask

    def test_same_object(self, shop):
        """A second load gives the same object."""
        shop.sync()

        assert shop.load("1.0.0") is shop.load("1.0.0")

    def test_unknown_release(self, shop):
        """A release that is not pinned is refused with those that are."""
        with pytest.raises(kvreference.ReferenceError, match=r"one of 1\.0\.0, or path:DIR"):
            shop.load("9.9.9")

    def test_not_synced(self, shop):
        """A release that is not installed names the command that installs it."""
        with pytest.raises(kvreference.ReferenceError) as caught:
            shop.load("1.0.0")

        assert caught.value.kind == "not-synced"
        assert caught.value.mend == "python -m kvreference sync 1.0.0"

    @pytest.mark.parametrize("file", [_pins.BASE, _pins.CACHE])
    def test_changed_file(self, shop, file):
        """A changed file is noticed at every load, even where it was loaded before."""
        tree = shop.sync()["1.0.0"]
        loaded = shop.load("1.0.0")
        (tree / file).write_text(FILES[file] + "# tampered\n")

        with pytest.raises(kvreference.ReferenceError) as caught:
            shop.load("1.0.0")

        assert caught.value.kind == "changed"
        assert str(tree / file) in str(caught.value)
        assert hashlib.sha256(FILES[file].encode()).hexdigest() in caught.value.expected
        assert hashlib.sha256((tree / file).read_bytes()).hexdigest() in caught.value.actual
        assert caught.value.mend == "python -m kvreference sync --force 1.0.0"
        shop.sync(force=True)
        assert loaded is shop.load("1.0.0")

    def test_missing_file(self, shop):
        """A missing file is a changed one."""
        tree = shop.sync()["1.0.0"]
        (tree / _pins.BASE).unlink()

        with pytest.raises(kvreference.ReferenceError, match="no such file") as caught:
            shop.load("1.0.0")

        assert caught.value.kind == "changed"

    def test_bytecode_is_not_trusted(self, shop):
        """Bytecode beside a good file, however fresh it looks, is not run."""
        file = shop.sync()["1.0.0"] / _pins.CACHE
        before = file.stat()
        file.write_text(FILES[_pins.CACHE].replace("256", "257"))
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
        subprocess.run([sys.executable, "-m", "py_compile", str(file)], check=True)
        file.write_text(FILES[_pins.CACHE])
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))

        assert shop.load("1.0.0").cache.KVCache.step == 256

    def test_nothing_unchecked_is_imported(self, shop):
        """A release that wants a third file fails to load, rather than run it unchecked."""
        shop.sell("1.1.0", {**FILES, _pins.CACHE: "from ..utils import TEMPERATURE\n"})
        shop.sync("1.1.0")

        with pytest.raises(kvreference.ReferenceError, match="No module named") as caught:
            shop.load("1.1.0")

        assert caught.value.kind == "import"
        assert not [name for name in sys.modules if name.startswith("_kvreference_1_1_0")]


class TestPath:
    """`kvreference.load` of a working copy."""

    @pytest.fixture
    def copy(self, tmp_path):
        """Return a working copy of mlx-lm."""
        for file, text in FILES.items():
            (tmp_path / "copy" / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "copy" / file).write_text(text)
        return tmp_path / "copy"

    @pytest.mark.parametrize("folder", [".", "mlx_lm"])
    def test_layouts(self, copy, folder):
        """DIR contains mlx_lm, or is it."""
        loaded = kvreference.load(f"path:{copy / folder}")

        assert f"path:{copy / folder}" == loaded.name
        assert copy / _pins.CACHE == loaded.cache_file
        assert loaded is kvreference.load(f"path:{copy / folder}")

    def test_relative(self, copy, monkeypatch):
        """A relative DIR is meant from the current folder."""
        monkeypatch.chdir(copy)

        assert copy / _pins.CACHE == kvreference.load("path:.").cache_file

    def test_edit_gives_a_new_reference(self, copy):
        """A copy that was edited is loaded anew, and the older one stays as it was."""
        before = kvreference.load(f"path:{copy}")
        (copy / _pins.CACHE).write_text(FILES[_pins.CACHE].replace("256", "257"))
        after = kvreference.load(f"path:{copy}")

        assert (before.cache.KVCache.step, after.cache.KVCache.step) == (256, 257)
        assert sys.modules[before.cache.__name__] is before.cache

    def test_other_modules_of_the_copy(self, copy):
        """A copy may import what it likes of itself, without its ``__init__``."""
        (copy / _pins.CACHE).write_text("from ..utils import TEMPERATURE\n")

        assert kvreference.load(f"path:{copy}").cache.TEMPERATURE == 0.0

    @pytest.mark.parametrize("file", [_pins.BASE, _pins.CACHE])
    def test_missing(self, copy, file):
        """A DIR without mlx-lm is refused with the paths that were looked for."""
        (copy / file).unlink()

        with pytest.raises(kvreference.ReferenceError) as caught:
            kvreference.load(f"path:{copy}")

        assert caught.value.kind == "path"
        assert str(copy / file) in str(caught.value)
        assert str(copy / "models" / "cache.py") in str(caught.value)

    @pytest.mark.parametrize("folder", ["", "/no/such/folder", "~nobody-of-that-name/x", "a\0b"])
    def test_no_folder(self, folder):
        """No DIR, or one that does not exist, is refused like any other."""
        with pytest.raises(kvreference.ReferenceError, match="no mlx-lm in") as caught:
            kvreference.load(f"path:{folder}")

        assert caught.value.kind == "path"

    @pytest.mark.parametrize(
        ("text", "cause"),
        [("1 / 0\n", ZeroDivisionError), ("class (\n", SyntaxError), ("import nil", ImportError)],
    )
    def test_import_fails(self, copy, text, cause):
        """A copy that does not import says which file, chained from the original error."""
        (copy / _pins.CACHE).write_text(text)
        before = set(sys.modules)

        with pytest.raises(kvreference.ReferenceError, match=r"cache\.py") as caught:
            kvreference.load(f"path:{copy}")

        assert caught.value.kind == "import"
        assert isinstance(caught.value.__cause__, cause)
        assert before == set(sys.modules)


class TestCommandLine:
    """``python -m kvreference``."""

    def test_sync_list_verify(self, shop, capsys):
        """The three verbs agree about what is installed."""
        assert main(["list"], pins=shop.pins) == 0
        assert main(["verify"], pins=shop.pins) == 1
        assert "1.0.0  not installed" in capsys.readouterr().out
        assert main(["sync"], pins=shop.pins) == 0
        assert main(["verify", "1.0.0"], pins=shop.pins) == 0
        assert main(["list"], pins=shop.pins) == 0
        assert f"1.0.0  installed  {find_tree('1.0.0')}" in capsys.readouterr().out

    def test_verify_lists_every_problem(self, shop, capsys):
        """All problems of all releases are listed: changed, missing and additional files."""
        shop.sell("1.1.0", FILES)
        shop.sync()
        (find_tree("1.0.0") / "mlx_lm/utils.py").write_text("TEMPERATURE = 1.0\n")
        (find_tree("1.0.0") / "mlx_lm/__init__.py").unlink()
        (find_tree("1.0.0") / _pins.CACHE).write_text("")
        (find_tree("1.1.0") / "mlx_lm/more.py").touch()

        assert main(["verify"], pins=shop.pins) == 1

        printed = capsys.readouterr().out
        assert "1.0.0  3 problem(s)" in printed
        assert "1.1.0  1 problem(s)" in printed
        for file in ("utils.py", "__init__.py", "cache.py", "more.py"):
            assert f"{file}: expected" in printed

    @pytest.mark.parametrize("record", [None, "", "one,two\n", "\0\n", ",,\n"])
    def test_verify_without_a_record(self, shop, record):
        """A RECORD that is missing or broken is a problem like any other."""
        file = shop.sync()["1.0.0"] / "mlx_lm-1.0.0.dist-info" / "RECORD"
        file.unlink()
        if record is not None:
            file.write_text(record)

        assert main(["verify"], pins=shop.pins) == 1

    def test_bytecode_is_passed_over(self, shop):
        """Somebody who imports from an installed release does not spoil it."""
        tree = shop.sync()["1.0.0"]
        subprocess.run([sys.executable, "-m", "compileall", "-q", str(tree)], check=True)

        assert list(tree.rglob("*.pyc"))
        assert main(["verify"], pins=shop.pins) == 0

    def test_failure_exits_2(self, shop, monkeypatch, capsys):
        """A failed sync prints the error to stderr, without a traceback."""
        monkeypatch.delenv("PIP_FIND_LINKS")

        assert main(["sync"], pins=shop.pins) == 2
        assert "kvreference: mlx-lm 1.0.0: pip could not get it" in capsys.readouterr().err

    @pytest.mark.parametrize("arguments", [[], ["synch"], ["sync", "9.9.9"], ["verify", "9.9.9"]])
    def test_usage_exits_2(self, arguments):
        """A verb or a release that does not exist is a usage error."""
        done = subprocess.run(
            [sys.executable, "-m", "kvreference", *arguments],
            env={**os.environ, "PYTHONPATH": str(SOURCE)},
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )

        assert done.returncode == 2
        assert "Traceback" not in done.stderr


class TestReleases:
    """The real releases."""

    def test_import_neither_mlx_lm_nor_transformers(self, releases):
        """Loading a release runs two files of it, and nothing else."""
        code = (
            "import sys, kvreference\n"
            f"for release in {releases!r}: kvreference.load(release)\n"
            "print([name for name in sys.modules if name.split('.')[0] in "
            "('mlx_lm', 'transformers', 'huggingface_hub')])"
        )
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONPATH": str(SOURCE)},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )

        assert done.stdout.strip() == "[]"

    def test_live_side_by_side(self, releases):  # noqa: ARG002
        """Each release has classes of its own, with the behaviour of its own."""
        old, new = (kvreference.load(name).cache for name in ("0.31.3", "0.32.2"))

        assert old.KVCache is not new.KVCache
        assert not hasattr(old.KVCache, "keys_and_values")
        assert hasattr(new.KVCache, "keys_and_values")

    def test_prompt_cache_round_trip(self, releases, tmp_path):
        """A release finds its own classes by name when it loads a prompt cache."""
        mx = pytest.importorskip("mlx.core")
        for release in releases:
            cache = kvreference.load(release).cache
            filled = cache.KVCache()
            filled.update_and_fetch(mx.ones((1, 2, 3, 4)), mx.ones((1, 2, 3, 4)))
            cache.save_prompt_cache(str(tmp_path / f"{release}.safetensors"), [filled])
            (loaded,) = cache.load_prompt_cache(str(tmp_path / f"{release}.safetensors"))

            assert type(loaded) is cache.KVCache
            assert loaded.offset == 3

    def test_copy_loads_by_path(self, releases, tmp_path):
        """An unpacked copy of a release loads as a working copy does, beside the release."""
        for release in releases:
            shutil.copytree(find_tree(release), tmp_path / release)
            copy = kvreference.load(f"path:{tmp_path / release}")

            assert copy.cache.KVCache is not kvreference.load(release).cache.KVCache
            assert tmp_path / release / _pins.CACHE == copy.cache_file

    def test_changed_copy_is_noticed(self, releases, tmp_path, monkeypatch):
        """A release of which one byte was changed is not loaded."""
        for release in releases:
            shutil.copytree(find_tree(release), tmp_path / release / "site-packages")
        monkeypatch.setenv("KVREFERENCE_HOME", str(tmp_path))
        for release in releases:
            file = find_tree(release) / _pins.CACHE
            file.write_bytes(file.read_bytes().replace(b"256", b"255", 1))

            with pytest.raises(kvreference.ReferenceError) as caught:
                kvreference.load(release)

            assert _pins.read_pin(release).cache in caught.value.expected
