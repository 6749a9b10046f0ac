"""Writing slices of larger buffers from where they lie; MLX would copy them all first."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from typing import Any, cast

import mlx.core as mx

from mlxkv._files._atomic import Writer

# For elements of each size, whatever they are: NumPy has no bfloat16.
_WORDS = {1: mx.uint8, 2: mx.uint16, 4: mx.uint32, 8: mx.uint64}
# Of shorter runs in memory, many are gathered before they are written.
_RUN = 1 << 10


def sliced(arrays: Mapping[str, mx.array]) -> int:
    """The bytes of those evaluated arrays that are not dense, which MLX copies to write them.

    One without elements is not looked into: on CUDA its buffer may be no address.
    """
    buffers: list[tuple[mx.array, Any]] = [(one, one) for one in arrays.values() if one.size]
    return sum(one.nbytes for one, buffer in buffers if not memoryview(buffer).c_contiguous)


def write_slices(writer: Writer, arrays: Mapping[str, mx.array], metadata: dict[str, str]) -> bool:
    """Write the bytes that `mx.save_safetensors` writes, of evaluated arrays.

    MLX writes the header, of arrays of one element, which says the order of the tensors and how
    text is spelled. Where it spells other than Python, nothing is written: False. Raises `OSError`.
    """
    one_of = {array.dtype: mx.zeros(1, array.dtype) for array in arrays.values()}
    file = io.BytesIO()
    tiny = {name: one_of[array.dtype] for name, array in arrays.items()}
    mx.save_safetensors(cast(Any, file), tiny, metadata)
    length = int.from_bytes(file.getvalue()[:8], "little")
    text = file.getvalue()[8 : 8 + length]
    header = json.loads(text)
    if _dump(header) != text:
        return False
    entries = [(name, header[name]) for name in arrays]
    entries.sort(key=lambda pair: pair[1]["data_offsets"])
    end = 0
    for name, entry in entries:
        begin, end = end, end + arrays[name].nbytes
        entry |= {"data_offsets": (begin, end), "shape": arrays[name].shape}
    text = _dump(header)
    writer.write(len(text).to_bytes(8, "little"))
    writer.write(text)
    words = [arrays[name].view(_WORDS[arrays[name].itemsize]) for name, _ in entries]
    mx.eval(words)
    writer.write_runs(run for one in words for run in _runs(one))
    return True


def _dump(header: Any) -> bytes:
    """JSON as MLX writes it."""
    return json.dumps(header, ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode()


def _runs(words: mx.array) -> list[memoryview]:
    """Its bytes in order, as long as they lie in memory."""
    import numpy as np  # noqa: PLC0415 - as slow to import as all of mlxkv

    parts = [np.asarray(cast(Any, words))] if words.size else []
    while parts and parts[0].ndim > 1 and parts[0][0].nbytes >= _RUN:
        if parts[0].flags.c_contiguous:
            break
        parts = [row for part in parts for row in part]
    return [np.ascontiguousarray(part).data for part in parts]
