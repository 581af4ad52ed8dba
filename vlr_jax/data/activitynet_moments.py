"""ActivityNet Captions (Krishna et al. 2017) for moment retrieval: every sentence is a query with its window.

Source: the user's files, `{train,val,test}.json` of microsoft/2D-TAN: `{"v_ID": {"duration": …, "timestamps": [[start,
end], …], "sentences": […]}, …}`. 37,421 / 17,505 / 17,031 queries of 10,009 / 4,917 / 4,885 videos; `val` is the
official val_1, `test` val_2: other annotators' sentences of the same videos, 4,885 of them. So a checkpoint selected on
`val` has seen the videos of `test`, as all that report on it. Features: C3D (500) of 2D-TAN, one h5 with
`[v_ID]['c3d_features']`, or any with one row a clip by `v_ID` or `ID`; rows are spread over the duration
(`clip_length` None) unless one is given. Text features `v_ID_0.npz`. Float16.
"""

import pathlib

from vlr_jax import annotations, moments, queries, timed

COUNTS = {"train": (37421,), "val": (17505,), "test": (17031,)}
FORM = '{"v_ID": {"duration": seconds, "timestamps": [[start, end], …], "sentences": [text, …]}, …}'


def read(folder: pathlib.Path, defects: queries.Defects, *, subset: bool) -> moments.Splits:
    """The annotations of a folder; raises ValueError as `annotations` and `queries` tell."""
    splits = {}
    for split in COUNTS:
        if path := annotations.find(folder, (f"{split}.json",), optional=subset):
            splits[split] = queries.from_timestamps(
                path, lambda about: (about["duration"], 1), FORM, called=lambda name: (name.removeprefix("v_"),)
            )
    queries.expect(COUNTS, splits, subset)
    return {split: queries.tidy(videos, split, defects, swap=True) for split, videos in splits.items()}


Builder = timed.builder(
    "activitynet_moments", timed.Set(read, ("train.json", "val.json", "test.json"), clip_length=None)
)
