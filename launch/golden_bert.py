"""Makes tests/golden/bert_tiny.npz, the numbers that the BERT encoder and the WordPiece tokenizer are tested against.

    pip install torch transformers        (in an environment of its own: the library needs neither)
    python launch/golden_bert.py --out tests/golden/bert_tiny.npz

A tiny random BERT of `transformers` and a vocabulary of some sixty word pieces, both made here from a seed. Keys:

* `config` the folder's config.json as text; `weights/<name>` float32, as the folder's model.safetensors has them;
* `ids`, `mask` int32 and bool `[4, 9]`; `output` float64 `[4, 9, 16]`, the last hidden state of the float64 model;
* `grad/<name>` float64, gradients of `sum(output · cotangent)` over the real tokens, and `cotangent`;
* `vocabulary` the lines of vocab.txt; `captions`, and `pieces` their ids by `BertTokenizer`, -1 behind the last.
"""

import argparse
import json
import pathlib
import tempfile

import numpy as np
import torch
import transformers

PIECES = """[PAD] [UNK] [CLS] [SEP] [MASK] a b c d e h i l n o r s t u ##a ##b ##e ##g ##h ##i ##l ##n ##o ##r ##s ##t
##u 1 2 ##3 the dog dogs run ##ing ##ner man ' , . ! ? - cafe naive street black ##board 東 京 / ° jack ##et"""
CAPTIONS = (
    "a dog runs.", "A DOG, running!", "the man's hat", "Don't   stop", "café", "CAFE\u0301", "naïve Über-street",
    "blackboards", "東京 street", "23 dogs/12 men", "45° side-bend_two", "", "   ", "\u2019twas the man\u2019s",
    "a [MASK] dog [SEP] b", "tab\tand\nnew line", "zero\u200bwidth\u00adsoft", "😀 dog", "unknownnnn", "x" * 120,
    "jackets?!?", "\x00control\x7f dog", "the\u00a0dog", "\ufffd dog",
)  # fmt: skip
SIZES = dict(
    hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24, max_position_embeddings=12,
    type_vocab_size=2, hidden_act="gelu",
)  # fmt: skip


def model(folder: pathlib.Path, n_pieces: int) -> dict[str, np.ndarray]:
    """The random BERT's config, weights, output and gradients."""
    torch.manual_seed(0)
    made = transformers.BertModel(transformers.BertConfig(vocab_size=n_pieces, **SIZES)).eval()
    with torch.no_grad():
        for weight in made.parameters():  # far from the initialisation, where biases are 0 and scales 1
            weight.add_(0.3 * torch.randn_like(weight))
    made.save_pretrained(folder)
    rng = np.random.default_rng(0)
    ids, lengths = rng.integers(5, n_pieces, (4, 9)), np.array([9, 1, 4, 6])
    mask = np.arange(9) < lengths[:, None]
    cotangent = rng.normal(size=(4, 9, 16)) * mask[..., None]
    weights = {f"weights/{name}": value.numpy().copy() for name, value in made.state_dict().items()}
    made = made.double()
    output = made(input_ids=torch.tensor(ids), attention_mask=torch.tensor(mask)).last_hidden_state
    (output * torch.tensor(cotangent)).sum().backward()
    grads = {f"grad/{name}": p.grad.numpy() for name, p in made.named_parameters() if p.grad is not None}
    config = (folder / "config.json").read_text()
    return weights | grads | {
        "config": np.array(config), "ids": ids.astype(np.int32), "mask": mask, "cotangent": cotangent,
        "output": output.detach().numpy(),
    }  # fmt: skip


def tokens(folder: pathlib.Path, pieces: list[str]) -> dict[str, np.ndarray]:
    """The vocabulary, and the ids of the captions."""
    (folder / "vocab.txt").write_text("\n".join(pieces) + "\n", encoding="utf-8")
    tokenizer = transformers.BertTokenizer.from_pretrained(folder)
    ids = [tokenizer(caption)["input_ids"] for caption in CAPTIONS]
    padded = np.full((len(ids), max(map(len, ids))), -1, np.int32)
    for row, found in zip(padded, ids, strict=True):
        row[: len(found)] = found
    texts = [json.dumps(caption) for caption in CAPTIONS]  # numpy strips zeros at the end of a string
    return {"vocabulary": np.array(pieces), "captions": np.array(texts), "pieces": padded}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, required=True)
    options = parser.parse_args()
    pieces = PIECES.split()
    with tempfile.TemporaryDirectory() as folder:
        numbers = model(pathlib.Path(folder), len(pieces)) | tokens(pathlib.Path(folder), pieces)
    np.savez_compressed(options.out, **numbers)
    print(f"{options.out}: {len(numbers)} arrays, {options.out.stat().st_size / 1e6:.2f} MB, of transformers "
          f"{transformers.__version__}, torch {torch.__version__}")  # fmt: skip


if __name__ == "__main__":
    main()
