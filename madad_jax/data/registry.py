"""Data sources by name: the one place that knows which readers exist."""

import difflib
from typing import Any

from madad_jax import errors
from madad_jax.data import cohort as cohort_lib
from madad_jax.data import png_folder
from madad_jax.data import record as record_lib

SOURCES = ("cohort", "png_folder")


def make_source(
    split: str,
    *,
    name: str,
    modality: str,
    image_size: int,
    root: str = "",
    cache_dir: str = "",
    seed: int = 0,
    cohort: dict[str, Any] | None = None,
) -> record_lib.Source:
    """Opens one split of a data set.

    Args:
      split: `train`, `val`, `test`, `test_healthy`; the cohort also has `val_lesion`, the
        folder whatever folders it has.
      name: `cohort` (synthetic, embedded) or `png_folder`.
      modality: `T1`, `T2`, `FLAIR`, or what the folder's files are called.
      image_size: side, px.
      root: folder of `png_folder`.
      cache_dir: where drawn cohort subjects are kept; "" = drawn anew each time.
      seed: of the cohort.
      cohort: sizes of the cohort, see `cohort.Options`.

    Raises:
      UserError: unknown name, split, modality or key; bad folder.
    """
    if name == "cohort":
        options = cohort_lib.options_from_dict(cohort)
        return cohort_lib.Cohort(
            split,
            modality=modality,
            image_size=image_size,
            cache_dir=cache_dir,
            seed=seed,
            options=options,
        )
    if name == "png_folder":
        if not root:
            raise errors.UserError(
                "data.root is empty; set it to the folder that holds "
                "{split}/{id}-slice_{k}-{modality|brainmask|segmentation}.png"
            )
        return png_folder.PngFolder(root, split=split, modality=modality, image_size=image_size)
    near = difflib.get_close_matches(name, SOURCES, 1)
    hint = f"; did you mean '{near[0]}'?" if near else ""
    raise errors.UserError(f"data.source: found '{name}'{hint} (accepted: {', '.join(SOURCES)})")
