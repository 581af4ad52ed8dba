"""CLIP's byte pairs beside openai/CLIP's tokens and the algorithm written out; the interface of `text.Words`."""

import builtins
import gzip
import json
import pathlib
import pickle

import numpy as np
import pytest

from vlr_jax import text

pytest.importorskip("tokenizers")
pytest.importorskip("ftfy")
from vlr_jax import bpe
from vlr_jax.bpe import Bpe

OFFICIAL = pathlib.Path(__file__).resolve().parents[2] / "shared" / "golden" / "video_text"
MERGES = [
    "o g</w>",
    "d og</w>",
    "r u",
    "ru n",
    "t h",
    "th e</w>",
    "a n",
    "an d</w>",
    "n n",
    "i n",
    "in g</w>",
    "1 2</w>",
]
CAPTIONS = (
    "a dog runs.", "A DOG, running!", "the man's hat", "Don't   stop", "café", "12 dogs & the 112", "&amp;lt;dog&gt;",
    "東京 street", "😀 dog", "tab\tand\nnew line", "schÃ¶n", "they'll've I'D", "dog" * 40,
)  # fmt: skip


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A small file in the form of openai/CLIP's."""
    path = tmp_path_factory.mktemp("bpe") / "bpe_simple_vocab_16e6.txt.gz"
    path.write_bytes(gzip.compress("\n".join(["#version: 0.2", *MERGES, ""]).encode()))
    return path


@pytest.fixture(scope="module")
def pairs(file):
    return text.tokenizer(dict(name="bpe", path=str(file), length=12), None)


def split(caption):
    """What CLIP's expression finds, by hand for ASCII, and for the rest one character class at a time."""
    words, rest = [], bpe.clean(caption)
    while rest := rest.lstrip():
        found = next((s for s in ("'s", "'t", "'re", "'ve", "'m", "'ll", "'d") if rest.startswith(s)), None)
        if found is None and rest[0].isalpha():
            found = rest[: next((i for i, c in enumerate(rest) if not c.isalpha()), len(rest))]
        elif found is None and rest[0].isnumeric():
            found = rest[0]
        elif found is None:
            other = lambda c: c.isalnum() or c.isspace()
            found = rest[: next((i for i, c in enumerate(rest) if other(c)), len(rest))]
        words.append(found)
        rest = rest[len(found) :]
    return words


def by_hand(tokenizer, caption):
    """Always the earliest of the merges that two neighbours have (Sennrich et al. 2016), on the bytes of each word."""
    state = json.loads(tokenizer.state)
    ranks = {tuple(merge): rank for rank, merge in enumerate(state["merges"])}
    # As in openai/CLIP: printable bytes are their own character, the others follow from 256 on.
    printable = [b for b in range(256) if 33 <= b <= 126 or 161 <= b <= 172 or 174 <= b <= 255]
    letter = {b: chr(b) for b in printable}
    letter |= {b: chr(256 + i) for i, b in enumerate(sorted(set(range(256)) - set(printable)))}
    ids = []
    for word in split(caption):
        pieces = [letter[b] for b in word.encode()]
        pieces[-1] += "</w>"
        while ranked := [(ranks[p], p) for p in zip(pieces, pieces[1:], strict=False) if p in ranks]:
            (left, right), merged, i = min(ranked)[1], [], 0
            while i < len(pieces):
                both = pieces[i : i + 2] == [left, right]
                merged.append(left + right if both else pieces[i])
                i += 2 if both else 1
            pieces = merged
        ids += [state["vocabulary"][piece] for piece in pieces]
    return ids


@pytest.mark.parametrize("caption", CAPTIONS)
def test_merges_by_hand(pairs, caption):
    expected = by_hand(pairs, caption)
    ids, mask = Bpe(pairs.state, 200).encode(caption)
    start, end = 512 + len(MERGES), 513 + len(MERGES)
    assert ids[mask].tolist() == [start, *expected, end] and (ids[~mask] == 0).all()
    assert pairs.n_tokens(caption) == len(expected) + 2


def test_texts_are_cleaned():
    assert bpe.clean("  A&amp;amp;B \n\t C ") == "a&b c" and bpe.clean("schÃ¶n") == "schön"


def test_a_long_text_keeps_its_end(pairs):
    short = Bpe(pairs.state, 5)
    assert short.size == 514 + len(MERGES) and short.n_tokens("the dog and the dog") == 7
    ids, mask = short.encode("the dog and the dog")
    pieces = {id_: piece for piece, id_ in json.loads(pairs.state)["vocabulary"].items()}
    assert [pieces[i] for i in ids] == [bpe.START, "the</w>", "dog</w>", "and</w>", bpe.END]
    assert mask.all() and ids.dtype == np.int32 and mask.dtype == bool and ids.argmax() == mask.sum() - 1
    assert short.notes("the dog and the dog") == "only the first 3 byte pairs are read" and short.notes("dog") == ""
    assert short.mask_word is None
    for empty in ("", " \n", "&nbsp;"):
        with pytest.raises(ValueError, match="without any word"):
            short.encode(empty)


def test_a_saved_tokenizer_needs_no_file(pairs):
    again = text.from_json(pairs.to_json())
    assert again == pairs == pickle.loads(pickle.dumps(pairs)) and again.to_json() == pairs.to_json()
    assert json.loads(pairs.to_json())["name"] == "bpe" and again != Bpe(pairs.state, 13)
    np.testing.assert_array_equal(again.encode("the dogs!")[0], pairs.encode("the dogs!")[0])


def test_a_model_s_folder(pairs, tmp_path):
    state = json.loads(pairs.state)
    (tmp_path / "vocab.json").write_text(json.dumps(state["vocabulary"]))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n" + "\n".join(MERGES) + "\n")
    assert Bpe.read(tmp_path, length=12) == pairs
    for merges in (MERGES, [merge.split() for merge in MERGES]):  # as older and newer versions of the library write
        model = dict(type="BPE", end_of_word_suffix="</w>", merges=merges, vocab=state["vocabulary"])
        marks = [dict(content=mark, id=state["vocabulary"].pop(mark)) for mark in (bpe.START, bpe.END)]
        (tmp_path / "tokenizer.json").write_text(json.dumps(dict(model=model, added_tokens=marks)))
        assert Bpe.read(tmp_path, length=12) == pairs
        state["vocabulary"] |= {mark["content"]: mark["id"] for mark in marks}
    (tmp_path / "tokenizer.json").write_text(json.dumps(dict(model=dict(type="WordPiece", vocab={}))))
    with pytest.raises(ValueError, match="is not of byte pairs: KeyError"):
        Bpe.read(tmp_path, length=12)
    gpt = dict(type="BPE", end_of_word_suffix=None, merges=[], vocab={})
    (tmp_path / "tokenizer.json").write_text(json.dumps(dict(model=gpt)))
    with pytest.raises(ValueError, match="is of BPE with the suffix None; expected BPE with '</w>'"):
        Bpe.read(tmp_path, length=12)
    gpt |= dict(end_of_word_suffix="</w>", vocab={"a": 0, bpe.END: 1})
    (tmp_path / "tokenizer.json").write_text(json.dumps(dict(model=gpt)))
    with pytest.raises(ValueError, match="lack 512 of 514 bytes and marks"):
        Bpe.read(tmp_path, length=12)


def test_refusals(file, pairs, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="bpe takes: path, length"):
        text.tokenizer(dict(name="bpe", length=12), {"a": 1})
    with pytest.raises(ValueError, match="text.name can be: words, wordpiece, bpe"):
        text.tokenizer(dict(name="clip", length=12), {"a": 1})
    with pytest.raises(ValueError, match="whole number ≥ 3"):
        Bpe.read(file, length=2)
    with pytest.raises(FileNotFoundError, match="expected tokenizer.json, or vocab.json and merges.txt"):
        Bpe.read(tmp_path, length=12)
    whole = file.read_bytes()
    for content, message in (
        (whole[:-12], "is no gzip of UTF-8 text"),
        (b"a b", "is no gzip of UTF-8 text"),
        (gzip.compress(b"v\na b c\n"), "1 lines that are no pair, as 'a b c'"),
        (gzip.compress(b"v\na b\na b\n"), "1 pieces twice"),
        (gzip.compress(b"v\nab c\n"), "Not a saved byte-pair vocabulary"),
    ):
        (tmp_path / "bad.txt.gz").write_bytes(content)
        with pytest.raises(ValueError, match=message):
            Bpe.read(tmp_path / "bad.txt.gz", length=12)
    for broken in ('{"name": "bpe"}', '{"name": "bpe", "length": 4, "merges": 1, "vocabulary": {}}'):
        with pytest.raises(ValueError, match="Not"):
            text.from_json(broken)
    real = builtins.__import__
    without = lambda name, *rest: (_ for _ in ()).throw(ImportError(name)) if name == "ftfy" else real(name, *rest)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ValueError, match=r"needs ftfy, as CLIP's own tokenizer: pip install 'vlr_jax\[clip\]'"):
        Bpe(pairs.state, 12)


def test_official_captions():
    """All 200 captions of openai/CLIP, its `tokenize`, and the layout and truncation of CLIP4Clip's loaders."""
    vocabulary = OFFICIAL / "bpe_simple_vocab_16e6.txt.gz"
    if not vocabulary.is_file():
        pytest.skip(f"no vocabulary of openai/CLIP at {vocabulary}")
    with np.load(OFFICIAL / "bpe_tokens.npz") as archive:
        numbers = dict(archive)
    of = lambda flat, ends: [flat[a:b] for a, b in zip(ends, ends[1:], strict=False)]
    captions = [part.tobytes().decode() for part in of(numbers["captions_utf8"], numbers["captions_offsets"])]
    made = Bpe.read(vocabulary, length=200)
    lengths = {length: Bpe(made.state, length) for length in (20, 32, 64, 77)}
    assert made.size == 49408 and len(captions) == 200
    empty, cut = 0, 0
    for row, (caption, expected) in enumerate(
        zip(captions, of(numbers["ids_flat"], numbers["ids_offsets"]), strict=True)
    ):
        assert made.n_tokens(caption) == len(expected) + 2
        if not len(expected):
            empty += 1
            continue
        ids, mask = made.encode(caption)
        assert ids[mask].tolist() == [numbers["sot"], *expected, numbers["eot"]], caption
        for length, tokenizer in lengths.items():
            ids, mask = tokenizer.encode(caption)
            np.testing.assert_array_equal(ids, numbers[f"clip4clip_ids_{length}"][row])
            np.testing.assert_array_equal(mask, numbers[f"clip4clip_mask_{length}"][row])
        assert (made.n_tokens(caption) > 77) == numbers["clip_tokenize_raises_without_truncate"][row]
        np.testing.assert_array_equal(lengths[77].encode(caption)[0], numbers["clip_tokenize_77"][row])
        cut += lengths[20].n_tokens(caption) > 20
    assert empty == 3 and cut > 0
