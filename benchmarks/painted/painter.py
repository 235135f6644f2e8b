"""Which lesions a head gets, where they lie, and how large they are drawn."""

import dataclasses
import zlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8
from scipy import ndimage

from benchmarks.painted import drawing, kinds, tissues

ML = {  # smallest and largest volume of a kind
    "stroke": (1.0, 50.0),
    "tumour": (1.0, 50.0),
    "white_matter": (0.1, 1.0),
    "grey_in_white": (0.3, 12.0),
    "structure": (0.6, 25.0),
}
SPOTS = 4  # lesions of the white matter come together
TOLERANCE = 0.1  # of the volume that was asked for
_TRIES = 60
_STEPS = 9


@dataclasses.dataclass(frozen=True)
class Wish:
    """A lesion to be drawn."""

    kind: str
    ml: float


@dataclasses.dataclass(frozen=True)
class Lesion:
    """A lesion that was drawn; the centre is a voxel, the contrast relative to white minus grey."""

    kind: str
    ml: float
    asked_ml: float
    centre: tuple[float, float, float]
    contrast: float
    seed: int


def plan(
    ids: Sequence[str],
    seed: int,
    chosen: Sequence[str] = tuple(ML),
    ml: tuple[float, float] | None = None,
    most: int = 4,
) -> dict[str, list[Wish]]:
    """What each head gets, over all heads in equal shares; the order of `ids` does not matter.

    Heads get 1 to `most` kinds in turn from shuffled decks, so every kind appears equally often.
    Volumes of a kind are log-uniform: one from each of as many equal parts as there are lesions.
    """
    rng = np.random.default_rng([seed, len(ids)])
    ids, counts, deck = sorted(ids), [], []
    wishes: dict[str, list[str]] = {}
    for name in ids:
        counts = counts or list(rng.permutation(most) + 1)
        count = min(counts.pop(), len(chosen))
        wishes[name] = []
        while len(wishes[name]) < count:
            deck = deck or [chosen[k] for k in rng.permutation(len(chosen))]
            # The deck's next card that the head does not have, which a new deck surely holds.
            fresh = [kind for kind in deck if kind not in wishes[name]]
            if not fresh:
                deck = [*deck, *(chosen[k] for k in rng.permutation(len(chosen)))]
                continue
            deck.remove(fresh[0])
            wishes[name] += [fresh[0]] * (SPOTS if fresh[0] == "white_matter" else 1)
    spread = {}
    for kind in sorted(chosen):
        number = sum(names.count(kind) for names in wishes.values())
        low, high = np.log(ml or ML[kind])
        shares = (rng.permutation(number) + rng.uniform(size=number)) / max(number, 1)
        spread[kind] = list(np.exp(low + (high - low) * shares))
    return {name: [Wish(kind, float(spread[kind].pop())) for kind in wishes[name]] for name in ids}


def paint_head(
    head: tissues.Anatomy, wishes: Sequence[Wish], name: str, seed: int
) -> tuple[tissues.Volume, UInt8[np.ndarray, "X Y Z"], list[Lesion]]:
    """The relative brightness, the map of lesions (1, 2, ... as listed) and the lesions.

    No voxel is touched by two lesions. Large ones are drawn first; one that finds no place in
    `_TRIES` tries is left out.
    """
    image, truth = head.image.copy(), np.zeros(head.image.shape, np.uint8)
    touched = np.zeros(head.image.shape, bool)
    drawn: list[Lesion] = []
    for wish in sorted(wishes, key=lambda wish: (-wish.ml, wish.kind)):
        lesion_seed = zlib.crc32(f"{seed} {name} {wish.kind} {wish.ml:.6f}".encode())
        rng = np.random.default_rng(lesion_seed)
        found = _place(rng, head, wish, touched)
        if found is None:
            continue
        box, painted, seen = found
        changed = painted.image != head.image[box]
        image[box][changed] = painted.image[changed]
        # A voxel between lesions, so that no map of connected pieces joins two.
        touched[box] |= ndimage.binary_dilation(changed)
        truth[box][seen] = len(drawn) + 1
        places = np.argwhere(seen).mean(0) + [side.start for side in box]
        change = float((painted.image - painted.before)[seen].mean()) / head.contrast
        lesion = Lesion(
            wish.kind, head.ml(seen), wish.ml, tuple(places.tolist()), change, lesion_seed
        )
        drawn.append(lesion)
    return image, truth, drawn


def _place(
    rng: np.random.Generator, head: tissues.Anatomy, wish: Wish, touched: tissues.Mask
) -> tuple[tuple[slice, ...], kinds.Painted, tissues.Mask] | None:
    """A box, the painting in it and its truth; None: no place was found."""
    reach = 3.0 * drawing.radius_mm(wish.ml) + 16
    for _ in range(_TRIES):
        likely = kinds.places(rng, head, wish.kind, wish.ml) * ~touched
        total = likely.sum(dtype=np.float64)
        if total == 0:
            continue
        index = rng.choice(likely.size, p=likely.ravel().astype(np.float64) / total)
        centre = tuple(int(i) for i in np.unravel_index(index, likely.shape))
        box = head.box(centre, reach)
        inner = tuple(c - side.start for c, side in zip(centre, box, strict=True))
        part = head.crop(box)
        near = np.linalg.norm(drawing.offsets(part.image.shape, inner, head.voxel_mm), axis=0)
        if (touched[box] & (near < drawing.radius_mm(wish.ml))).any():
            continue
        paint = kinds.DRAW[wish.kind](rng, part, inner, wish.ml)
        found = _fit(part, paint, wish.ml)
        if found and not (touched[box] & (found[0].image != part.image)).any():
            return box, *found
    return None


def _fit(
    head: tissues.Anatomy, paint: kinds.Paint, ml: float
) -> tuple[kinds.Painted, tissues.Mask] | None:
    """The painting whose visible volume is nearest to `ml`; None beyond `TOLERANCE`."""
    low, high = np.log(np.array([0.35, 2.2]) * drawing.radius_mm(ml))
    best, error = None, TOLERANCE
    for _ in range(_STEPS):
        middle = (low + high) / 2
        painted = paint(float(np.exp(middle)))
        seen, image = drawing.visible(painted.before, painted.image, head.contrast, painted.within)
        found = head.ml(seen)
        if abs(found / ml - 1) <= error:
            best, error = (dataclasses.replace(painted, image=image), seen), abs(found / ml - 1)
        if error < 0.02:
            break
        low, high = (middle, high) if found < ml else (low, middle)
    return best
