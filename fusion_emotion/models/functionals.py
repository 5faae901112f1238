"""Statistics over time of the descriptors of a clip: one vector for a clip of any length.

What is counted has soft edges. A roll-off or a number of zero crossings repeats its values, so that steps of nothing
and equal extremes are common; there the rounding of the last bit would decide, which is another on each processor.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from fusion_emotion.models.descriptors import Descriptors

ACTIVE_DB = -35.0  # below the loudest frame: the clip begins and ends with the first and last frame above
_PERCENTILES = (10, 25, 50, 75, 90)
_HEIGHTS = (0.25, 0.5, 0.75)  # of the way from the lowest to the highest value
_WAVES = 6  # cosines, of half a period to three over the clip
_LAGS = (1, 3, 6, 12, 25)  # frames
_RUNS = (5, 10, 20, 30)  # frames
_LOUD_DB = (-30.0, -20.0, -10.0, -5.0)
_LEAST_DEVIATION = 1e-3  # below it a descriptor counts as constant
_EDGE = 0.1  # width of a soft edge, of the deviation or of the range

Values = Float[Array, "batch time descriptors"]
Mask = Bool[Array, "batch time"]
Statistics = dict[str, Float[Array, "batch descriptors"]]


def functionals(given: Descriptors) -> Float[Array, "batch statistics"]:
    """All statistics: of the spectral descriptors over the active part, of both kinds over its voiced frames.

    The descriptors are smoothed over three frames first, as openSMILE does. Padding changes nothing.
    """
    active, place = active_part(given.relative_db, given.inside)
    voiced = given.voiced & active
    spectral, voice = smoothed(given.spectral, given.inside), smoothed(given.voice, given.inside)
    groups = (
        distribution(spectral, active) | contour(spectral, active, place),
        distribution(voice, voiced) | contour(voice, voiced, place),
        distribution(spectral, voiced),
    )
    parts = [statistic for group in groups for statistic in group.values()]
    return jnp.concatenate([*parts, rhythm(active, voiced, given.relative_db)], axis=-1)


def active_part(relative_db: Float[Array, "batch time"], inside: Mask) -> tuple[Mask, Float[Array, "batch time"]]:
    """The frames from the first to the last above ACTIVE_DB, and the place of each between them, 0 to 1."""
    loud = (relative_db > ACTIVE_DB) & inside
    n_frames = loud.shape[1]
    first = loud.argmax(axis=1)
    end = n_frames - loud[:, ::-1].argmax(axis=1)
    time = jnp.arange(n_frames)
    active = (time >= first[:, None]) & (time < end[:, None]) & inside
    place = ((time - first[:, None]).astype(jnp.float32) + 0.5) / _count(end - first)[:, None]
    return active, jnp.clip(place, 0, 1)


def smoothed(x: Values, mask: Mask) -> Values:
    """The mean of each frame and its neighbours, as far as they are in the mask."""
    weight = mask[..., None].astype(x.dtype)

    def with_neighbours(y: Values) -> Values:
        padded = jnp.pad(y, ((0, 0), (1, 1), (0, 0)))
        return padded[:, :-2] + padded[:, 1:-1] + padded[:, 2:]

    return with_neighbours(x * weight) / jnp.maximum(with_neighbours(weight), 1)


def distribution(x: Values, mask: Mask) -> Statistics:
    """Mean, deviation, skewness, kurtosis, extremes and percentiles of the frames in the mask; zeros without any."""
    mean, _, deviation, z = _centred(x, mask)
    low, high = _extremes(x, mask)
    values = {
        "mean": mean,
        "deviation": deviation,
        "skewness": _mean(z**3, mask),
        "kurtosis": jnp.log1p(_mean(z**4, mask)),
        "lowest": low,
        "highest": high,
        "range": high - low,
    }
    # Those beyond the mask are sorted to the end.
    ordered = jnp.sort(jnp.where(mask[..., None], x, jnp.inf), axis=1)
    n = mask.sum(axis=1)
    percentiles = []
    for percent in _PERCENTILES:
        at = jnp.maximum(n - 1, 0).astype(x.dtype) * (percent / 100)
        below, share = jnp.floor(at), (at - jnp.floor(at))[:, None]
        low, high = (
            jnp.take_along_axis(ordered, index.astype(jnp.int32)[:, None, None], axis=1)[:, 0]
            for index in (below, jnp.ceil(at))
        )
        percentiles.append(jnp.where((n > 0)[:, None], low + share * (high - low), 0.0))
        values[f"percentile{percent}"] = percentiles[-1]
    values["quartiles"] = percentiles[3] - percentiles[1]
    values["deciles"] = percentiles[4] - percentiles[0]
    return values


def contour(x: Values, mask: Mask, place: Float[Array, "batch time"]) -> Statistics:
    """Slope, cosines, rises, crossings, autocorrelation and places of the extremes over the frames in the mask."""
    _, centred, deviation, z = _centred(x, mask)
    low, high = (extreme[:, None] for extreme in _extremes(x, mask))
    time = jnp.broadcast_to((2 * place - 1)[..., None], (*mask.shape, 1))
    time = time - _mean(time, mask)[:, None]
    spread = _mean(time**2, mask)
    slope = _mean(centred * time, mask) / jnp.maximum(spread, 1e-3)
    values = {
        "slope": slope,
        "off_slope": jnp.sqrt(jnp.maximum(_mean(centred**2, mask) - slope**2 * spread, 0)),
    }
    height = (x - low) / jnp.maximum(high - low, _LEAST_DEVIATION)
    for name, below in {"highest": 1 - height, "lowest": height}.items():
        near = _in(mask, jnp.clip(1 - below / _EDGE, 0, 1))
        values[f"place_of_{name}"] = (near * place[..., None]).sum(axis=1) / jnp.maximum(near.sum(axis=1), 1)
    for share in _HEIGHTS:
        values[f"above{share}"] = _mean(jnp.clip((height - share) / _EDGE + 0.5, 0, 1), mask)
    for wave in range(1, _WAVES + 1):
        values[f"cosine{wave}"] = 2 * _mean(centred * jnp.cos(np.pi * wave * place)[..., None], mask)
    both = mask[:, 1:] & mask[:, :-1]
    step = x[:, 1:] - x[:, :-1]
    up, down = (_in(both, jnp.clip(sign * step / (_EDGE * deviation[:, None]) - 1, 0, 1)) for sign in (1, -1))
    side = jnp.clip(z / _EDGE, -1, 1)
    values |= {
        "change": _mean(jnp.abs(step), both),
        "change_deviation": jnp.sqrt(_mean(step**2, both)),
        "bend_deviation": jnp.sqrt(_mean((step[:, 1:] - step[:, :-1]) ** 2, both[:, 1:] & both[:, :-1])),
        "rising": _mean(up, both),
        "rise": (up * step).sum(axis=1) / _count(up.sum(axis=1)),
        "fall": -(down * step).sum(axis=1) / _count(down.sum(axis=1)),
        "crossings": _mean(jnp.maximum(-side[:, 1:] * side[:, :-1], 0), both),
    }
    for lag in _LAGS:
        later, earlier = z[:, lag:], z[:, : max(z.shape[1] - lag, 0)]
        values[f"autocorrelation{lag}"] = _mean(later * earlier, mask[:, lag:] & mask[:, : later.shape[1]])
    return values


def rhythm(active: Mask, voiced: Mask, relative_db: Float[Array, "batch time"]) -> Float[Array, "batch statistics"]:
    """Length of the active part, and shares of it: voiced, in voiced and unvoiced runs of some length, and loud."""
    n = _count(active.sum(axis=1))
    begun = (voiced[:, 1:] & ~voiced[:, :-1]).sum(axis=1).astype(jnp.float32)
    n_voiced = voiced.sum(axis=1).astype(jnp.float32)
    values = [n, n_voiced / n, begun, n_voiced / _count(begun), begun / n]
    for length in _RUNS:
        values += [_in_runs(mask, length) / n for mask in (voiced, active & ~voiced)]
    values += [(active & (relative_db > level)).sum(axis=1).astype(jnp.float32) / n for level in _LOUD_DB]
    return jnp.stack(values, axis=-1)


def _in_runs(mask: Mask, length: int) -> Float[Array, "batch"]:
    """The number of frames at which a run of `length` frames within the mask begins."""
    run = mask
    for _ in range(length - 1):
        run = mask[:, : run.shape[1] - 1] & run[:, 1:]
    return run.sum(axis=1).astype(jnp.float32)


def _count(n: Array) -> Float[Array, "*shape"]:
    """A number to divide by: at least one. The types are written out, which the export to ONNX needs."""
    return jnp.maximum(n.astype(jnp.float32), 1.0)


def _mean(x: Values, mask: Mask) -> Float[Array, "batch descriptors"]:
    return _in(mask, x).sum(axis=1) / _count(mask.sum(axis=1))[:, None]


def _in(mask: Mask, x: Values) -> Values:
    return jnp.where(mask[..., None], x, 0.0)


def _centred(x: Values, mask: Mask) -> tuple[Array, Values, Array, Values]:
    """The mean, what is left without it, the deviation, and the quotient of the last two."""
    mean = _mean(x, mask)
    centred = _in(mask, x - mean[:, None])
    deviation = jnp.maximum(jnp.sqrt(_mean(centred**2, mask)), _LEAST_DEVIATION)
    return mean, centred, deviation, centred / deviation[:, None]


def _extremes(x: Values, mask: Mask) -> tuple[Array, Array]:
    some = mask.any(axis=1)[:, None]
    low = jnp.where(mask[..., None], x, jnp.inf).min(axis=1)
    high = jnp.where(mask[..., None], x, -jnp.inf).max(axis=1)
    return jnp.where(some, low, 0.0), jnp.where(some, high, 0.0)
