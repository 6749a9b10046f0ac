"""The one exception of this package."""

from typing import Literal

Kind = Literal[
    "unknown",  # no such release is pinned
    "pin",  # a file under pins/ cannot be read, or contradicts the wheel
    "not-synced",  # the release is pinned, and not installed
    "changed",  # an installed file is not the one that was pinned
    "hash",  # pip was offered a wheel with another hash
    "network",  # pip reached no index, or none that has mlx-lm
    "not-found",  # the index has mlx-lm, and not this release
    "pip",  # pip is missing, or failed in a way of its own
    "disk",  # a folder cannot be made, written or renamed
    "path",  # path:DIR holds no mlx-lm
    "import",  # the file was found, and does not import
]


class ReferenceError(Exception):  # noqa: A001
    """A reference cannot be installed, verified or loaded.

    ``kind`` says which way it failed, for programs; ``str()`` says it for people. ``expected``,
    ``actual``, ``mend`` (the command or action that helps) and ``output`` (what pip printed) are
    None where there is nothing to say.
    """

    def __init__(
        self,
        problem: str,
        *,
        kind: Kind = "unknown",
        release: str | None = None,
        expected: str | None = None,
        actual: str | None = None,
        mend: str | None = None,
        output: str | None = None,
    ) -> None:
        super().__init__(problem)
        self.kind = kind
        self.release = release
        self.expected = expected
        self.actual = actual
        self.mend = mend
        self.output = output

    def __str__(self) -> str:
        problem = str(self.args[0])
        lines = [f"mlx-lm {self.release}: {problem}" if self.release else problem]
        fields = (("expected", self.expected), ("got", self.actual), ("to mend it", self.mend))
        lines += [f"  {label}: {text}" for label, text in fields if text is not None]
        if self.output is not None:
            lines += ["  pip printed:", *(f"    {line}" for line in self.output.splitlines())]
        return "\n".join(lines)


def command(verb: str, release: str) -> str:
    """Return the command line that runs `verb` (``sync``, ``sync --force``) for `release`."""
    return f"python -m kvreference {verb} {release}"
