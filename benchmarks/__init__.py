"""Speed beside peers: what is set here serves both sides, in one process or in two."""

from daag_jax.training.host_memory import keep_freed_memory

keep_freed_memory()
