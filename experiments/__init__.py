"""Experiments: one file per claim of a paper."""

from daag_jax.training.compilations import keep_compilations

keep_compilations()
