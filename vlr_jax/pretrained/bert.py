"""A BERT in a local Hugging Face folder (config.json, model.safetensors) → the parameters of `layers/bert.py`."""

import json
import pathlib
import re
import sys

from vlr_jax import weights

FILES = ("model.safetensors", "pytorch_model.bin")
SIZES = {  # key of config.json → field of layers.bert.Bert
    "hidden_size": "dim",
    "num_hidden_layers": "layers",
    "num_attention_heads": "heads",
    "intermediate_size": "hidden",
    "max_position_embeddings": "positions",
    "layer_norm_eps": "eps",
    "hidden_dropout_prob": "dropout",
    "attention_probs_dropout_prob": "attention_dropout",
}
# What the encoder can't do otherwise; a key that is absent has this value.
FIXED = {"model_type": "bert", "hidden_act": "gelu", "position_embedding_type": "absolute", "is_decoder": False}


def dims(path) -> dict:
    """The sizes in a folder's config.json, by the names of `layers.bert.Bert`'s fields; `vocabulary` is not among them.

    Raises:
        FileNotFoundError: there is no config.json.
        ValueError: it is not of a BERT that `layers/bert.py` computes.
    """
    file = pathlib.Path(path) / "config.json"
    if not file.is_file():
        raise FileNotFoundError(f"{path} is no folder of a Hugging Face BERT: it has no config.json")
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
        sizes = {ours: config[theirs] for theirs, ours in SIZES.items()}
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{file} is not the config of a BERT: {error!r}") from error
    other = [f"{key}={config[key]!r}, not {value!r}" for key, value in FIXED.items() if config.get(key, value) != value]
    if other:
        raise ValueError(f"{file} is of another kind of encoder: {'; '.join(other)}")
    return sizes


def load(path) -> dict:
    """The encoder's parameters, `{"params": tree}`; pooler and heads are named on stderr and left out.

    Args:
        path: a folder with config.json and model.safetensors (extra `bert`), or pytorch_model.bin (extra `torch`,
            weights-only loading). Names may begin with `bert.`.

    Raises:
        FileNotFoundError: no such folder or files.
        ValueError: the weights are not a BERT's, or broken.
    """
    dims(path)
    file = next((f for name in FILES if (f := pathlib.Path(path) / name).is_file()), None)
    if file is None:
        raise FileNotFoundError(f"{path} has no weights; expected {' or '.join(FILES)}")
    state = weights.read(file)
    prefix = "bert." if any(name.startswith("bert.") for name in state) else ""
    heads = [name for name in state if not name.startswith(prefix) or re.match(r"(bert\.)?pooler\.|cls\.", name)]
    body = {name.removeprefix(prefix): array for name, array in state.items() if name not in heads}
    tree, unused = weights.bert(body)
    if left := sorted({name.split(".weight")[0].split(".bias")[0] for name in [*heads, *unused]}):
        print(f"{file}: not part of the encoder and left out: {', '.join(left)}", file=sys.stderr)
    return {"params": tree}
