"""Raw data → a prepared folder: checked, written as ArrayRecord (`records.py`), described in prepared.json.

    python -m vlr_jax.prepare --dataset folder --source DIR --features features.npz --media images --out ROOT

The folder appears whole or not at all: it is written under another name and renamed at the end. Nothing is downloaded.
docs/datasets.md describes what lies in it.
"""

import functools
import hashlib
import inspect
import json
import os
import pathlib
import shutil
import sys

import numpy as np
import tqdm
from absl import app, flags

import vlr_jax
from vlr_jax import files, records, sentence
from vlr_jax.resolve import resolve
from vlr_jax.summary import summary

FORMAT = 1
PATHS = ("captions", "features", "media", "text_features")  # files: remembered by name, compared by content
NOT_OPTIONS = {"self", "source", "strict", "progress", "tfds_arguments"}
LARGE = 1 << 28  # bytes of raw files, from which on comparing them takes long enough for a bar
MOST_SOURCES = 100  # more raw files than these are remembered as one line


def _options(dataset: str, builder_class, options: dict) -> dict:
    """All options of a builder: those given over its defaults.

    Raises:
        ValueError: the builder has no such option; the message lists those it has.
    """
    parameters = inspect.signature(builder_class.__init__).parameters
    defaults = {name: p.default for name, p in parameters.items() if name not in NOT_OPTIONS}
    if unknown := sorted(options.keys() - defaults.keys()):
        known = ", ".join([*defaults, "sentence_encoder"])
        raise ValueError(f"The dataset {dataset!r} has no option {', '.join(unknown)}; it has: {known}")
    return defaults | options


def _last(part: str) -> str:
    """The last part of a path; of `clip=PATH`, features with a name, that and the name."""
    name, sign, path = part.partition("=")
    return f"{name}={pathlib.Path(path).name}" if sign and "/" not in name else pathlib.Path(part).name


def by_name(options: dict) -> dict:
    """Options as a prepared folder remembers them: files by their names alone."""
    named = {
        key: ",".join(map(_last, str(value).split(",")))
        for key, value in options.items()
        if key in PATHS and value is not None
    }
    if options.get("sentence_encoder"):
        named["sentence_encoder"] = sentence.by_name(options["sentence_encoder"])
    return options | named


def _sha256(path: pathlib.Path, bar) -> str:
    digest, buffer = hashlib.sha256(), bytearray(1 << 20)
    with open(path, "rb", buffering=0) as file:
        while n := file.readinto(buffer):
            digest.update(memoryview(buffer)[:n])
            bar.update(n)
    return digest.hexdigest()


def _digests(paths: list[pathlib.Path], progress: bool) -> list[dict]:
    """Name, size and sha256 of raw files; very many become one line.

    The content, not the time of change: a copy of the same data is the same data. It takes some 6 % of the time of
    preparing (benchmarks/prepare.py).
    """
    total = sum(path.stat().st_size for path in paths)
    digests, silent = [], not progress or total < LARGE
    with tqdm.tqdm(None, "comparing sources", total, unit="B", unit_scale=True, disable=silent, leave=False) as bar:
        for path in paths:
            digests.append({"name": path.name, "bytes": path.stat().st_size, "sha256": _sha256(path, bar)})
    if len(digests) <= MOST_SOURCES:
        return digests
    whole = hashlib.sha256(json.dumps(digests).encode()).hexdigest()
    return [{"name": f"{len(paths)} files", "bytes": sum(d["bytes"] for d in digests), "sha256": whole}]


def _outside(paths: list[pathlib.Path], root: pathlib.Path) -> list[pathlib.Path]:
    """Raw files that are not of the prepared folder, nor of what a killed run left of it: it may lie in the source."""
    root, start = root.resolve(), f"{root.name}.partial-"

    @functools.cache
    def made(folder: pathlib.Path) -> bool:
        places = (folder, *folder.parents)
        return any(p.parent == root.parent and (p.name == root.name or p.name.startswith(start)) for p in places)

    return [path for path in paths if not made(path.parent.resolve())]


def _identity(dataset: str, builder_class, source, options: dict, encoder: str | None, splits, root, progress) -> dict:
    """What prepared.json says of the origin, `fingerprint` included; `splits` are the names of those in `root`."""
    find = getattr(builder_class, "find_sources", None)  # a builder without it makes its data itself
    paths = find(source=source, **options) if find else []
    if encoder:  # without one, the identity is that of a folder made before there were any
        paths, options = paths + sentence.sources(encoder, source, splits), options | {"sentence_encoder": encoder}
    added = getattr(builder_class, "ADDED", {}).items()  # at these values options go unnamed, as in older folders
    options = {key: value for key, value in options.items() if (key, value) not in added}
    identity = {"dataset": dataset, "version": str(builder_class.VERSION), "options": by_name(options)}
    identity["sources"] = _digests(_outside(paths, root), progress)
    return identity | {"fingerprint": hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()}


def _same(root: pathlib.Path, identity: dict, strict: bool) -> dict:
    """The content of an existing folder, if it was made from the same things.

    Raises:
        ValueError: it was not, or it is no prepared folder, or items are quarantined and `strict` is asked for.
    """
    content = read(root)
    if content["fingerprint"] != identity["fingerprint"]:
        differing = [key for key in ("dataset", "version", "sources") if content[key] != identity[key]]
        there, here = content["options"], identity["options"]
        differing += [
            f"option {key} ({there.get(key)!r} there, {here.get(key)!r} asked for)"
            for key in sorted(there.keys() | here.keys())
            if there.get(key) != here.get(key)
        ]
        raise ValueError(
            f"{root} was prepared from something else: {'; '.join(differing)}. Choose another --out, or remove it."
        )
    if strict and content["quarantined"]:
        raise ValueError(f"{root} lacks {content['quarantined']} broken items (see its quarantine.jsonl): not strict")
    return content


def _vectors(builder, encoder: str | None, source, folder: pathlib.Path, progress: bool) -> tuple[dict, dict | None]:
    """`(split → its texts and their vectors, what prepared.json says of them)`; `({}, None)` without an encoder."""
    if not encoder:
        return {}, None
    folder.mkdir()
    texts = records.texts(builder)
    vectors, about = sentence.write(encoder, texts, folder, source=source, progress=progress)
    return {split: (texts[split], vectors[split]) for split in texts}, about


def _content(builder, identity: dict, indexes: dict[str, records.Index], vectors: dict | None) -> dict:
    """prepared.json."""
    features, frames = builder.info.features, max(index.frames for index in indexes.values())
    visual = features["visual"] if "visual" in features.keys() else None
    sizes = set().union(*(index.sizes for index in indexes.values()))
    return {
        "format": FORMAT,
        "library": vlr_jax.__version__,
        **identity,
        "splits": {
            split: {"visuals": len(i.names), "texts": len(i.texts), "max_length": max(i.lengths)}
            for split, i in indexes.items()
        },
        "visual": visual and {"shape": list(visual.shape), "dtype": np.dtype(visual.np_dtype).name},
        "frames": {"count": frames, "size": list(sizes.pop()) if len(sizes) == 1 else None} if frames else None,
        "regions": max((index.regions for index in indexes.values() if index.regions is not None), default=None),
        "recipe": getattr(builder, "recipe", None),
        "missing": {split: names for split, names in getattr(builder, "missing", {}).items() if names},
        "facts": builder.fact_names,
        "facts_complete": getattr(builder, "facts_complete", False),
        "sentence": vectors,
        "moments": getattr(builder, "moments", None),
        "has_thumbs": any(index.thumbs for index in indexes.values()),
        "quarantined": len(builder.quarantine),
        "notes": list(getattr(builder, "notes", [])),
    }


def prepare(
    dataset: str, root, *, source=None, options: dict | None = None, strict: bool = False, progress: bool = True
) -> dict:
    """Makes the prepared folder `root`, or finds it made.

    Args:
        dataset: a file of `vlr_jax/data`, or `package.module:Builder`.
        root: the folder to make; parents are made too.
        source: the raw data, for datasets that have some.
        options: the builder's options by name, plain JSON values; and `sentence_encoder`, see `sentence.KINDS`.
        strict: broken items are an error.
        progress: show bars.

    Returns:
        the content of prepared.json. A folder made from the same dataset, options and raw files is returned at once.

    Raises:
        ValueError: unknown dataset or option, unusable data, or a `root` that holds something else: it is never
            overwritten.
        OSError: the target cannot be written. Nothing is left behind then, as after any error or signal but SIGKILL,
            after which the next call cleans up.
    """
    root = pathlib.Path(root).absolute()
    builder_class = resolve("data", dataset)
    options = dict(options or {})
    encoder = options.pop("sentence_encoder", None)
    options = _options(dataset, builder_class, options)
    identify = functools.partial(_identity, dataset, builder_class, source, options, encoder)
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        return _same(root, identify(read(root)["splits"], root, progress), strict)
    if encoder:
        sentence.sources(encoder, source)  # refused before the work
    parameters = inspect.signature(builder_class.__init__).parameters
    asked = {key: value for key, value in (("strict", strict), ("progress", progress)) if key in parameters}
    with files.temporary_folder(root) as partial:
        builder = builder_class(source=source, **options, **asked, data_dir=partial, file_format="array_record")
        vectors, about = _vectors(builder, encoder, source, partial / "vectors", progress)
        identity = identify(vectors, root, progress)
        indexes = records.write(builder, partial, progress, vectors)
        shutil.rmtree(partial / "vectors", ignore_errors=True)
        if strict and builder.quarantine:
            raise ValueError(f"{len(builder.quarantine)} broken items, the first: {builder.quarantine[0]}")
        content = _content(builder, identity, indexes, about)
        (partial / "prepared.json").write_text(json.dumps(content, indent=1), encoding="utf-8")
        try:
            os.rename(partial, root)
        except OSError:
            if not (root / "prepared.json").exists():
                raise
            return _same(root, identity, strict)  # another process was faster
    return content


def read(root) -> dict:
    """The content of a prepared folder's prepared.json.

    Raises:
        ValueError: the folder is absent, not (completely) prepared, or of another format; says what to run.
    """
    path = pathlib.Path(root) / "prepared.json"
    command = "make it with: python -m vlr_jax.prepare --dataset NAME --source DIR --out"
    if not path.exists():
        state = "is not a prepared folder (it has no prepared.json)" if path.parent.exists() else "does not exist"
        raise ValueError(f"{root} {state}; {command} {root}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        found = content["format"]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{path} cannot be read ({error!r}); remove the folder and {command} {root}") from error
    if found != FORMAT:
        raise ValueError(f"{root} has format {found}, this version reads {FORMAT}; {command} with another folder")
    return content


def _define_flags() -> None:
    flags.DEFINE_string("dataset", None, "A file of vlr_jax/data: folder (your own data), scenes, …", required=True)
    flags.DEFINE_string("out", None, "The folder to make.", required=True)
    flags.DEFINE_string("source", None, "The raw data: a folder or a file.")
    flags.DEFINE_string("features", None, "Precomputed features, looked for in --source first.")
    flags.DEFINE_string("media", None, "A folder or tar files (glob, commas), looked for in --source first.")
    flags.DEFINE_string("sentence_encoder", None, f"Vectors of the texts, for graded relevance: {sentence.KINDS}.")
    flags.DEFINE_bool("strict", False, "Broken items are an error.")
    flags.DEFINE_multi_string("option", [], "key=value of the dataset's builder, the value as JSON or plain text.")


def _value(text: str):
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _main(_) -> None:
    asked = flags.FLAGS
    keys = ("features", "media", "sentence_encoder")
    options = {key: asked[key].value for key in keys if asked[key].value is not None}
    for option in asked.option:
        key, sign, value = option.partition("=")
        if not sign or key in options:
            sys.exit(f"--option takes key=value, each key once; got {option!r}")
        options[key] = _value(value)
    try:
        content = prepare(asked.dataset, asked.out, source=asked.source, options=options, strict=asked.strict)
    except (ValueError, OSError) as error:
        sys.exit(f"prepare: {error}")
    print(summary(content, asked.out))
    texts = any(split["texts"] for split in content["splits"].values())
    use = f"--config.data.root={asked.out}" if texts else f"--mode index --data {asked.out}"
    print(f"next: python -m vlr_jax.main --config CONFIG.py {use} --workdir runs/NAME")


if __name__ == "__main__":
    _define_flags()
    app.run(_main)
