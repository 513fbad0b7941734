import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from replaystore.episodes import row_buffer
from replaystore.episodes.builder import EpisodeBuilder
from replaystore.episodes.checks import check_episode
from replaystore.episodes.stacks import frames_from_stacks, stacks_from_frames
from replaystore.errors import EpisodeError
from replaystore.spec import MODES, FieldSpec, StoreSpec
from replaystore.testing.episodes import Episode, frame_of, make_episode, stacks

LAYOUTS = [((3, 4, 5), "first"), ((4, 5, 3), "last"), ((1, 4, 5), "first"), ((4, 5), "first"), ((4, 5), "last")]

layouts = st.sampled_from(LAYOUTS)


def store_spec(mode="full", frame_shape=(3, 4, 5), channels="first", frame_stack=3):
    return StoreSpec(
        mode=mode,
        fields=(
            FieldSpec.image("observation", frame_shape, frame_stack=frame_stack, channels=channels),
            FieldSpec(name="action", shape=(2,), dtype="float32", role="action"),
            FieldSpec(name="reward", shape=(1,), dtype="float32", role="reward"),
            FieldSpec(name="discount", shape=(), dtype="float32", role="discount"),
        ),
    )


def as_given(episode: Episode, spec: StoreSpec, single=False):
    image = spec.fields[0]
    observation = episode.frames if single else stacks(episode, image.frame_stack, image.channels)
    return {
        "observation": observation,
        "action": episode.action,
        "reward": episode.reward[:, None],
        "discount": episode.discount,
    }


def assert_same(arrays, expected):
    assert list(arrays) == list(expected)
    for name, array in arrays.items():
        assert array.flags.c_contiguous
        assert array.dtype == expected[name].dtype
        np.testing.assert_array_equal(array, expected[name])


@given(layouts, st.integers(1, 5), st.integers(1, 9), st.booleans())
def test_stacks_come_apart_and_go_together(layout, frame_stack, rows, zero_padding):
    shape, channels = layout
    field = FieldSpec.image("observation", shape, frame_stack=frame_stack, channels=channels)
    episode = make_episode(7, rows, shape, zero_padding=zero_padding)
    given_stacks = stacks(episode, frame_stack, channels)
    assert given_stacks.shape == (rows, *field.stacked_shape)
    frames, zeros = frames_from_stacks(field, given_stacks, "episode 7")
    assert frames.flags.c_contiguous
    np.testing.assert_array_equal(frames, episode.frames)
    assert zeros == (zero_padding and frame_stack > 1)
    again = stacks_from_frames(field, frames, zeros)
    assert again.flags.c_contiguous
    np.testing.assert_array_equal(again, given_stacks)


@given(layouts, st.integers(2, 4), st.integers(1, 40), st.booleans(), st.data())
def test_one_wrong_pixel_in_an_older_frame_is_found(layout, frame_stack, rows, zero_padding, data):
    shape, channels = layout
    field = FieldSpec.image("observation", shape, frame_stack=frame_stack, channels=channels)
    wrong = stacks(make_episode(7, rows, shape, zero_padding=zero_padding), frame_stack, channels)
    # In which frame of the stack a pixel is, seen by stacking frames that are filled with their position.
    frame_at = stacks_from_frames(
        field, np.arange(frame_stack, dtype=np.uint8)[(...,) + (None,) * len(shape)] * np.ones(shape, np.uint8), False
    )[-1]
    row = data.draw(st.integers(0, rows - 1))
    older = np.flatnonzero(frame_at.reshape(-1) < frame_stack - 1)
    pixel = data.draw(st.sampled_from(older.tolist()))
    wrong[row].reshape(-1)[pixel] ^= 1
    message = f"field 'observation', episode 7, row {row}: expected .* other frames; "
    with pytest.raises(EpisodeError, match=message):
        frames_from_stacks(field, wrong, "episode 7")
    builder = EpisodeBuilder(StoreSpec(mode="half", fields=(field,)), env=2)
    for k in range(row):
        builder.add({"observation": wrong[k]})
    with pytest.raises(EpisodeError, match=message.replace("episode 7", "env 2")):
        builder.add({"observation": wrong[row]})
    assert builder.num_rows == row


@pytest.mark.parametrize("channels", ["first", "last"])
@pytest.mark.parametrize("rows", [2, 37, 38, 39, 40, 75, 76, 77])  # 37 rows are compared at a time
def test_a_wrong_last_row_is_named(rows, channels):
    field = FieldSpec.image("observation", (84, 84), frame_stack=4, channels=channels)
    wrong = stacks(make_episode(1, rows, (84, 84)), 4, channels)
    wrong[(rows - 1, 0, 83, 83) if channels == "first" else (rows - 1, 83, 83, 0)] ^= 128
    with pytest.raises(EpisodeError, match=f"row {rows - 1}:"):
        frames_from_stacks(field, wrong, "episode 1")


def test_a_zero_first_frame_counts_as_repeated():
    field = FieldSpec.image("observation", (2, 2), frame_stack=3)
    frames = np.stack([np.zeros((2, 2), np.uint8), np.full((2, 2), 9, np.uint8)])
    for zero_padding in (False, True):
        found, zeros = frames_from_stacks(field, stacks_from_frames(field, frames, zero_padding), "episode 0")
        assert not zeros
        np.testing.assert_array_equal(found, frames)


def test_zeros_in_part_of_the_padding_are_refused():
    field = FieldSpec.image("observation", (2, 2), frame_stack=3)
    first = np.full((1, 3, 2, 2), 5, np.uint8)
    first[0, 0] = 0
    with pytest.raises(EpisodeError, match=r"episode 0, row 0: .* zeros before it"):
        frames_from_stacks(field, first, "episode 0")


@pytest.mark.parametrize("mode", MODES)
@settings(max_examples=25)
@given(layouts, st.integers(1, 4), st.integers(1, 7), st.booleans(), st.booleans())
def test_episodes_come_out_in_stored_form(mode, layout, frame_stack, rows, zero_padding, single):
    shape, channels = layout
    spec = store_spec(mode, shape, channels, frame_stack)
    episode = make_episode(3, rows, shape, zero_padding=zero_padding and not single)
    checked = check_episode(spec, as_given(episode, spec, single))
    assert checked.num_rows == rows
    assert checked.zero_padding == (episode.zero_padding and frame_stack > 1)
    assert_same(checked.arrays, as_given(episode, spec, single=mode != "disk"))


@pytest.mark.parametrize("mode", MODES)
@settings(max_examples=25)
@given(layouts, st.integers(1, 4), st.lists(st.integers(0, 9), min_size=1, max_size=5), st.booleans(), st.data())
def test_a_builder_gives_what_check_episode_gives(mode, layout, frame_stack, sizes, zero_padding, data):
    shape, channels = layout
    spec = store_spec(mode, shape, channels, frame_stack)
    rows = sum(sizes)
    if rows == 0:
        return
    episode = make_episode(3, rows, shape, zero_padding=zero_padding)
    stacked, frames = as_given(episode, spec), as_given(episode, spec, single=True)
    whole = check_episode(spec, stacked)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(row_buffer, "FIRST_BYTES", 1)
        patch.setattr(row_buffer, "KEPT_BYTES", 1)
        builder = EpisodeBuilder(spec, env=0)
        parts, row = [], 0
        for k, size in enumerate(sizes):
            for _ in range(size):
                single = row > 0 and data.draw(st.booleans())
                buffer = {name: np.array(values[row]) for name, values in (frames if single else stacked).items()}
                builder.add(buffer)
                for values in buffer.values():
                    values[...] = 77  # environments reuse their buffers
                row += 1
            assert builder.num_rows == row
            assert builder.committed_rows == row - size
            part = builder.take_part(last=k == len(sizes) - 1)
            assert part.num_rows == size
            assert builder.committed_rows == row
            if row:
                assert part.zero_padding == whole.zero_padding
            parts.append(part)
    for name in whole.arrays:
        joined = np.concatenate([part.arrays[name] for part in parts])
        assert joined.dtype == whole.arrays[name].dtype
        np.testing.assert_array_equal(joined, whole.arrays[name])
    with pytest.raises(EpisodeError, match="has ended"):
        builder.add({name: values[0] for name, values in stacked.items()})


def test_a_builder_of_single_frames_repeats_the_first():
    spec = store_spec("disk")
    episode = make_episode(4, 5)
    builder = EpisodeBuilder(spec, env=0)
    for row in range(5):
        builder.add({name: values[row] for name, values in as_given(episode, spec, single=True).items()})
    part = builder.take_part(last=True)
    assert not part.zero_padding
    np.testing.assert_array_equal(part.arrays["observation"], stacks(episode, 3, "first"))


@pytest.mark.parametrize("channels", ["first", "last"])
def test_a_builder_starts_again_without_a_trace_of_the_episode_before(channels, monkeypatch):
    monkeypatch.setattr(row_buffer, "FIRST_BYTES", 1)
    monkeypatch.setattr(row_buffer, "KEPT_BYTES", 1)
    spec = store_spec("half", (3, 4, 5) if channels == "first" else (4, 5, 3), channels)
    builder = EpisodeBuilder(spec, env=0)
    for number, (rows, take) in enumerate([(9, True), (5, False), (14, True), (1, True), (7, True)]):
        episode = make_episode(number, rows, spec.fields[0].shape, zero_padding=number % 2 == 1)
        given = as_given(episode, spec)
        for row in range(rows):
            builder.add({name: values[row] for name, values in given.items()})
        if take:
            part = builder.take_part(last=True)
            assert part.zero_padding == episode.zero_padding
            assert_same(part.arrays, as_given(episode, spec, single=True))
        builder.restart(env=number + 1)
        assert builder.num_rows == builder.committed_rows == 0
        with pytest.raises(EpisodeError, match=f"env {number + 1}, row 0: expected a stack of the first frame"):
            builder.add(
                {name: values[-1] for name, values in as_given(make_episode(99, 9, spec.fields[0].shape), spec).items()}
            )


def test_parts_that_were_taken_do_not_change():
    spec = store_spec("half")
    episode = make_episode(4, 6)
    values = as_given(episode, spec)
    builder = EpisodeBuilder(spec, env=0)
    builder.add({name: array[0] for name, array in values.items()})
    first = builder.take_part(last=False).arrays["observation"]
    builder.add({name: array[1] for name, array in values.items()})
    np.testing.assert_array_equal(first, episode.frames[:1])


def two_cameras(mode="half"):
    left = FieldSpec.image("left", (4, 5), frame_stack=3)
    right = FieldSpec.image("right", (4, 5), frame_stack=2)
    return StoreSpec(mode=mode, fields=(left, right))


def cameras(padding_left, padding_right, first_left=None):
    one, two = make_episode(1, 4, (4, 5), padding_left), make_episode(2, 4, (4, 5), padding_right)
    if first_left is not None:
        one.frames[0] = first_left
    return {"left": stacks(one, 3, "first"), "right": stacks(two, 2, "first")}


@pytest.mark.parametrize("mode", MODES)
def test_all_cameras_of_an_episode_are_padded_alike(mode):
    spec = two_cameras(mode)

    def build(values):
        builder = EpisodeBuilder(spec, env=0)
        builder.add({name: array[0] for name, array in values.items()})
        return builder.take_part(last=True)

    for make in (lambda values: check_episode(spec, values), build):
        assert make(cameras(True, True)).zero_padding
        assert not make(cameras(False, False)).zero_padding
        assert make(cameras(False, True, first_left=0)).zero_padding  # zeros either way: the other one decides
        assert not make(cameras(True, False, first_left=0)).zero_padding
        with pytest.raises(EpisodeError, match=r"field 'right', .*, row 0: .* pad all image fields in the same way"):
            make(cameras(True, False))


def test_what_does_not_fit_is_refused_with_place_and_remedy():
    spec = store_spec()
    episode = make_episode(1, 4)
    good = as_given(episode, spec)
    for change, message in (
        ({"action": None}, "missing ['action'], unknown []"),
        ({"reward ": good["reward"]}, "missing [], unknown ['reward ']"),
        (
            {"observation": good["observation"].astype(np.float32)},
            "field 'observation', episode 12: expected uint8 (rows, 9, 4, 5) or uint8 (rows, 3, 4, 5),"
            " got float32 (4, 9, 4, 5); convert it before append",
        ),
        ({"observation": good["observation"][:, :6]}, "got uint8 (4, 6, 4, 5); convert"),
        ({"action": good["action"].astype(np.float64)}, "expected float32 (rows, 2), got float64 (4, 2)"),
        ({"action": good["action"].astype(">f4")}, "expected float32 (rows, 2), got >f4 (4, 2)"),
        ({"action": good["action"].astype(object)}, "got object (4, 2)"),
        ({"action": [[0.0, 1.0]] * 4}, "got float64 (4, 2)"),
        ({"action": [[0.0], [1.0, 2.0]]}, "expected an array of float32, got list"),
        ({"reward": np.repeat(good["reward"], 2, axis=1)}, "expected float32 (rows, 1), got float32 (4, 2)"),
        ({"discount": good["discount"].astype(complex)}, "expected float32 (rows), got complex128 (4,)"),
        ({"discount": np.float32(1)}, "expected float32 (rows), got float32 ()"),
        ({"discount": good["discount"][:3]}, "same number of rows, at least 1, in all fields, got {'observation': 4,"),
        ({name: array[:0] for name, array in good.items()}, "at least 1, in all fields, got {'observation': 0,"),
    ):
        values = {name: array for name, array in {**good, **change}.items() if array is not None}
        with pytest.raises(EpisodeError, match=re.escape(message)) as caught:
            check_episode(spec, values, "episode 12")
        assert "episode 12" in str(caught.value)
    with pytest.raises(EpisodeError, match="expected a mapping of fields to arrays, got list"):
        check_episode(spec, [1, 2])


def test_a_refused_row_changes_nothing():
    spec = store_spec("disk")
    episode = make_episode(1, 4)
    good = as_given(episode, spec)
    builder = EpisodeBuilder(spec, env=3)
    for row in range(4):
        values = {name: array[row] for name, array in good.items()}
        for change, message in (
            ({"discount": None}, "missing ['discount']"),
            ({"extra": 1}, "unknown ['extra']"),
            ({"discount": 1j}, f"field 'discount', env 3, row {row}: expected float32 (), got complex128 ()"),
            ({"discount": 1e300}, "1e+300 does not survive the cast from float64 to float32"),
            ({"discount": np.nan}, f"field 'discount', env 3, row {row}: expected finite numbers, got nan"),
            ({"reward": np.ones(2, np.float32)}, "expected float32 (1), got float32 (2,)"),
            ({"action": values["action"].astype(">f4")}, "got >f4 (2,)"),
            ({"observation": values["observation"][None]}, "expected uint8 (9, 4, 5) or uint8 (3, 4, 5), got uint8"),
            ({"observation": frame_of(9, 9, (9, 4, 5))}, f"field 'observation', env 3, row {row}: expected"),
        ):
            wrong = {name: value for name, value in {**values, **change}.items() if value is not None}
            with pytest.raises(EpisodeError, match=re.escape(message)):
                builder.add(wrong)
            assert builder.num_rows == row
        with pytest.raises(EpisodeError, match="expected a mapping"):
            builder.add(None)
        builder.add(values)
    assert_same(builder.take_part(last=True).arrays, good)


def test_tensors_lists_and_strided_arrays_are_taken_as_they_are():
    spec = store_spec()
    episode = make_episode(1, 4)
    good = as_given(episode, spec)
    values = {
        "observation": torch.from_numpy(good["observation"].copy()),
        "action": np.repeat(good["action"], 2, axis=0)[::2],
        "reward": [np.array([r], np.float32) for r in episode.reward],
        "discount": torch.from_numpy(good["discount"].copy()),
    }
    assert_same(check_episode(spec, values).arrays, as_given(episode, spec, single=True))
    with pytest.raises(EpisodeError, match="expected an array of float32, got Tensor; convert it to a NumPy array"):
        check_episode(spec, {**good, "action": torch.zeros(4, 2, requires_grad=True)})


def test_nan_and_infinity_come_back_bit_for_bit():
    field = FieldSpec(name="state", shape=(2,), dtype="float64", role="observation", allow_nonfinite=True)
    spec = StoreSpec(mode="full", fields=(field,))
    values = np.array([[np.nan, -0.0], [np.inf, -np.inf]])
    values[0, 0] = np.uint64(0x7FF8_0000_DEAD_BEEF).view(np.float64)
    assert check_episode(spec, {"state": values}).arrays["state"].tobytes() == values.tobytes()
    builder = EpisodeBuilder(spec, env=0)
    for row in values:
        builder.add({"state": row})
    assert builder.take_part(last=True).arrays["state"].tobytes() == values.tobytes()
