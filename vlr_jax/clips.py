"""A video set as the field has it on disk → the builder of its records, from raw videos or precomputed features.

A video that is not there is never left out in silence: it is counted, named in `missing`, and an evaluation refuses to
report a protocol without it unless told so (`evaluators/retrieval.py`). One that cannot be read is quarantined too.
"""

import dataclasses
import inspect
import pathlib
from collections.abc import Callable

import tensorflow_datasets as tfds

from vlr_jax import annotations, footage, raw, video
from vlr_jax import features as feature_files
from vlr_jax import media as media_files


@dataclasses.dataclass(frozen=True)
class Set:
    """What is known of a set.

    Attributes:
        read: `(folder, *, subset, …)` → the splits; its further keyword arguments are options of the builder.
        files: names or globs of its annotations.
        end: seconds of a video that belong to it; None for all.
    """

    read: Callable[..., annotations.Splits]
    files: tuple[str, ...]
    end: float | None = None


def builder(dataset: str, about: Set) -> type[tfds.core.GeneratorBasedBuilder]:
    """The `Builder` of a dataset of that name."""

    class Builder(tfds.core.GeneratorBasedBuilder):
        """The files of a set → records.

        Args:
            source: the folder of the annotations.
            features: see `footage.Features`; None: the videos themselves.
            media: folders with the videos, see `footage.Videos`; None: the source folder.
            fps, most_frames, image_size, policy: of `video.recipe`.
            end: seconds of a video that are read; None for all.
            subset: counts are not asserted, splits may be absent, and those without any video are left out.
            **tfds_arguments: data_dir, file_format; and the options of the set's own reader.

        Raises ValueError where files are missing, or are not what they should be, with what was expected and found.
        """

        name = dataset
        VERSION = tfds.core.Version("1.0.0")

        def __init__(
            self, *, source=None, features=None, media=None, fps: float = 1.0, most_frames: int = 64,
            image_size: int = 224, policy: str = "seconds", end: float | None = about.end, subset: bool = False,
            **tfds_arguments,
        ):  # fmt: skip
            own = {option: tfds_arguments.pop(option) for option in _own(about) if option in tfds_arguments}
            folder = _folder(dataset, source)
            self.notes = ["subset=true: the numbers of videos were not asserted"] if subset else []
            splits = annotations.tidy(about.read(folder, subset=subset, **own), self.notes)
            made = video.recipe(fps=fps, most_frames=most_frames, image_size=image_size, policy=policy)
            made |= {} if end is None else {"end": end}
            self._footage = footage.Features(features, folder) if features else footage.Videos(media, folder, made)
            self._splits, self.missing = _there(splits, self._footage, subset, self.notes)
            self._footage.settle([place for found in self._splits.values() for _, place in found])
            self.recipe, self.quarantine, self.fact_names = self._footage.recipe, [], None
            self.counts = {split: len(found) for split, found in self._splits.items()}
            super().__init__(**tfds_arguments)

        @classmethod
        def find_sources(cls, *, source=None, features=None, media=None, **_) -> list[pathlib.Path]:
            """The raw files that go in, found without reading them."""
            return _sources(about, _folder(dataset, source), features, media)

        def _info(self) -> tfds.core.DatasetInfo:
            kinds = tfds.features
            form = {"name": kinds.Text(), "text": kinds.Sequence(kinds.Text())} | self._footage.form()
            return tfds.core.DatasetInfo(builder=self, features=kinds.FeaturesDict(form), disable_shuffling=True)

        def _split_generators(self, dl_manager) -> dict:
            return {split: self._generate_examples(split) for split in self._splits}

        def _generate_examples(self, split: str):
            return _records(split, self._splits[split], self._footage, self.missing, self.quarantine)

    return _signed(Builder, about)


def _signed(made: type, about: Set) -> type:
    """`prepare` reads a builder's options off its signature, so the reader's own are put there too."""
    *given, rest = inspect.signature(made.__init__).parameters.values()
    made.__init__.__signature__ = inspect.Signature([*given, *_own(about).values(), rest])
    return made


def _own(about: Set) -> dict[str, inspect.Parameter]:
    """The options of a set's own reader."""
    parameters = inspect.signature(about.read).parameters
    return {name: p for name, p in parameters.items() if p.kind == p.KEYWORD_ONLY and name != "subset"}


def _sources(about: Set, folder: pathlib.Path, features, media) -> list[pathlib.Path]:
    """The annotations, and the videos or the features; each file once."""
    found = [path for pattern in about.files for path in sorted(folder.glob(pattern))]
    if features is None:
        found += [path for place in raw.media(media, folder) for path in raw.below(place, media_files.VIDEOS)]
    else:
        found += [path for p in raw.find(features, folder, "features") for path in feature_files.files(p)]
    return list(dict.fromkeys(found))


def _records(split: str, pairs: list[tuple], found_in, missing: dict[str, list[str]], quarantine: list[dict]):
    """The records of a split; a video that cannot be read is added to `missing` and `quarantine` instead."""
    parts = found_in.read([place for _, place in pairs])
    for key, ((clip, _), (part, reason)) in enumerate(zip(pairs, parts, strict=True)):
        if part is not None:
            yield key, {"name": clip.name, "text": clip.texts} | part
            continue
        problem = {"line": None, "media": clip.name, "reason": f"{split}: {reason}"}
        if problem not in quarantine:  # with sentence vectors all records are made twice
            quarantine.append(problem)
            missing.setdefault(split, []).append(clip.name)


def _folder(dataset: str, source) -> pathlib.Path:
    if source is None or not pathlib.Path(source).is_dir():
        raise ValueError(f"{dataset} needs a source, the folder with its annotations; got {source!r}, which is none")
    return pathlib.Path(source)


def _there(splits: annotations.Splits, found_in, subset: bool, notes: list[str]) -> tuple[dict, dict[str, list[str]]]:
    """(split → its clips with the places of what can be seen of them, split → the names of those that have none).

    Raises:
        ValueError: a whole split has none; with `subset`, all of them.
    """
    found, missing = {}, {}
    for split, clips in splits.items():
        places = [(clip, found_in.find(clip)) for clip in clips]
        there = [pair for pair in places if pair[1] is not None]
        absent = [clip.name for clip, place in places if place is None]
        if there:
            found[split] = there
            missing |= {split: absent} if absent else {}
        elif subset:
            notes.append(f"{split}: left out, none of its {len(clips):,} videos is there")
        else:
            break
    if not found or len(found) < len(splits) and not subset:
        split, clips = next((split, clips) for split, clips in splits.items() if split not in found)
        raise ValueError(
            f"none of the {len(clips):,} videos of {split} ({clips[0].name}, …) is in {found_in}; {annotations.SUBSET}"
        )
    return found, missing
