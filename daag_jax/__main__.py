"""``python -m daag_jax`` is ``daag``."""

from daag_jax.cli import main

if __name__ == "__main__":
    main()
