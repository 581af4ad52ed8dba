"""What of a record enters a batch as `visual`: its features or its frames, which of them, padded to one fixed shape."""

import dataclasses

import numpy as np

from vlr_jax import media, sampling

FRAME_SIZE = 96


def kind(data: dict, prepared: dict) -> str:
    """`features` or `frames`, what enters the batch as `visual`; features where the dataset has both and none is named.

    Raises:
        ValueError: the dataset has no such thing.
    """
    has = [kind for kind, key in (("features", "visual"), ("frames", "frames")) if prepared[key]]
    asked = data.get("visual") or has[0]
    if asked not in has:
        raise ValueError(f"config.data.visual={asked!r}, but {data['root']} was prepared with {' and '.join(has)}")
    return asked


@dataclasses.dataclass(frozen=True)
class Reading:
    """How the visuals of a prepared folder are read; made by `plan`.

    Attributes:
        kind: `features` or `frames`.
        length: F or R, the elements (frames, or feature rows) that a visual is padded to.
        regions: R, the regions that a frame is padded to; None where the features are not those of a frame's regions.
        frame_size: pixels of a frame's side.
        most: elements to choose where a visual has more; None = all.
        policy: of `sampling`, which elements are chosen.
    """

    kind: str
    length: int
    regions: int | None
    frame_size: int
    most: int | None
    policy: str

    def shapes(self, prepared: dict) -> dict[str, tuple[tuple[int, ...], str]]:
        """Shape and dtype of what `read` gives, boxes left out, without reading anything."""
        lead = (self.length,) if self.regions is None else (self.length, self.regions)
        own, dtype = (self.frame_size, self.frame_size, 3), "uint8"
        if self.kind == "features":
            own, dtype = tuple(prepared["visual"]["shape"][-1:]), prepared["visual"]["dtype"]
        return {"visual": (lead + own, dtype), "visual_mask": (lead, "bool")}

    def read(self, record: dict, rng: np.random.Generator | None = None) -> dict[str, np.ndarray]:
        """The keys of a record's visual that enter a batch; only the frames that are chosen are decoded.

        Args:
            record: of a prepared split.
            rng: for policies that are random in training; None for their fixed choice.

        Returns:
            `visual`: float `[F, R, D]`, `[R, D]`, or uint8 `[F, H, W, 3]`, and `visual_mask` bool `[F, R]`, `[R]` or
            `[F]`; with features `boxes` float32 `[…, 4]`, chosen and laid out alike, where the record has them.
        """
        if self.kind == "frames":
            chosen = self._choose(len(record["frames"]), rng)
            frames = [media.fit(media.decode(record["frames"][i]), self.frame_size) for i in chosen]
            visual, mask = pad(np.stack(frames), self.length)
            return {"visual": visual, "visual_mask": mask}
        counts = None if self.regions is None else record["regions"]
        chosen = self._choose(len(record["visual"] if counts is None else counts), rng)
        lay = self._in_rows(chosen) if counts is None else self._by_frames(counts, chosen)
        visual, mask = lay(record["visual"])
        boxes = {"boxes": lay(record["boxes"])[0]} if "boxes" in record else {}
        return {"visual": visual, "visual_mask": mask} | boxes

    def _choose(self, stored: int, rng) -> np.ndarray:
        """Places of the elements to read, in order."""
        return np.arange(stored) if self.most is None else sampling.choose(self.policy, stored, self.most, rng)

    def _in_rows(self, chosen: np.ndarray):
        """A function that lays rows out as `[R, …]`, with the mask."""
        return lambda rows: pad(rows if len(rows) == len(chosen) else rows[chosen], self.length)

    def _by_frames(self, counts: np.ndarray, chosen: np.ndarray):
        """A function that lays rows of all frames, one frame after another, out as `[F, R, …]`, with the mask."""
        ends, mask = np.cumsum(counts), np.zeros((self.length, self.regions), bool)
        mask[: len(chosen)] = np.arange(self.regions) < counts[chosen][:, None]

        def lay(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            laid = np.zeros((*mask.shape, *rows.shape[1:]), rows.dtype)
            if len(chosen) < len(counts):
                rows = np.concatenate([rows[ends[i] - counts[i] : ends[i]] for i in chosen])
            laid[mask] = rows
            return laid, mask

        return lay


def plan(data: dict, prepared: dict) -> Reading:
    """How `config.data` wants the visuals of a prepared folder.

    Args:
        data: `root`, and if wanted `visual` (`features` | `frames`), `frame_size`, `frames` (how many elements of a
            visual; None = all), `sampling` (which; `uniform`).
        prepared: the content of prepared.json.

    Raises:
        ValueError: the folder has no such visuals; `frames` is no number of at least 1; an unknown policy.
    """
    what, most, policy = kind(data, prepared), data.get("frames"), data.get("sampling") or "uniform"
    if most is not None and (isinstance(most, bool) or not isinstance(most, int) or most < 1):
        raise ValueError(f"config.data.frames is {most!r}; expected a whole number of at least 1, or None for all")
    sampling.choose(policy, 2, 1)  # an unknown one is refused now
    if what == "frames":
        longest = prepared["frames"]["count"]
    else:
        longest = max(split["max_length"] for split in prepared["splits"].values())
    length, regions = min(most or longest, longest), prepared.get("regions") if what == "features" else None
    return Reading(what, length, regions, data.get("frame_size") or FRAME_SIZE, most, policy)


def pad(rows: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """`[n, …]` → `[length, …]` with zeros, and the mask bool `[length]` of the real rows."""
    if len(rows) == length:
        return rows, np.ones(length, bool)
    padded = np.zeros((length, *rows.shape[1:]), rows.dtype)
    padded[: len(rows)] = rows
    return padded, np.arange(length) < len(rows)
