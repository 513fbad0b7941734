import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from replaystore.datasets.convert import convert
from replaystore.datasets.fields import fields_from_episode
from replaystore.datasets.rows import is_rows, store_rows
from replaystore.errors import EpisodeError, EpisodeFileError, SpecError
from replaystore.store import ReplayStore

STEPS = 12
PLURAL = {"observation": "observations", "action": "actions", "reward": "rewards"}


def steps(*, seed=0, n=STEPS, ending="terminals", ends=True, plural=True):
    """An episode by step: the action, reward and end of each step, and one more observation."""
    rng = np.random.default_rng(seed)
    named = {
        "observation": rng.random((n + 1, 4), dtype=np.float32),
        "action": rng.random((n, 2), dtype=np.float32) + 1,
        "reward": rng.random(n) + 1,
    }
    if plural:
        named = {PLURAL[name]: array for name, array in named.items()}
    return named | ({} if ending is None else {ending: (np.arange(n) == n - 1) & ends})


def by_hand(episode, *, terminates):
    """The rows of `steps`, one at a time."""
    observations, actions, rewards = (array for _, array in list(episode.items())[:3])
    rows = [(observations[0], np.zeros(2), 0.0, 1.0)]
    for t in range(len(actions)):
        over = terminates and t == len(actions) - 1
        rows.append((observations[t + 1], actions[t], rewards[t], 0.0 if over else 1.0))
    return [np.array(column) for column in zip(*rows, strict=True)]


@pytest.mark.parametrize("ends", [False, True])
@pytest.mark.parametrize("plural", [False, True])
@pytest.mark.parametrize("ending", ["terminals", "terminations", "terminated", "is_terminal", "done", "dones"])
def test_steps_become_rows(ending, plural, ends):
    episode = steps(ending=ending, ends=ends, plural=plural)
    rows, notes = store_rows(episode)
    assert list(rows) == ["observation", "action", "reward", ending, "discount"]
    for name, expected in zip(
        ("observation", "action", "reward", "discount"), by_hand(episode, terminates=ends), strict=True
    ):
        np.testing.assert_array_equal(rows[name], expected)
    assert rows[ending].tolist() == [False, *episode[ending].tolist()]
    assert "in row t + 1" in notes[0]
    assert f"made from '{ending}'" in notes[1]
    assert len(notes) == 2
    assert not is_rows(episode)
    with pytest.raises(SpecError, match="store_rows first"):
        fields_from_episode(episode)
    again, notes = store_rows(rows)
    assert again.keys() == rows.keys()
    assert (notes, is_rows(rows)) == ((), True)


def test_next_observations_give_the_last_row():
    episode = steps()
    whole = episode["observations"]
    for kept in (whole[:-1], whole):
        rows, _ = store_rows(episode | {"observations": kept, "next_observations": whole[1:]})
        np.testing.assert_array_equal(rows["observation"], whole)
        assert "next_observations" not in rows
    with_nan = np.where(np.arange(STEPS + 1)[:, None] == 5, np.nan, whole).astype(np.float32)
    rows, _ = store_rows(episode | {"observations": with_nan[:-1], "next_observations": with_nan[1:]})
    np.testing.assert_array_equal(rows["observation"], with_nan)
    broken = whole[1:].copy()
    broken[7] += 1
    with pytest.raises(EpisodeError, match=r"next observation of step 7 in row 8.*several episodes"):
        store_rows(episode | {"observations": whole[:-1], "next_observations": broken})
    with pytest.raises(EpisodeError, match="12 observations and 12 next ones"):
        store_rows(episode | {"observations": whole[:-2], "next_observations": whole[1:]})


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"observations": np.zeros((STEPS, 4))}, "13 rows of 'observation' for 12 actions.*one more row"),
        ({"goals": np.zeros((STEPS, 4))}, "13 rows of 'goals'.*skip the field"),
        ({"rewards": np.zeros(STEPS + 1)}, "12 steps of 'reward'"),
        ({"terminals": np.zeros(5, bool)}, "12 steps of 'terminals'"),
        ({"action": np.zeros(STEPS)}, "both name the action"),
        ({"terminals": np.arange(STEPS) == 4}, "'terminals' is set in row 5 of 13, so the file holds several episodes"),
        ({"timeouts": np.arange(STEPS) == 4}, "'timeouts' is set in row 5"),
        ({"is_first": np.arange(STEPS + 1) % 6 == 0}, "'is_first' is set in row 6"),
        ({"is_last": np.arange(STEPS + 1) == 6}, "'is_last' is set in row 6"),
        ({"episode_return": np.float32(3).reshape(())}, "13 rows of 'episode_return'"),
    ],
)
def test_what_cannot_be_told_is_refused(changed, message):
    with pytest.raises(EpisodeError, match=f"a_12.npz: .*{message}"):
        store_rows(steps() | changed, "a_12.npz")


def test_a_cut_is_no_end():
    flags = {"dones": np.arange(STEPS) == STEPS - 1, "timeouts": np.arange(STEPS) == STEPS - 1}
    rows, notes = store_rows(steps(ending=None) | flags)
    assert rows["discount"].tolist() == [1] * (STEPS + 1)
    assert "1 where 'timeouts' cut it" in notes[1]
    rows, notes = store_rows(steps(ending=None) | {"dones": flags["dones"]})
    assert rows["discount"].tolist() == [1] * STEPS + [0]
    assert "a time limit cut counts as terminated" in notes[1]
    rows, _ = store_rows(steps() | {"timeouts": flags["timeouts"]})  # terminals come before done and say all
    assert rows["discount"].tolist() == [1] * STEPS + [0]


@pytest.mark.parametrize("shape", [(13,), (13, 1), (13, 1, 1)])
@pytest.mark.parametrize("dtype", ["bool", "uint8", "float32"])
@pytest.mark.parametrize("flag", ["terminal", "is_terminal", "terminals", "terminated", "done", "dones"])
def test_a_flag_of_an_end_makes_the_discount(flag, dtype, shape):
    arrays = {"reward": np.zeros(13, np.float32), flag: (np.arange(13) == 12).reshape(shape).astype(dtype)}
    rows, (note,) = store_rows(arrays)
    assert rows["discount"].tolist() == [1] * 12 + [0]
    assert rows[flag] is arrays[flag]
    assert repr(flag) in note
    assert store_rows(arrays, plain={flag}) == (arrays, ())
    assert store_rows({flag: arrays[flag]}) == ({flag: arrays[flag]}, ())
    given = arrays | {"discount": np.ones(13, np.float32)}
    assert store_rows(given) == (given, ())
    with pytest.raises(EpisodeError, match=f"one flag per row in '{flag}', found"):
        store_rows({"reward": arrays["reward"], flag: np.zeros((13, 2), dtype)})


def test_row_0_that_looks_like_a_step_is_noted():
    arrays = {"action": np.ones((4, 2)), "reward": np.array([np.nan, 0, 1, 1])}
    assert "row 0: the action is not zero" in store_rows(arrays).notes[0]
    arrays["action"][0] = 0
    assert store_rows(arrays).notes == ()
    arrays["reward"][0] = 1
    assert "row 0: the reward is not zero" in store_rows(arrays).notes[0]
    assert store_rows(arrays, plain={"reward"}).notes == ()


@given(st.integers(1, 6), st.sampled_from([None, "terminals", "dones"]), st.booleans(), st.booleans())
def test_returns_of_a_converted_episode(tmp_path_factory, n, ending, plural, ends):
    tmp_path = tmp_path_factory.mktemp("steps")
    episode = steps(seed=n, n=n + 3, ending=ending, plural=plural, ends=ends)
    (tmp_path / "in").mkdir()
    np.savez(tmp_path / "in" / "a.npz", **episode)
    report = convert(tmp_path / "in", tmp_path / "store", mode="half")
    assert len(report.notes) == (1 if ending is None else 2)
    assert report.notes[0].startswith("a.npz: ")
    observations, actions, rewards = (array for _, array in list(episode.items())[:3])
    with ReplayStore.open(tmp_path / "store", read_only=True) as store:
        batch = store.gather(np.arange(1, n + 2), n_step=3, discount=0.5)
    for i in range(n + 1):  # row i + 1 ends step i
        np.testing.assert_array_equal(batch["observation"][i], observations[i])
        np.testing.assert_array_equal(batch["action"][i], actions[i])
        np.testing.assert_array_equal(batch["next_observation"][i], observations[i + 3])
        assert batch["reward"][i] == pytest.approx(rewards[i] + 0.5 * rewards[i + 1] + 0.25 * rewards[i + 2])
        if ending is not None:
            assert batch["discount"][i] == (0 if ends and i == n else 0.125)


# Options of a conversion


def write(folder, **files):
    folder.mkdir(exist_ok=True)
    for name, arrays in files.items():
        np.savez(folder / f"{name}.npz", **arrays)
    return folder


def plain_episode(seed=0, rows=9):
    rng = np.random.default_rng(seed)
    return {"observation": rng.random((rows, 3), dtype=np.float32), "action": np.zeros((rows, 2), np.float32)}


STRAY = {
    "info": np.array([{}] * 9, object),
    "instruction": np.array(["walk"] * 9),
    "episode_return": np.float32(3),
    "record": np.zeros(9, [("a", "f4")]),
}


@pytest.mark.parametrize("name", STRAY)
def test_a_stray_array_is_skipped_when_asked(tmp_path, name):
    source = write(tmp_path / "in", a=plain_episode(0) | {name: STRAY[name]}, b=plain_episode(1))
    with pytest.raises((EpisodeError, SpecError), match=f"{name}.*skip"):
        convert(source, tmp_path / "store")
    assert not (tmp_path / "store").exists()
    assert convert(source, tmp_path / "store", skip=[name]).converted == 2
    with ReplayStore.open(tmp_path / "store", read_only=True) as store:
        for episode in (0, 1):
            found, expected = store.read_episode(episode), plain_episode(episode)
            assert found.keys() == expected.keys()
            assert all(np.array_equal(found[each], expected[each]) for each in expected)


@pytest.mark.parametrize("outside", ["RGB", "observation.state", "obs/agentview_rgb", "qpos joint", "next_state", "c"])
def test_names_are_changed_when_asked(tmp_path, outside):
    source = write(tmp_path / "in", a={outside: plain_episode()["observation"]})
    with pytest.raises(SpecError, match="rename"):
        convert(source, tmp_path / "store")
    report = convert(source, tmp_path / "store", rename={outside: "state"})
    assert report.converted == 1
    with ReplayStore.open(tmp_path / "store", read_only=True) as store:
        assert [field.name for field in store.spec.fields] == ["state"]
        assert store.spec.fields[0].role == "observation"
    with pytest.raises(EpisodeError, match=r"expected the arrays \['depth'\] to rename, found"):
        convert(source, tmp_path / "other", rename={"depth": "state"})
    with pytest.raises(EpisodeError, match="two 'state' after renaming"):
        convert(write(tmp_path / "in2", a={"state": np.zeros(3), outside: np.zeros(3)}), tmp_path / "other",
                rename={outside: "state"})  # fmt: skip


def test_renamed_arrays_by_step(tmp_path):
    episode = steps()
    source = write(tmp_path / "in", a={"obs.state": episode["observations"]} | episode)
    with pytest.raises(EpisodeError, match="two 'observations'"):
        convert(source, tmp_path / "store", rename={"obs.state": "observations"})
    convert(source, tmp_path / "store", skip=["observations"], rename={"obs.state": "observations"})
    with ReplayStore.open(tmp_path / "store", read_only=True) as store:
        np.testing.assert_array_equal(store.read_episode(0)["observation"], episode["observations"])


def test_numbers_that_are_not_finite_are_allowed_by_name(tmp_path):
    episode = plain_episode() | {"velocity": np.full(9, np.inf)}
    source = write(tmp_path / "in", a=episode)
    with pytest.raises(EpisodeError, match=r"'velocity'.*finite"):
        convert(source, tmp_path / "store")
    with pytest.raises(SpecError, match="allow_nonfinite of 'velocity'"):
        convert(source, tmp_path / "store", allow_nonfinite=["velocity"])
    assert convert(source, tmp_path / "new", allow_nonfinite=["velocity"]).converted == 1
    with pytest.raises(SpecError, match=r"allow_nonfinite: no fields \['speed'\]"):
        convert(source, tmp_path / "other", allow_nonfinite=["speed"])


def test_links_are_followed_when_asked(tmp_path):
    elsewhere = write(tmp_path / "elsewhere", a=plain_episode())
    source = tmp_path / "in"
    source.mkdir()
    (source / "a.npz").symlink_to(elsewhere / "a.npz")
    (source / "b.npz").symlink_to(tmp_path / "nothing.npz")
    (source / "c.npz").symlink_to(elsewhere)
    with pytest.raises(EpisodeFileError, match=r"a.npz.*a symbolic link; .*follow links"):
        convert(source, tmp_path / "store")
    with pytest.raises(EpisodeFileError, match=r"b.npz: .*No such file"):
        convert(source, tmp_path / "store", follow_links=True)
    report = convert(source, tmp_path / "store", follow_links=True, skip_damaged=True)
    assert (report.converted + report.already_present, len(report.skipped)) == (1, 2)
    again = convert(source, tmp_path / "store", follow_links=True, skip_damaged=True)
    assert (again.converted, again.already_present) == (0, 1)


def test_hidden_files_are_no_episodes(tmp_path):
    source = write(tmp_path / "in", a=plain_episode())
    (source / "._a.npz").write_bytes(b"\0\5\26\7Mac OS X")
    assert convert(source, tmp_path / "store").converted == 1


# Directories of other kinds


@pytest.mark.parametrize(
    ("files", "kind"),
    [
        (["meta/info.json", "data/chunk-000/episode_000000.parquet"], "a LeRobot data set"),
        (["data/main_data.hdf5"], "a Minari data set"),
        (["main_data.hdf5"], "the data of a Minari data set"),
        (["hopper-medium-v2.hdf5"], "HDF5 files (hopper-medium-v2.hdf5)"),
        (["demo.h5"], "HDF5 files"),
        (["part-0.parquet"], "Parquet files"),
        (["dataset_info.json", "x-train.tfrecord-00000-of-00001"], "a TensorFlow data set"),
        (["x-train.tfrecord-00000-of-00001"], "TFRecord files"),
        (["zarr.json"], "a Zarr group"),
        ([".zgroup"], "a Zarr group"),
        (["pusht.zarr/.zgroup"], "Zarr groups (pusht.zarr)"),
        (["episode_0.pkl"], "pickles, which can run code"),
        (["0/a_3.npz"], "episode files one level down; pass "),
        (["readme.txt"], "other files (readme.txt)"),
        ([], "an empty directory"),
    ],
)
def test_a_directory_of_another_kind_is_named(tmp_path, files, kind):
    source = tmp_path / "in"
    source.mkdir()
    for name in files:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).touch()
    with pytest.raises(EpisodeFileError) as caught:
        convert(source, tmp_path / "store")
    assert f"found {kind}" in str(caught.value)
    assert "ReplayStore.append" in str(caught.value)
    assert not (tmp_path / "store").exists()


def test_a_store_in_place_of_episode_files_is_named(tmp_path):
    convert(write(tmp_path / "in", a=plain_episode()), tmp_path / "store")
    with pytest.raises(EpisodeFileError, match="found a store of this package"):
        convert(tmp_path / "store", tmp_path / "other")
