"""Describes what a store holds: its fields and their contract.

The classes are frozen and convert to JSON. They validate, and do nothing else.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, cast

import numpy as np

from replaystore.errors import SpecError
from replaystore.runtime.numbers import whole_number

Mode = Literal["disk", "half", "full"]
Residency = Literal["mapped", "files", "ram", "auto"]
Durability = Literal["process", "power"]
Role = Literal["observation", "action", "reward", "discount", "extra"]
Channels = Literal["first", "last"]

MODES: tuple[Mode, ...] = ("disk", "half", "full")
RESIDENCIES: tuple[Residency, ...] = ("mapped", "files", "ram", "auto")
DURABILITIES: tuple[Durability, ...] = ("process", "power")
ROLES: tuple[Role, ...] = ("observation", "action", "reward", "discount", "extra")

DEFAULT_CHUNK_ROWS = 1024
FEWEST_CHUNK_ROWS = 16
MOST_CHUNK_BYTES = 32 << 20  # of the largest field, unless a chunk would have under `FEWEST_CHUNK_ROWS` rows
FORMAT_VERSION = 1

_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
_RESERVED = {"episodes", "zarr", "c"}
_KINDS = "biuf"
_MAX_ROW_BYTES = 1 << 30
_MEANINGS = {  # names that a batch gives a meaning to
    "observation": "without the next one",
    "reward": "not the sum over n steps",
    "discount": "not the product over n steps",
}
# Two axes of at least 16 beside one of at most 4 are height and width.
_FEWEST_PIXELS, _MOST_CHANNELS = 16, 4


def _json_shape(shape: Any, where: str) -> tuple[int, ...]:
    try:
        result = tuple(whole_number(n, "shape", least=0) for n in shape)
    except (TypeError, SpecError) as err:
        raise SpecError(f"{where}: expected a shape (a tuple of whole numbers), got {shape!r}") from err
    if any(n < 1 for n in result):
        raise SpecError(f"{where}: expected a shape of positive numbers, got {result}; drop empty axes")
    return result


@dataclass(frozen=True, kw_only=True)
class FieldSpec:
    """A named column of a store and its contract.

    >>> FieldSpec.image("pixels", (3, 84, 84), frame_stack=3).stacked_shape
    (9, 84, 84)
    >>> FieldSpec(name="action", shape=(6,), dtype="float32", role="action").is_image
    False

    Attributes:
        name: lower case letters, digits and underscores. It is also the name of the Zarr array.
        shape: shape of one stored row, without a row axis. For an image, the shape of one frame.
        dtype: name of a NumPy dtype, `"uint8"` for images. Byte order is native in memory and little-endian on disk.
        role: which values a transition takes from the field. An `observation` is read at i - 1, and at i + n_step - 1
            as `next_<name>`. An `action` or an `extra` is read at i. A `reward` becomes an n-step sum, a `discount` an
            n-step product.
        frame_stack: frames in an observation, 1 to 64. It is 1 for fields that are not images.
        channels: position of an image's channels, `"first"` or `"last"`. A (height, width) image counts as `"first"`.
            None if the field is not an image.
        scheme: configuration of the codec that stores the field, from `codec.get_config()`. None stores raw rows,
            except that images are stored as the store's mode says.
        allow_nonfinite: whether rows of a float field may hold NaN and infinity. Otherwise a store refuses them, except
            in a reward or an action of row 0. A field with a `scheme` leaves this to its codec.

    Raises:
        SpecError: an attribute is invalid, or the attributes contradict each other.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    role: Role = "extra"
    frame_stack: int = 1
    channels: Channels | None = None
    scheme: Mapping[str, Any] | None = field(default=None)
    allow_nonfinite: bool = False

    def __post_init__(self) -> None:
        where = f"field {self.name!r}"
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name) or self.name in _RESERVED:
            raise SpecError(f"{where}: a field name is lower case letters, digits, '_', and none of {_RESERVED}")
        if self.name.startswith("next_"):
            raise SpecError(f"{where}: names starting with 'next_' are taken by batches; rename the field")
        object.__setattr__(self, "shape", _json_shape(self.shape, where))
        object.__setattr__(self, "frame_stack", whole_number(self.frame_stack, f"{where}: frame_stack"))
        try:
            dtype = np.dtype(self.dtype)
        except TypeError as err:
            raise SpecError(f"{where}: {self.dtype!r} is not a NumPy dtype") from err
        if dtype.kind not in _KINDS or dtype.itemsize > 8:
            raise SpecError(f"{where}: expected a bool, integer or float dtype of at most 64 bits, got {dtype}")
        object.__setattr__(self, "dtype", dtype.newbyteorder("=").name)
        if self.role not in ROLES:
            raise SpecError(f"{where}: role is one of {ROLES}, got {self.role!r}")
        if self.role in ("reward", "discount") and (math.prod(self.shape) != 1 or dtype.kind != "f"):
            raise SpecError(f"{where}: a {self.role} is one float per row, got {dtype} {self.shape}")
        if not isinstance(self.allow_nonfinite, bool) or (self.allow_nonfinite and dtype.kind != "f"):
            raise SpecError(f"{where}: allow_nonfinite is a bool, True only for floats; got {self.allow_nonfinite!r}")
        if math.prod(self.stacked_shape) * dtype.itemsize > _MAX_ROW_BYTES:
            raise SpecError(f"{where}: a row of {self.stacked_shape} {dtype} is over 1 GiB; split the field")
        scheme = self.scheme
        if scheme is not None:
            config = cast(Any, scheme).get_config() if hasattr(scheme, "get_config") else dict(scheme)
            if "id" not in config:
                raise SpecError(f"{where}: a scheme is a codec's configuration with an 'id', got {config!r}")
            object.__setattr__(self, "scheme", config)
        self._check_image(where)

    def _check_image(self, where: str) -> None:
        if self.channels is None:
            if self.frame_stack != 1:
                raise SpecError(f"{where}: frame_stack={self.frame_stack} needs an image field (channels=...)")
            return
        if self.channels not in ("first", "last"):
            raise SpecError(f"{where}: channels is 'first', 'last' or None, got {self.channels!r}")
        if self.dtype != "uint8" or len(self.shape) not in (2, 3):
            raise SpecError(
                f"{where}: an image is uint8 (height, width) or with a channel axis, got {self.dtype} {self.shape};"
                " store other arrays as plain fields (channels=None)"
            )
        if self.frame_stack > 64:
            raise SpecError(f"{where}: frame_stack is 1 to 64, got {self.frame_stack}")
        if self.role not in ("observation", "extra"):
            raise SpecError(f"{where}: an image is an observation or an extra field, not {self.role!r}")

    @classmethod
    def image(
        cls,
        name: str,
        frame_shape: tuple[int, ...],
        *,
        frame_stack: int = 1,
        channels: Channels = "first",
        scheme: Mapping[str, Any] | None = None,
    ) -> FieldSpec:
        """Returns the field of a camera.

        A batch holds stacks of `frame_stack` frames, oldest first.

        Args:
            name: name of the field.
            frame_shape: shape of one uint8 frame: (height, width), or with a channel axis.
            frame_stack: frames in an observation.
            channels: position of the channels, `"first"` or `"last"`.
            scheme: configuration of a `FrameDelta`, for mode `"full"`. None takes that mode's default.

        Raises:
            SpecError: an argument is invalid, or the channels are clearly on the other axis.
        """
        shape = _json_shape(frame_shape, f"field {name!r}")
        if len(shape) == 3:
            thin, wide = (shape[2], shape[:2]) if channels == "first" else (shape[0], shape[1:])  # if they are swapped
            if thin <= _MOST_CHANNELS and min(wide) >= _FEWEST_PIXELS:
                other = "last" if channels == "first" else "first"
                raise SpecError(
                    f"field {name!r}: a frame of shape {shape} has its channels {other}; give channels={other!r}"
                )
        return cls(
            name=name,
            shape=shape,
            dtype="uint8",
            role="observation",
            frame_stack=frame_stack,
            channels=channels,
            scheme=scheme,
        )

    @property
    def is_image(self) -> bool:
        """Whether the field holds image frames."""
        return self.channels is not None

    @cached_property
    def stacked_shape(self) -> tuple[int, ...]:
        """Shape of one observation.

        The frames are joined along the channel axis. Gray frames without a channel axis get a new axis, first or last
        as `channels` says.
        """
        if self.channels is None or self.frame_stack == 1:
            return self.shape
        if self.channels == "last" and len(self.shape) == 3:
            return (*self.shape[:2], self.shape[2] * self.frame_stack)
        if len(self.shape) == 3:
            return (self.shape[0] * self.frame_stack, *self.shape[1:])
        if self.channels == "last":
            return (*self.shape, self.frame_stack)
        return (self.frame_stack, *self.shape)

    def to_json(self) -> dict[str, Any]:
        """Returns plain data that `from_json` reads. It has `allow_nonfinite` only if that is True."""
        return {
            "name": self.name,
            "shape": list(self.shape),
            "dtype": self.dtype,
            "role": self.role,
            "frame_stack": self.frame_stack,
            "channels": self.channels,
            "scheme": dict(self.scheme) if self.scheme is not None else None,
            **({"allow_nonfinite": True} if self.allow_nonfinite else {}),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> FieldSpec:
        """Returns the field that `to_json` described.

        Raises:
            SpecError: the data do not describe a field.
        """
        try:
            return cls(**{**data, "shape": tuple(data["shape"])})
        except (TypeError, KeyError) as err:
            raise SpecError(f"not a field description: {data!r}") from err


def default_chunk_rows(fields: Iterable[FieldSpec]) -> int:
    """Returns rows per chunk for a new store: a power of two, from 16 to 1,024.

    The largest field takes at most 32 MiB per chunk, so that sealing a chunk takes little memory. Of an image a frame
    counts, so that a store has the same chunks in every mode.

    >>> default_chunk_rows([FieldSpec.image("pixels", (3, 84, 84))])
    1024
    >>> default_chunk_rows([FieldSpec.image("camera", (480, 640, 3), channels="last")])
    32
    """
    largest = max((math.prod(field.shape) * np.dtype(field.dtype).itemsize for field in fields), default=1)
    rows = max(FEWEST_CHUNK_ROWS, min(DEFAULT_CHUNK_ROWS, MOST_CHUNK_BYTES // max(1, largest)))
    return 1 << (rows.bit_length() - 1)


def field_list(fields: Any) -> tuple[FieldSpec, ...]:
    """Returns the fields of a new store.

    Raises:
        SpecError: `fields` is not an iterable of `FieldSpec`.
    """
    if isinstance(fields, FieldSpec):
        raise SpecError("fields: expected a list of FieldSpec, got a single one; put it into a list")
    if isinstance(fields, (str, Mapping)) or not isinstance(fields, Iterable):
        raise SpecError(
            f"fields: expected a list of FieldSpec, got {type(fields).__name__}; each FieldSpec has its own name"
        )
    result = tuple(fields)
    for entry in result:
        if not isinstance(entry, FieldSpec):
            raise SpecError(f"fields: expected a list of FieldSpec, got {type(entry).__name__} {entry!r} in it")
        if entry.role == "extra" and entry.name in _MEANINGS:
            raise SpecError(
                f"field {entry.name!r}: role 'extra' takes its value at the row alone, {_MEANINGS[entry.name]}; give it"
                f" role={entry.name!r}, or another name"
            )
    return result


@dataclass(frozen=True, kw_only=True)
class StoreSpec:
    """What stays the same for the life of a store.

    >>> reward = FieldSpec(name="reward", shape=(1,), dtype="float32", role="reward")
    >>> spec = StoreSpec(mode="full", fields=(reward,))
    >>> spec.field("reward").dtype, spec.chunk_rows
    ('float32', 1024)

    Attributes:
        mode: how image fields are stored: `"disk"`, `"half"` or `"full"`.
        fields: the columns, in order.
        chunk_rows: rows per chunk, the same for all fields.
        durability: what commits survive: `"process"` for the end of the process, `"power"` also for a power cut.
        store_id: 32 hexadecimal digits.
        format_version: version of the format on disk.

    Raises:
        SpecError: an attribute is invalid, or the fields do not fit each other or the mode.
    """

    mode: Mode
    fields: tuple[FieldSpec, ...]
    chunk_rows: int = DEFAULT_CHUNK_ROWS
    durability: Durability = "process"
    store_id: str = ""
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise SpecError(f"mode is one of {MODES}, got {self.mode!r}")
        if self.durability not in DURABILITIES:
            raise SpecError(f"durability is one of {DURABILITIES}, got {self.durability!r}")
        object.__setattr__(self, "fields", tuple(self.fields))
        if not self.fields:
            raise SpecError("a store needs at least one field")
        names = [spec.name for spec in self.fields]
        if len(set(names)) != len(names):
            raise SpecError(f"field names repeat: {names}")
        for role in ("reward", "discount"):
            if sum(spec.role == role for spec in self.fields) > 1:
                raise SpecError(f"more than one field has the role {role!r}; give the others role 'extra'")
        object.__setattr__(self, "chunk_rows", whole_number(self.chunk_rows, "chunk_rows"))
        if self.chunk_rows > 1 << 20:
            raise SpecError(f"chunk_rows is 1 to {1 << 20}, got {self.chunk_rows}")

    def field(self, name: str) -> FieldSpec:
        """Returns the field of that name.

        Raises:
            SpecError: the store has no such field.
        """
        for spec in self.fields:
            if spec.name == name:
                return spec
        raise SpecError(f"no field {name!r}; this store has {[spec.name for spec in self.fields]}")

    def to_json(self) -> dict[str, Any]:
        """Returns plain data that `from_json` reads."""
        return {
            "format_version": self.format_version,
            "store_id": self.store_id,
            "mode": self.mode,
            "chunk_rows": self.chunk_rows,
            "durability": self.durability,
            "fields": [spec.to_json() for spec in self.fields],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> StoreSpec:
        """Returns the specification that `to_json` described.

        Raises:
            SpecError: the data do not describe a store.
        """
        try:
            fields = tuple(FieldSpec.from_json(entry) for entry in data["fields"])
            return cls(**{**data, "fields": fields})
        except (TypeError, KeyError) as err:
            raise SpecError(f"not a store description: {err}") from err
