"""The video editor with tiny random networks: what it may never touch, and that each of its parts does something."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from editing_clips import jit

from daag_jax.editing.editor import make_editor
from daag_jax.editing.editor_config import (
    ABLATIONS,
    Clip,
    EditorConfig,
    EditorParams,
    EditorSpec,
    Prompts,
)
from daag_jax.editing.noise import carry, frame_noise
from daag_jax.networks.stable_diffusion import weights
from daag_jax.networks.stable_diffusion.config import (
    CROSS_DOWN,
    CROSS_UP,
    ControlNetConfig,
    UNetConfig,
    VaeConfig,
)

TRUNK = {
    "block_out_channels": (8,),
    "down_block_types": (CROSS_DOWN,),
    "layers_per_block": 1,
    "attention_head_dim": 2,
    "cross_attention_dim": 6,
    "norm_num_groups": 4,
}


def control_of(channels: int) -> ControlNetConfig:
    """A small ControlNet that looks at so many channels."""
    return ControlNetConfig(
        conditioning_channels=channels, conditioning_embedding_out_channels=(4, 8), **TRUNK
    )


SPEC = EditorSpec(
    VaeConfig(
        block_out_channels=(4, 8),
        layers_per_block=1,
        norm_num_groups=4,
        mid_block_add_attention=False,
    ),
    UNetConfig(up_block_types=(CROSS_UP,), **TRUNK),
    (("stack", control_of(5)),),
)
SEVERAL = dataclasses.replace(
    SPEC, controlnets=tuple((kind, control_of(3)) for kind in ("depth", "normals", "edges"))
)
FRAMES, SIDE, ROBOT = 3, 16, 4


@functools.cache
def params(spec: EditorSpec = SPEC) -> EditorParams:
    """Random parameters with no layer left at zero."""
    random = np.random.default_rng(0)

    def fill(path, leaf):
        spread = 1.0 / np.sqrt(max(np.prod(leaf.shape[:-1]), 4))
        values = jnp.asarray(random.normal(size=leaf.shape) * spread, "f4")
        return values + 1.0 if path[-1].key == "scale" else values

    shapes = EditorParams(
        weights.vae_shapes(spec.vae),
        weights.unet_shapes(spec.unet),
        tuple(weights.controlnet_shapes(size) for _, size in spec.controlnets),
    )
    return EditorParams(*(jax.tree_util.tree_map_with_path(fill, tree) for tree in shapes))


@functools.cache
def clip() -> Clip:
    """An object that moves to the right below a robot, another one that rests."""
    random = np.random.default_rng(1)
    segmentation = np.zeros((1, FRAMES, SIDE, SIDE), np.int32)
    for t in range(FRAMES):
        segmentation[0, t, 6:10, 2 + 2 * t : 6 + 2 * t] = 1
    segmentation[0, :, 11:14, 11:15] = 2
    segmentation[0, :, :7, 6:8] = ROBOT
    return Clip(
        jnp.asarray(random.integers(0, 256, (1, FRAMES, SIDE, SIDE, 3)), jnp.uint8),
        jnp.asarray(random.uniform(0.4, 1.0, (1, FRAMES, SIDE, SIDE)), jnp.float32),
        jnp.zeros((1, FRAMES, SIDE, SIDE, 3)).at[..., 2].set(1.0),
        jnp.asarray(segmentation),
    )


def prompts() -> Prompts:
    """Other states of the text encoder for each region."""
    draw = np.random.default_rng(2).normal(size=(5, 4, 6)).astype("f4")
    return Prompts(jnp.asarray(draw[None, :4]), jnp.asarray(draw[4]))


@functools.cache
def editor(**changes):
    """A jitted editor with two steps."""
    return jit(make_editor(EditorConfig(**{"steps": 2, **changes}), SPEC))


def edited(objects=(True, False, False), said=None, seed=0, **changes) -> np.ndarray:
    """An edit of the clip."""
    said = prompts() if said is None else said
    key = jax.random.key(seed)
    return np.asarray(editor(**changes)(params(), clip(), said, jnp.array([objects]), key))


def test_an_edit_with_an_empty_mask_changes_nothing():
    np.testing.assert_array_equal(edited((False,) * 3), clip().rgb)


def test_only_the_pixels_of_edited_objects_change_and_the_robot_never_does():
    change = (edited() != np.asarray(clip().rgb)).any(axis=-1)
    mask = np.asarray(clip().segmentation == 1)
    assert change[mask].mean() > 0.9
    assert not change[~mask].any()


def test_crops_paint_their_objects_alone_and_each_its_own():
    both = edited((True, True, False), crop=0.5)
    segmentation, source = np.asarray(clip().segmentation), np.asarray(clip().rgb)
    change = (both != source).any(axis=-1)
    for number in (1, 2):
        assert change[segmentation == number].mean() > 0.9
    assert not change[(segmentation != 1) & (segmentation != 2)].any()
    one = edited((True, False, False), crop=0.5)
    np.testing.assert_array_equal(one[segmentation == 1], both[segmentation == 1])
    assert (one[segmentation == 1] != edited()[segmentation == 1]).any()  # seen from nearer


def test_half_precision_paints_nearly_the_same():
    """bfloat16 has 8 bits; the random network's picture spans all of the range."""
    exact, half = edited(dtype="float32").astype(float), edited(dtype="bfloat16").astype(float)
    mask = np.asarray(clip().segmentation == 1)
    error = np.abs(half - exact)[mask]
    assert 0 < error.mean() < 0.1 * exact[mask].std()


def test_holding_colours_touches_the_edited_objects_alone():
    plain, held = edited(), edited(hold=0.5)
    mask = np.asarray(clip().segmentation == 1)
    assert (plain != held)[mask].any()
    np.testing.assert_array_equal(plain[~mask], held[~mask])


def test_all_swaps_share_one_compilation():
    first, second = edited((True, False, False)), edited((False, True, False))
    assert (first != second).any()
    assert editor()._cache_size() == 1


def test_the_same_key_gives_the_same_edit_and_another_key_another():
    assert (edited(seed=1) == edited(seed=1)).all()
    assert (edited(seed=1) != edited(seed=2)).any()


def test_the_prompt_of_an_object_reaches_it():
    said = prompts()
    other = said._replace(contexts=said.contexts.at[:, 1].multiply(-2.0))
    assert (edited(said=other) != edited()).any()


@pytest.mark.parametrize(
    "part",
    [
        {"attention": "off"},
        {"control": 0.0},
        pytest.param({"noise": "independent"}, marks=pytest.mark.slow),
        pytest.param({"guidance": 3.0}, marks=pytest.mark.slow),
        pytest.param({"strength": 0.5}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_every_part_makes_a_measurable_difference(part):
    mask = np.asarray(clip().segmentation == 1)
    gap = np.abs(edited().astype(int) - edited(**part).astype(int))[mask]
    assert gap.mean() > 0.1


def test_several_controlnets_steer_together_each_with_its_weight():
    def run(control):
        edit = make_editor(EditorConfig(steps=1, attention="off", control=control), SEVERAL)
        arguments = (clip(), prompts(), jnp.ones((1, 3), bool), jax.random.key(0))
        return np.asarray(jit(edit)(params(SEVERAL), *arguments)).astype(int)

    all_three = run((1.0, 1.0, 1.0))
    assert (all_three != run((1.0, 0.0, 1.0))).any()
    with pytest.raises(ValueError, match="2 weights for 3 ControlNets"):
        run((1.0, 1.0))


@pytest.mark.parametrize("noise", ["shared", pytest.param("independent", marks=pytest.mark.slow)])
def test_chunks_behind_frame_zero_give_the_same_edit_as_all_frames_at_once(noise):
    whole, chunked = (edited(noise=noise, **size).astype(int) for size in ({}, {"chunk": 2}))
    assert np.abs(whole - chunked).max() <= 1  # rounding to 8 bits


def longer_clip(frames: int) -> Clip:
    """Frames that differ from each other."""
    index = np.arange(frames) % FRAMES
    shift = lambda x: x[:, index].at[:, FRAMES:].set(jnp.roll(x[:, index][:, FRAMES:], 3, axis=3))
    return jax.tree.map(shift, clip())


@pytest.mark.parametrize("crop", [None, 0.5])
def test_the_last_chunk_reaches_back_and_every_frame_is_its_own(crop):
    """Six frames by four at a time: groups of 1-3 and 3-5 behind frame 0."""
    edit = lambda **size: np.asarray(
        editor(attention="first", crop=crop, **size)(
            params(), longer_clip(6), prompts(), jnp.array([[True, True, False]]), jax.random.key(0)
        )
    ).astype(int)
    assert np.abs(edit(chunk=16) - edit(chunk=4)).max() <= 1  # rounding to 8 bits


def test_crops_of_frames_that_are_not_square_are_refused():
    wide = jax.tree.map(lambda x: jnp.concatenate([x, x], axis=3), clip())
    with pytest.raises(ValueError, match=r"frames of \d+ x \d+ px and crop=0.5 needs square"):
        make_editor(EditorConfig(crop=0.5), SPEC)(
            params(), wide, prompts(), jnp.ones((1, 3), bool), jax.random.key(0)
        )


def test_no_key_is_used_twice_by_chunks():
    jit(make_editor(EditorConfig(steps=1, chunk=2), SPEC))(
        params(), clip(), prompts(), jnp.ones((1, 3), bool), jax.random.key(0)
    )


@pytest.mark.slow
def test_unmasked_editing_paints_everything():
    assert (edited(is_masked=False) != np.asarray(clip().rgb)).mean() > 0.9


@pytest.mark.parametrize("changes", ABLATIONS.values(), ids=ABLATIONS)
def test_every_named_ablation_is_a_valid_configuration(changes):
    assert dataclasses.replace(EditorConfig(), **changes)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("attention", "last"),
        ("noise", "pink"),
        ("steps", 0),
        ("strength", 0.0),
        ("control_span", (0.5, 0.5)),
        ("crop", -1.0),
    ],
)
def test_a_wrong_configuration_is_refused_by_name(field, value):
    with pytest.raises(ValueError, match=field):
        EditorConfig(**{field: value})


@pytest.mark.parametrize("kind", ["shared", "independent", "object"])
def test_noise_of_every_kind_is_standard_normal(kind, key):
    segmentation = jnp.zeros((64, 3, 8, 8), jnp.int32).at[:, :, 2:6, 2:6].set(1)
    noise = frame_noise(kind, segmentation, (4, 4, 4), key, 3)
    assert noise.shape == (192, 4, 4, 4)
    assert abs(float(noise.mean())) < 0.05 and abs(float(noise.std()) - 1) < 0.05


def test_shared_noise_is_one_map_and_independent_noise_is_not(key):
    segmentation = jnp.zeros((1, 3, 8, 8), jnp.int32)
    shared = frame_noise("shared", segmentation, (4, 4, 4), key, 3)
    assert bool(jnp.all(shared == shared[:1]))
    other = frame_noise("independent", segmentation, (4, 4, 4), jax.random.key(5), 3)
    assert not bool(jnp.any(other[0] == other[1]))


def test_object_noise_travels_with_the_object(key):
    noise = jax.random.normal(key, (8, 8, 4))
    segmentation = jnp.zeros((2, 16, 16), jnp.int32)
    segmentation = segmentation.at[0, 4:8, 2:6].set(1).at[1, 4:8, 8:12].set(1)
    first, second = carry(noise, segmentation, 2, 3)
    np.testing.assert_array_equal(first, noise)
    np.testing.assert_array_equal(second[2:4, 4:6], noise[2:4, 1:3])
    np.testing.assert_array_equal(second[5:], noise[5:])
