"""Lists the kinds of columns and finds the kind of a field. A new kind needs one line here."""

from __future__ import annotations

from replaystore.columns.frame_groups import FrameGroups
from replaystore.columns.packed_rows import PackedRows
from replaystore.columns.raw_rows import RawRows
from replaystore.columns.row_codec import RowCodec
from replaystore.errors import SpecError
from replaystore.spec import FieldSpec

KINDS: tuple[type[RowCodec], ...] = (RawRows, PackedRows, FrameGroups)


def codec_of(field: FieldSpec, mode: str) -> RowCodec:
    """Returns the `RowCodec` of a field, with the field's settings. The field's scheme chooses the kind.

    Raises:
        SpecError: the scheme is unknown or does not load, or it does not fit the field or the mode.
    """
    scheme = None if field.scheme is None else field.scheme["id"]
    for kind in KINDS:
        if kind.takes(scheme):
            return kind.of_field(field, mode)
    raise SpecError(
        f"field {field.name!r}: scheme {scheme!r}: numcodecs knows no codec of that id that stores rows or frames;"
        " install or import the package that registers it, or use replaystore.round_clamp or replaystore.frame_delta"
    )


def resolved_fields(mode: str, fields: tuple[FieldSpec, ...]) -> tuple[FieldSpec, ...]:
    """Returns the fields of a store. A field without a scheme gets the one that `mode` implies, if any."""
    return tuple(field if field.scheme is not None else _resolved(mode, field) for field in fields)


def _resolved(mode: str, field: FieldSpec) -> FieldSpec:
    for kind in KINDS:
        scheme = kind.implied_scheme(field, mode)
        if scheme is not None:
            return FieldSpec.from_json({**field.to_json(), "scheme": scheme})
    return field
