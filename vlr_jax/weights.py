"""Parameters that others trained: files → named arrays, PyTorch's names → ours. No file is ever unpickled freely.

`.safetensors` and `.npz` hold nothing but arrays. Everything else is taken for a file of `torch.save` and goes through
PyTorch's weights-only loading, which builds tensors and plain containers and refuses whatever else a pickle asks for;
or it is a TorchScript archive, a program of PyTorch's own, of which only the arrays are taken and nothing is called.
"""

import argparse
import json
import os
import pathlib
import re
import struct
import warnings
import zipfile
from collections.abc import Iterator

import numpy as np

# (pattern of a foreign name in full, our path with \1 for its groups or None for what has no place here, transpose)
Rules = list[tuple[str, str | None, bool]]

BERT: Rules = [
    (r"embeddings\.word_embeddings\.weight", "words/embedding", False),
    (r"embeddings\.position_embeddings\.weight", "places", False),
    (r"embeddings\.token_type_embeddings\.weight", "segment", False),
    (r"embeddings\.LayerNorm\.(?:weight|gamma)", "norm/scale", False),
    (r"embeddings\.LayerNorm\.(?:bias|beta)", "norm/bias", False),
    (r"encoder\.layer\.(\d+)\.attention\.self\.(query|key|value)\.weight", r"layer_\1/\2/kernel", True),
    (r"encoder\.layer\.(\d+)\.attention\.self\.(query|key|value)\.bias", r"layer_\1/\2/bias", False),
    (r"encoder\.layer\.(\d+)\.attention\.output\.dense\.weight", r"layer_\1/mix/kernel", True),
    (r"encoder\.layer\.(\d+)\.attention\.output\.dense\.bias", r"layer_\1/mix/bias", False),
    (r"encoder\.layer\.(\d+)\.attention\.output\.LayerNorm\.(?:weight|gamma)", r"layer_\1/mix_norm/scale", False),
    (r"encoder\.layer\.(\d+)\.attention\.output\.LayerNorm\.(?:bias|beta)", r"layer_\1/mix_norm/bias", False),
    (r"encoder\.layer\.(\d+)\.intermediate\.dense\.weight", r"layer_\1/widen/kernel", True),
    (r"encoder\.layer\.(\d+)\.intermediate\.dense\.bias", r"layer_\1/widen/bias", False),
    (r"encoder\.layer\.(\d+)\.output\.dense\.weight", r"layer_\1/narrow/kernel", True),
    (r"encoder\.layer\.(\d+)\.output\.dense\.bias", r"layer_\1/narrow/bias", False),
    (r"encoder\.layer\.(\d+)\.output\.LayerNorm\.(?:weight|gamma)", r"layer_\1/norm/scale", False),
    (r"encoder\.layer\.(\d+)\.output\.LayerNorm\.(?:bias|beta)", r"layer_\1/norm/bias", False),
    (r"embeddings\.(?:position|token_type)_ids|pooler\..*", None, False),
]  # fmt: skip


def read(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """The arrays of a file by name; names inside containers are joined by dots (`model.0.fc.weight`).

    Args:
        path: `.safetensors` (the extra `bert` or `clip`), `.npz`, or what `torch.save` or `torch.jit.save` wrote (the
            extra `torch`).

    Raises:
        ValueError: the file is broken, holds more than arrays, or needs a package that is not installed.
        FileNotFoundError: there is no such file.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file {path} to read weights from")
    kind = {".safetensors": _safetensors, ".npz": _npz}.get(path.suffix, _torch)
    return kind(path)


def shapes(path: str | os.PathLike) -> dict[str, tuple[int, ...]]:
    """The shapes of a file's arrays by name; of `.safetensors` only the header is read. Raises as `read`."""
    path = pathlib.Path(path)
    if path.suffix != ".safetensors" or not path.is_file():
        return {name: array.shape for name, array in read(path).items()}
    try:
        with open(path, "rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > path.stat().st_size:
                raise ValueError("its header is longer than the file")
            header = json.loads(file.read(length))
        return {name: tuple(array["shape"]) for name, array in header.items() if name != "__metadata__"}
    except (ValueError, TypeError, KeyError, AttributeError, struct.error) as error:
        raise ValueError(f"{path} is no whole safetensors file: {_reason(error)}") from error


def rename(state: dict[str, np.ndarray], rules: Rules) -> tuple[dict, list[str]]:
    """Foreign names and arrays → our nested tree, and the names that the rules know to have no place in it.

    Raises:
        ValueError: names that no rule knows, or two that mean one place.
    """
    tree, unused, unknown = {}, [], []
    for name, array in state.items():
        found = next(((re.fullmatch(p, name), place, turn) for p, place, turn in rules if re.fullmatch(p, name)), None)
        if found is None:
            unknown.append(name)
        elif found[1] is None:
            unused.append(name)
        else:
            match, place, turn = found
            put(tree, match.expand(place), array.T if turn else array)
    if unknown:
        raise ValueError(f"weights of another model: nothing is known of {', '.join(sorted(unknown))}")
    return tree, unused


def put(tree: dict, path: str, value) -> None:
    """Sets `tree["a"]["b"]` for the path `a/b`.

    Raises:
        ValueError: something is there already.
    """
    *folders, leaf = path.split("/")
    for folder in folders:
        tree = tree.setdefault(folder, {})
    if leaf in tree:
        raise ValueError(f"two of the weights are for {path}")
    tree[leaf] = value


def bert(state: dict[str, np.ndarray]) -> tuple[dict, list[str]]:
    """Names of Hugging Face's BertModel → the tree of `layers/bert.py`, and the names left out. Raises as `rename`."""
    tree, unused = rename(state, BERT)
    if "segment" in tree:  # a retrieval text is one segment: the second vector is never added
        tree["segment"] = tree["segment"][0]
    return tree, unused


def _safetensors(path: pathlib.Path) -> dict[str, np.ndarray]:
    try:
        import safetensors.numpy
    except ImportError as error:
        raise ValueError(f"{path} needs safetensors: pip install 'vlr_jax[bert]'") from error
    try:
        return safetensors.numpy.load_file(path)
    except KeyError as error:
        raise ValueError(f"{path} has arrays of {error}, which NumPy lacks; save it as float32") from error
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path} is no whole safetensors file: {error}") from error


def _npz(path: pathlib.Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return dict(archive)
    except Exception as error:  # also a single array; a damaged archive fails wherever it is damaged, zlib included
        raise ValueError(f"{path} is no whole archive of plain arrays: {_reason(error)}") from error


def _torch(path: pathlib.Path) -> dict[str, np.ndarray]:
    try:
        import torch
    except ImportError as error:
        raise ValueError(
            f"{path} is taken for a file of torch.save, which needs PyTorch: pip install 'vlr_jax[torch]'; or bring "
            "the weights as .safetensors or .npz"
        ) from error
    if tuple(map(int, torch.__version__.split(".")[:2])) < (2, 6):  # CVE-2025-32434: weights_only was no guard before
        raise ValueError(f"{path} needs PyTorch 2.6 or newer to be read safely; here is {torch.__version__}")
    try:
        if _scripted(path):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                content = dict(torch.jit.load(path, map_location="cpu").state_dict())
        else:
            # The options of a training script: plain attributes, and no code runs when one is built.
            with torch.serialization.safe_globals([argparse.Namespace]):
                content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # refused, or damaged: then a pickle fails wherever it is damaged, and as it happens
        raise ValueError(
            f"{path} can't be read as weights only: {_reason(error)}. If it is whole and you trust where it comes "
            "from, save its arrays again where it was made: "
            'torch.save({"model": torch.load(path, weights_only=False)["model"]}, "weights.pth")'
        ) from error
    return dict(_flat(content, ""))


def _scripted(path: pathlib.Path) -> bool:
    """Whether a file is a TorchScript archive: beside its arrays it has code and constants."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except (zipfile.BadZipFile, OSError):
        return False


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0]}" if str(error) else type(error).__name__


def _flat(content, name: str) -> Iterator[tuple[str, np.ndarray]]:
    """The tensors of nested containers; numbers, strings and options are passed over."""
    if isinstance(content, dict):
        parts = content.items()
    elif isinstance(content, list | tuple):
        parts = enumerate(content)
    else:
        if hasattr(content, "detach"):
            tensor = content.detach()
            yield name, (tensor.float() if tensor.is_floating_point() else tensor).numpy()
        return
    for key, part in parts:
        yield from _flat(part, f"{name}.{key}" if name else str(key))
