"""CLIP's towers beside openai/CLIP and `transformers` (launch/golden_clip.py), and its weights in all their forms."""

import functools
import json
import pathlib
import warnings

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlr_jax import initial
from vlr_jax.layers import clip as layers
from vlr_jax.layers.clip import Clip
from vlr_jax.layers.transformer import Transformer, attend
from vlr_jax.pretrained import clip

REPO = pathlib.Path(__file__).resolve().parents[1]
OFFICIAL = REPO.parent / "shared" / "golden" / "video_text"
SIZES = dict(
    image_size=24, patch=8, vision_width=32, vision_layers=2, vision_heads=4, text_width=16, text_layers=2,
    text_heads=2, positions=12, vocabulary=60, dim=20, activation="quick_gelu", eps=1e-5,
)  # fmt: skip

TOWERS = dict(vision_cfg=dict(head_width=8), text_cfg=dict(heads=2))  # the heads of these, in open_clip's words
PARTS = {  # of a block, Hugging Face's names → OpenAI's
    "self_attn.out_proj": "attn.out_proj",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}


def read(file):
    if not file.is_file():
        pytest.skip(f"no numbers of openai/CLIP at {file}")
    with np.load(file) as archive:
        return dict(archive)


def below(numbers, start):
    return {name.removeprefix(start): value for name, value in numbers.items() if name.startswith(start)}


@functools.cache
def golden():
    return read(REPO / "tests" / "golden" / "clip_hf.npz")


def state():
    return below(golden(), "weights/")


def openai(made):
    """Hugging Face's names → OpenAI's, with query, key and value in one."""
    names = {"vision_model.embeddings.patch_embedding.weight": "visual.conv1.weight", "logit_scale": "logit_scale",
             "vision_model.embeddings.class_embedding": "visual.class_embedding",
             "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
             "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
             "text_model.embeddings.position_embedding.weight": "positional_embedding"}  # fmt: skip
    for kind in ("weight", "bias"):
        for theirs, ours in (("pre_layrnorm", "ln_pre"), ("post_layernorm", "ln_post")):
            names[f"vision_model.{theirs}.{kind}"] = f"visual.{ours}.{kind}"
        names[f"text_model.final_layer_norm.{kind}"] = f"ln_final.{kind}"
        for tower, block in (("vision_model", "visual.transformer"), ("text_model", "transformer")):
            for i in range(2):
                for theirs, ours in PARTS.items():
                    start = f"{tower}.encoder.layers.{i}.{theirs}.{kind}"
                    names[start] = f"{block}.resblocks.{i}.{ours}.{kind}"
    other = {ours: made[theirs] for theirs, ours in names.items()}
    other |= {"visual.proj": made["visual_projection.weight"].T, "text_projection": made["text_projection.weight"].T}
    for tower, block in (("vision_model", "visual.transformer"), ("text_model", "transformer")):
        for i in range(2):
            for kind in ("weight", "bias"):
                thirds = [made[f"{tower}.encoder.layers.{i}.self_attn.{p}_proj.{kind}"] for p in "qkv"]
                other[f"{block}.resblocks.{i}.attn.in_proj_{kind}"] = np.concatenate(thirds)
    return {name: np.ascontiguousarray(value) for name, value in other.items()}


def write(folder, weights, config=None, name="model.safetensors"):
    safetensors = pytest.importorskip("safetensors.numpy")
    safetensors.save_file(weights, folder / name)
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    return folder


def equal(a, b):
    return jax.tree.structure(a) == jax.tree.structure(b) and jax.tree.all(jax.tree.map(np.array_equal, a, b))


@jax.jit
def unit(x):
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


def run(model, params, frames, ids, mask):
    """Both towers: vectors, tokens, the temperature and what every module gave."""

    def both(model):
        return model.image(frames), model.text(ids, mask), model.temperature()

    return model.apply({"params": params}, method=both, capture_intermediates=True, mutable=["intermediates"])


def official(name, folder):
    """Numbers, parameters and the model of one of openai/CLIP's tiny towers; its texts end with the highest id."""
    numbers = read(OFFICIAL / f"{name}.npz")
    np.savez(folder / "clip.npz", **below(numbers, "w/"))
    sizes, params, config = clip.dims(folder / "clip.npz"), clip.tree(below(numbers, "w/")), below(numbers, "cfg/")
    assert equal(clip.load(folder / "clip.npz"), {"params": params})
    assert (sizes["image_size"], sizes["dim"]) == (config["image_resolution"], config["embed_dim"])
    assert sizes["text_heads"] == config["transformer_heads"] and sizes["vocabulary"] == config["vocab_size"]
    return numbers, params, Clip(**sizes)


def batch(numbers):
    ids = numbers["text"].astype(np.int32)
    return numbers["image"].transpose(0, 2, 3, 1), ids, np.arange(ids.shape[1]) <= ids.argmax(1)[:, None]


def check_towers(numbers, made, kept):
    (image, image_tokens), (text, text_tokens), temperature = made
    close = functools.partial(np.testing.assert_allclose, rtol=0, atol=1e-5)
    close(image, numbers["image_features"])
    close(text, numbers["text_features"])
    close(image_tokens, numbers["image_hidden_all_tokens_projected"])
    close(text_tokens, numbers["text_hidden_all_tokens_projected"])
    logits = unit(image) @ unit(text).T / temperature
    np.testing.assert_allclose(logits, numbers["logits_per_image"], atol=1e-4)
    np.testing.assert_allclose(logits.T, numbers["logits_per_text"], atol=1e-4)
    inside = lambda tower, *path: functools.reduce(dict.__getitem__, path, kept[tower])["__call__"][0]
    conv = numbers["act/visual.conv1"]  # sums of some thousand products, up to 30
    close(inside("visual", "patches"), conv.reshape(*conv.shape[:2], -1).swapaxes(1, 2), atol=1e-4)
    close(inside("visual", "norm_in"), numbers["act/visual.ln_pre"])
    close(inside("text", "norm"), numbers["act/text.ln_final"])
    blocks = [name.removeprefix("act/").split(".block") for name in numbers if ".block" in name and "act/" in name]
    for tower, i in blocks:
        found = inside(tower, "blocks", f"block_{i.removesuffix('_LND')}")
        close(found, numbers[f"act/{tower}.block{i}"].swapaxes(0, 1))
    assert len(blocks) in (3, 4)


def test_official_towers(tmp_path):
    numbers, params, model = official("clip_vit_tiny_p16", tmp_path)
    made, kept = jax.jit(functools.partial(run, model))(params, *batch(numbers))
    check_towers(numbers, made, kept["intermediates"])


def test_official_towers_and_gradients(tmp_path):
    """One compilation for both files: the first three rows are those of the one, the others of the other."""
    numbers, params, model = official("clip_vit_tiny_p32", tmp_path)
    more = read(OFFICIAL / "clip_vit_tiny_p32_grads.npz")
    inputs = [np.concatenate(both) for both in zip(batch(numbers), batch(more), strict=True)]

    @jax.jit
    @functools.partial(jax.value_and_grad, has_aux=True)
    def objective(params):
        made, kept = run(model, params, *inputs)
        (image, _), (text, _), temperature = made
        logits = unit(text[3:]) @ unit(image[3:]).T / temperature
        row, column = jax.nn.log_softmax(logits, axis=1), jax.nn.log_softmax(logits, axis=0)
        return -(jnp.trace(row) + jnp.trace(column)) / (2 * len(logits)), (made, kept["intermediates"], logits)

    (loss, (made, kept, logits)), grads = objective(params)
    first = lambda tree: jax.tree.map(lambda x: x[:3] if x.ndim else x, tree)
    check_towers(numbers, first(made), first(kept))
    np.testing.assert_allclose(loss, more["loss"], rtol=1e-6)
    np.testing.assert_allclose(logits, more["logits_per_text"], atol=1e-4)
    expected = clip.tree(below(more, "g/"))  # with minus the gradient of logit_scale, as log_temperature is minus it
    leaves = jax.tree_util.tree_leaves_with_path(expected)
    for path, value in leaves:
        found = functools.reduce(lambda tree, key: tree[key.key], path, grads)
        np.testing.assert_allclose(found, value, rtol=1e-4, atol=2e-6, err_msg=jax.tree_util.keystr(path))
    assert len(leaves) == 11  # nine arrays, of which one holds query, key and value


@pytest.fixture(scope="module")
def made():
    """The tiny CLIP's parameters, and both towers compiled: `(params, frames, ids, mask, **fields) → as run`."""

    @functools.partial(jax.jit, static_argnames=("dtype",))
    def encode(params, frames, ids, mask, **fields):
        return run(Clip(**SIZES | fields), params, frames, ids, mask)[0]

    return clip.tree(state()), encode


def test_hugging_face_folder(made, tmp_path, capsys):
    own, encode = made
    numbers, config = golden(), json.loads(str(golden()["config"]))
    folder = write(tmp_path, state() | {"text_model.embeddings.position_ids": np.arange(12)[None]}, config)
    entries = [dict(name="clip", path=str(folder), into="clip")]
    entries.append(dict(name="clip", path=str(folder), into="temporal", part="temporal", layers=1))
    assert initial.sizes(entries) == {"clip_sizes": SIZES, "temporal_sizes": SIZES}
    text = own["text"]
    model = {"clip": own, "temporal": {"positions": text["places"], "blocks": {"block_0": text["blocks"]["block_0"]}}}
    given = initial.arrays(entries, {"params": model})
    assert "arrays into clip" in capsys.readouterr().err
    loaded = flax.traverse_util.unflatten_dict(given, sep="/")["params"]
    assert equal(loaded["temporal"], model["temporal"])
    image, text, temperature = encode(loaded["clip"], numbers["frames"], numbers["ids"], numbers["mask"])
    close = functools.partial(np.testing.assert_allclose, rtol=0, atol=1e-5)
    close(image[0], numbers["image_embeds"])
    close(text[0], numbers["text_embeds"])
    tokens = numbers["tokens"] @ state()["text_projection.weight"].T
    close(text[1][numbers["mask"]], tokens[numbers["mask"]])
    logits = unit(image[0]) @ unit(text[0]).T / temperature
    np.testing.assert_allclose(logits, numbers["logits_per_image"], atol=1e-4)
    # A model without an image tower, and one of another size: what either side has alone is listed.
    with pytest.raises(ValueError, match="only in the file: params/clip/visual/"):
        initial.arrays(entries[:1], {"params": {"clip": {key: own[key] for key in ("text", "log_temperature")}}})
    with pytest.raises(ValueError, match=r"params/clip/log_temperature \(file \(\), model \(2,\)\)"):
        initial.arrays(entries[:1], {"params": {"clip": own | {"log_temperature": np.zeros(2, np.float32)}}})


def test_padding_is_inert(made):
    params, encode = made
    frames, ids, mask = (golden()[key] for key in ("frames", "ids", "mask"))
    _, (text, tokens), _ = encode(params, frames, ids, mask)
    _, (again, others), _ = encode(params, frames, np.where(mask, ids, 3), mask)
    text, again, tokens, others = map(np.asarray, (text, again, tokens, others))
    assert (text == again).all() and (tokens[mask] == others[mask]).all() and (tokens != others).any()
    np.testing.assert_allclose(text, tokens[np.arange(4), mask.sum(1) - 1], atol=1e-6)


def test_pixels_are_normalised():
    with np.load(REPO / "tests" / "golden" / "clip_preprocess.npz") as archive:
        made = layers.normalised(jnp.asarray(archive["fitted_0"]))
        np.testing.assert_allclose(made, archive["normalised_0"], atol=1e-6)
    assert layers.normalised(made) is made


def test_half_precision(made):
    params, encode = made
    inputs = [golden()[key] for key in ("frames", "ids", "mask")]
    exact, half = jax.device_get((encode(params, *inputs), encode(params, *inputs, dtype=jnp.bfloat16)))
    for a, b in zip(jax.tree.leaves(exact), jax.tree.leaves(half), strict=True):
        assert b.dtype == np.float32 and np.isfinite(b).all()
        assert np.linalg.norm(a - b) <= 0.03 * np.linalg.norm(a)


@pytest.fixture(scope="module")
def body(made):
    """Blocks, an input, a mask, and a compiled `(x, mask, remat, causal) → (output, gradients)`."""
    blocks = {"block_0": made[0]["text"]["blocks"]["block_0"]}
    x = np.random.default_rng(0).normal(size=(2, 4, 16)).astype(np.float32)
    mask = np.array([[1, 1, 1, 0], [1, 0, 0, 0]], bool)

    @functools.partial(jax.jit, static_argnums=2)
    @functools.partial(jax.value_and_grad, has_aux=True)
    def graded(params, inputs, remat):
        x, mask = inputs
        y = Transformer(1, 2, remat=remat).apply({"params": params}, x, mask=mask)
        return jnp.sum(jnp.sin(y) * mask[..., None]), y

    return functools.partial(graded, blocks), x, mask


def test_remat_gives_the_same(body):
    graded, x, mask = body
    plain, again = graded((x, mask), False), graded((x, mask), True)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), plain, again)
    model = Transformer(2, 2, remat=True)
    assert str(jax.make_jaxpr(lambda: model.init_with_output(jax.random.key(0), x))()).count("remat") >= 2


def test_a_mask_hides_what_is_behind_it(body):
    graded, x, mask = body
    (_, a), a_grads = graded((x, mask), False)
    (_, b), b_grads = graded((np.where(mask[..., None], x, np.float32(9)), mask), False)
    np.testing.assert_allclose(np.asarray(a)[mask], np.asarray(b)[mask], atol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), a_grads, b_grads)
    assert np.isfinite(graded((x, np.zeros_like(mask)), False)[0][1]).all()


def test_attention_is_jax_s():
    query, key, value = np.random.default_rng(0).normal(size=(3, 2, 5, 2, 4)).astype(np.float32)
    mask = np.array([[1, 1, 1, 0, 0], [0, 0, 0, 0, 0]], bool)

    @jax.jit
    def both(query, key, value):
        how = [(where, causal) for where in (None, mask) for causal in (False, True)]
        return [[attend(query, key, value, *each, kind) for kind in (None, "xla")] for each in how]

    for ours, theirs in both(query, key, value):
        np.testing.assert_allclose(ours[:1], theirs[:1], atol=1e-6)
        assert np.isfinite(ours).all()


def test_positions_of_other_sizes():
    table = np.random.default_rng(0).normal(size=(10, 4)).astype(np.float32)
    assert layers.grid(table, 3, 3, 3) is table and (layers.line(table, 7, 4) == table[:7]).all()
    ramp = np.concatenate([table[:1], np.arange(9, dtype=np.float32)[:, None] // 3 * np.ones((1, 4), np.float32)])
    wide, longer, whole = jax.jit(
        lambda: (layers.grid(ramp, 3, 2, 5), layers.line(table, 16, 4), layers.line(table, 19, 10))
    )()
    assert wide.shape == (11, 4) and (wide[0] == table[0]).all()
    rows = np.asarray(wide[1:]).reshape(2, 5, 4)  # a ramp from top to bottom stays one, and is the same in each column
    assert np.ptp(rows, axis=(1, 2)).max() < 1e-5 and 0 < rows[0, 0, 0] < 1 < rows[1, 0, 0] < 2
    np.testing.assert_array_equal(longer[:4], table[:4])
    np.testing.assert_allclose(longer[-1], table[-1], atol=1e-6)
    np.testing.assert_allclose(longer[5], table[4] * 6 / 11 + table[5] * 5 / 11, atol=1e-6)
    np.testing.assert_allclose(whole[::2], table, atol=1e-5)  # no more than are kept: all ten stretch


def test_sizes_that_positions_are_not_for():
    model = Clip(**SIZES)
    shape = lambda *sizes: jax.ShapeDtypeStruct(sizes, np.uint8)
    feature, tokens = jax.eval_shape(
        lambda x: model.init_with_output(jax.random.key(0), x, method="image")[0], shape(2, 32, 40, 3)
    )
    assert feature.shape == (2, 20) and tokens.shape == (2, 21, 20)
    ids, mask = jax.ShapeDtypeStruct((2, 15), np.int32), jax.ShapeDtypeStruct((2, 15), bool)
    made = jax.eval_shape(lambda *x: model.init_with_output(jax.random.key(0), *x, method="text"), ids, mask)
    assert made[0][1].shape == (2, 15, 20) and set(made[1]["params"]) == {"text"}
    with pytest.raises(ValueError, match="30 x 40 pixels .* can't be cut into patches of 8 x 8"):
        jax.eval_shape(lambda x: model.init(jax.random.key(0), x, method="image"), shape(2, 30, 40, 3))
    for fields, message in (
        (dict(vision_heads=5), "5 heads can't share"),
        (dict(activation="relu"), "'relu'; there is"),
    ):
        with pytest.raises(ValueError, match=message):
            other = model.clone(**fields)
            jax.eval_shape(lambda x: other.init(jax.random.key(0), x, method="image"), shape(1, 24, 24, 3))  # noqa: B023


def test_the_published_size():
    def both(model, frames, ids):
        return model.image(frames), model.text(ids, ids > 0), model.temperature()

    inputs = jax.ShapeDtypeStruct((1, 224, 224, 3), np.uint8), jax.ShapeDtypeStruct((1, 32), np.int32)
    made = jax.eval_shape(lambda *x: Clip().init(jax.random.key(0), *x, method=both), *inputs)
    assert sum(leaf.size for leaf in jax.tree.leaves(made)) == 151_277_313  # of ViT-B/32


def test_openai_s_names(tmp_path, capsys):
    expected, weights = clip.tree(state()), openai(state())
    assert equal(clip.tree(weights), expected)
    halves = {f"clip.{name}": array.astype(np.float16) for name, array in weights.items()}
    numbers = {
        "clip.input_resolution": np.array(24),
        "clip.context_length": np.array(12),
        "clip.vocab_size": np.array(60),
    }
    write(tmp_path, halves | numbers | {"sim_header.weight": np.zeros(2, np.float32)}, name="clip.safetensors")
    loaded = clip.load(tmp_path / "clip.safetensors")["params"]
    assert "left out: sim_header.weight" in capsys.readouterr().err
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6), loaded, expected)
    assert {leaf.dtype for leaf in jax.tree.leaves(loaded)} == {np.dtype(np.float32)}
    # Widths of 32 and 16 are less than a head of 64; open_clip's config says what they are, and the activation.
    with pytest.raises(ValueError, match="0 heads can't share the vision width 32"):
        write(tmp_path, weights, name="open_clip_model.safetensors")
        (tmp_path / "open_clip_config.json").write_text(json.dumps(dict(model_cfg=dict(vision_cfg={}, text_cfg={}))))
        clip.dims(tmp_path)
    for quick, activation in ((True, "quick_gelu"), (False, "gelu")):
        config = dict(model_cfg=TOWERS | dict(quick_gelu=quick))
        (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
        assert clip.dims(tmp_path) == SIZES | dict(activation=activation)


def test_torchscript(tmp_path):
    torch = pytest.importorskip("torch")

    class Half(torch.nn.Module):
        """Parameters by dotted names, as OpenAI's archives have them, in float16."""

        def __init__(self):
            super().__init__()
            for name, array in openai(state()).items():
                *folders, leaf = name.split(".")
                part = self
                for folder in folders:
                    if not hasattr(part, folder):
                        part.add_module(folder, torch.nn.Module())
                    part = getattr(part, folder)
                part.register_parameter(leaf, torch.nn.Parameter(torch.tensor(array).half()))
            self.register_buffer("input_resolution", torch.tensor(24))

        def forward(self, x):
            return x

    file = tmp_path / "ViT.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.trace(Half(), torch.zeros(1)).save(file)
    (tmp_path / "open_clip_config.json").write_text(json.dumps(dict(model_cfg=TOWERS | dict(quick_gelu=True))))
    near = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6)
    jax.tree.map(near, clip.load(file)["params"], clip.tree(state()))
    assert clip.dims(file) == SIZES
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="can't be read as weights only"):
        clip.load(file)


def test_refusals(tmp_path):
    config = json.loads(str(golden()["config"]))
    with pytest.raises(FileNotFoundError, match="no file or folder"):
        clip.load(tmp_path / "absent.pt")
    with pytest.raises(FileNotFoundError, match="expected model.safetensors"):
        clip.dims(tmp_path)
    write(tmp_path, state())
    with pytest.raises(FileNotFoundError, match="beside it is no config.json"):
        clip.dims(tmp_path)

    def refused(message, change=None, without=(), options=None, **other):
        weights = {name: array for name, array in state().items() if name not in without} | (change or {})
        write(tmp_path, weights, config | other)
        with pytest.raises(ValueError, match=message):
            clip.dims(tmp_path) if options is None else clip.load(tmp_path, **options)

    refused("no part 'vision'; there is all, temporal", options=dict(part="vision"))
    refused(r"has 2 text blocks; layers=3", options=dict(part="temporal", layers=3))
    refused("nothing is known of text_model.adapter", {"text_model.adapter": np.zeros(2, np.float32)}, options={})
    refused("lacks text/project/kernel", without=["text_projection.weight"])
    refused("5 heads can't share the text width 16", text_config=dict(num_attention_heads=5))
    refused(r"activation \['gelu', 'quick_gelu'\]", text_config=dict(hidden_act="gelu"), vision_config=dict())
    refused("is not of a CLIP: vision_config and text_config must be objects", text_config=[1])
    start = "text_model.encoder.layers."
    refused("blocks \\[0\\]|four times", {f"{start}1.mlp.fc1.weight": np.zeros((40, 16), np.float32)})
    refused(r"blocks \[1\]; expected all from 0 on", without=[f"{start}0.mlp.fc1.weight"])
    table = "vision_model.embeddings.position_embedding.weight"
    refused("expected square patches of square images", {table: np.zeros((9, 32), np.float32)})
    only = {"visual.layer1.0.conv1.weight": np.zeros(2, np.float32)}
    write(tmp_path, only, config)
    with pytest.raises(ValueError, match="is a CLIP with a ResNet; expected one with a ViT"):
        clip.load(tmp_path)
    write(tmp_path, {"encoder.block.0.weight": np.zeros(2, np.float32)}, config)
    with pytest.raises(
        ValueError, match=r"is not a CLIP; expected visual.conv1.weight or .* found encoder.block.0.weight"
    ):
        clip.load(tmp_path)
    (tmp_path / "config.json").write_text("{")
    write(tmp_path, state())
    with pytest.raises(ValueError, match="config.json is not the config of a CLIP"):
        clip.dims(tmp_path)
    whole = (tmp_path / "model.safetensors").read_bytes()
    for broken in (whole[:5], whole[:200], b"\xff" * 9, b"\x02\0\0\0\0\0\0\0[]", whole[:-40]):
        (tmp_path / "model.safetensors").write_bytes(broken)
        (tmp_path / "config.json").write_text(json.dumps(config))
        with pytest.raises(ValueError, match="is no whole safetensors file"):
            clip.load(tmp_path)
