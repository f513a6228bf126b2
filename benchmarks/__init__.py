"""Speed beside peers, in one process: what is set here serves both sides."""

from daag_jax.training.host_memory import keep_freed_memory

keep_freed_memory()
