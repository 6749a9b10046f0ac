"""``python -m kvreference``: sync, list and verify the pinned releases."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from kvreference import _errors
from kvreference._home import find_tree
from kvreference._install import sync
from kvreference._pins import PINS, list_gate, list_releases, read_pin
from kvreference._verify import find_problems


def main(arguments: Sequence[str] | None = None, *, pins: Path = PINS) -> int:
    """Run the command line; return its exit status.

    0: done; 1: `verify` found problems; 2: the arguments or the surroundings are wrong. argparse
    raises SystemExit(2) by itself.
    """
    options = _parse(arguments)
    try:
        if options.verb == "sync":
            chosen = list_releases(pins) if options.all else options.releases or list_gate(pins)
            return _sync(chosen, options.force, pins)
        if options.verb == "verify":
            return _verify(options.releases, pins)
        return _list(pins)
    except _errors.ReferenceError as error:
        print(f"kvreference: {error}", file=sys.stderr)
    except OSError as error:
        print(f"kvreference: cannot read an installed release: {error}", file=sys.stderr)
    return 2


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m kvreference", description="Pinned releases of mlx-lm."
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="sync | list | verify")
    adding = verbs.add_parser("sync", help="install what is missing or has changed")
    adding.add_argument("--force", action="store_true", help="install again what is in order")
    adding.add_argument("--all", action="store_true", help="every pinned release")
    verbs.add_parser("list", help="print each release, whether it is installed, and where")
    checking = verbs.add_parser("verify", help="check every file; exit 1 on any problem")
    for verb, default in ((adding, ""), (checking, ", and what is installed")):
        told = f"default: those that ports are held to{default}"
        verb.add_argument("releases", nargs="*", metavar="RELEASE", help=told)
    return parser.parse_args(arguments)


def _sync(releases: Sequence[str], force: bool, pins: Path) -> int:
    for release in releases:
        for name, tree in sync([release], force=force, pins=pins).items():
            print(f"{name}  installed  {tree}", flush=True)
    return 0


def _list(pins: Path) -> int:
    for release in list_releases(pins):
        tree = find_tree(release)
        state = "not installed"
        if tree.is_dir():
            state = "changed" if find_problems(read_pin(release, pins), tree) else "installed"
        print(f"{release}  {state}  {tree}")
    return 0


def _verify(releases: list[str], pins: Path) -> int:
    chosen = [read_pin(release, pins) for release in releases or _expected(pins)]
    failed = False
    for pin in chosen:
        problems = find_problems(pin, find_tree(pin.release))
        print(f"{pin.release}  {f'{len(problems)} problem(s)' if problems else 'ok'}")
        for problem in problems:
            print(f"  {problem}")
        if problems:
            failed = True
            print(f"  to mend it: {_errors.command('sync', pin.release)}")
    return 1 if failed else 0


def _expected(pins: Path) -> list[str]:
    """Return the releases that should be installed, and the others that are."""
    gate = list_gate(pins)
    return [name for name in list_releases(pins) if name in gate or find_tree(name).is_dir()]


if __name__ == "__main__":
    sys.exit(main())
