"""Names the axes of a store's arrays for xarray.

In an xarray data set a dimension has one size, and a variable with several axes must not be named like one of them.
"""

from __future__ import annotations

from collections.abc import Sequence

from replaystore.columns.column import Column
from replaystore.storage.format import layout

ROW = "row"
PART, PART_COLUMN = "part", "part_column"


def dimension_names(columns: Sequence[Column]) -> dict[str, tuple[str, ...]]:
    """Returns the names of all axes of every field and of the episode table, by array.

    Image axes are named `height`, `width` and `channel`, in the order in which the array is stored. In mode `disk` the
    channel axis of a stack holds the channels of all its frames. If images of a store differ in the size of an axis,
    the name of that axis starts with the field's name. Each axis of another field has its own name.
    """
    sizes: dict[str, set[int]] = {}
    for column in columns:
        if column.spec.is_image:
            for axis, size in zip(_image_axes(column), column.shape, strict=True):
                sizes.setdefault(axis, set()).add(size)
    arrays = {layout.EPISODES, *(column.name for column in columns)}

    def free(name: str) -> str:
        """Appends underscores to a name until no array has it. Different names stay different."""
        while name in arrays:
            name += "_"
        return name

    names: dict[str, tuple[str, ...]] = {layout.EPISODES: (free(PART), free(PART_COLUMN))}
    for column in columns:
        if column.spec.is_image:
            axes = [axis if len(sizes[axis]) == 1 else f"{column.name}_{axis}" for axis in _image_axes(column)]
        elif len(column.shape) == 1:
            axes = [f"{column.name}_dim"]
        else:
            axes = [f"{column.name}_dim_{number}" for number in range(len(column.shape))]
        names[column.name] = (free(ROW), *map(free, axes))
    return names


def _image_axes(column: Column) -> tuple[str, ...]:
    if len(column.shape) == 2:
        return ("height", "width")
    return ("channel", "height", "width") if column.spec.channels == "first" else ("height", "width", "channel")
