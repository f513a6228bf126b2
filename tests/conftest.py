"""Guards that hold in every test: four virtual devices, strict ranks, no key used twice, no NaN out of compiled code,
a shared compilation cache."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=4"
)
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR",
    os.path.join(os.path.dirname(os.path.dirname(__file__)), ".cache", "jax"),
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_debug_key_reuse", True)


@pytest.fixture
def key():
    """A typed key that is the same in every run."""
    return jax.random.key(0)


@pytest.fixture(autouse=True)
def nans_raise(request):
    """Makes a NaN out of compiled code an error, but where a test is marked: there it says that nothing was seen."""
    with jax.debug_nans("nan_is_an_answer" not in request.keywords):
        yield
