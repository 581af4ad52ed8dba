"""PyTorch checkpoints of VSE++, VSE∞ and RVSE++ → the parameters of `models/two_tower.py` and `models/rvse.py`.

The official codes save `{"model": [state of the image encoder, state of the text encoder], "opt": …}`. Which of the two
models it is follows from the names: GPO's make it rvse, a GRU's last state alone two_tower.
"""

import re
import sys

import numpy as np

from vlr_jax import weights

GRU = r"(weight_ih|weight_hh|bias_ih|bias_hh)_l0"
LINEAR = (("weight", "kernel", True), ("bias", "bias", False))


def _linear(theirs: str, ours: str) -> weights.Rules:
    return [(rf"{theirs}\.{a}", f"params/{ours}/{b}", turn) for a, b, turn in LINEAR]


def _gru(theirs: str, ours: str) -> weights.Rules:
    """`ours` has a place for the direction: `gru_{}`."""
    return [
        (rf"{theirs}\.{GRU}{end}", rf"params/{ours.format(way)}/\1", True)
        for end, way in (("", "forward"), ("_reverse", "reverse"))
    ]


def _gpo(theirs: str, ours: str) -> weights.Rules:
    return [
        *_gru(rf"{theirs}\.gpool\.gru", f"{ours}/{{}}"),
        (rf"{theirs}\.gpool\.linear\.weight", f"params/{ours}/linear/kernel", True),
    ]


TWO_TOWER = [
    *_linear(r"img_enc\.fc", "visual_projection"),
    (r"txt_enc\.embed\.weight", "params/words/embedding", False),
    *_gru(r"txt_enc\.rnn", "gru")[:1],  # one direction
]
RVSE = [
    *_linear(r"img_enc\.fc", "visual_projection"),
    *_linear(r"img_enc\.mlp\.layers\.0", "mlp_hidden"),
    *_linear(r"img_enc\.mlp\.layers\.1", "mlp_out"),
    (r"img_enc\.mlp\.bns\.0\.weight", "params/mlp_norm/scale", False),
    (r"img_enc\.mlp\.bns\.0\.bias", "params/mlp_norm/bias", False),
    (r"img_enc\.mlp\.bns\.0\.running_(mean|var)", r"batch_stats/mlp_norm/\1", False),
    (r"img_enc\.mlp\.bns\.(?:0\.num_batches_tracked|1\..*)", None, False),  # the second one is never applied
    *_gpo("img_enc", "visual_pool"),
    *_gpo("txt_enc", "text_pool"),
    (r"txt_enc\.embed\.weight", "params/words/embedding", False),
    *_gru(r"txt_enc\.rnn", "gru_{}"),
    *_linear(r"txt_enc\.linear", "text_projection"),
]


def convert(state: dict[str, np.ndarray]) -> tuple[dict, list[str]]:
    """Official names and arrays → our variables, and the names that have no place in them.

    Args:
        state: `img_enc.<name>` and `txt_enc.<name>` → array, with PyTorch's names (`img_enc.fc.weight`). A `module.`
            behind the encoder's name (DataParallel) is passed over.

    Returns:
        `{"params": …, "batch_stats": …}` of rvse where there is a `gpool`, `{"params": …}` of two_tower otherwise.

    Raises:
        ValueError: a name that is not of these models.
    """
    state = {re.sub(r"^(img|txt)_enc\.module\.", r"\1_enc.", name): array for name, array in state.items()}
    inner = "txt_enc.bert."
    outer = {name: array for name, array in state.items() if not name.startswith(inner)}
    tree, unused = weights.rename(outer, RVSE if any(".gpool." in name for name in state) else TWO_TOWER)
    if len(outer) < len(state):
        found = {name.removeprefix(inner): array for name, array in state.items() if name.startswith(inner)}
        tree.setdefault("params", {})["bert"], more = weights.bert(found)
        unused += [inner + name for name in more]
    return tree, unused


def load(path) -> dict:
    """The variables of a checkpoint, `{"params": tree, "batch_stats": tree}`.

    Args:
        path: the file that the official code saved (extra `torch`, weights-only loading), or `.safetensors` or `.npz`
            with the names that `convert` takes.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is broken, or of another model, or holds more than weights and options.
    """
    state = weights.read(path)
    if model := [name for name in state if name.startswith("model.")]:  # beside it the optimizer's, left out
        sides = {"model.0.": "img_enc.", "model.1.": "txt_enc."}
        if other := [name for name in model if name[:8] not in sides]:
            raise ValueError(
                f"{path}: expected model = [image encoder, text encoder]; found {', '.join(other[:5])} as well"
            )
        state = {sides[name[:8]] + name[8:]: state[name] for name in model}
    if not any(name.startswith(("img_enc.", "txt_enc.")) for name in state):
        raise ValueError(
            f"{path} is no checkpoint of the VSE family: expected model = [image encoder, text encoder], or names "
            f"img_enc.… and txt_enc.…; found {', '.join(list(state)[:5]) or 'no arrays'}"
        )
    tree, unused = convert(state)
    print(f"{path}: weights of {form(tree.get('params', {}))}", file=sys.stderr)
    if unused:
        print(f"{path}: not used by the model and left out: {', '.join(sorted(unused))}", file=sys.stderr)
    return tree


def form(params: dict) -> str:
    """Which model and fields the parameters are of, as far as names and shapes tell: `rvse, text="gru", visual="mlp"`.

    They can't tell "residual" (RVSE++) from "mlp" (VSE∞) where the features are as wide as the shared space: it then
    says both. Nor do they tell of what has no parameters, such as the pooling of two_tower.
    """
    if "visual_pool" not in params:
        return 'two_tower, text="gru"'
    shapes = (np.shape(params.get(name, {}).get("kernel", ())) for name in ("visual_projection", "mlp_hidden"))
    (features, dim), (reads, _) = ([*shape, 0, 0][:2] for shape in shapes)
    visual = [f'"{name}"' for name, width in (("residual", dim), ("mlp", features)) if width == reads > 0]
    return f'rvse, text="{"bert" if "bert" in params else "gru"}", visual={" or ".join(visual) or "unknown"}'
