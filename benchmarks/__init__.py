"""Speed beside peers: what is set here serves both sides, in one process or in two."""

from daag_jax.training.compilations import keep_compilations
from daag_jax.training.host_memory import keep_freed_memory

keep_compilations()
keep_freed_memory()
