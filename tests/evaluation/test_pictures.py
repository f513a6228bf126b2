"""Figures, videos and the page that holds them."""

import base64
import json
import re

import numpy as np
import pytest

from daag_jax.evaluation import figures, html, video


def moving_square(color, steps=6, side=32):
    frames = np.full((steps, side, side, 3), 200, np.uint8)
    for t in range(steps):
        frames[t, 8 : 8 + 10, 2 * t : 2 * t + 10] = color
    return frames


def test_an_mp4_returns_the_frames_it_was_given(tmp_path):
    frames = video.enlarge(moving_square((217, 25, 25)), 4)
    back = video.read(video.write(tmp_path / "deep" / "square.mp4", frames))
    assert back.shape == frames.shape
    assert np.abs(back.astype(int) - frames).mean() < 4.0


def test_odd_sides_are_padded_and_gifs_are_written(tmp_path):
    frames = moving_square((0, 0, 255))[:, :31, :29]
    assert video.read(video.write(tmp_path / "odd.mp4", frames)).shape == (6, 32, 30, 3)
    assert video.write(tmp_path / "square.gif", frames).read_bytes()[:3] == b"GIF"
    with pytest.raises(ValueError, match="suffix '.avi' is unknown"):
        video.write(tmp_path / "square.avi", frames)


def test_a_grid_labels_its_panels_and_a_shorter_clip_rests():
    clips = {"before": moving_square((255, 0, 0)), "after": moving_square((0, 255, 0), steps=3)}
    canvas = video.grid(clips, panel=64)
    assert canvas.shape == (6, 64 + 20, 2 * 64 + video.MARGIN, 3)
    np.testing.assert_array_equal(canvas[3, 20:, 68:], canvas[5, 20:, 68:])
    assert (canvas[0, :20, :64] < 100).any()  # ink


def test_frames_of_the_wrong_kind_are_refused_by_name():
    with pytest.raises(ValueError, match="after is float64"):
        video.grid({"after": np.zeros((2, 4, 4, 3))})


def test_views_stand_in_one_row():
    views = np.arange(2 * 3 * 4 * 5 * 3, dtype=np.uint8).reshape(2, 3, 4, 5, 3)
    row = video.side_by_side(views)
    assert row.shape == (2, 4, 15, 3)
    np.testing.assert_array_equal(row[:, :, 5:10], views[:, 1])


def test_the_same_figure_is_the_same_text():
    draw = lambda: figures.svg(figures.curves({"a": ([0, 1, 2], np.eye(3))}, "title"))
    assert draw() == draw() and draw().startswith("<svg")


def test_figures_refuse_what_does_not_fit():
    with pytest.raises(ValueError, match="a: 3 scores at 2 positions"):
        figures.curves({"a": ([0, 1], np.eye(3))})
    with pytest.raises(ValueError, match="2 rows, 1 columns"):
        figures.matrix(np.eye(2), ["a", "b"], ["c"])


def test_a_page_is_self_contained_and_escapes_text(tmp_path):
    red, green = moving_square((217, 25, 25)), moving_square((25, 166, 38))
    section = html.Section(
        "Edits",
        [
            html.text("a < b"),
            html.comparison(red, green, green, "swap"),
            html.figure(figures.bars({"full": (0.8, 0.7, 0.9)})),
            html.figure(figures.matrix(np.eye(2), ["a", "b"], ["c", "d"])),
            html.table(("arm", "rate"), [("full", 0.81234), ("none", 3)]),
        ],
    )
    path = html.write(html.Page("Run", [section], numbers=[("0.81", "rate")]), tmp_path / "r.html")
    page = path.read_text()
    assert "a &lt; b" in page and "0.8123" in page
    assert not re.findall(r'(?:src|href)="http', page)
    encoded = re.search(r"data:video/mp4;base64,([^\"]+)", page)[1]
    assert base64.b64decode(encoded)[4:8] == b"ftyp"


def test_the_report_of_a_run_shows_metrics_results_and_videos(tmp_path):
    rows = [{"step": n, "time": 1.0, "loss/a": 1 / n, "loss/b": None} for n in (1, 2, 3)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)) + '\n{"step": 4, "lo')
    (tmp_path / "results.json").write_text(json.dumps({"daag": {"success": 0.75}}))
    video.write(tmp_path / "videos" / "episode_0.mp4", moving_square((0, 0, 255)))
    page = html.report_of_run(tmp_path).read_text()
    assert "daag/success" in page and "0.75" in page and "videos/episode 0" in page
    assert "<svg" in page


def test_an_empty_run_says_what_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no metrics.jsonl, results.json or .mp4"):
        html.report_of_run(tmp_path)
