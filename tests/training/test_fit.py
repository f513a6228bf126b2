"""Training: same bits whatever the interruptions, and clear words when something is wrong."""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from daag_jax.data.feeding import Feed
from daag_jax.training import checkpoint, one_file
from daag_jax.training.devices import make_mesh
from daag_jax.training.fit import Diverged, FitConfig, Sampler, fit
from daag_jax.training.report import read_metrics
from daag_jax.types import Algorithm, Batch, Window

sys.path.insert(0, str(Path(__file__).parent))
from small_run import doubled, linear_regression

SCRIPT = Path(__file__).parent / "small_run.py"


def config(directory=None, **changes):
    defaults = {"steps": 30, "log_every": 10, "checkpoint_every": 10, "progress": False}
    directory = None if directory is None else str(directory)
    return FitConfig(directory=directory, tensorboard=False, **(defaults | changes))


def assert_same(a, b):
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(np.asarray(x), np.asarray(y)), a, b)


def start(directory, steps, *args):
    command = [sys.executable, str(SCRIPT), str(directory), str(steps), *map(str, args)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_first_checkpoint(process, directory):
    while process.poll() is None and not list((directory / "checkpoints").glob("step_????????")):
        time.sleep(0.01)


def test_fit_lowers_the_loss_and_logs_every_period(tmp_path):
    result = fit(linear_regression(0.1), doubled, config(tmp_path, steps=60))
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in rows] == [10, 20, 30, 40, 50, 60]
    assert rows[-1]["loss/fit"] == pytest.approx(result.metrics["loss/fit"])
    assert rows[-1]["loss/fit"] < 0.5 * rows[0]["loss/fit"]


def test_resume_is_bit_exact_and_metrics_continue(tmp_path):
    whole = fit(linear_regression(), doubled, config(tmp_path / "whole"))
    fit(linear_regression(), doubled, config(tmp_path / "parts", steps=17))
    parts = fit(linear_regression(), doubled, config(tmp_path / "parts"))
    assert_same(whole.state, parts.state)
    losses = lambda folder: {
        r["step"]: r["loss/fit"]
        for r in read_metrics(tmp_path / folder / "metrics.jsonl")
        if r["step"] % 10 == 0
    }
    assert losses("whole") == losses("parts") != {}


@pytest.mark.parametrize("compiled_loop", [False, True])
def test_log_period_and_chunk_length_change_no_bit(compiled_loop):
    runs = [
        fit(
            linear_regression(),
            doubled,
            config(log_every=every, chunk_seconds=seconds, compiled_loop=compiled_loop),
        )
        for every, seconds in ((30, 10.0), (7, 1e-9))
    ]
    assert_same(runs[0].state, runs[1].state)


@pytest.mark.parametrize("compiled_loop", [False, True])
def test_a_run_never_traces_again(compiled_loop, tmp_path):
    def count_traces(steps):
        traces, base = [], linear_regression()

        def update(state, batch, key):
            traces.append(1)
            return base.update(state, batch, key)

        changes = {"steps": steps, "log_every": 3, "compiled_loop": compiled_loop}
        fit(base._replace(update=update), doubled, config(tmp_path / str(steps), **changes))
        return len(traces)

    assert count_traces(3) == count_traces(31)


def test_sharded_equals_single_device():
    single = fit(linear_regression(), doubled, config(), mesh=make_mesh(1, 1, jax.devices()[:1]))
    sharded = fit(linear_regression(), doubled, config(), mesh=make_mesh(2, 2))
    np.testing.assert_allclose(single.state["weights"], sharded.state["weights"], rtol=2e-5)


def test_a_dataset_sampler_passes_its_data_as_an_argument():
    data = {"observations": np.ones((50, 8), np.float32)}

    def draw(data, key, n):
        rows = jax.random.randint(key, (8,), 0, 50)
        x = data["observations"][rows][:, None]
        return Batch(x, 2 * x, jnp.zeros((8, 1)), jnp.ones((8, 1), bool))

    result = fit(linear_regression(0.1), Sampler(data, draw), config(steps=100))
    assert result.metrics["loss/fit"] < 1.0


def test_a_given_state_is_continued_and_not_consumed():
    first = fit(linear_regression(), doubled, config())
    second = fit(linear_regression(), doubled, config(), state=first.state)
    assert int(second.state["step"]) == 60
    assert np.isfinite(np.asarray(first.state["weights"])).all()


@pytest.fixture(params=["one file", "orbax"])
def writer(request, monkeypatch):
    """What writes the checkpoints, in this process and in those that it starts."""
    monkeypatch.setenv("SMALL_RUN_BY", request.param)
    if request.param == "orbax":
        monkeypatch.setattr(one_file, "LARGEST", 0)


@pytest.mark.usefixtures("writer")
def test_sigkill_at_a_random_moment_then_restart_ends_bit_identical(tmp_path):
    whole = start(tmp_path / "whole", 1000)
    broken = tmp_path / "broken"
    process = start(broken, 1000)
    wait_for_first_checkpoint(process, broken)
    time.sleep(np.random.default_rng().uniform(0.0, 0.5))
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL  # it had not finished
    restarted = start(broken, 1000)
    assert restarted.wait() == 0, restarted.communicate()[1]
    assert whole.wait() == 0, whole.communicate()[1]
    one, two = np.load(tmp_path / "whole" / "final.npz"), np.load(broken / "final.npz")
    assert one.files == two.files
    for name in one.files:
        np.testing.assert_array_equal(one[name], two[name])


def test_sigterm_saves_and_exits_with_75(tmp_path):
    process = start(tmp_path, 10_000_000, 1000)
    while process.poll() is None and not (tmp_path / "metrics.jsonl").exists():
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 75, process.communicate()[1]
    assert list((tmp_path / "checkpoints").glob("step_*"))


@pytest.mark.usefixtures("writer")
def test_a_full_disk_during_training_is_a_counted_warning_and_loses_nothing(tmp_path):
    limited = (
        "import resource, runpy, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (8000, 8000));"
        f"sys.argv = ['x', {str(tmp_path)!r}, '45', '20']; runpy.run_path({str(SCRIPT)!r}, "
        "run_name='__main__')"
    )
    fit(linear_regression(), doubled, config(tmp_path, steps=20))
    uncached = os.environ | {"JAX_ENABLE_COMPILATION_CACHE": "false"}  # it would be cut short too
    command = [sys.executable, "-c", limited]
    process = subprocess.run(command, capture_output=True, text=True, env=uncached)
    assert "was not written" in process.stderr, process.stderr
    assert "warnings 2" in process.stdout, process.stdout + process.stderr
    assert checkpoint.latest(tmp_path / "checkpoints") == 20
    resumed = fit(linear_regression(), doubled, config(tmp_path))
    assert int(resumed.state["step"]) == 30


@pytest.mark.nan_is_an_answer
def test_divergence_names_step_metric_and_last_good_checkpoint(tmp_path):
    def update(state, batch, key):
        return state + 1, {"loss/policy": jnp.where(state >= 23, jnp.nan, 1.0)}

    algorithm = Algorithm(Window(), lambda key: jnp.float32(0), update)
    with pytest.raises(Diverged, match=r"loss/policy .* step 23; .*step_00000020"):
        fit(algorithm, doubled, config(tmp_path))
    for line in (tmp_path / "metrics.jsonl").read_text().splitlines():
        json.loads(line)


def test_a_directory_that_cannot_be_written_fails_before_training(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="try another directory"):
        fit(linear_regression(), doubled, config(tmp_path / "file" / "run"))


def test_another_seed_in_the_same_directory_is_refused(tmp_path):
    fit(linear_regression(), doubled, config(tmp_path))
    with pytest.raises(ValueError, match="run of seed 0, seed is 1"):
        fit(linear_regression(), doubled, config(tmp_path, seed=1))


def test_an_update_that_changes_a_type_is_refused_by_name():
    algorithm = Algorithm(
        Window(),
        lambda key: {"weights": jnp.zeros(3)},
        lambda s, b, k: ({"weights": s["weights"].astype(jnp.bfloat16)}, {"loss": jnp.float32(0)}),
    )
    with pytest.raises(ValueError, match="update changes weights from float32"):
        fit(algorithm, doubled, config())


def test_evaluations_are_logged_with_keys_of_their_step(tmp_path):
    seen = []

    def evaluate(state, key):
        seen.append(int(jax.random.bits(key)))
        return {"success": 0.5}

    fit(linear_regression(), doubled, config(tmp_path, evaluate_every=15), evaluate=evaluate)
    rows = [r for r in read_metrics(tmp_path / "metrics.jsonl") if "success" in r]
    assert [row["step"] for row in rows] == [15, 30] and len(set(seen)) == 2


def test_the_best_state_by_a_metric_is_kept_beside_the_last(tmp_path):
    scores = {10: 0.2, 20: 0.7, 30: 0.5}
    evaluate = lambda state, key: {"success": scores[int(state["step"])]}
    options = {"evaluate_every": 10, "best": "success"}
    fit(linear_regression(), doubled, config(tmp_path, **options), evaluate=evaluate)
    assert checkpoint.steps_in(tmp_path / "best") == [20]
    kept = checkpoint.restore(tmp_path / "best")
    assert kept.metadata["value"] == 0.7 and int(kept.state["state/step"]) == 20
    scores |= {40: 0.6, 50: 0.9}  # a run that goes on knows what it has
    fit(linear_regression(), doubled, config(tmp_path, steps=50, **options), evaluate=evaluate)
    assert checkpoint.steps_in(tmp_path / "best") == [50]


def test_a_best_metric_that_nobody_measures_is_refused(tmp_path):
    with pytest.raises(ValueError, match="best='success' needs a directory"):
        config(best="success")
    with pytest.raises(ValueError, match="metric of `evaluate`, which is None"):
        fit(linear_regression(), doubled, config(tmp_path, best="success"))
    options = {"best": "sucess", "evaluate_every": 10}
    with pytest.raises(ValueError, match="gives .'success'., no best='sucess'"):
        evaluate = lambda state, key: {"success": 1.0}
        fit(linear_regression(), doubled, config(tmp_path, **options), evaluate=evaluate)


def test_rates_memory_and_the_time_of_compiling_are_logged(tmp_path):
    fit(linear_regression(), doubled, config(tmp_path))
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert "compile_seconds" in rows[0] and "compile_seconds" not in rows[1]
    for row in rows:
        assert row["examples_per_second"] == pytest.approx(16 * row["steps_per_second"])
        assert row["tflops_per_second"] > 0 and row["memory_gb"] > 0.01


def test_a_trace_of_the_profiler_is_written(tmp_path):
    fit(linear_regression(), doubled, config(tmp_path, profile=True))
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))


def batch_of(n):
    random = np.random.default_rng(n)
    x = random.normal(size=(16, 1, 8)).astype(np.float32)
    return Batch(x, 2 * x, np.zeros((16, 1), np.float32), np.ones((16, 1), bool))


@pytest.mark.parametrize("mesh", [(1, 1), (2, 2)])
def test_batches_from_the_host_go_on_where_a_run_stopped(mesh, tmp_path):
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), batch_of(0))
    feed = Feed(shapes, lambda first: map(batch_of, itertools.count(first)))
    mesh = make_mesh(*mesh, jax.devices()[: mesh[0] * mesh[1]])
    whole = fit(linear_regression(), feed, config(tmp_path / "whole"), mesh=mesh)
    fit(linear_regression(), feed, config(tmp_path / "parts", steps=17), mesh=mesh)
    parts = fit(linear_regression(), feed, config(tmp_path / "parts"), mesh=mesh)
    assert_same(whole.state, parts.state)
    assert whole.metrics["loss/fit"] > 0


def test_wandb_without_the_package_is_refused_before_training(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ImportError, match="pip install wandb"):
        fit(linear_regression(), doubled, config(tmp_path, wandb="daag"))


def test_a_run_and_its_continuation_are_one_run_of_wandb(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB__SERVICE_WAIT", "120")  # [s]; the machine may be busy
    for steps in (10, 20):
        fit(linear_regression(), doubled, config(tmp_path, steps=steps, wandb="daag"))
    files = sorted(tmp_path.glob("wandb/offline-run-*/run-*.wandb"))
    assert len({path.name for path in files}) == 1
    assert all(b"loss/fit" in path.read_bytes() for path in files)
