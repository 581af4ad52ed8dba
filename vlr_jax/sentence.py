"""Texts → sentence vectors, unit length, by which captions are compared (`relevance.caption`, `caption_cosine`).

Three encoders, named as `kind` or `kind:argument`: `tfidf` is built in, fitted on the training texts and downloads
nothing; `file` reads the user's own vectors; `sentence-transformers` runs a model from a local folder. Vectors of zeros
stand for texts that an encoder knows nothing of: their cosine with anything is 0.
"""

import array
import collections
import glob
import json
import pathlib
import zipfile
from collections.abc import Callable, Iterable

import numpy as np
import tqdm

from vlr_jax.text import split_words

KINDS = "tfidf, tfidf:DIM, file:PATH, sentence-transformers:FOLDER"
DIM = 256  # of tfidf
ROWS = 4096  # texts encoded at once
DENSE = 2**22  # a matrix of no more entries is decomposed whole
UNKNOWN = 1e-6  # of a unit vector: what is shorter in the latent space is noise of rounding

Texts = dict[str, list[list[str]]]  # of each split the texts of each visual, in the order of the records


def parse(encoder: str) -> tuple[str, str]:
    """`(kind, argument)` of an encoder's name.

    Raises:
        ValueError: no such kind, or an argument that it cannot have.
    """
    kind, _, argument = str(encoder).partition(":")
    if kind == "tfidf":
        argument = argument or str(DIM)
        valid = argument.isdecimal() and int(argument) > 0
    else:
        valid = kind in ("file", "sentence-transformers") and argument
    if not valid:
        raise ValueError(f"sentence_encoder {encoder!r}; expected one of: {KINDS}")
    return kind, argument


def by_name(encoder: str) -> str:
    """The encoder as a prepared folder remembers it: its file or folder without where it lay."""
    kind, argument = parse(encoder)
    return f"tfidf:{argument}" if kind == "tfidf" else f"{kind}:{pathlib.PurePath(argument).name}"


def sources(encoder: str, source, splits: Iterable[str] | None = None) -> list[pathlib.Path]:
    """The files that an encoder reads, by whose content it is recognised: none for tfidf.

    Args:
        encoder: its name.
        source: the raw data's folder (or a file in it, or None), where a path is looked for before the current folder.
        splits: those of the data, which `{split}` stands for; None: they are not known, and it stands for anything.

    Raises:
        ValueError: there are none.
    """
    kind, argument = parse(encoder)
    if kind == "tfidf":
        return []
    path = _located(argument, source, splits)
    if kind == "file":
        files = sorted(_matching(path, splits))
    else:
        files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else []
    if not files:
        what = "no such file" if kind == "file" else "no folder with a model (nothing is downloaded)"
        raise ValueError(f"sentence_encoder {encoder!r}: {path} is {what}")
    return files


def write(encoder: str, texts: Texts, folder, *, source=None, progress: bool = False) -> tuple[dict, dict]:
    """Encodes all texts into one file a split.

    Args:
        encoder: its name.
        texts: of each split the texts of each visual.
        folder: where `<split>.vectors.npy` is written.
        source: the raw data, see `sources`.
        progress: show bars.

    Returns:
        `({split: float16 [T, E], mapped from its file}, {"encoder", "dim", "origin"})`. Vectors are of unit length or
        zero; the row is the text's place in the split.

    Raises:
        ValueError: vectors that are missing, not finite or of another number than the texts; no training texts for
            tfidf; a model that cannot be loaded.
    """
    kind, argument = parse(encoder)
    make = {"tfidf": _tfidf, "file": _file, "sentence-transformers": _transformer}[kind]
    encode, dim, origin = make(argument, texts, source)
    vectors = {}
    for split, of_visuals in texts.items():
        flat = [text for own in of_visuals for text in own]
        path = pathlib.Path(folder) / f"{split}.vectors.npy"
        vectors[split] = np.lib.format.open_memmap(path, "w+", np.float16, (len(flat), dim))
        bar = tqdm.tqdm(total=len(flat), desc=f"sentence vectors of {split}", disable=not progress, leave=False)
        for rows in (slice(start, start + ROWS) for start in range(0, len(flat), ROWS)):
            vectors[split][rows] = _unit(encode(split, flat[rows], rows), f"{encoder}, split {split}")
            bar.update(len(flat[rows]))
        bar.close()
    return vectors, {"encoder": by_name(encoder), "dim": dim, "origin": origin}


Encode = Callable[[str, list[str], slice], np.ndarray]  # (split, some of its texts, which) → [n, E]


# ---- tfidf


def _tfidf(argument: str, texts: Texts, source) -> tuple[Encode, int, dict]:
    """Latent semantic analysis (Deerwester et al. 1990) of the training texts; every other text is folded in.

    A text is the set of its words, weighted by `log((1 + n) / (1 + texts with the word))` of the n training texts, at
    unit length: x. The texts of one visual say the same thing in other words, so the decomposition U S V' is of one row
    a visual, the sum of its texts at unit length; words that stand for each other come to lie together. The vector of a
    text is x V S^1/2 at unit length, of the `dim` largest singular values. Other splits change nothing.
    """
    if "train" not in texts:
        raise ValueError(f"sentence_encoder tfidf is fitted on the split train; there are: {', '.join(texts)}")
    flat = [text for own in texts["train"] for text in own]
    known = collections.Counter(word for text in flat for word in set(split_words(text)))
    column = {word: i for i, word in enumerate(sorted(known))}
    weight = np.log((1 + len(flat)) / (1 + np.array([known[word] for word in column])))

    def weighted(some: list[str]):
        return _rows_at_unit_length(_bag(some, column), weight)

    import scipy.sparse

    visual = np.repeat(np.arange(len(texts["train"])), [len(own) for own in texts["train"]])
    ones = np.ones(len(flat))
    sums = scipy.sparse.csr_array((ones, (visual, np.arange(len(flat))))) @ weighted(flat)
    words, values = _decomposed(_rows_at_unit_length(sums, np.ones(len(column))), int(argument))

    def encode(split, some, rows):
        latent = weighted(some) @ words
        known = np.linalg.norm(latent, axis=1, keepdims=True) > UNKNOWN
        return np.where(known, latent * np.sqrt(values), 0)

    about = {"fitted on": "train", "texts": len(flat), "words": len(column)}
    return encode, len(values), about


def _bag(texts: list[str], column: dict[str, int]):
    """Which known words each text has: sparse `[n, words]` of 0 and 1."""
    import scipy.sparse

    places, ends = array.array("i"), array.array("i", [0])  # compact: half a million texts are no hardship
    for text in texts:
        places.extend(sorted({column[word] for word in split_words(text) if word in column}))
        ends.append(len(places))
    places, ends = (np.array(numbers, np.int32) for numbers in (places, ends))
    return scipy.sparse.csr_array((np.ones(len(places)), places, ends), shape=(len(texts), len(column)))


def _rows_at_unit_length(matrix, weight: np.ndarray):
    """Columns times `weight`, then rows at unit length; rows of zeros stay."""
    import scipy.sparse

    matrix = matrix @ scipy.sparse.diags_array(weight)
    length = np.sqrt(np.asarray(matrix.multiply(matrix).sum(axis=1)).ravel())
    return scipy.sparse.csr_array(scipy.sparse.diags_array(1 / np.where(length == 0, 1, length)) @ matrix)


def _decomposed(matrix, dim: int) -> tuple[np.ndarray, np.ndarray]:
    """The first right singular vectors, as columns `[words, E]`, and the singular values `[E]`, falling; E ≤ dim.

    Float64, from a fixed start, the largest entry of every vector positive: the same on every run.

    Raises:
        ValueError: nothing to decompose.
    """
    if matrix.nnz == 0:
        raise ValueError("sentence_encoder tfidf: the training texts have no word that tells them apart")
    if matrix.shape[0] * matrix.shape[1] <= DENSE:
        _, values, rows = np.linalg.svd(matrix.toarray(), full_matrices=False)
    else:
        import scipy.sparse.linalg

        start = np.ones(min(matrix.shape))
        most = min(dim, min(matrix.shape) - 1)
        _, values, rows = scipy.sparse.linalg.svds(matrix, k=most, v0=start, return_singular_vectors="vh")
    order = np.argsort(-values)[:dim]
    order = order[values[order] > 1e-9 * values.max()]
    values, columns = values[order], rows[order].T
    largest = np.take_along_axis(columns, np.abs(columns).argmax(axis=0)[None], axis=0)
    return columns * np.sign(largest), values


# ---- vectors of the user


def _file(argument: str, texts: Texts, source) -> tuple[Encode, int, dict]:
    """`.npy` of each split (`{split}` in the name; a dataset of one split may go without), or `.npz` by split."""
    arrays = {split: _own(_located(argument, source, texts), split, texts) for split in texts}
    for split, own in arrays.items():
        expected = sum(map(len, texts[split]))
        if own.dtype.kind != "f" or own.ndim != 2 or len(own) != expected:
            raise ValueError(
                f"sentence vectors of split {split}: expected floating-point numbers of shape ({expected}, E), a row "
                f"for each text in the order of the records, found {own.dtype} {own.shape}. (Visuals that were "
                "quarantined have no texts in the records; of the split dev of flickr30k and coco the first visuals "
                "alone are kept, --option dev=0 keeps all.)"
            )
    widths = {split: own.shape[1] for split, own in arrays.items()}
    if len(set(widths.values())) != 1 or 0 in widths.values():
        raise ValueError(f"sentence vectors must have one width in all splits, found {widths}")
    return (lambda split, some, rows: arrays[split][rows]), widths[next(iter(widths))], {}


def _own(path: pathlib.Path, split: str, texts: Texts) -> np.ndarray:
    """The user's array of a split; a `.npy` stays on disk."""
    whole = "{split}" not in path.name
    path = path.with_name(path.name.replace("{split}", split))
    try:
        loaded = np.load(path, mmap_mode="r", allow_pickle=False)
        if not isinstance(loaded, np.ndarray):
            with loaded:
                if split in loaded.files:
                    return loaded[split]
                raise ValueError(f"there is no array {split!r}; it has: {', '.join(loaded.files)}")
    except (OSError, EOFError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"sentence vectors of split {split}: {path} cannot be read: {error}") from error
    if whole and len(texts) > 1:
        raise ValueError(
            f"{path.name} is one array, the splits are {', '.join(texts)}: name a file a split with {{split}} in the "
            "path, or one .npz with an array a split"
        )
    return loaded


# ---- a model of the user


def _transformer(argument: str, texts: Texts, source) -> tuple[Encode, int, dict]:
    """A sentence-transformers model from a local folder; its weights must be safetensors, which run no code."""
    path = _located(argument, source)
    _refuse_code(path)
    for pickled in (file for file in path.rglob("*") if file.suffix in (".bin", ".pt", ".pth", ".pkl", ".ckpt")):
        if not any(pickled.parent.glob("*.safetensors")):
            raise ValueError(f"{pickled} is pickled, which may run code: only weights as .safetensors are loaded")
    try:
        import sentence_transformers
    except ImportError as error:
        raise ValueError("sentence-transformers is missing: pip install 'vlr_jax[sentence]'") from error
    try:
        model = sentence_transformers.SentenceTransformer(
            str(path), local_files_only=True, trust_remote_code=False, model_kwargs={"use_safetensors": True}
        )
    except Exception as error:  # whatever the model's own code raises
        raise ValueError(f"{path} cannot be loaded as a sentence-transformers model: {error}") from error

    def encode(split, some, rows):
        return np.asarray(model.encode(some, convert_to_numpy=True, show_progress_bar=False))

    return encode, int(encode("", ["a"], None).shape[1]), {"sentence_transformers": sentence_transformers.__version__}


def _refuse_code(path: pathlib.Path) -> None:
    """Raises ValueError where a model's folder has code, or names modules that are not sentence-transformers' own."""
    if code := sorted(file for file in path.rglob("*") if file.suffix.lower() == ".py"):
        raise ValueError(f"{code[0]} is code: only models without code of their own are loaded")
    for file in path.rglob("modules.json"):
        try:
            types = [module["type"] for module in json.loads(file.read_bytes())]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{file}: expected a list of modules, each with its type; {error!r}") from error
        foreign = [kind for kind in types if not str(kind).startswith("sentence_transformers.")]
        if foreign:
            raise ValueError(f"{file} names the module {foreign[0]!r}; expected types sentence_transformers.… alone")


# ---- shared


def _located(path: str, source, splits: Iterable[str] | None = None) -> pathlib.Path:
    """A path as it is, or in the source folder, or in the current one; `{split}` stays in it."""
    if source is not None:
        folder = pathlib.Path(source)
        inside = (folder if folder.is_dir() else folder.parent) / path
        if _matching(inside, splits):
            return inside
    return pathlib.Path.cwd() / path


def _matching(path: pathlib.Path, splits: Iterable[str] | None) -> set[pathlib.Path]:
    """The files that a path stands for, `{split}` in its name being one of the splits, or anything."""
    name = glob.escape(path.name)
    names = ["*"] if splits is None else map(glob.escape, splits)
    return {file for split in names for file in path.parent.glob(name.replace("{split}", split))}


def _unit(vectors: np.ndarray, what: str) -> np.ndarray:
    """Vectors at unit length, zeros as they are.

    Raises:
        ValueError: some are not finite.
    """
    vectors = np.asarray(vectors, np.float64)
    if bad := int((~np.isfinite(vectors)).any(axis=1).sum()):
        raise ValueError(f"sentence vectors of {what}: {bad} of {len(vectors)} rows are NaN or infinite")
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(length == 0, 1, length)
