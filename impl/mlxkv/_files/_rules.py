"""What holds of the fields of each class beside each other, in every generation.

The rules of the rings and the batches hold after every sequence of operations of mlx-lm that
raises nothing and stores tokens; a cache for which they do not hold would write over its rows.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from mlxkv._files._errors import FieldError, Place
from mlxkv._files._layers import MAX_TOKENS, Content, Parts, tensor

FLOATS = ("F16", "BF16", "F32")
RANK_4 = "rank 4 (batch, n_kv_heads, tokens, head_dim)"


class Buffers(NamedTuple):
    """The batch and the rows of keys and values; None and 0 of an empty cache."""

    batch: int | None
    rows: int


EMPTY = Buffers(None, 0)


def check_buffers(place: Place, keys: Any, values: Any) -> Buffers:
    """Raise unless both are of rank 4, and as many sequences and tokens."""
    keys, values = tensor(place, "keys", keys), tensor(place, "values", values)
    if len(keys.shape) != 4 or len(values.shape) != 4:
        name, one = ("values", values) if len(keys.shape) == 4 else ("keys", keys)
        raise FieldError(place, name, RANK_4, str(one))
    (batch, heads, rows, width), others = keys.shape, values.shape
    if not batch or not heads or not width:  # Values of no width are those of mlx-lm's indexers.
        what = "batch" if not batch else "n_kv_heads" if not heads else "head_dim"
        raise FieldError(place, "keys", f"{what} of at least 1", str(keys))
    if others[0] != batch or others[2] != rows:
        what = f"batch {batch}" if others[0] != batch else f"tokens {rows}"
        raise FieldError(place, "values", f"{what}, as in the keys", str(values))
    return Buffers(batch, rows)


def check_parts(place: Place, fields: dict[str, Any]) -> Buffers:
    """Raise unless keys and values are packed rows, scales and biases for group_size and bits."""
    group_size, bits = fields["group_size"], fields["bits"]
    for name in ("keys", "values"):
        parts: Parts = fields[name]
        rows, scales, biases = (tensor(place, f"{name}[{i}]", one) for i, one in enumerate(parts))
        if rows.dtype != "U32":
            raise FieldError(place, f"{name}[0]", "U32", str(rows))
        if scales.dtype not in FLOATS:
            raise FieldError(place, f"{name}[1]", " or ".join(FLOATS), str(scales))
        if (biases.dtype, biases.shape) != (scales.dtype, scales.shape):
            raise FieldError(place, f"{name}[2]", f"{scales}, as the scales", str(biases))
        for i, one in enumerate((rows, scales)):
            if len(one.shape) != 4:
                raise FieldError(place, f"{name}[{i}]", RANK_4, str(one))
        if rows.shape[:3] != scales.shape[:3]:
            expected = f"batch, heads and tokens {list(rows.shape[:3])}, as in the packed rows"
            raise FieldError(place, f"{name}[1]", expected, str(scales))
        if rows.shape[3] * 32 != scales.shape[3] * group_size * bits:
            words = scales.shape[3] * group_size * bits / 32
            expected = f"{words:g} words for group_size {group_size} and bits {bits}"
            raise FieldError(place, f"{name}[0]", expected, str(rows))
    return check_buffers(place, fields["keys"][0], fields["values"][0])


def check_up_to(place: Place, name: str, number: int, high: int, what: str = "the rows") -> None:
    """Raise unless the number lies in [0, high]."""
    if not 0 <= number <= high:
        raise FieldError(place, name, f"0 to {high}, {what}", str(number))


def check_ring(place: Place, fields: dict[str, Any], rows: int, cut: bool, offset: str) -> None:
    """Raise unless offset, _idx, max_size, keep and the rows can have come about together.

    `cut` for generations that save the valid rows only; `offset` is the name of the count.
    """
    tokens, idx, max_size = fields[offset], fields["_idx"], fields["max_size"]
    check_up_to(place, offset, tokens, MAX_TOKENS, "positions of 32 bits")
    check_up_to(place, "_idx", idx, rows)
    if tokens < max_size or not tokens:
        if idx != tokens:
            expected = f"{tokens}, the {offset} of a window that is not full"
            raise FieldError(place, "_idx", expected, str(idx))
        check_up_to(place, offset, tokens, rows)
        if rows > max_size:
            expected = f"at most {max_size} rows of a window that is not full"
            raise FieldError(place, "keys", expected, f"{rows} rows")
        if cut and rows != tokens:
            raise FieldError(place, offset, f"{rows}, the rows that are saved", str(tokens))
        return
    if rows < max_size - (idx == rows):
        expected = f"{max_size} rows or more after {tokens} tokens"
        raise FieldError(place, "keys", expected, f"{rows} rows")
    if rows > tokens:
        raise FieldError(place, offset, f"at least {rows}, the rows", str(tokens))
    keep = fields.get("keep", 0)
    if idx != rows and (rows != max_size or idx <= keep):
        some = f"{rows}, the rows" if rows > max_size else f"{keep + 1} to {rows}"
        raise FieldError(place, "_idx", f"{some}, of a full window", str(idx))


def check_chunk(place: Place, fields: dict[str, Any], rows: int) -> None:
    """Raise unless the tokens from start_position to offset fit the rows."""
    check_up_to(place, "offset", fields["offset"], MAX_TOKENS, "positions of 32 bits")
    held = fields["offset"] - fields["start_position"]
    if not 0 <= held <= rows:
        start = fields["start_position"]
        expected = f"{start} to {start + rows}, start_position and the rows"
        raise FieldError(place, "offset", expected, str(fields["offset"]))


def check_padding(
    place: Place, content: Content, fields: dict[str, Any], buffers: Buffers, columns: int
) -> None:
    """Raise unless offset + left_padding is `columns`, those in use, in every batch row.

    A row of a ring may have lost tokens before it was merged: it has seen `max_size` at least, and
    more than its columns tell.
    """
    offset = tensor(place, "offset", fields["offset"])
    left = tensor(place, "left_padding", fields["left_padding"])
    offsets = content.numbers(place, "offset", offset)
    lefts = content.numbers(place, "left_padding", left)
    batch = len(offsets) if buffers.batch is None else buffers.batch
    for name, numbers in (("offset", offsets), ("left_padding", lefts)):
        if len(numbers) != batch or not numbers:
            expected = f"{batch} numbers, one a batch row" if batch else "a batch row"
            raise FieldError(place, name, expected, f"{len(numbers)}")
    for row, (tokens, padding) in enumerate(zip(offsets, lefts, strict=True)):
        lost = tokens + padding - columns
        may_lose = "max_size" in fields and fields["max_size"] <= tokens <= MAX_TOKENS
        if lost and not (may_lose and lost > 0 and padding < columns):
            expected = f"{columns - tokens} for {columns} columns in use and offset {tokens}"
            raise FieldError(place, f"left_padding[{row}]", expected, str(padding))


def columns_of_ring(fields: dict[str, Any], rows: int) -> int:
    """The columns of a batch's ring that are in use."""
    full = fields["rotated"] or fields["_idx"] == rows
    columns: int = min(fields["_offset"], rows if full else fields["_idx"])
    return columns


def check_rotated(place: Place, fields: dict[str, Any], rows: int) -> None:
    """Raise where a batch's ring is said to have wrapped and is not full."""
    if fields["rotated"] and rows != fields["max_size"]:
        raise FieldError(place, "rotated", f"False with {rows} columns", "True")
