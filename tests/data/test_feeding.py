"""Batches read from files: the same however they are read, and the windows that would be drawn from memory."""

import os
import threading
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from daag_jax.data.disk import read_episodes, write_episodes
from daag_jax.data.feeding import cut_windows, read_index, window_feed
from daag_jax.data.windows import draw_windows, episode_data
from daag_jax.types import Batch, Episode, Window

LENGTHS = ((3, 5, 0), (4,), (7, 1))  # of the episodes of three files
NUM = sum(map(sum, LENGTHS))
EVERYTHING = ("image", "returns", "task", "terminal")


def block(lengths: tuple[int, ...], seed: int, says: str = "terminated") -> Episode:
    """Random episodes; the padding holds numbers, too."""
    rng, num, longest = np.random.default_rng(seed), len(lengths), max(lengths) + seed
    normal = lambda *shape: rng.normal(size=shape).astype(np.float32)
    extras = {"task": normal(num, 4)}
    if says == "terminated":
        extras["terminated"] = rng.random(num) < 0.5
    elif says == "terminal":
        extras["terminal"] = rng.random((num, longest)) < 0.3
    images = rng.integers(0, 256, (num, longest + 1, 2, 4, 4, 3), dtype=np.uint8)
    rows = (normal(num, longest + 1, 3), images, normal(num, longest, 2), normal(num, longest))
    return Episode(*rows, np.array(lengths, np.int32), extras)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for i, (lengths, says) in enumerate(zip(LENGTHS, ("terminated", "terminal", ""), strict=True)):
        write_episodes(tmp_path / f"{i}" / "episodes.safetensors", block(lengths, i, says))
    return tmp_path


def assert_equal(a: Batch, b: Batch) -> None:
    jax.tree.map(np.testing.assert_array_equal, a, b)


def take(feed, start: int, num: int) -> list[Batch]:
    batches = feed.start(start)
    taken = [next(batches) for _ in range(num)]
    batches.close()
    return taken


@pytest.mark.parametrize("history, horizon", [(1, 1), (3, 3), (2, 9)])
def test_windows_are_those_that_would_be_drawn_from_memory(folder, history, horizon):
    window, first = Window(history, horizon, 1, EVERYTHING), 0
    index = read_index(folder, window)
    for path in sorted(folder.rglob("*.safetensors")):
        data = jax.tree.map(jax.numpy.asarray, episode_data(read_episodes(path)[0], window, 0.9))
        of_decision = lambda place, time, data=data: draw_windows(
            data | {"place": place[None], "time": time[None]}, window, 1, jax.random.key(0)
        )
        drawn = jax.jit(jax.vmap(of_decision))(data["place"], data["time"])
        last = first + len(data["place"])
        cut = cut_windows(index, window, np.arange(first, last), 0.9)
        assert_equal(cut, jax.tree.map(lambda x: x[:, 0], drawn))
        jax.tree.map(lambda a, b: np.testing.assert_equal(a.dtype, b.dtype), cut, drawn)
        first = last
    assert first == NUM


def test_the_example_has_the_shapes_of_all_processes_together(folder):
    window = Window(2, 5, 1, EVERYTHING)
    feed = window_feed(folder, window, 6, seed=0, process_index=1, process_count=2)
    own = take(feed, 0, 1)[0]
    whole = jax.tree.map(lambda x: ((6, *x.shape[1:]), x.dtype), own)
    assert whole == jax.tree.map(lambda x: (x.shape, x.dtype), feed.example)
    assert jax.tree.leaves(own)[0].shape[0] == 3


@pytest.mark.parametrize("threads", [0, 1, 4])
def test_a_batch_depends_neither_on_the_start_nor_on_threads(folder, threads):
    window = Window(2, 4, 1, EVERYTHING)
    expected = take(window_feed(folder, window, 6, seed=3, threads=2), 0, 12)
    feed = window_feed(folder, window, 6, seed=3, threads=threads)
    for start in (0, 1, 7):
        for one, two in zip(take(feed, start, 12 - start), expected[start:], strict=True):
            assert_equal(one, two)


def test_the_rows_of_two_processes_make_the_batch_of_one(folder):
    window = Window(fields=("image",))
    feeds = [window_feed(folder, window, 8, 0, process_index=i, process_count=2) for i in (0, 1)]
    whole = take(window_feed(folder, window, 8, 0), 2, 5)
    for batch, *parts in zip(whole, *(take(feed, 2, 5) for feed in feeds), strict=True):
        assert_equal(batch, jax.tree.map(lambda *x: np.concatenate(x), *parts))


def numbered(folder: Path, num: int = 20) -> Path:
    """One episode whose observation t is t."""
    rows = np.arange(num + 1, dtype=np.float32)[None, :, None]
    images = np.zeros((1, num + 1, 0, 0, 0, 3), np.uint8)
    actions, rewards = np.zeros((1, num, 1), np.float32), np.zeros((1, num), np.float32)
    episodes = Episode(rows, images, actions, rewards, np.array([num], np.int32))
    write_episodes(folder / "episodes.safetensors", episodes)
    return folder


def seen(folder: Path, seed: int, epochs: int) -> list[list[int]]:
    batches = take(window_feed(folder, Window(), 5, seed), 0, 4 * epochs)
    steps = np.concatenate([batch.observations[:, 0, 0] for batch in batches])
    return steps.astype(int).reshape(epochs, 20).tolist()


def test_an_epoch_takes_every_decision_once_in_an_order_of_its_own(tmp_path):
    epochs = seen(numbered(tmp_path), seed=0, epochs=3)
    assert all(sorted(epoch) == list(range(20)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_seeds_share_no_epoch(tmp_path):
    numbered(tmp_path)
    orders = [tuple(epoch) for seed in range(4) for epoch in seen(tmp_path, seed, 3)]
    assert len(set(orders)) == len(orders)


def test_double_precision_is_read_as_single(tmp_path):
    path = numbered(tmp_path) / "episodes.safetensors"
    tensors = load_file(path)
    tensors["observations"] = tensors["observations"].astype(np.float64)
    save_file(tensors, path, metadata={"task": '""', "kind": "episodes"})
    assert take(window_feed(path, Window(), 4, 0), 0, 1)[0].observations.dtype == np.float32


def test_closing_ends_the_threads(folder):
    batches = window_feed(folder, Window(), 4, 0).start(0)
    next(batches)
    mine = [thread for thread in threading.enumerate() if "grain" in thread.name]
    batches.close()
    for thread in mine:
        thread.join(timeout=10)
    assert mine and not any(thread.is_alive() for thread in mine)


def anonymous_bytes() -> int:
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split("RssAnon:")[1].split()[0])


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux' /proc")
def test_memory_does_not_hold_the_data(tmp_path):
    import grain  # noqa: F401 - its memory is not that of the data

    images = np.broadcast_to(np.zeros(3, np.uint8), (50, 61, 2, 64, 64, 3))
    observations, actions = np.zeros((50, 61, 3), np.float32), np.zeros((50, 60, 3), np.float32)
    rewards, length = np.zeros((50, 60), np.float32), np.full(50, 60, np.int32)
    path = tmp_path / "episodes.safetensors"
    write_episodes(path, Episode(observations, images, actions, rewards, length))
    files = [path] * 4
    size = 4 * path.stat().st_size
    assert size > 290e6
    before = anonymous_bytes()
    feed = window_feed(files, Window(2, 2, 1, ("image",)), 32, 0)
    batches, most = feed.start(0), 0
    for _ in range(60):
        next(batches)
        most = max(most, anonymous_bytes() - before)
    batches.close()
    path.unlink()
    assert most < size / 5


def spoil(path: Path, **changes: np.ndarray | None) -> None:
    """Rewrites a file with other tensors, or without some."""
    tensors = load_file(path) | {name.replace("__", "/"): x for name, x in changes.items()}
    kept = {name: x for name, x in tensors.items() if x is not None}
    save_file(kept, path, metadata={"task": '""', "kind": "episodes"})


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


BROKEN = [
    (lambda p: spoil(p, rewards=np.zeros(1, np.float32)), r"rewards are \(1,\), not \(1, 0\)"),
    (cut_short, "1/episodes.safetensors cannot be read .* it is cut short"),
    (lambda p: spoil(p, rewards=None), r"1/episodes.safetensors is no file of episodes .*rewards"),
    (lambda p: p.write_bytes(b""), "1/episodes.safetensors cannot be read"),
    (
        lambda p: spoil(p, actions=np.zeros((1, 5, 9), np.float32)),
        r"actions of a step have shape \(9,\), in .*0/episodes.safetensors \(2,\); use files of one",
    ),
    (
        lambda p: spoil(p, images=np.zeros((1, 6, 2, 8, 8, 3), np.uint8)),
        r"images of a step have shape \(2, 8, 8, 3\)",
    ),
    (lambda p: spoil(p, extras__task=None), "extras/task of a step have shape None"),
    (lambda p: spoil(p, length=np.array([99])), "a length is 99 of 5 steps; collect again"),
    (
        lambda p: spoil(p, observations=np.zeros((1, 5, 3), np.float32)),
        r"observations are \(1, 5\), not \(1, 6\); collect again",
    ),
    (
        lambda p: spoil(p, actions=np.zeros((1, 5, 2), np.complex64)),
        "actions is of type C64; write it as float32",
    ),
]


@pytest.mark.parametrize("spoiled, message", BROKEN)
def test_a_broken_file_is_refused_by_name(folder, spoiled, message):
    spoiled(folder / "1" / "episodes.safetensors")
    with pytest.raises(ValueError, match=message):
        window_feed(folder, Window(fields=EVERYTHING), 2, 0)


def test_a_window_without_pixels_reads_files_of_other_pixels(folder):
    path = folder / "1" / "episodes.safetensors"
    spoil(path, images=np.zeros((1, 6, 2, 8, 8, 3), np.uint8), extras__task=None)
    assert len(take(window_feed(folder, Window(), 2, 0), 0, 12)) == 12


def test_nan_is_refused_by_the_name_of_its_file(folder):
    spoil(folder / "1" / "episodes.safetensors", actions=np.full((1, 5, 2), np.nan, np.float32))
    with pytest.raises(ValueError, match="1/episodes.safetensors: actions hold NaN"):
        take(window_feed(folder, Window(), NUM, 0), 0, 1)


def test_a_file_that_shrinks_meanwhile_is_refused_by_name(folder):
    feed = window_feed(folder, Window(), NUM, 0)
    os.truncate(folder / "1" / "episodes.safetensors", 600)
    with pytest.raises(ValueError, match="1/episodes.safetensors was cut short since it was"):
        take(feed, 0, 1)


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"batch": 3, "process_count": 2}, "batch=3 is not a multiple of the 2 processes .* try 4"),
        ({"process_index": 2, "process_count": 2}, "process_index=2 is none of 2 processes"),
        ({"seed": -1}, "seed=-1 is negative"),
        ({"threads": 9}, "prefetch=8 is less than threads=9; try 9"),
        ({"window": Window(fields=("cost",))}, "asks for 'cost'; episodes hold"),
    ],
)
def test_wrong_numbers_are_refused(folder, wrong, message):
    given = {"window": Window(), "batch": 4, "seed": 0} | wrong
    with pytest.raises(ValueError, match=message):
        window_feed(folder, **given)


def test_data_without_a_step_or_without_what_is_asked_is_refused(tmp_path):
    path = numbered(tmp_path) / "episodes.safetensors"
    for field in ("image", "task"):
        with pytest.raises(ValueError, match=f"asks for '{field}', which .*episodes.safetensors"):
            window_feed(path, Window(fields=(field,)), 4, 0)
    spoil(path, length=np.array([0]))
    with pytest.raises(ValueError, match=r"none of the 1 episodes of 1 files .* has a step"):
        window_feed(path, Window(), 4, 0)


def test_files_that_are_not_there_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no .safetensors; `daag collect"):
        window_feed(tmp_path, Window(), 4, 0)
    for paths in (tmp_path / "a.safetensors", [tmp_path / "a.safetensors"]):
        with pytest.raises(FileNotFoundError, match="a.safetensors does not exist"):
            window_feed(paths, Window(), 4, 0)
    other = tmp_path / "a.npz"
    other.touch()
    with pytest.raises(ValueError, match="a.npz is no .safetensors"):
        window_feed(other, Window(), 4, 0)
    with pytest.raises(FileNotFoundError, match="no files were given"):
        window_feed([], Window(), 4, 0)
