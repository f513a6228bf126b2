"""Metrics of edits: exact for the oracle and for the source, each monotone in its own fault and blind to others'."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from editing_clips import clip, dose_response, jit, measured, spoil

from daag_jax.editing import geometry, preservation, temporal
from daag_jax.editing.averages import known_mean, masked_mean, summarise
from daag_jax.editing.consistency import EXCESS
from daag_jax.editing.corruptions import LEVELS, corrupt_edit
from daag_jax.editing.truth import unit_range
from daag_jax.editing.violations import CODES

pytestmark = pytest.mark.nan_is_an_answer


def test_the_oracle_has_no_excess_and_breaks_nothing():
    rows = measured("oracle")
    for name in EXCESS:
        value = rows[f"excess/{name}"]
        assert np.isnan(value) or abs(value) < 1e-5, name
    assert rows["violations/GVR"] == rows["violations/EVR"] == 0
    assert rows["preservation/under_edit"] == rows["preservation/leak_rate"] == 0
    assert rows["geometry/iou"] > 0.95 and rows["preservation/delta_e"] < 1e-3
    assert rows["ratio/temporal/warp_edited"] == pytest.approx(1.0)


def test_the_source_is_not_edited_at_all_and_leaks_nowhere():
    rows = measured("source")
    assert rows["preservation/under_edit"] == 1
    assert rows["preservation/leak_rate"] == rows["preservation/background_l1"] == 0
    assert rows["preservation/robot_changed"] == 0
    assert rows["geometry/iou"] == 0 and np.isnan(rows["geometry/centroid_error"])
    for code in ("V1_vanish", "V3_silhouette", "V5_identity", "V6_census", "EVR"):
        assert rows[f"violations/{code}"] == 1, code


def test_what_cannot_be_measured_is_nan():
    assert np.isnan(measured("oracle")["violations/V9_depth"])  # no probe of depth was given


OWN = [  # fault, metric, and whether it falls rather than rises
    ("mask shift", "geometry/iou", True),
    ("mask shift", "preservation/under_edit", False),
    ("hue jitter", "preservation/delta_e", False),
    ("hue jitter", "excess/temporal/object_variance", False),
    ("hue jitter", "excess/temporal/warp_chromatic", False),
    ("redrawn noise", "temporal/residual_transfer", False),
    ("redrawn noise", "excess/temporal/warp_edited", False),
    ("redrawn noise", "preservation/psnr_edited", True),
    ("redrawn noise", "preservation/ssim_edited", True),
    ("redrawn noise", "ratio/temporal/sharpness", False),
    ("bleed", "preservation/leak_rate", False),
    ("bleed", "geometry/area_ratio", False),
    ("bleed", "geometry/iou", True),
    ("ghost", "preservation/background_l1", False),
    ("ghost", "violations/V2_ghost", False),
    ("painted robot", "preservation/robot_changed", False),
    ("painted robot", "preservation/robot_l1", False),
    ("forgotten frames", "violations/V5_identity", False),
    ("forgotten frames", "violations/GVR", False),
    ("frozen frames", "preservation/robot_changed", False),
]


@pytest.mark.parametrize(("fault", "metric", "falls"), OWN)
def test_a_metric_is_monotone_in_its_own_fault(fault, metric, falls):
    values = dose_response(fault, metric) * (-1 if falls else 1)
    assert not np.isnan(values).any()
    assert np.all(np.diff(values) >= -1e-6), values
    assert values[-1] > values[0] + 1e-4, values


BLIND = [  # fault, metrics that must not move
    ("ghost", ("geometry/iou", "preservation/delta_e", "temporal/warp_edited")),
    ("bleed", ("preservation/robot_changed", "preservation/under_edit", "temporal/warp_edited")),
    ("painted robot", ("geometry/iou", "preservation/delta_e", "temporal/warp_edited")),
    ("redrawn noise", ("preservation/leak_rate", "preservation/robot_changed")),
    ("hue jitter", ("preservation/leak_rate", "preservation/robot_changed")),
]


@pytest.mark.parametrize(("fault", "metrics"), BLIND)
def test_a_metric_is_blind_to_faults_elsewhere(fault, metrics):
    for metric in metrics:
        values = dose_response(fault, metric)
        np.testing.assert_allclose(values, values[0], atol=2e-3, err_msg=metric)


CAUGHT = [
    ("mask shift", "V1_vanish"),
    ("mask shift", "V3_silhouette"),
    ("ghost", "V2_ghost"),
    ("ghost", "V6_census"),
    ("hue jitter", "V5_identity"),
    ("painted robot", "V10_actor"),
]


@pytest.mark.parametrize(("fault", "code"), CAUGHT)
def test_the_strongest_fault_breaks_its_rule_and_the_oracle_does_not(fault, code):
    assert measured(fault, LEVELS - 1)[f"violations/{code}"] > 0
    assert measured(fault, 0)[f"violations/{code}"] == 0


def test_level_zero_of_every_fault_is_the_oracle():
    for fault in ("mask shift", "hue jitter", "redrawn noise", "bleed", "ghost"):
        video = spoil(fault, clip(), jnp.int32(0), jax.random.key(3))
        np.testing.assert_array_equal(video, clip().oracle, err_msg=fault)


def test_unknown_faults_and_levels_are_refused(key):
    with pytest.raises(ValueError, match="corruption 'haze' is unknown"):
        corrupt_edit("haze", clip(), 1, key)
    with pytest.raises(ValueError, match="level=6 does not exist"):
        corrupt_edit("ghost", clip(), 6, key)


def test_a_drift_of_color_has_a_slope_and_a_constant_color_has_none():
    slope = jit(temporal.drift_slope)
    mask = jnp.ones((1, 4, 3, 3), bool)
    still = jnp.full((4, 3, 3, 3), 0.4)
    assert float(slope(still, mask)) == pytest.approx(0, abs=1e-5)
    ramp = still + 0.05 * jnp.arange(4.0)[:, None, None, None]
    assert float(slope(ramp, mask)) > 2


def test_the_flip_rate_counts_frames_of_another_name_where_the_object_is_seen():
    names = jnp.array([[2, -1], [2, -1], [5, -1], [2, -1]])
    is_seen = jnp.array([[True, False]] * 4)
    assert float(temporal.flip_rate(names, is_seen, 8)) == pytest.approx(0.25)


def test_static_flicker_looks_at_still_pixels_only():
    truth = clip()
    source = unit_range(truth.source)
    flicker = jit(temporal.static_flicker)
    wave = 0.1 * jnp.sin(jnp.arange(source.shape[0]))[:, None, None, None]
    moving = (truth.segmentation == 1).any(axis=0)[None, ..., None]
    arguments = (source, truth.flow, truth.segmentation)
    assert float(flicker(source, *arguments)) == pytest.approx(0, abs=1e-5)
    assert float(flicker(source + jnp.where(moving, wave, 0.0), *arguments)) < 1e-4
    assert float(flicker(source + wave, *arguments)) > 0.02


def test_gain_and_offset_of_light_are_forgiven_by_the_relit_error_only():
    truth = clip()
    rgb = unit_range(truth.oracle)
    masks = (truth.segmentation[:-1] == 1)[None] & truth.visible[None]
    dim = rgb * jnp.linspace(1.0, 0.6, rgb.shape[0])[:, None, None, None]
    relit = jit(temporal.relit_warp_error)
    plain = jit(temporal.warp_error)
    assert float(plain(dim, truth.flow, masks[0])) > 2 * float(plain(rgb, truth.flow, masks[0]))
    assert float(relit(dim, truth.flow, masks)) < 1.1 * float(relit(rgb, truth.flow, masks))


def test_residual_flow_sees_a_slip_of_the_texture():
    ramp = jnp.sin(jnp.arange(24.0) * 0.7)[:, None] + jnp.cos(jnp.arange(24.0) * 0.5)[None, :]
    base = 0.5 + 0.1 * ramp[None, ..., None] * jnp.ones((2, 1, 1, 3))
    slipped = base.at[1].set(jnp.roll(base[1], 1, axis=1))
    mask = jnp.zeros((1, 24, 24), bool).at[:, 6:18, 6:18].set(True)
    still, slip = jnp.zeros((1, 24, 24, 2)), jit(temporal.residual_flow)
    assert float(slip(base, still, mask)) < 1e-3
    assert 0.6 < float(slip(slipped, still, mask)) < 1.4


def test_shading_of_a_lambertian_object_fits_and_noise_does_not():
    normals = jax.random.normal(jax.random.key(8), (2, 12, 12, 3))
    normals = normals / jnp.linalg.norm(normals, axis=-1, keepdims=True)
    light = jnp.array([0.6, 0.0, 0.8])
    basis = geometry.lambert_basis(normals, light)
    linear = 0.5 * basis[..., :1] + 0.2
    video = jnp.broadcast_to(linear ** (1 / 2.2), (2, 12, 12, 3))
    mask = jnp.ones((2, 12, 12), bool).at[1].set(False)
    quality, beta = jit(geometry.shading_fit, static_argnames="ridge")(
        video, basis, mask, ridge=1e-7
    )
    assert float(quality[0]) > 0.999 and np.isnan(quality[1])
    np.testing.assert_allclose(beta[0], [0.5, 0.2], atol=1e-2)
    noise = jax.random.uniform(jax.random.key(9), video.shape)
    assert float(geometry.shading_fit(noise, basis, mask)[0][0]) < 0.2


def test_the_direction_of_light_is_recovered_by_harmonics():
    beta = jnp.array([[0.1, 0.0, 0.0, 1.0], [0.2, 1.0, 0.0, 0.0], [0.2, 0.0, 0.0, 0.0]])
    other = jnp.array([[0.3, 0.0, 0.0, 2.0], [0.2, 0.0, 1.0, 0.0], [0.2, 0.0, 1.0, 0.0]])
    angle = geometry.light_angle(beta, other)
    np.testing.assert_allclose(angle[:2], [0, 90], atol=0.1)
    assert np.isnan(angle[2])


def test_depth_and_normals_of_a_perfect_probe_have_no_error():
    truth, depth_errors = clip(), jit(geometry.depth_errors)
    mask = truth.segmentation == 1
    exact = depth_errors(truth.depth, truth.depth, mask)
    assert exact["abs_rel"] == exact["rmse"] == 0 and exact["delta_1"] == 1
    scaled = depth_errors(1.3 * truth.depth, truth.depth, mask)
    assert float(scaled["abs_rel"]) == pytest.approx(0.3, abs=1e-4) and scaled["delta_1"] == 0
    angles = jit(geometry.normal_errors)(truth.normals, truth.normals, mask)
    assert float(angles["median_angle"]) < 0.1 and angles["within_11.25"] == 1


def test_boundaries_forgive_one_pixel_and_no_more():
    square = jnp.zeros((1, 16, 16), bool).at[0, 4:10, 4:10].set(True)
    one, three = jnp.roll(square, 1, axis=2), jnp.roll(square, 3, axis=2)
    assert float(geometry.boundary_f(square, square)[0]) == 1
    assert float(geometry.boundary_f(one, square)[0]) == 1
    assert float(geometry.boundary_f(three, square)[0]) < 0.9
    np.testing.assert_allclose(geometry.centroid_error(three, square), 3, atol=1e-5)
    assert np.isnan(geometry.iou(square, jnp.zeros_like(square))[0])


def test_ssim_of_equal_frames_is_one_at_every_scale():
    multiscale = jit(preservation.multiscale_ssim)
    video, mask = unit_range(clip().oracle), clip().segmentation == 1
    assert float(jit(preservation.ssim)(video, video, mask)) == pytest.approx(1, abs=1e-4)
    assert float(multiscale(video, video, mask)) == pytest.approx(1, abs=1e-4)
    other = jnp.roll(video, 2, axis=2)
    assert float(multiscale(video, other, mask)) < 0.95


def test_distances_of_equal_distributions_vanish_and_grow_with_a_shift(key):
    a = jax.random.normal(key, (200, 4))
    assert abs(float(preservation.frechet_distance(a, a))) < 1e-3
    assert float(preservation.frechet_distance(a, a + 1.0)) == pytest.approx(4, abs=0.05)
    b = jax.random.normal(jax.random.key(1), (200, 4))
    assert abs(float(preservation.kernel_distance(a, b))) < 0.5
    assert float(preservation.kernel_distance(a, b + 1.0)) > 1


def test_a_still_clip_is_perfectly_consistent_which_is_why_nobody_ranks_by_it():
    assert float(preservation.frame_consistency(jnp.ones((5, 3)))) == pytest.approx(1)


def test_means_over_nothing_are_nan_and_counted(key):
    empty = masked_mean(jnp.ones((2, 3, 3)), jnp.zeros((2, 3, 3), bool))
    assert np.isnan(empty).all() and np.isnan(known_mean(empty))
    assert float(known_mean(jnp.array([1.0, jnp.nan, 3.0]))) == 2
    rows = summarise({"iou": jnp.array([0.5, jnp.nan, 1.0]), "none": jnp.full(3, jnp.nan)}, key)
    assert rows["iou"].mean == 0.75 and (rows["iou"].measured, rows["iou"].empty) == (2, 1)
    assert rows["iou"].low <= 0.75 <= rows["iou"].high
    assert np.isnan(rows["none"].mean) and rows["none"].empty == 3


def test_every_code_has_a_rate():
    rows = measured("oracle")
    assert [f"violations/V{k + 1}_{name}" in rows for k, name in enumerate(CODES)] == [True] * 10
