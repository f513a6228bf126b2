"""Several processes as one run, started by ``daag launch``: the same losses, whole checkpoints, one end for all."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from daag_jax.commands.launch import Launch, split
from daag_jax.data.disk import write_episodes
from daag_jax.training import checkpoint
from daag_jax.training.processes import ADDRESS, COUNT, INDEX, check_joined, is_cluster, join
from daag_jax.training.report import read_metrics
from daag_jax.types import Episode

SCRIPT = Path(__file__).parent / "small_run.py"


def launched(directory, steps, processes, devices, every=10, *more):
    command = [sys.executable, "-m", "daag_jax", "launch", "--processes", str(processes)]
    command += ["--devices", str(devices), sys.executable, str(SCRIPT)]
    command += [str(directory), str(steps), str(every), *map(str, more)]
    environ = os.environ | {"XLA_FLAGS": ""}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environ
    )


def finished(process):
    said = process.communicate()[0]
    assert process.returncode == 0, said
    return said


def losses(directory):
    return [row["loss/fit"] for row in read_metrics(directory / "metrics.jsonl")]


def final(directory):
    with np.load(directory / "final.npz") as file:
        return {name: file[name] for name in file.files}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("processes")
    one, two = launched(root / "one", 40, 1, 4), launched(root / "two", 40, 2, 2)
    said = finished(one), finished(two)
    return root, said


def test_two_processes_learn_what_one_learns(runs):
    root, _ = runs
    np.testing.assert_allclose(losses(root / "one"), losses(root / "two"), rtol=1e-6)
    one, two = final(root / "one"), final(root / "two")
    for name in one:
        np.testing.assert_allclose(one[name], two[name], rtol=1e-5, atol=1e-7)


def test_one_process_writes_and_every_line_says_whose_it_is(runs):
    root, (_, said) = runs
    assert len(losses(root / "two")) == 4  # and not eight
    assert checkpoint.steps_in(root / "two" / "checkpoints") == [20, 30, 40]
    lines = [line for line in said.splitlines() if "warnings" in line]
    assert sorted(lines) == ["[0] warnings 0", "[1] warnings 0"]


def test_a_run_of_two_processes_ends_on_sigterm_and_goes_on_in_one(runs, tmp_path):
    root, _ = runs
    process = launched(tmp_path, 100_000_000, 2, 2, 1000)
    logged = tmp_path / "metrics.jsonl"
    while process.poll() is None and (not logged.exists() or logged.read_text().count("\n") < 2):
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    said = process.communicate()[0]
    assert process.returncode == 75, said
    step = checkpoint.latest(tmp_path / "checkpoints")
    finished(launched(tmp_path, step + 10, 1, 4))
    assert checkpoint.latest(tmp_path / "checkpoints") == step + 10
    steps = [row["step"] for row in read_metrics(tmp_path / "metrics.jsonl")]
    assert (steps[0], steps[-1]) == (10, step + 10)  # what the first run logged is kept
    assert len(losses(tmp_path)) > 2


def test_a_run_goes_on_with_another_number_of_processes(runs, tmp_path):
    root, _ = runs
    finished(launched(tmp_path, 20, 2, 2))
    finished(launched(tmp_path, 40, 1, 4))
    began = [
        row["step"] for row in read_metrics(tmp_path / "metrics.jsonl") if "compile_seconds" in row
    ]
    assert began == [10, 30]  # the second run began at 20
    whole, parts = final(root / "one"), final(tmp_path)
    for name in whole:
        np.testing.assert_allclose(whole[name], parts[name], rtol=1e-5, atol=1e-7)


def test_two_processes_read_their_rows_are_watched_and_pass_over_a_damaged_checkpoint(tmp_path):
    data, random = tmp_path / "data", np.random.default_rng(0)
    data.mkdir()
    observations = random.normal(size=(20, 11, 8)).astype(np.float32)
    episodes = Episode(
        observations,
        np.zeros((20, 11, 0, 0, 0, 3), np.uint8),
        2 * observations[:, :10],
        np.zeros((20, 10), np.float32),
        np.full(20, 10, np.int32),
    )
    write_episodes(data / "block.safetensors", episodes)
    one, two = tmp_path / "one", tmp_path / "two"
    finished(launched(one, 40, 1, 4, 10, "watched", data))
    finished(launched(two, 30, 2, 2, 10, "watched", data))
    assert checkpoint.latest(two / "best") == 20
    assert len(list((two / "profile").rglob("*.xplane.pb"))) == 1
    for file in (two / "checkpoints" / "step_00000030" / "state").rglob("d/*"):
        file.write_bytes(b"damaged" + file.read_bytes()[7:])
    said = finished(launched(two, 40, 2, 2, 10, "watched", data))
    assert "falling back to the one before" in said
    whole, parts = final(one), final(two)
    for name in whole:
        np.testing.assert_allclose(whole[name], parts[name], rtol=1e-5, atol=1e-7)


def test_a_process_that_fails_ends_the_others(tmp_path):
    script = tmp_path / "fails.py"
    script.write_text(
        f"import os, sys, time\nif os.environ[{INDEX!r}] == '1': sys.exit(3)\ntime.sleep(600)\n"
    )
    command = [sys.executable, "-m", "daag_jax", "launch", sys.executable, str(script)]
    found = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert found.returncode == 3 and "the others are asked to end" in found.stdout


def test_a_process_that_does_not_end_when_asked_is_killed(tmp_path):
    script = tmp_path / "deaf.py"
    script.write_text(
        "import os, signal, sys, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        f"if os.environ[{INDEX!r}] == '1': time.sleep(2); sys.exit(3)\n"
        "time.sleep(600)\n"
    )
    command = [sys.executable, "-m", "daag_jax", "launch", "--patience", "0.5"]
    found = subprocess.run(
        [*command, sys.executable, str(script)], capture_output=True, text=True, timeout=60
    )
    assert found.returncode == 3 and "1 did not end within 0.5 s" in found.stdout


def test_words_of_the_launcher_and_of_the_command_are_told_apart():
    command = ["daag", "train", "dbc", "--fit.steps", "3"]
    assert split(["--processes", "2", *command]) == (["--processes", "2"], command)
    assert split(["--processes=2", "--", *command]) == (["--processes=2"], command)
    assert split(command) == ([], command)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"processes": 0}, "processes=0 is below 1"),
        ({"first": 2}, "pass total=0; try total=4"),
        ({"total": 4}, "needs the coordinator of all hosts"),
    ],
)
def test_a_launch_that_cannot_work_is_refused(changes, said):
    with pytest.raises(ValueError, match=said):
        Launch(**changes)


def test_half_an_address_is_refused():
    with pytest.raises(ValueError, match=f"{COUNT} are set, but not {ADDRESS}, {INDEX}"):
        join({COUNT: "2"})
    with pytest.raises(ValueError, match=f"{INDEX}=2 is not below {COUNT}=2; count from 0"):
        join({ADDRESS: "localhost:1", COUNT: "2", INDEX: "2"})
    with pytest.raises(ValueError, match=f"{COUNT}='two' is not a number"):
        join({ADDRESS: "localhost:1", COUNT: "two", INDEX: "0"})


def test_slurm_is_recognised_and_one_task_is_no_cluster():
    step = {"SLURM_STEP_NODELIST": "node[1-2]", "JAX_PLATFORMS": "cpu"}
    assert is_cluster(step | {"SLURM_NTASKS": "2"})
    assert not is_cluster(step | {"SLURM_NTASKS": "1"}) and not is_cluster({"JAX_PLATFORMS": "cpu"})


def test_one_of_several_processes_that_did_not_join_is_refused():
    with pytest.raises(RuntimeError, match=f"{COUNT}=2, but this program did not join the others"):
        check_joined({COUNT: "2"})
    check_joined({})
