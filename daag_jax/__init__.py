"""daag_jax: diffusion models that make agents learn from fewer experiences.

Start at ``daag_jax.types`` (the vocabulary), then ``daag_jax.algorithms`` (one paper, one file).
"""

__version__ = "0.1.0"
