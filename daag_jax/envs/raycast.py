"""Closed forms of rays and primitives, one per kind of geom: where a ray enters, what normal it finds
there, and whether a point sees the light past the geom.

Everything happens in the geom's own frame with MuJoCo's conventions: box half sizes, capsule and
cylinder along z with (radius, half length), plane with normal +z and half sizes (0 for infinite).
A vector is a tuple of three arrays of any broadcastable shape, so that XLA can fuse a whole scene
into one loop over pixels.

Round surfaces are solved about the ray's point closest to the centre (Haines et al., "Precision
improvements for ray/sphere intersection", Ray Tracing Gems 2019), which keeps float32 accurate:

    t0 = -o.d / d.d,   q = o + t0 d,   t = t0 -+ sqrt((r^2 - q.q) / d.d)                       (1)

Only entry points count: a camera inside a geom sees through it, as in a rasteriser that culls back
faces (MuJoCo's own ray functions return the exit there).
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array

Vector = tuple[Array, Array, Array]

TINY = 1e-12  # keeps divisions finite; far below any squared length [m^2] of a scene
MARGIN = 1e-5  # an occluder must reach this far [m] along the way to the light


def dot(a: Vector, b: Vector) -> Array:
    """The inner product of two vectors."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def along(o: Vector, t: Array, d: Vector) -> Vector:
    """The point o + t d."""
    return o[0] + t * d[0], o[1] + t * d[1], o[2] + t * d[2]


def _scaled(a: Vector, size: Vector) -> Vector:
    return tuple(x * (1.0 / s) for x, s in zip(a, size, strict=True))


def _reciprocal(x: Array) -> Array:
    """1 / x, finite at 0."""
    return 1.0 / jnp.where(jnp.abs(x) < TINY, jnp.where(x < 0, -TINY, TINY), x)


def _roots(o: Vector, d: Vector, radius: Array, axes: int) -> tuple[Array, Array, Array]:
    """Eq. 1 over the first ``axes`` coordinates: t0, half the distance of the roots, their existence."""
    inverse = 1.0 / (sum(d[i] * d[i] for i in range(axes)) + TINY)
    middle = -sum(o[i] * d[i] for i in range(axes)) * inverse
    rest = [o[i] + middle * d[i] for i in range(axes)]
    room = radius * radius - sum(q * q for q in rest)
    return middle, jnp.sqrt(jnp.maximum(room, 0.0) * inverse), room > 0


def _slab(o: Array, d: Array, half: Array) -> tuple[Array, Array]:
    """Where the ray enters and leaves the slab |x| < half of one coordinate."""
    inverse = _reciprocal(d)
    middle, reach = -o * inverse, half * jnp.abs(inverse)
    return middle - reach, middle + reach


def _box_span(o: Vector, d: Vector, size: Vector) -> tuple[Array, Array]:
    """Where the ray enters and leaves a box (it misses it if it leaves first)."""
    (x0, x1), (y0, y1), (z0, z1) = (_slab(*each) for each in zip(o, d, size, strict=True))
    return jnp.maximum(jnp.maximum(x0, y0), z0), jnp.minimum(jnp.minimum(x1, y1), z1)


def _cylinder_span(o: Vector, d: Vector, size: Vector) -> tuple[Array, Array, Array]:
    """Where the ray enters and leaves a cylinder, and whether it meets the infinite one at all."""
    middle, half, is_in_tube = _roots(o, d, size[0], 2)
    low, high = _slab(o[2], d[2], size[1])
    return jnp.maximum(middle - half, low), jnp.minimum(middle + half, high), is_in_tube


def _enter_plane(o: Vector, d: Vector, size: Vector) -> tuple[Array, Array]:
    t = -o[2] * _reciprocal(d[2])
    is_hit = d[2] < 0
    for axis in (0, 1):
        reach = jnp.where(size[axis] > 0, size[axis], jnp.inf)
        is_hit = is_hit & (jnp.abs(o[axis] + t * d[axis]) <= reach)
    return t, is_hit


def _enter_box(o: Vector, d: Vector, size: Vector) -> tuple[Array, Array]:
    t, leave = _box_span(o, d, size)
    return t, t < leave


def _enter_sphere(o: Vector, d: Vector, size: Vector) -> tuple[Array, Array]:
    middle, half, is_hit = _roots(o, d, size[0], 3)
    return middle - half, is_hit


def _enter_ellipsoid(o: Vector, d: Vector, size: Vector) -> tuple[Array, Array]:
    one = jnp.ones_like(size[0])
    return _enter_sphere(_scaled(o, size), _scaled(d, size), (one, one, one))


def _enter_cylinder(o: Vector, d: Vector, size: Vector) -> tuple[Array, Array]:
    t, leave, is_in_tube = _cylinder_span(o, d, size)
    return t, is_in_tube & (t < leave)


def _enter_capsule(o: Vector, d: Vector, size: Vector) -> tuple[Array, Array]:
    # A ray that enters the infinite cylinder beyond an end can only enter through that end's cap.
    middle, half, is_in_tube = _roots(o, d, size[0], 2)
    side = middle - half
    height = o[2] + side * d[2]
    end = jnp.clip(height, -size[1], size[1])
    middle, half, is_in_cap = _roots((o[0], o[1], o[2] - end), d, size[0], 3)
    is_side = height == end
    return jnp.where(is_side, side, middle - half), is_in_tube & (is_side | is_in_cap)


_ENTER = {
    "plane": _enter_plane,
    "box": _enter_box,
    "sphere": _enter_sphere,
    "ellipsoid": _enter_ellipsoid,
    "cylinder": _enter_cylinder,
    "capsule": _enter_capsule,
}
KINDS: tuple[str, ...] = tuple(_ENTER)


def enter(kind: str, origin: Vector, direction: Vector, size: Vector) -> Array:
    """The ray's parameter where it enters a geom of this kind from outside; inf where it does not."""
    t, is_hit = _ENTER[kind](origin, direction, size)
    return jnp.where(is_hit & (t > 0), t, jnp.inf)


def normal(kind: str, p: Vector, size: Vector) -> Vector:
    """The outward normal, of any positive length, at a point of the surface of a geom."""
    zero = jnp.zeros_like(p[0])
    if kind == "plane":
        return zero, zero, zero + 1.0
    if kind == "box":
        x, y, z = (jnp.abs(each) - half for each, half in zip(p, size, strict=True))
        on_x = (x >= y) & (x >= z)
        on_y = ~on_x & (y >= z)
        faces = (on_x, on_y, ~(on_x | on_y))
        return tuple(jnp.where(on, jnp.sign(q), 0.0) for on, q in zip(faces, p, strict=True))
    if kind == "sphere":
        return p
    if kind == "ellipsoid":  # the gradient of |p / s|^2
        return _scaled(_scaled(p, size), size)
    if kind == "cylinder":
        outside = p[0] * p[0] + p[1] * p[1] - size[0] * size[0]
        on_side = outside >= 2 * size[0] * (jnp.abs(p[2]) - size[1])
        side = [jnp.where(on_side, each, 0.0) for each in p[:2]]
        return side[0], side[1], jnp.where(on_side, 0.0, jnp.sign(p[2]))
    return p[0], p[1], p[2] - jnp.clip(p[2], -size[1], size[1])


def _ball_blocks(p: Vector, light: Vector, radius: Array) -> Array:
    ahead = -dot(p, light)
    nearest = along(p, ahead, light)
    return (ahead > MARGIN) & (dot(nearest, nearest) < radius * radius)


def blocks(kind: str, p: Vector, light: Vector, size: Vector) -> Array:
    """Whether a geom lies between points ``p`` outside it and a light infinitely far away.

    Planes block nothing: they carry scenes, and what they could hide lies behind them.

    Args:
        light: the unit vector towards the light in the geom's frame.
    """
    if kind == "plane":
        return jnp.zeros_like(p[0], bool)
    if kind == "box":
        reach, leave = _box_span(p, light, size)
        return (reach < leave) & (leave > MARGIN)
    if kind == "sphere":
        return _ball_blocks(p, light, size[0])
    if kind == "ellipsoid":
        towards = _scaled(light, size)
        length = jnp.sqrt(dot(towards, towards))
        one = jnp.ones_like(length)
        return _ball_blocks(_scaled(p, size), tuple(x / length for x in towards), one)
    if kind == "cylinder":
        reach, leave, is_in_tube = _cylinder_span(p, light, size)
        return is_in_tube & (reach < leave) & (leave > MARGIN)
    # Capsule: the point of the axis nearest to the ray is clamped to the segment (the squared
    # distance is convex along the axis), and its ball decides.
    inverse = 1.0 / (light[0] * light[0] + light[1] * light[1] + TINY)
    ahead = -(p[0] * light[0] + p[1] * light[1]) * inverse
    end = jnp.clip(p[2] + ahead * light[2], -size[1], size[1])
    return _ball_blocks((p[0], p[1], p[2] - end), light, size[0])
