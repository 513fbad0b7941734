"""xarray opens a store: every axis has a name, of one size in the whole store, that no array has."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import xarray
from hypothesis import given
from hypothesis import strategies as st

from replaystore import FieldSpec, ReplayStore, RoundClamp
from replaystore.columns.column import columns_of
from replaystore.columns.registry import resolved_fields
from replaystore.episodes.stacks import stacks_from_frames
from replaystore.spec import MODES, Channels, StoreSpec
from replaystore.storage.format.dimensions import dimension_names

LENGTHS = (7, 5, 9)  # rows of episodes; chunks have 4 rows
PACKED = RoundClamp(decimals=0, low=-2000.0, high=2000.0, row_size=3, dtype="float64")


def image(name: str, channels: Channels, num_channels: int, height: int, width: int) -> FieldSpec:
    shape = (num_channels, height, width) if channels == "first" else (height, width, num_channels)
    return FieldSpec.image(name, shape, frame_stack=2, channels=channels)


def other_fields() -> list[FieldSpec]:
    return [
        FieldSpec(name="state", shape=(3,), dtype="float64", role="observation", scheme=PACKED.get_config()),
        FieldSpec(name="action", shape=(2,), dtype="float32", role="action"),
        FieldSpec(name="reward", shape=(1,), dtype="float32", role="reward"),
        FieldSpec(name="goal", shape=(2, 4), dtype="int32"),
        FieldSpec(name="done", shape=(), dtype="bool"),
    ]


def values_of(spec: FieldSpec, episode: int) -> npt.NDArray[Any]:
    """Values that say episode, row and place; images as single frames."""
    rows, size = LENGTHS[episode], int(np.prod(spec.shape))
    numbers = 500 * episode + 20 * np.arange(rows)[:, None] + np.arange(size)
    if spec.dtype == "bool":
        numbers = numbers // 20 % 2
    return numbers.astype(spec.dtype).reshape(rows, *spec.shape)


def written(path: Path, fields: Sequence[FieldSpec], mode: Any) -> dict[str, npt.NDArray[Any]]:
    """Writes a store and closes it. Returns what its arrays must hold: all rows, as they are stored."""
    with ReplayStore.create(path, fields, mode=mode, chunk_rows=4) as store:
        for episode in range(len(LENGTHS)):
            store.append({spec.name: values_of(spec, episode) for spec in fields})
    expected = {}
    for spec in fields:
        parts = [values_of(spec, episode) for episode in range(len(LENGTHS))]
        if spec.is_image and mode == "disk":
            parts = [stacks_from_frames(spec, part, False) for part in parts]
        expected[spec.name] = np.concatenate(parts)
    return expected


CAMERAS: dict[str, list[tuple[str, int, int, int]]] = {
    "one": [("observation", 3, 6, 5)],
    "two of one size": [("observation", 3, 6, 5), ("wrist", 3, 6, 5)],
    "two sizes": [("observation", 3, 6, 5), ("wrist", 3, 4, 7)],
    "two widths and channels": [("observation", 3, 6, 5), ("wrist", 1, 6, 7)],
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("channels", ["first", "last"])
@pytest.mark.parametrize("cameras", CAMERAS)
def test_xarray_reads_what_was_appended(tmp_path: Path, mode: str, channels: Channels, cameras: str) -> None:
    shared = {"one": "chw", "two of one size": "chw", "two sizes": "c", "two widths and channels": "h"}[cameras]
    fields = [*(image(name, channels, *sizes) for name, *sizes in CAMERAS[cameras]), *other_fields()]
    expected = written(tmp_path / "store", fields, mode)
    data = xarray.open_zarr(tmp_path / "store", consolidated=False)
    assert set(data.data_vars) == {*expected, "episodes"}
    assert not data.coords
    assert data.sizes["row"] == sum(LENGTHS)
    for spec in fields:
        array = data[spec.name]
        assert array.dtype == spec.dtype
        np.testing.assert_array_equal(array.values, expected[spec.name], err_msg=spec.name)
        if spec.is_image:
            order = ("channel", "height", "width") if channels == "first" else ("height", "width", "channel")
            assert array.dims == ("row", *(axis if axis[0] in shared else f"{spec.name}_{axis}" for axis in order))
    assert data["goal"].dims == ("row", "goal_dim_0", "goal_dim_1")
    assert data["action"].dims == ("row", "action_dim")
    assert data["done"].dims == ("row",)
    assert data["episodes"].dims == ("part", "part_column")
    assert data["episodes"].values[:, 3].tolist() == list(LENGTHS)
    frame = data["observation"].isel(row=3, **{data["observation"].dims[1]: 0})
    np.testing.assert_array_equal(frame.values, expected["observation"][3, 0])


@pytest.mark.parametrize("mode", MODES)
def test_xarray_opens_gray_images_and_an_empty_store(tmp_path: Path, mode: Any) -> None:
    fields = [
        FieldSpec.image("front", (6, 5), frame_stack=3),
        FieldSpec.image("back", (6, 5), frame_stack=3, channels="last"),
        FieldSpec.image("map", (6, 5)),
    ]
    ReplayStore.create(tmp_path / "empty", fields, mode=mode).close()
    empty = xarray.open_zarr(tmp_path / "empty", consolidated=False)
    assert empty.sizes["row"] == empty.sizes["part"] == 0
    expected = written(tmp_path / "store", fields, mode)
    data = xarray.open_zarr(tmp_path / "store", consolidated=False)
    for name, values in expected.items():
        np.testing.assert_array_equal(data[name].values, values, err_msg=name)
    stacked = mode == "disk"
    assert data["front"].dims == ("row", "channel", "height", "width") if stacked else ("row", "height", "width")
    assert data["back"].dims == ("row", "height", "width", "channel") if stacked else ("row", "height", "width")
    assert data["map"].dims == ("row", "height", "width")


def test_xarray_opens_a_store_whose_fields_are_named_like_axes(tmp_path: Path) -> None:
    names = ("row", "row_", "height", "channel", "part", "part_column", "goal_dim_0")
    fields = [image("observation", "first", 3, 6, 5), *other_fields()]
    fields += [FieldSpec(name=name, shape=(2,), dtype="int16") for name in names]
    expected = written(tmp_path / "store", fields, "full")
    data = xarray.open_zarr(tmp_path / "store", consolidated=False)
    assert data["observation"].dims == ("row__", "channel_", "height_", "width")
    assert data["episodes"].dims == ("part_", "part_column_")
    for name, values in expected.items():
        np.testing.assert_array_equal(data[name].values, values, err_msg=name)


_WORDS = ("a", "b", "row", "part", "column", "height", "width", "channel", "dim", "0", "1", "")
_names = st.lists(st.sampled_from(_WORDS), min_size=1, max_size=4).map("_".join)
_names = _names.filter(lambda name: name[:1].isalpha())
_sizes = st.lists(st.integers(1, 3), max_size=3).map(tuple)


@st.composite
def _fields(draw: Any) -> list[FieldSpec]:
    fields = []
    for name in draw(st.lists(_names, unique=True, min_size=1, max_size=8)):
        shape = draw(_sizes)
        if len(shape) > 1 and draw(st.booleans()):
            stack, channels = draw(st.integers(1, 2)), draw(st.sampled_from(["first", "last"]))
            fields.append(FieldSpec.image(name, shape, frame_stack=stack, channels=channels))
        else:
            fields.append(FieldSpec(name=name, shape=shape, dtype="int16"))
    return fields


@given(_fields(), st.sampled_from(MODES))
def test_names_of_axes_fit_one_data_set(fields: list[FieldSpec], mode: Any) -> None:
    columns = columns_of(StoreSpec(mode=mode, fields=resolved_fields(mode, tuple(fields))))
    shapes = {**{column.name: (100, *column.shape) for column in columns}, "episodes": (7, 6)}
    names = dimension_names(columns)
    assert names.keys() == shapes.keys()
    sizes: dict[str, int] = {}
    for array, dimensions in names.items():
        assert len(set(dimensions)) == len(dimensions) == len(shapes[array])
        for dimension, size in zip(dimensions, shapes[array], strict=True):
            assert sizes.setdefault(dimension, size) == size, (array, dimension)
    assert not names.keys() & sizes.keys()
    assert len({dimensions[0] for array, dimensions in names.items() if array != "episodes"}) == 1
    plain = {column.name for column in columns if not column.spec.is_image}
    for one, other in itertools.combinations(sorted(names), 2):
        if {one, other} & {*plain, "episodes"}:
            assert not set(names[one][1:]) & set(names[other][1:])


@pytest.mark.parametrize("array", ["observation", "action", "episodes"])
@pytest.mark.parametrize("names", [["row", "height"], ["row", None], [], None, "deleted and altered"])
def test_verify_notices_altered_names(tmp_path: Path, array: str, names: Any) -> None:
    """Only the names that belong there are whole, or none at all beside what else belongs there."""
    written(tmp_path / "store", [image("observation", "first", 3, 6, 5), *other_fields()], "half")
    file = tmp_path / "store" / array / "zarr.json"
    document = json.loads(file.read_bytes())
    if names == "deleted and altered":
        del document["dimension_names"]
        document["shape"][0] += 1
    else:
        document["dimension_names"] = names
    file.write_text(json.dumps(document, indent=2))
    with ReplayStore.open(tmp_path / "store", read_only=True) as store:
        (problem,) = store.verify().problems
    assert str(file) in problem
