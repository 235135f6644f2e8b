"""The data of a run from its config section: sources, batches, how slices were made."""

import ast
import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
from etils import epath
from ml_collections import config_dict

from madad_jax.core import errors, messages
from madad_jax.data import provenance
from madad_jax.data import registry as data_registry
from madad_jax.data.input import pipeline
from madad_jax.devices import batches as batches_lib

_COHORT_CACHE = "~/.cache/madad_jax/cohort"
_MOST_CONTRASTS = 6  # 63 subsets; training draws one of them for every sample
_MOST_NEIGHBOURS = 4


@dataclasses.dataclass(frozen=True)
class DataPlan:
    """Where slices come from and how they become batches.

    Attributes:
      source: kind of the source, see `data.registry`.
      root: its folder; "" for the embedded cohort.
      modality: which pictures of it, as the config has it.
      contrasts: the modality, or several of them, in the order of an image's channels.
      neighbours: slices below and above each slice that are channels too.
      image_size: pixels a side.
      seed: of drawn subjects, order and augmentation.
      augment: style; "none" for none.
      cached_latents: the denoiser learns from latents that were encoded once.
      latent_draws: augmented draws kept of each training slice.
      latents_dir: their folder; "": in the run's.
      cohort: sizes of the embedded cohort.
      cache_dir: of its drawn subjects; "": the user's cache folder.
      num_threads: that read.
    """

    source: str
    root: str
    modality: str
    contrasts: tuple[str, ...]
    neighbours: int
    image_size: int
    seed: int
    augment: str
    cached_latents: bool
    latent_draws: int
    latents_dir: str
    cohort: Mapping[str, Any]
    cache_dir: str
    num_threads: int

    @property
    def synthetic(self) -> bool:
        """Whether the slices are those of the embedded cohort."""
        return self.source == "cohort"

    @property
    def channels(self) -> int:
        """Channels of an image with several contrasts or neighbours; 0: one picture alone."""
        count = len(self.contrasts) * (1 + 2 * self.neighbours)
        return count if count > 1 else 0

    def open_split(self, split: str) -> Any:
        """The source of one split. Raises UserError where there is none."""
        cache = self.cache_dir or str(epath.Path(_COHORT_CACHE).expanduser())
        arguments = {
            "name": self.source,
            "root": self.root,
            "image_size": self.image_size,
            "cache_dir": cache,
            "seed": self.seed,
            "cohort": dict(self.cohort),
        }
        if not self.channels:
            return data_registry.make_source(split, modality=self.contrasts[0], **arguments)
        return data_registry.make_stack(
            split, contrasts=self.contrasts, neighbours=self.neighbours, **arguments
        )

    def has_split(self, split: str) -> bool:
        """Whether there is such a split, with one contrast or more."""
        return any(
            data_registry.has_split(split, name=self.source, root=self.root, modality=contrast)
            for contrast in self.contrasts
        )

    def preparation(self) -> provenance.SourcePreparation | None:
        """How the slices were made from scans; None where that is not known."""
        return provenance.describe_source(
            name=self.source,
            root=self.root,
            modality=self.contrasts[0],
            image_size=self.image_size,
            cohort=dict(self.cohort),
        )

    def train_iterator(
        self, data: Any, batch_size: int, mesh: jax.sharding.Mesh
    ) -> pipeline.TrainIterator:
        """Endless training batches of this process."""
        # Of the mesh and not of the job: processes that hold the same rows read the same slices.
        index, count = batches_lib.data_process(mesh)
        return pipeline.train_iterator(
            data,
            batch_size=batch_size,
            seed=self.seed,
            augment=None if self.augment == "none" else {"style": self.augment},
            process_index=index,
            process_count=count,
            num_threads=self.num_threads,
        )

    def eval_batches(
        self, data: Any, batch_size: int, mesh: jax.sharding.Mesh
    ) -> pipeline.EvalBatches:
        """Padded batches of this process, every slice once."""
        index, count = batches_lib.data_process(mesh)
        return pipeline.eval_batches(
            data,
            batch_size=batch_size,
            process_index=index,
            process_count=count,
            num_threads=self.num_threads,
        )


def data_plan(config: config_dict.ConfigDict) -> DataPlan:
    """The plan of `config.data`."""
    c = config.data
    return DataPlan(
        source=c.source,
        root=c.root,
        modality=c.modality,
        contrasts=contrast_names(c.modality),
        neighbours=neighbours(config),
        image_size=c.image_size,
        seed=config.seed,
        augment=c.augment,
        cached_latents=c.latents == "cached",
        latent_draws=c.latent_draws,
        latents_dir=c.latents_dir,
        cohort=c.cohort.to_dict(),
        cache_dir=c.cache_dir,
        num_threads=c.num_threads,
    )


def contrast_names(found: Any) -> tuple[str, ...]:
    """The contrasts of `data.modality`: one name, or several as "T1,FLAIR" or ("T1", "FLAIR").

    Raises UserError for an empty name, one name twice, or too many.
    """
    if isinstance(found, str) and found.strip()[:1] in ("(", "["):
        # As a command line hands over a tuple.
        try:
            found = ast.literal_eval(found.strip())
        except (SyntaxError, ValueError):
            found = ()
    parts = found.split(",") if isinstance(found, str) else found
    names = tuple(str(name).strip() for name in parts) if isinstance(parts, tuple | list) else ()
    lowered = {name.lower() for name in names}
    if not 0 < len(lowered) == len(names) <= _MOST_CONTRASTS or "" in names:
        raise errors.UserError(
            f"data.modality: found {messages.shorten(repr(found))}, accepted: a name as T1, or up "
            f"to {_MOST_CONTRASTS} different ones as T1,FLAIR"
        )
    return names


def recorded_contrasts(record: Mapping[str, Any]) -> tuple[str, ...]:
    """The contrasts of a whole config as JSON holds it."""
    return contrast_names(record["data"]["modality"])


def neighbours(config: config_dict.ConfigDict) -> int:
    """`data.neighbours`; records of earlier versions have none.

    Raises UserError for what is no number of slices.
    """
    found = config.data.get("neighbours", 0)
    if not 0 <= found <= _MOST_NEIGHBOURS:
        raise errors.UserError(f"data.neighbours: found {found}, accepted: 0 to {_MOST_NEIGHBOURS}")
    return found
