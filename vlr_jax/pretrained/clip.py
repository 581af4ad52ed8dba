"""A CLIP with a ViT, from files → the parameters and the sizes of `layers/clip.py`.

Three forms: a Hugging Face folder; the names of openai/CLIP and open_clip, as `.safetensors`, `.npz` or `torch.save`
wrote them; and OpenAI's TorchScript files (`ViT-B-32.pt`). All that can be is read off the weights.
"""

import json
import math
import pathlib
import re
import sys

import numpy as np

from vlr_jax import weights

FILES = (  # of a folder; the first that is there
    "model.safetensors", "pytorch_model.bin", "open_clip_model.safetensors", "open_clip_pytorch_model.bin",
)  # fmt: skip
ANCHORS = {"openai": "visual.conv1.weight", "hf": "vision_model.embeddings.patch_embedding.weight"}
ACTIVATIONS = ("quick_gelu", "gelu")
_TOWERS = {  # name of the tower → where its blocks, … are
    "openai": {"visual": r"visual\.transformer\.resblocks", "text": r"(?:text\.)?transformer\.resblocks"},
    "hf": {"visual": r"vision_model\.encoder\.layers", "text": r"text_model\.encoder\.layers"},
}
_LINEAR = {  # part of a block → ours
    "openai": {"attn.query": "query", "attn.key": "key", "attn.value": "value", "attn.out_proj": "out",
               "mlp.c_fc": "widen", "mlp.c_proj": "narrow"},
    "hf": {"self_attn.q_proj": "query", "self_attn.k_proj": "key", "self_attn.v_proj": "value",
           "self_attn.out_proj": "out", "mlp.fc1": "widen", "mlp.fc2": "narrow"},
}  # fmt: skip
_NORMS = {
    "openai": {"ln_1": "norm_1", "ln_2": "norm_2"},
    "hf": {"layer_norm1": "norm_1", "layer_norm2": "norm_2"},
}
_OUTSIDE: dict[str, weights.Rules] = {
    "openai": [
        (r"visual\.conv1\.weight", "visual/patches/kernel", False),
        (r"visual\.class_embedding", "visual/class", False),
        (r"visual\.positional_embedding", "visual/places", False),
        (r"visual\.ln_pre\.weight", "visual/norm_in/scale", False),
        (r"visual\.ln_pre\.bias", "visual/norm_in/bias", False),
        (r"visual\.ln_post\.weight", "visual/norm/scale", False),
        (r"visual\.ln_post\.bias", "visual/norm/bias", False),
        (r"visual\.proj", "visual/project/kernel", False),
        (r"(?:text\.)?token_embedding\.weight", "text/words/embedding", False),
        (r"(?:text\.)?positional_embedding", "text/places", False),
        (r"(?:text\.)?ln_final\.weight", "text/norm/scale", False),
        (r"(?:text\.)?ln_final\.bias", "text/norm/bias", False),
        (r"(?:text\.)?text_projection", "text/project/kernel", False),
        (r"logit_scale", "log_temperature", False),
        (r"input_resolution|context_length|vocab_size|(?:text\.)?attn_mask", None, False),
    ],
    "hf": [
        (r"vision_model\.embeddings\.patch_embedding\.weight", "visual/patches/kernel", False),
        (r"vision_model\.embeddings\.class_embedding", "visual/class", False),
        (r"vision_model\.embeddings\.position_embedding\.weight", "visual/places", False),
        (r"vision_model\.pre_layrnorm\.weight", "visual/norm_in/scale", False),  # the library's spelling
        (r"vision_model\.pre_layrnorm\.bias", "visual/norm_in/bias", False),
        (r"vision_model\.post_layernorm\.weight", "visual/norm/scale", False),
        (r"vision_model\.post_layernorm\.bias", "visual/norm/bias", False),
        (r"visual_projection\.weight", "visual/project/kernel", True),
        (r"text_model\.embeddings\.token_embedding\.weight", "text/words/embedding", False),
        (r"text_model\.embeddings\.position_embedding\.weight", "text/places", False),
        (r"text_model\.final_layer_norm\.weight", "text/norm/scale", False),
        (r"text_model\.final_layer_norm\.bias", "text/norm/bias", False),
        (r"text_projection\.weight", "text/project/kernel", True),
        (r"logit_scale", "log_temperature", False),
        (r".*\.position_ids", None, False),
    ],
}


def _rules(form: str) -> weights.Rules:
    rules = []
    for tower, start in _TOWERS[form].items():
        begin, ours = rf"{start}\.(\d+)\.", rf"{tower}/blocks/block_\1/"
        for part, name in _LINEAR[form].items():
            rules.append((begin + re.escape(part) + r"\.weight", f"{ours}{name}/kernel", True))
            rules.append((begin + re.escape(part) + r"\.bias", f"{ours}{name}/bias", False))
        for part, name in _NORMS[form].items():
            rules.append((begin + re.escape(part) + r"\.weight", f"{ours}{name}/scale", False))
            rules.append((begin + re.escape(part) + r"\.bias", f"{ours}{name}/bias", False))
    return rules + _OUTSIDE[form]


RULES = {form: _rules(form) for form in ANCHORS}


def load(path, part: str = "all", layers: int = 4) -> dict:
    """The parameters of `layers.clip.Clip`, `{"params": tree}`, float32.

    Args:
        path: a folder (Hugging Face's with config.json, or open_clip's), or a file: `.safetensors` or `.npz` (no torch
            needed), or what PyTorch wrote, TorchScript too (extra `torch`). Names may have a common beginning
            (`module.`, `clip.`); what does not have it is named on stderr and left out.
        part: "all"; or "temporal": the first `layers` blocks of the text tower and its positions, as CLIP4Clip starts
            its transformer over frames: `{"positions": [P, C], "blocks": {"block_0": …}}`.
        layers: for "temporal".

    Raises:
        FileNotFoundError: no such file or folder, or no weights in it.
        ValueError: the weights are not a CLIP's with a ViT, or broken, or have fewer than `layers` blocks.
    """
    if part not in ("all", "temporal"):
        raise ValueError(f"pretrained clip: no part {part!r}; there is all, temporal")
    file = _file(path)
    form, prefix = _form(file, sizes := weights.shapes(file))
    _sizes(file, form, _own(sizes, prefix))
    state = weights.read(file)
    if left := sorted(name for name in state if not name.startswith(prefix)):
        print(f"{file}: not part of CLIP and left out: {', '.join(left)}", file=sys.stderr)
    params = tree(_own(state, prefix))
    if part == "all":
        return {"params": params}
    blocks = params["text"]["blocks"]
    if not 1 <= layers <= len(blocks):
        raise ValueError(f"{file} has {len(blocks)} text blocks; layers={layers} can't be taken from it")
    first = {f"block_{i}": blocks[f"block_{i}"] for i in range(layers)}
    return {"params": {"positions": params["text"]["places"], "blocks": first}}


def dims(path) -> dict:
    """The fields of `layers.clip.Clip` that a file decides, read off the weights' shapes and the config beside them.

    Heads are those of config.json (Hugging Face) or open_clip_config.json, else one for 64 of the width, as in all of
    OpenAI's models. So is the activation; without either file it is QuickGELU, which only OpenAI's weights and those
    that open_clip lists as `quickgelu` were trained with.

    Raises: as `load`.
    """
    file = _file(path)
    form, prefix = _form(file, shapes := weights.shapes(file))
    sizes = _sizes(file, form, _own(shapes, prefix))
    return sizes | _choices(file, form, _config(file, form), sizes)


def tree(state: dict[str, np.ndarray]) -> dict:
    """Arrays by the names of openai/CLIP or Hugging Face → the nested names of `layers.clip.Clip`; also of a part.

    Raises:
        ValueError: names that neither form has.
    """
    split = {}
    for name, array in state.items():
        if found := re.fullmatch(r"(.*attn)\.in_proj_(weight|bias)", name):  # rows: queries, keys, values
            for which, third in zip(("query", "key", "value"), np.split(array, 3), strict=True):
                split[f"{found[1]}.{which}.{found[2]}"] = third
        else:
            split[name] = array
    form = (
        "hf" if any(name.startswith(("vision_model.", "text_model.", "visual_projection.")) for name in state) else ""
    )
    made, _ = weights.rename(split, RULES[form or "openai"])
    made = _floats(made)
    if "log_temperature" in made:
        made["log_temperature"] = -made["log_temperature"].reshape(())
    if "patches" in made.get("visual", {}):  # (width, 3, rows, columns) → one row for each number of a patch
        kernel = made["visual"]["patches"]["kernel"]
        made["visual"]["patches"]["kernel"] = kernel.transpose(2, 3, 1, 0).reshape(-1, len(kernel))
    return made


def _floats(made):
    return {k: _floats(v) for k, v in made.items()} if isinstance(made, dict) else np.asarray(made, np.float32)


def _file(path) -> pathlib.Path:
    path = pathlib.Path(path)
    if not path.is_dir():
        if not path.is_file():
            raise FileNotFoundError(f"no file or folder {path} to read a CLIP from")
        return path
    file = next((path / name for name in FILES if (path / name).is_file()), None)
    if file is None:
        raise FileNotFoundError(f"{path} has no weights in one file; expected {', '.join(FILES)}")
    return file


def _form(file: pathlib.Path, names) -> tuple[str, str]:
    """Whose names they are, and with what they all begin."""
    for form, anchor in ANCHORS.items():
        for name in names:
            if name == anchor or name.endswith("." + anchor):
                return form, name.removesuffix(anchor)
    if any(re.search(r"visual\.layer1\.0\.conv1\.weight$", name) for name in names):
        raise ValueError(f"{file} is a CLIP with a ResNet; expected one with a ViT (ViT-B/32, B/16, L/14, …)")
    shown = ", ".join(sorted(names)[:8])
    raise ValueError(
        f"{file} is not a CLIP; expected {' or '.join(ANCHORS.values())} in it, found {shown or 'nothing'}"
    )


def _own(named: dict, prefix: str) -> dict:
    return {name.removeprefix(prefix): value for name, value in named.items() if name.startswith(prefix)}


def _config(file: pathlib.Path, form: str) -> dict:
    config = file.parent / ("config.json" if form == "hf" else "open_clip_config.json")
    if not config.is_file():
        if form == "hf":
            raise FileNotFoundError(
                f"{file} has Hugging Face's names, but beside it is no config.json to tell the heads"
            )
        return {}
    try:
        content = json.loads(config.read_text(encoding="utf-8"))
        return content if form == "hf" else content["model_cfg"]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{config} is not the config of a CLIP: {error!r}") from error


def _sizes(file: pathlib.Path, form: str, shapes: dict) -> dict:
    """What of `dims` the shapes by foreign names tell."""
    names = {  # what it says: array
        "patches": "visual/patches/kernel", "places": "visual/places", "image": "visual/project/kernel",
        "words": "text/words/embedding", "positions": "text/places", "text": "text/project/kernel",
    }  # fmt: skip
    placed = {place: name for name in shapes for pattern, place, _ in RULES[form] if re.fullmatch(pattern, name)}
    if missing := [place for place in (*names.values(), "log_temperature") if place not in placed]:
        raise ValueError(
            f"{file} lacks {', '.join(missing)} (layers/clip.py's names): both towers of a CLIP are needed"
        )
    of = {what: tuple(shapes[placed[place]]) for what, place in names.items()}
    across = math.isqrt(of["places"][0] - 1)
    if across**2 + 1 != of["places"][0] or len(of["patches"]) != 4 or of["patches"][2] != of["patches"][3]:
        raise ValueError(
            f"{file}: expected square patches of square images, found patches {of['patches']}, places {of['places']}"
        )
    sizes = dict(
        image_size=across * of["patches"][2],
        patch=of["patches"][2],
        vision_width=of["places"][1],
        text_width=of["words"][1],
        positions=of["positions"][0],
        vocabulary=of["words"][0],
        dim=of["text"][0 if form == "hf" else 1],
    )
    for tower, width in (("visual", "vision"), ("text", "text")):
        sizes[f"{width}_layers"] = _layers(file, form, tower, sizes[f"{width}_width"], shapes)
    return sizes


def _layers(file: pathlib.Path, form: str, tower: str, width: int, shapes: dict) -> int:
    """How many blocks a tower has, all there and four times as wide inside."""
    wide = next(re.escape(part) for part, ours in _LINEAR[form].items() if ours == "widen")
    pattern = rf"{_TOWERS[form][tower]}\.(\d+)\.{wide}\.weight"
    found = {int(m[1]): tuple(shape) for name, shape in shapes.items() if (m := re.fullmatch(pattern, name))}
    if sorted(found) != list(range(len(found))) or not found:
        raise ValueError(f"{file}: the {tower} tower has blocks {sorted(found)}; expected all from 0 on")
    if set(found.values()) != {(4 * width, width)}:
        raise ValueError(
            f"{file}: feed-forward parts of {sorted(set(found.values()))} in the {tower} tower; layers/clip.py has "
            f"{(4 * width, width)}, four times the width"
        )
    return len(found)


def _choices(file: pathlib.Path, form: str, config: dict, sizes: dict) -> dict:
    """Heads, activation and eps, which weights don't show."""
    names = ("vision_config", "text_config") if form == "hf" else ("vision_cfg", "text_cfg")
    towers = [config.get(name) or {} for name in names]
    if not all(isinstance(tower, dict) for tower in towers):
        raise ValueError(f"the config beside {file} is not of a CLIP: {' and '.join(names)} must be objects")
    vision, text = towers
    if form == "hf":  # a key that is absent has the library's default
        heads = vision.get("num_attention_heads", 12), text.get("num_attention_heads", 8)
        activations = {tower.get("hidden_act", "quick_gelu") for tower in towers}
        epsilons = {tower.get("layer_norm_eps", 1e-5) for tower in towers}
    else:
        heads = sizes["vision_width"] // vision.get("head_width", 64), text.get("heads", sizes["text_width"] // 64)
        activations = {"quick_gelu" if not config or config.get("quick_gelu") else "gelu"}
        epsilons = {1e-5}
    if len(activations | epsilons) != 2 or not activations <= set(ACTIVATIONS):
        raise ValueError(
            f"{file}: activation {sorted(activations)}, eps {sorted(epsilons)}; expected one of "
            f"{', '.join(ACTIVATIONS)}, and one eps for both towers"
        )
    for name, count in zip(("vision", "text"), heads, strict=True):
        if not isinstance(count, int) or count < 1 or sizes[f"{name}_width"] % count:
            raise ValueError(f"{file}: {count!r} heads can't share the {name} width {sizes[f'{name}_width']}")
    return dict(vision_heads=heads[0], text_heads=heads[1], activation=activations.pop(), eps=epsilons.pop())
