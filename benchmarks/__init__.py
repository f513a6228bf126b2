"""Speed beside peers: what is set here serves both sides, in one process or in two."""

import os

from daag_jax.training.compilations import keep_compilations
from daag_jax.training.host_memory import keep_freed_memory

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # a peer may share the device
keep_compilations()
keep_freed_memory()
