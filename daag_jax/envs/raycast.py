"""Where a ray meets a primitive, and whether a point sees the light past one: closed forms, one per kind of geom.

Everything happens in the geom's own frame with MuJoCo's conventions: box half sizes, capsule and cylinder along z with
(radius, half length), plane with normal +z and half sizes (0 for infinite).  A vector is a tuple of three arrays of
any (broadcastable) shape, so that XLA can fuse a whole scene into one loop over pixels.

Round surfaces are solved about the ray's point closest to the centre (Haines et al., "Precision improvements for
ray/sphere intersection", Ray Tracing Gems 2019), which keeps float32 exact enough at grazing incidence:

    t0 = -o.d / d.d,   q = o + t0 d,   t = t0 -+ sqrt((r^2 - q.q) / d.d)                                      (1)

Only entry points count: a camera inside a geom sees through it, as in a rasteriser that culls back faces.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array

Vector = tuple[Array, Array, Array]
Mask = Array

TINY = 1e-12  # keeps divisions finite; far below any squared length [m^2] of a scene
MARGIN = 1e-5  # an occluder must reach this far [m] along the way to the light


class Hit(NamedTuple):
    """The entry of a ray: its parameter (inf for a miss) and the outward normal there, of any length."""

    t: Array
    normal: Vector


def dot(a: Vector, b: Vector) -> Array:
    """The inner product of two vectors."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def along(o: Vector, t: Array, d: Vector) -> Vector:
    """The point o + t d."""
    return o[0] + t * d[0], o[1] + t * d[1], o[2] + t * d[2]


def _reciprocal(x: Array) -> Array:
    """1 / x, finite and of the same sign at 0."""
    return 1.0 / jnp.where(jnp.abs(x) < TINY, jnp.where(x < 0, -TINY, TINY), x)


def _entry(t: Array, is_hit: Mask) -> Array:
    return jnp.where(is_hit & (t > 0), t, jnp.inf)


def _roots(o: Vector, d: Vector, radius: Array, axes: int) -> tuple[Array, Array, Mask]:
    """Eq. 1 over the first ``axes`` coordinates: the middle of the two roots, half their distance, whether they exist."""
    squared = sum(d[i] * d[i] for i in range(axes)) + TINY
    inverse = 1.0 / squared
    middle = -sum(o[i] * d[i] for i in range(axes)) * inverse
    rest = [o[i] + middle * d[i] for i in range(axes)]
    room = radius * radius - sum(q * q for q in rest)
    return middle, jnp.sqrt(jnp.maximum(room, 0.0) * inverse), room > 0


def _slabs(o: Vector, d: Vector, size: Vector, axes: tuple[int, ...]) -> tuple[list, list, list]:
    """Parameters at which the ray enters and leaves the slabs |x_i| < size_i, and the signs of d_i."""
    inverse = [_reciprocal(d[i]) for i in axes]
    enter = [-o[i] * r - size[i] * jnp.abs(r) for i, r in zip(axes, inverse, strict=True)]
    leave = [-o[i] * r + size[i] * jnp.abs(r) for i, r in zip(axes, inverse, strict=True)]
    return enter, leave, inverse


def _plane(o: Vector, d: Vector, size: Vector) -> Hit:
    t = -o[2] * _reciprocal(d[2])
    inside = d[2] < 0
    for axis in (0, 1):
        reach = jnp.where(size[axis] > 0, size[axis], jnp.inf)
        inside = inside & (jnp.abs(o[axis] + t * d[axis]) <= reach)
    zero = jnp.zeros_like(t)
    return Hit(_entry(t, inside), (zero, zero, zero + 1.0))


def _box(o: Vector, d: Vector, size: Vector) -> Hit:
    enter, leave, inverse = _slabs(o, d, size, (0, 1, 2))
    t = jnp.maximum(jnp.maximum(enter[0], enter[1]), enter[2])
    is_hit = t < jnp.minimum(jnp.minimum(leave[0], leave[1]), leave[2])
    # The face is that of the slab entered last.
    on_x = enter[0] == t
    on_y = (enter[1] == t) & ~on_x
    faces = (on_x, on_y, ~(on_x | on_y))
    normal = [
        jnp.where(on, jnp.where(r > 0, -1.0, 1.0), 0.0)
        for on, r in zip(faces, inverse, strict=True)
    ]
    return Hit(_entry(t, is_hit), tuple(normal))


def _sphere(o: Vector, d: Vector, size: Vector) -> Hit:
    middle, half, is_hit = _roots(o, d, size[0], 3)
    t = middle - half
    return Hit(_entry(t, is_hit), along(o, t, d))


def _ellipsoid(o: Vector, d: Vector, size: Vector) -> Hit:
    inverse = tuple(1.0 / s for s in size)
    scaled_o = tuple(x * r for x, r in zip(o, inverse, strict=True))
    scaled_d = tuple(x * r for x, r in zip(d, inverse, strict=True))
    middle, half, is_hit = _roots(scaled_o, scaled_d, jnp.ones_like(size[0]), 3)
    t = middle - half
    point = along(scaled_o, t, scaled_d)
    # The gradient of |p / s|^2.
    return Hit(_entry(t, is_hit), tuple(x * r for x, r in zip(point, inverse, strict=True)))


def _cylinder(o: Vector, d: Vector, size: Vector) -> Hit:
    middle, half, is_hit = _roots(o, d, size[0], 2)
    (low,), (high,), (inverse,) = _slabs(o, d, (size[1],) * 3, (2,))
    on_side = middle - half > low
    t = jnp.where(on_side, middle - half, low)
    is_hit = is_hit & (t < jnp.minimum(middle + half, high))
    point = along(o, t, d)
    normal = (
        jnp.where(on_side, point[0], 0.0),
        jnp.where(on_side, point[1], 0.0),
        jnp.where(on_side, 0.0, jnp.where(inverse > 0, -1.0, 1.0)),
    )
    return Hit(_entry(t, is_hit), normal)


def _capsule(o: Vector, d: Vector, size: Vector) -> Hit:
    # A ray that enters the infinite cylinder beyond an end can only enter the capsule through the cap of that end.
    middle, half, is_in_tube = _roots(o, d, size[0], 2)
    side = middle - half
    height = o[2] + side * d[2]
    end = jnp.clip(height, -size[1], size[1])
    is_side = height == end
    cap_o = (o[0], o[1], o[2] - end)
    cap_middle, cap_half, is_in_cap = _roots(cap_o, d, size[0], 3)
    t = jnp.where(is_side, side, cap_middle - cap_half)
    point = along(o, t, d)
    normal = (point[0], point[1], jnp.where(is_side, 0.0, point[2] - end))
    return Hit(_entry(t, is_in_tube & (is_side | is_in_cap)), normal)


_INTERSECT = {
    "plane": _plane,
    "box": _box,
    "sphere": _sphere,
    "ellipsoid": _ellipsoid,
    "cylinder": _cylinder,
    "capsule": _capsule,
}
KINDS: tuple[str, ...] = tuple(_INTERSECT)


def intersect(kind: str, origin: Vector, direction: Vector, size: Vector) -> Hit:
    """The first point at which the ray enters a geom of this kind, all in the geom's frame."""
    return _INTERSECT[kind](origin, direction, size)


def _ball_blocks(p: Vector, light: Vector, radius: Array) -> Mask:
    """Whether a ball about the origin lies between a point outside it and the light (``light`` is a unit vector)."""
    ahead = -dot(p, light)
    nearest = along(p, ahead, light)
    return (ahead > MARGIN) & (dot(nearest, nearest) < radius * radius)


def blocks(kind: str, p: Vector, light: Vector, size: Vector) -> Mask:
    """Whether a geom lies between the points ``p`` (outside it) and a light infinitely far in direction ``light``.

    All in the geom's frame; ``light`` is a unit vector of scalars.  Planes block nothing: they carry scenes, and what
    they could hide lies behind them.
    """
    if kind == "plane":
        return jnp.zeros_like(p[0], bool)
    if kind == "box":
        enter, leave, _ = _slabs(p, light, size, (0, 1, 2))
        out = jnp.minimum(jnp.minimum(leave[0], leave[1]), leave[2])
        return (jnp.maximum(jnp.maximum(enter[0], enter[1]), enter[2]) < out) & (out > MARGIN)
    if kind == "sphere":
        return _ball_blocks(p, light, size[0])
    if kind == "ellipsoid":
        scaled = tuple(x / s for x, s in zip(light, size, strict=True))
        length = jnp.sqrt(dot(scaled, scaled))
        unit = tuple(x / length for x in scaled)
        ball = tuple(x * (1.0 / s) for x, s in zip(p, size, strict=True))
        return _ball_blocks(ball, unit, jnp.ones_like(length))
    if kind == "cylinder":
        middle, half, is_hit = _roots(p, light, size[0], 2)
        (low,), (high,), _ = _slabs(p, light, (size[1],) * 3, (2,))
        out = jnp.minimum(middle + half, high)
        return is_hit & (jnp.maximum(middle - half, low) < out) & (out > MARGIN)
    # Capsule: the distance between the ray and the axis, whose nearest point is clamped to the segment.
    inverse = 1.0 / (light[0] * light[0] + light[1] * light[1] + TINY)
    s = -(p[0] * light[0] + p[1] * light[1]) * inverse
    end = jnp.clip(p[2] + s * light[2], -size[1], size[1])
    return _ball_blocks((p[0], p[1], p[2] - end), light, size[0])
