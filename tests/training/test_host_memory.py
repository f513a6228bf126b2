"""Freed memory stays with the process."""

import subprocess
import sys

import pytest

SCRIPT = """
import resource
from daag_jax.training.host_memory import keep_freed_memory

if {keeps}:
    assert keep_freed_memory()
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(3):
    before = faults()
    b"x" * 2**26  # 64 MB, freed at once
print(faults() - before)
"""


def faults_of_a_large_block(keeps: bool) -> int:
    script = SCRIPT.format(keeps=keeps)
    said = subprocess.run(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, check=True
    )
    return int(said.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc alone is told")
def test_a_large_block_that_comes_again_costs_no_page_faults():
    assert faults_of_a_large_block(keeps=False) > 10_000 > 100 > faults_of_a_large_block(keeps=True)


def test_another_platform_is_left_alone(monkeypatch):
    from daag_jax.training.host_memory import keep_freed_memory

    monkeypatch.setattr(sys, "platform", "darwin")
    assert keep_freed_memory() is False
