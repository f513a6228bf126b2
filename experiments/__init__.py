"""Experiments: one file per claim of a paper."""

from daag_jax.training.compilations import keep_compilations
from daag_jax.training.host_memory import keep_freed_memory

keep_compilations()
keep_freed_memory()
