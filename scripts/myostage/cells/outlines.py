"""Outlines of cells, as tables hold them."""

import numpy as np
import pyarrow as pa


def outlines(column: pa.ChunkedArray | pa.Array) -> list[np.ndarray]:
    """Outlines of a ``polygon`` column as float32[points, 2] (x, y in px at the study's mpp)."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    values = array.flatten().to_numpy(zero_copy_only=False)
    lengths = array.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
    return (
        [points.reshape(-1, 2) for points in np.split(values, np.cumsum(lengths)[:-1])] if len(array) else []
    )
