"""What the shipped weights, the renderer and the editor gave when they were shipped, and give still.

python tests/test_golden.py    # writes golden/shipped.json anew, after weights or pictures changed on purpose
"""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from daag_jax.agent.augmenter import Job, make_augmenter
from daag_jax.agent.reward import DetectorConfig, make_detector, make_scorer
from daag_jax.assets import asset
from daag_jax.editing.compact import load_compact_editor
from daag_jax.editing.editor_config import EditorConfig
from daag_jax.envs.palette import PALETTE_NAMES, color_indices
from daag_jax.envs.tasks.rgb_stacking import RgbStacking, RgbStackingConfig
from daag_jax.envs.tasks.rgb_stacking_scenes import random_scene
from daag_jax.networks.clip import weights
from daag_jax.networks.clip.config import COMPACT_CLIP

FILE = Path(__file__).parent / "golden" / "shipped.json"
COLORS = ("yellow", "green", "blue")
WANTED = ("purple", "green", "blue")
TOLERANCE = {"rendered": 0.5, "edited": 2.0, "scores": 0.02}  # grey levels; logits' sigmoid


def small(images: jax.Array) -> np.ndarray:
    """Means of 8 x 8 px."""
    blocks = images.astype(jnp.float32).reshape(*images.shape[:-3], 8, 8, 8, 8, 3)
    return np.asarray(blocks.mean(axis=(-4, -2)))


def outcomes() -> dict[str, np.ndarray]:
    """One scene rendered, its yellow cube edited to purple, and what the shipped CLIP says of both."""
    env = RgbStacking(RgbStackingConfig(cameras=("front_left",)))
    qpos, _ = jax.jit(random_scene)(jax.random.key(3))
    seen, wanted = (jnp.asarray(color_indices(names))[None] for names in (COLORS, WANTED))
    images = jax.jit(env.render_qpos)(qpos, seen[0]).rgb[None, None]
    augment = make_augmenter("diffusion", env, load_compact_editor(), EditorConfig(steps=4))
    edited = augment(Job(images, qpos[None, None], seen, wanted), jax.random.key(0))
    captions = tuple(f"a {color} block" for color in PALETTE_NAMES)
    clip = weights.load(asset("clip.safetensors"), COMPACT_CLIP)
    detector = make_detector(clip, captions, DetectorConfig())
    scores = jax.jit(make_scorer(DetectorConfig()))
    both = jnp.concatenate([images[0], edited[0]])
    return {
        "rendered": small(images[0, 0, 0]),
        "edited": small(edited[0, 0, 0]),
        "scores": np.asarray(scores(detector, both)),
    }


@pytest.fixture(scope="module")
def found():
    return outcomes()


@pytest.mark.parametrize("name", TOLERANCE)
def test_outcomes_are_those_of_the_shipped_weights(found, name):
    expected = np.array(json.loads(FILE.read_text())[name])
    np.testing.assert_allclose(found[name], expected, atol=TOLERANCE[name], rtol=0)


def test_clip_sees_what_the_edit_changed(found):
    before, after = found["scores"]
    yellow, purple = color_indices(("yellow", "purple"))
    assert before[yellow] > 0.5 > after[yellow] and after[purple] > 0.5 > before[purple]


if __name__ == "__main__":
    rounded = {name: np.round(value, 3).tolist() for name, value in outcomes().items()}
    FILE.write_text(json.dumps(rounded))
    print(FILE)
