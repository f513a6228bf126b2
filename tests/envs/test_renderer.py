"""The renderer agrees with MuJoCo's own ray caster and rasteriser, and its flow with geometry."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest

from daag_jax.envs import renderer
from daag_jax.envs.palette import PALETTE_NAMES, color_indices, rgb_of

SIZE = 48
INSTANCES = {"box": 1, "slab": 1, "ball": 2, "egg": 3, "can": 4, "pill": 5, "finger": 5}

WORLD = """
<mujoco>
  <compiler angle="degree"/>
  <visual>
    <map znear="0.01" zfar="10"/>
    <quality offsamples="0" numslices="128" numstacks="64"/>
  </visual>
  <statistic extent="1"/>
  <worldbody>
    <camera name="eye" pos="0.55 -0.45 0.5" xyaxes="0.633 0.774 0 -0.44 0.36 0.823" fovy="30"/>
    <geom name="floor" type="plane" size="0 0 1" rgba="0.7 0.7 0.66 1"/>
    <geom name="shelf" type="plane" size="0.06 0.04 1" pos="-0.1 0.12 0.06" euler="15 10 5"/>
    <body pos="-0.06 -0.05 0.05" euler="{a} {b} {c}">
      <geom name="box" type="box" size="0.04 0.03 0.02" rgba="0.85 0.1 0.1 1"/>
    </body>
    <body pos="0.1 0.08 0.1" euler="{b} {c} {a}">
      <geom name="slab" type="box" size="0.05 0.05 0.01"/>
    </body>
    <body pos="0.08 -0.07 0.04"><geom name="ball" type="sphere" size="0.035"/></body>
    <body pos="0 0.06 0.05" euler="{c} {a} {b}">
      <geom name="egg" type="ellipsoid" size="0.05 0.03 0.02"/>
    </body>
    <body pos="0.05 0.0 0.12" euler="{b} {a} {c}">
      <geom name="can" type="cylinder" size="0.03 0.02"/>
    </body>
    <body pos="-0.08 0.04 0.14" euler="{a} {c} {b}">
      <geom name="pill" type="capsule" size="0.02 0.05"/>
    </body>
    <body pos="0.14 0.0 0.06"><geom name="finger" type="capsule" size="0.008 0.03"/></body>
    <geom name="hidden" type="sphere" size="0.1" pos="0 0 0.1" rgba="1 0 0 0"/>
  </worldbody>
</mujoco>
"""


def load(seed):
    """A world in which every body has a pose of its own per seed."""
    a, b, c = np.random.default_rng(seed).uniform(-80, 80, 3)
    xml = WORLD.format(a=a, b=b, c=c)
    model = mujoco.MjModel.from_xml_string(xml)
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    return xml, model, data


def scene_and_camera(model, data):
    scene = renderer.scene_of(model, data.geom_xpos, data.geom_xmat, INSTANCES)
    return scene, renderer.camera_of(model, "eye", data.cam_xpos, data.cam_xmat)


def visible_geoms(model):
    return np.flatnonzero(model.geom_rgba[:, 3] > 0)


def pixel_rays(fovy, size=SIZE):
    """Eq. 1 of cameras in float64: directions [N, 3] in the camera's frame."""
    slope = np.tan(fovy / 2) / size
    grid = 2 * np.arange(size) + 1 - size
    x, y = np.meshgrid(slope * grid, -slope * grid)
    return np.stack([x, y, -np.ones_like(x)], -1).reshape(-1, 3)


def reference_rays(model, data, origins, directions):
    """MuJoCo's nearest geom, distance and normal along rays [N, 3], one by one; -1 for none."""
    geoms, distances, normals = [], [], []
    groups = np.ones(6, np.uint8)
    for origin, direction in zip(origins, directions, strict=True):
        geom, normal = np.full(1, -1, np.int32), np.zeros(3)
        t = mujoco.mj_ray(model, data, origin, direction, groups, 1, -1, geom, normal)
        geoms.append(geom[0])
        distances.append(t)
        normals.append(normal)
    return np.array(geoms), np.array(distances), np.array(normals)


def camera_reference(model, data):
    """Geom, z-depth and camera-frame normal of every pixel by MuJoCo's rays."""
    turn = data.cam_xmat[0].reshape(3, 3)
    local = pixel_rays(np.deg2rad(model.cam_fovy[0]))
    lengths = np.linalg.norm(local, axis=1)
    directions = local @ turn.T / lengths[:, None]
    origins = np.broadcast_to(data.cam_xpos[0], directions.shape).copy()
    geoms, distances, normals = reference_rays(model, data, origins, directions)
    return geoms, distances / lengths, normals @ turn


@pytest.fixture(scope="module", params=[0, 1])
def world(request):
    """A world, what MuJoCo's rays see of it, and what the renderer sees of it."""
    _, model, data = load(request.param)
    scene, camera = scene_and_camera(model, data)
    # Without ambient light, black pixels are those that the light does not reach.
    light = renderer.sun((0.3, 0.5, -1.0), ambient=0.0, diffuse=1.0)
    kinds = renderer.kinds_of(model)
    frame = jax.jit(lambda s: renderer.render(kinds, s, camera, light, SIZE, SIZE))(scene)
    return model, data, camera_reference(model, data), jax.tree.map(np.asarray, frame), light


def test_depth_and_geoms_agree_with_the_rays_of_mujoco(world):
    model, _, (geoms, depth, _), frame, _ = world
    instance_of = {model.geom(name).id: number for name, number in INSTANCES.items()}
    expected = np.array([instance_of.get(g, 0) for g in geoms]).reshape(SIZE, SIZE)
    is_same = frame.segmentation == expected
    assert is_same.mean() >= 0.999
    assert set(np.unique(frame.segmentation)) == set(range(6))  # every object is in view
    is_seen = is_same & (depth.reshape(SIZE, SIZE) > 0)
    assert np.abs(frame.depth - depth.reshape(SIZE, SIZE))[is_seen].max() < 1e-4


def test_normals_agree_with_the_rays_of_mujoco(world):
    _, _, (_, _, normals), frame, _ = world
    ours = frame.normals.reshape(-1, 3)
    assert np.abs(np.linalg.norm(ours, axis=1) - 1).max() < 1e-5
    # On an edge either face is right.
    assert (np.abs(ours - normals).max(axis=1) < 2e-3).mean() >= 0.998


def test_shadows_agree_with_the_rays_of_mujoco(world):
    model, data, (_, depth, normals), frame, light = world
    turn = data.cam_xmat[0].reshape(3, 3)
    points = (pixel_rays(np.deg2rad(model.cam_fovy[0])) * depth[:, None]) @ turn.T
    normals = normals @ turn.T
    points = points + data.cam_xpos[0] + 1e-6 * normals
    to_light = -np.asarray(light.direction, np.float64)
    blockers, _, _ = reference_rays(model, data, points, np.broadcast_to(to_light, points.shape))
    # A pixel of a grazing face is dark before its shadow is.
    lambert = normals @ to_light
    is_clear = np.abs(lambert) > 0.02
    is_dark = (blockers >= 0) | (lambert < 0)
    ours = frame.rgb.reshape(-1, 3).max(axis=1) == 0
    assert is_dark[is_clear].mean() > 0.05
    assert (ours == is_dark)[is_clear].mean() >= 0.999


GL_SCRIPT = """
import sys, numpy as np, mujoco
model = mujoco.MjModel.from_xml_path(sys.argv[1])
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
size = int(sys.argv[3])
with mujoco.Renderer(model, size, size) as gl:
    gl.enable_depth_rendering()
    gl.update_scene(data, camera="eye")
    depth = gl.render().copy()
    gl.disable_depth_rendering()
    gl.enable_segmentation_rendering()
    gl.update_scene(data, camera="eye")
    np.savez(sys.argv[2], depth=depth, geom=gl.render()[..., 0])
"""


def test_depth_and_geoms_agree_with_the_rasteriser_of_mujoco(tmp_path, monkeypatch):
    xml, model, data = load(0)
    source, target = tmp_path / "world.xml", tmp_path / "seen.npz"
    source.write_text(xml)
    command = [sys.executable, "-c", GL_SCRIPT, str(source), str(target), "64"]
    for backend in ("osmesa", "egl"):
        monkeypatch.setenv("MUJOCO_GL", backend)
        if subprocess.run(command, capture_output=True).returncode == 0:
            break
    else:
        pytest.skip("neither OSMesa nor EGL can open a GL context on this machine")
    seen = np.load(target)
    scene, camera = scene_and_camera(model, data)
    scene = scene._replace(instances=jnp.asarray(visible_geoms(model), jnp.int32))
    kinds = renderer.kinds_of(model)
    draw = jax.jit(lambda s: renderer.render(kinds, s, camera, renderer.sun(), 64, 64))
    frame = jax.tree.map(np.asarray, draw(scene))
    is_same = frame.segmentation == seen["geom"]
    # GL draws round geoms as polyhedra (128 slices), whose silhouettes are a little smaller.
    assert is_same.mean() >= 0.998
    error = np.abs(frame.depth - seen["depth"])[is_same]
    assert np.quantile(error, 0.99) < 1e-4
    assert np.median(error) < 1e-6


def moved(scene, key):
    """The scene after small random rigid motions of all geoms but the two planes."""
    shift_key, turn_key = jax.random.split(key)
    count = scene.positions.shape[0]
    moves = jnp.where(jnp.arange(count)[:, None] < 2, 0.0, 1.0)
    shift = 0.02 * jax.random.normal(shift_key, (count, 3)) * jnp.broadcast_to(moves, (count, 3))
    spin = 0.3 * jax.random.normal(turn_key, (count, 3)) * jnp.broadcast_to(moves, (count, 3))
    x, y, z = spin[:, 0], spin[:, 1], spin[:, 2]
    o = jnp.zeros_like(x)
    skew = jnp.stack([o, -z, y, z, o, -x, -y, x, o], -1).reshape(-1, 3, 3)
    turn = jax.scipy.linalg.expm(skew)
    return scene._replace(positions=scene.positions + shift, rotations=turn @ scene.rotations)


@pytest.fixture(scope="module")
def motion():
    """Two moments of a world seen by a moving camera: inputs, frames, flows, visibility."""
    _, model, data = load(3)
    kinds = renderer.kinds_of(model)
    scene, camera = scene_and_camera(model, data)
    scene = scene._replace(instances=jnp.arange(len(kinds)))  # to name geoms by pixel
    later = moved(scene, jax.random.key(5))
    camera_later = renderer.look_at((0.57, -0.40, 0.52), (0.0, 0.02, 0.03), np.deg2rad(31.0))
    pair = (scene, later, camera, camera_later)

    @jax.jit
    def compute(scene, later, camera, camera_later):
        light = renderer.sun()
        return (
            renderer.render(kinds, scene, camera, light, SIZE, SIZE),
            renderer.render(kinds, later, camera_later, light, SIZE, SIZE),
            renderer.flow(kinds, scene, later, camera, camera_later, SIZE, SIZE),
            renderer.flow(kinds, later, scene, camera_later, camera, SIZE, SIZE),
            renderer.visibility(kinds, scene, later, camera, camera_later, SIZE, SIZE),
        )

    return kinds, pair, jax.tree.map(np.asarray, compute(*pair))


def carried(scene, later, camera, camera_later, frame):
    """Section 5.1 of the specification in float64: y [H, W, 2] and Z of all seen points."""
    as64 = lambda tree: jax.tree.map(lambda x: np.asarray(x, np.float64), tree)
    scene, later, camera, camera_later = map(as64, (scene, later, camera, camera_later))
    p = pixel_rays(camera.fovy) * frame.depth.reshape(-1, 1)
    world = p @ camera.rotation.T + camera.position
    g = frame.segmentation.reshape(-1)
    body = np.einsum("nij,ni->nj", scene.rotations[g], world - scene.positions[g])
    world = np.einsum("nij,nj->ni", later.rotations[g], body) + later.positions[g]
    eye = (world - camera_later.position) @ camera_later.rotation
    scale = SIZE / (2 * np.tan(camera_later.fovy / 2) * -eye[:, 2])
    u, v = eye[:, 0] * scale + (SIZE - 1) / 2, (SIZE - 1) / 2 - eye[:, 1] * scale
    return np.stack([u, v], -1).reshape(SIZE, SIZE, 2), -eye[:, 2].reshape(SIZE, SIZE), world


def test_flow_is_the_projection_of_the_moved_point(motion):
    _, pair, (frame, _, flow, _, _) = motion
    target, _, _ = carried(*pair, frame)
    v, u = np.mgrid[:SIZE, :SIZE]
    assert np.abs(np.stack([u, v], -1) + flow - target).max() < 0.05
    assert np.abs(flow).max() > 1.0


def test_backward_flow_undoes_forward_flow_where_visible(motion):
    _, _, (frame, after, forward, backward, visible) = motion
    v, u = np.mgrid[:SIZE, :SIZE]
    y = np.rint(np.stack([u, v], -1) + forward).astype(int)
    row, column = np.clip(y[..., 1], 0, SIZE - 1), np.clip(y[..., 0], 0, SIZE - 1)
    is_same = visible & (after.segmentation[row, column] == frame.segmentation)
    # The nearest pixel is up to half a pixel away from y, and so is its way back.
    there_and_back = forward + backward[row, column] + (np.stack([u, v], -1) + forward - y)
    assert np.quantile(np.abs(there_and_back[is_same]), 0.95) < 0.6


def test_visible_points_are_those_that_nothing_hides(motion):
    _, pair, (frame, _, _, _, visible) = motion
    target, _, world = carried(*pair, frame)
    later, camera = jax.tree.map(lambda x: np.asarray(x, np.float64), (pair[1], pair[3]))
    _, model, data = load(3)
    data.geom_xpos[visible_geoms(model)] = later.positions
    data.geom_xmat[visible_geoms(model)] = later.rotations.reshape(-1, 9)
    way = world - camera.position
    origins = np.broadcast_to(camera.position, way.shape).copy()
    _, reach, _ = reference_rays(model, data, origins, way)
    is_hidden = (reach < 1 - 0.02).reshape(SIZE, SIZE)  # 0.01 Z + 2 mm, and half a pixel
    assert not (visible & is_hidden).any()
    # What nothing hides and the image shows is invisible only beside an edge of its instance.
    is_shown = ((target >= 0) & (target <= SIZE - 1)).all(-1)
    is_free = is_shown & (np.abs(reach - 1) < 1e-3).reshape(SIZE, SIZE)
    assert (visible & is_free).sum() > 0.85 * is_free.sum()
    assert is_hidden.any()


def test_nothing_moves_and_all_is_visible_in_a_still_world():
    _, model, data = load(0)
    kinds = renderer.kinds_of(model)
    scene, camera = scene_and_camera(model, data)
    still = lambda f: jax.jit(lambda s, c: f(kinds, s, s, c, c, SIZE, SIZE))(scene, camera)
    assert np.abs(still(renderer.flow)).max() < 1e-3
    assert still(renderer.visibility).all()


def test_recolouring_changes_only_the_pixels_of_the_instance():
    _, model, data = load(1)
    kinds = renderer.kinds_of(model)
    scene, camera = scene_and_camera(model, data)
    draw = jax.jit(
        lambda s: renderer.render(kinds, s, camera, renderer.sun(), SIZE, SIZE, checker=0.05)
    )
    before = draw(scene)
    for instance in range(1, 6):
        after = draw(renderer.recolor(scene, instance, rgb_of(jnp.int32(instance))))
        is_changed = np.asarray((before.rgb != after.rgb).any(-1))
        assert is_changed.any()
        assert (is_changed == np.asarray(before.segmentation == instance)).all()
        for field in ("depth", "normals", "segmentation"):
            assert (getattr(before, field) == getattr(after, field)).all()


def test_shading_is_affine_in_the_cosine_after_the_power_of_gamma():
    _, model, data = load(1)
    kinds = renderer.kinds_of(model)
    scene, camera = scene_and_camera(model, data)
    scene = scene._replace(colors=jnp.ones_like(scene.colors))
    light = renderer.sun(ambient=0.3, diffuse=0.6)
    frame = jax.jit(lambda s: renderer.render(kinds, s, camera, light, SIZE, SIZE))(scene)
    cosine = -np.asarray(frame.normals) @ np.asarray(camera.rotation).T @ light.direction
    linear = (np.asarray(frame.rgb[..., 0]) / 255.0) ** renderer.GAMMA
    lit = 0.3 + 0.6 * np.maximum(cosine, 0)
    error = np.minimum(np.abs(linear - lit), np.abs(linear - 0.3))  # in the light or in shadow
    assert error.max() < 0.01


def test_the_sky_has_far_depth_and_no_instance():
    scene = renderer.Scene(
        jnp.zeros((1, 3)),
        jnp.eye(3)[None],
        jnp.full((1, 3), 0.1),
        jnp.ones((1, 3)),
        jnp.ones(1, int),
    )
    camera = renderer.look_at((0.0, -1.0, 0.0), (0.0, 0.0, 0.0), 1.0)
    draw = lambda s: renderer.render(("sphere",), s, camera, renderer.sun(), 9, 15, far=3.0)
    frame = jax.jit(draw)(scene)
    assert frame.rgb.shape == (9, 15, 3)
    assert frame.depth[0, 0] == 3.0
    assert frame.segmentation[0, 0] == 0
    assert frame.normals[0, 0].tolist() == [0.0, 0.0, 1.0]
    assert frame.rgb[0, 0].tolist() == [round(255 * c) for c in renderer.SKY]
    assert frame.segmentation[4, 7] == 1
    assert abs(float(frame.depth[4, 7]) - 0.9) < 1e-6


def test_views_and_scenes_batch_under_vmap():
    _, model, data = load(2)
    kinds = renderer.kinds_of(model)
    scene, camera = scene_and_camera(model, data)
    eyes = [camera, renderer.look_at((0.0, 0.0, 0.8), (0.0, 0.0, 0.0), 0.5)]
    scenes = [scene, moved(scene, jax.random.key(0))]
    draw = lambda s, c: renderer.render(kinds, s, c, renderer.sun(), 16, 16)
    over = jax.vmap(jax.vmap(draw, (None, 0)), (0, None))
    frames = jax.jit(over)(jax.tree.map(lambda *x: jnp.stack(x), *scenes), renderer.stack(eyes))
    single = jax.jit(draw)
    for i in range(2):
        for j in range(2):
            one = single(scenes[i], eyes[j])
            assert (frames.segmentation[i, j] == one.segmentation).mean() > 0.99
            assert np.abs(frames.depth[i, j] - one.depth).mean() < 1e-5


def test_wrong_input_is_refused_by_name():
    _, model, data = load(0)
    kinds = renderer.kinds_of(model)
    scene, camera = scene_and_camera(model, data)
    with pytest.raises(ValueError, match="kinds holds 'mesh'"):
        renderer.render(("mesh",), scene, camera, renderer.sun(), 8, 8)
    with pytest.raises(ValueError, match=r"kinds has 1 names but scene has 9 geoms"):
        renderer.render(kinds[:1], scene, camera, renderer.sun(), 8, 8)
    with pytest.raises(ValueError, match="height 0"):
        renderer.render(kinds, scene, camera, renderer.sun(), 0, 8)
    with pytest.raises(ValueError, match="'wall', not a visible geom"):
        renderer.scene_of(model, data.geom_xpos, data.geom_xmat, {"wall": 1})
    with pytest.raises(ValueError, match="camera 'top'"):
        renderer.camera_of(model, "top", data.cam_xpos, data.cam_xmat)
    with pytest.raises(ValueError, match="color 'mauve'"):
        color_indices(["red", "mauve"])
    field = mujoco.MjModel.from_xml_string(
        "<mujoco><asset><hfield name='h' nrow='2' ncol='2' size='1 1 1 1'/></asset><worldbody>"
        "<geom name='hill' type='hfield' hfield='h'/></worldbody></mujoco>"
    )
    with pytest.raises(ValueError, match="geom 'hill' is a hfield"):
        renderer.kinds_of(field)


def test_the_palette_names_eight_distinct_colours():
    assert len(PALETTE_NAMES) == 8
    assert color_indices(["red", "green", "blue"]) == (0, 1, 2)
    assert np.unique(np.asarray(rgb_of(jnp.arange(8))), axis=0).shape == (8, 3)
