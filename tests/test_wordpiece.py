"""Word pieces beside `transformers`' BertTokenizer (launch/golden_bert.py), and the interface of `text.Words`."""

import json
import pathlib
import pickle

import numpy as np
import pytest

from vlr_jax import text

pytest.importorskip("tokenizers")
from vlr_jax.wordpiece import WordPiece

GOLDEN = pathlib.Path(__file__).parent / "golden" / "bert_tiny.npz"


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN) as archive:
        return {key: archive[key] for key in ("vocabulary", "captions", "pieces")}


@pytest.fixture(scope="module")
def folder(golden, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bert")
    (folder / "vocab.txt").write_text("\n".join(golden["vocabulary"]) + "\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def pieces(folder):
    return text.tokenizer(dict(name="wordpiece", path=str(folder), length=12), None)


def test_ids(golden, folder):
    long = WordPiece.read(folder, length=golden["pieces"].shape[1])
    for caption, expected in zip(map(json.loads, golden["captions"]), golden["pieces"], strict=True):
        count = int(np.sum(expected >= 0))
        assert long.n_tokens(caption) == count
        if count == 2:
            with pytest.raises(ValueError, match="without any word"):
                long.encode(caption)
            continue
        ids, mask = long.encode(caption)
        np.testing.assert_array_equal(np.where(mask, ids, -1), expected, err_msg=repr(caption))
        assert ids.dtype == np.int32 and mask.dtype == bool and (ids[~mask] == 0).all()


def test_a_long_text_keeps_its_last_mark(pieces):
    words = list(json.loads(pieces.state)["model"]["vocab"])
    short = WordPiece(pieces.state, 5)
    assert short.n_tokens("a dog runs.") == 7 and short.size == len(words) == 59
    ids, mask = short.encode("a dog runs.")
    by_id = {i: w for w, i in json.loads(pieces.state)["model"]["vocab"].items()}
    assert [by_id[i] for i in ids] == ["[CLS]", "a", "dog", "run", "[SEP]"] and mask.all()
    assert by_id[pieces.mask_word] == "[MASK]"


def test_a_saved_tokenizer_needs_no_folder(pieces):
    again = text.from_json(pieces.to_json())
    assert again == pieces == pickle.loads(pickle.dumps(pieces)) and again.to_json() == pieces.to_json()
    assert json.loads(pieces.to_json())["name"] == "wordpiece"
    assert again != WordPiece(pieces.state, 13)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(pieces)).encode("dogs!")[0], pieces.encode("dogs!")[0])


def test_the_library_s_own_file_comes_first(pieces, tmp_path):
    """tokenizer.json, here with a padding and truncation that are not the run's, and its own casing."""
    state = json.loads(pieces.state)
    state["truncation"] = dict(direction="Right", max_length=4, strategy="LongestFirst", stride=0)
    (tmp_path / "tokenizer.json").write_text(json.dumps(state, indent=2))
    (tmp_path / "vocab.txt").write_text("never read")
    assert WordPiece.read(tmp_path, length=12) == pieces


def test_casing_is_the_folder_s(golden, folder, tmp_path):
    (tmp_path / "vocab.txt").write_text("\r\n".join(golden["vocabulary"]), encoding="utf-8", newline="")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(dict(do_lower_case=False, strip_accents=None)))
    cased, lower = WordPiece.read(tmp_path, length=8), WordPiece.read(folder, length=8)
    assert cased.size == lower.size and cased.notes("the DOG") == "unknown words: DOG"
    np.testing.assert_array_equal(cased.encode("the dog")[0], lower.encode("the DOG")[0])


def test_notes_tell_what_a_query_loses(pieces):
    assert pieces.notes("a dog") == ""
    assert pieces.notes("a dog stop") == "unknown words: stop"
    assert "only the first 10 word pieces" in pieces.notes("a dog runs a dog runs a dog runs")
    with pytest.raises(ValueError, match="no word of 'stop zebra' is known"):
        pieces.notes("stop zebra")


def test_refusals(golden, folder, tmp_path):
    with pytest.raises(ValueError, match="wordpiece takes: path, length"):
        text.tokenizer(dict(name="wordpiece", length=12), {"a": 1})
    with pytest.raises(ValueError, match="whole number ≥ 3"):
        WordPiece.read(folder, length=2)
    with pytest.raises(FileNotFoundError, match="expected tokenizer.json or vocab.txt"):
        WordPiece.read(tmp_path, length=12)
    vocabulary = golden["vocabulary"].tolist()
    for lines, message in ((vocabulary[1:], r"lacks \[PAD\]"), ([*vocabulary, "dog"], "1 word pieces stand twice")):
        (tmp_path / "vocab.txt").write_text("\n".join(lines), encoding="utf-8")
        with pytest.raises(ValueError, match=message):
            WordPiece.read(tmp_path, length=12)
    (tmp_path / "tokenizer_config.json").write_text("{do_lower_case: true}")
    with pytest.raises(ValueError, match="tokenizer_config.json is no JSON"):
        WordPiece.read(tmp_path, length=12)
    for content, message in ((b"{", "is no JSON"), (b"[]", "holds a JSON list"), (b"\xff", "is not UTF-8")):
        (tmp_path / "tokenizer.json").write_bytes(content)
        with pytest.raises(ValueError, match=f"tokenizer.json {message}"):
            WordPiece.read(tmp_path, length=12)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match="Not a saved tokenizer"):
        WordPiece.read(tmp_path, length=12)
    for broken in ('{"name": "wordpiece"}', '{"name": "wordpiece", "length": 4, "tokenizer": {}}'):
        with pytest.raises(ValueError, match="Not"):
            text.from_json(broken)
