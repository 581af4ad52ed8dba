"""Words: what counts as one, encoding, truncation, state."""

import json
import pickle

import numpy as np
import pytest

from vlr_jax import text


@pytest.mark.parametrize(
    "caption, words",
    [
        ("A man's hat, and the MEN's hats.", ["a", "man", "'s", "hat", "and", "the", "men", "'s", "hats"]),
        ("A man 's hat", ["a", "man", "'s", "hat"]),
        ("Don’t! It’s 3/4 o'clock", ["don't", "it", "'s", "3", "4", "o'clock"]),
        ("the dogs' bowl, 'stop' signs", ["the", "dogs", "bowl", "stop", "signs"]),
        ("45° side-bend_two", ["45", "side", "bend", "two"]),
        ("Cafe\u0301 ÜBER 東京", ["café", "über", "東京"]),
        (" … !? ", []),
    ],
)
def test_split_words(caption, words):
    assert text.split_words(caption) == words


def test_a_letter_or_digit_is_always_a_word():
    """The dataset `folder` refuses captions by `str.isalnum`; both must agree."""
    for code in range(0x3000):
        assert bool(text.split_words(chr(code))) == chr(code).isalnum(), hex(code)


def test_build_orders_and_cuts():
    words = text.Words.build({"b": 2, "a": 2, "rare": 1, "the": 9}, length=6, min_count=2)
    assert words.words == ("the", "a", "b") and words.size == 7


def test_encode_marks_pads_and_truncates():
    words = text.Words.build({"a": 3, "dog": 2, "runs": 1}, length=5)
    ids, mask = words.encode("A dog!")
    np.testing.assert_array_equal(ids, [1, 4, 5, 2, 0])
    np.testing.assert_array_equal(mask, [True, True, True, True, False])
    assert ids.dtype == np.int32 and mask.dtype == bool and words.n_tokens("A dog!") == 4
    ids, mask = words.encode("a blue dog runs away fast")
    np.testing.assert_array_equal(ids, [1, 4, 3, 5, 2])
    assert mask.all() and words.n_tokens("a blue dog runs away fast") == 8


@pytest.mark.parametrize("empty", ["", "  ", "?!…"])
def test_empty_text_is_refused(empty):
    with pytest.raises(ValueError, match="without any word"):
        text.Words.build({"a": 1}, length=5).encode(empty)


def test_state_round_trip():
    words = text.Words.build({"a": 3, "über": 2}, length=7)
    assert text.Words.from_json(words.to_json()) == words == pickle.loads(pickle.dumps(words))
    assert words != text.Words.build({"a": 3}, length=7) and words != text.Words(words.words, 8)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(words)).encode("über")[0], words.encode("über")[0])
    for broken in ("{", "[]", '{"name": "words"}', '{"name": "bert", "words": [], "length": 4}'):
        with pytest.raises(ValueError, match="vocabulary"):
            text.Words.from_json(broken)


def test_tokenizer_from_config():
    counts = {"a": 3, "dog": 1}
    made = text.tokenizer(dict(name="words", length=4, min_count=2), counts)
    assert made == text.Words(("a",), 4)
    with pytest.raises(ValueError, match="text.name can be: words"):
        text.tokenizer(dict(name="wordz", length=4), counts)
    with pytest.raises(ValueError, match="takes: length, min_count"):
        text.tokenizer(dict(name="words", length=4, min_counts=2), counts)
    with pytest.raises(ValueError, match="no split 'train'"):
        text.tokenizer(dict(name="words", length=4), None)
    with pytest.raises(ValueError, match="≥ 3"):
        text.tokenizer(dict(name="words", length=2), counts)
    with pytest.raises(ValueError, match="lower text.min_count"):
        text.tokenizer(dict(name="words", length=4, min_count=9), counts)


def test_notes_tell_what_a_query_loses():
    words = text.Words.build({"red": 2, "star": 1}, length=4)
    assert words.notes("red star") == ""
    assert words.notes("Red moons") == "unknown words: moons"
    assert words.notes("a red star rises") == "unknown words: a, rises; only the first 2 words are read"
    with pytest.raises(ValueError, match="no word of 'blue moons' occurs in the training texts"):
        words.notes("blue moons")
    assert text.from_json(words.to_json()) == words


FIELD = {"<pad>": 0, "<start>": 1, "<end>": 2, "<unk>": 3, "a": 4, ".": 5, "'s": 6, "n't": 7, "dog": 8}


def field(path, ids=FIELD, **changes):
    """A vocabulary as the field stores it."""
    content = {"word2idx": ids, "idx2word": {str(id_): word for word, id_ in ids.items()}, "idx": len(ids)} | changes
    path.write_text(json.dumps(content))
    return path


def test_the_vocabulary_of_the_field(tmp_path):
    pytest.importorskip("nltk")
    path = field(tmp_path / "f30k_precomp_vocab.json")
    words = text.tokenizer(dict(name="words", vocabulary=str(path), length=9), None)
    assert words.size == 9 and words.split == "treebank"
    ids, mask = words.encode("A DOG's dog isn't .")
    np.testing.assert_array_equal(ids, [1, 4, 8, 6, 8, 3, 7, 5, 2])
    assert mask.all() and words.n_tokens("A DOG's dog isn't .") == 9
    assert text.from_json(words.to_json()) == words == pickle.loads(pickle.dumps(words))
    plain = text.tokenizer(dict(name="words", vocabulary=str(path), length=9, split="plain"), None)
    assert plain != words and plain.encode("a dog .")[0].tolist() == [1, 4, 8, 2, 0, 0, 0, 0, 0]
    old = json.loads(plain.to_json())
    del old["split"]
    assert text.from_json(json.dumps(old)) == plain


@pytest.mark.parametrize(
    "sentence, words",
    [  # by nltk's word_tokenize, whose sentences end at the same place here
        ("Two dogs' toys, 3/4 o'clock.", ["two", "dogs", "'", "toys", ",", "3/4", "o'clock", "."]),
        (
            "I can't \"stop\" - it's (red)!",
            ["i", "ca", "n't", "``", "stop", "''", "-", "it", "'s", "(", "red", ")", "!"],
        ),
    ],
)
def test_split_treebank(sentence, words):
    pytest.importorskip("nltk")
    assert text.split_treebank(sentence) == words


def test_broken_vocabularies(tmp_path):
    path = tmp_path / "vocab.json"

    def refused(message, **options):
        with pytest.raises(ValueError, match=message):
            text.tokenizer(dict(name="words", vocabulary=str(path), length=9) | options, None)

    refused("can't be read: FileNotFoundError")
    path.write_bytes(pickle.dumps(FIELD))
    refused("expected JSON .*pickles are never read")
    field(path)
    refused("or length, vocabulary, split", min_count=2)
    refused("text.split must be one of plain, treebank, got 'nltk'", split="nltk")
    field(path, word2idx={"a": [1], "b": 2})
    refused("can't be read: TypeError")
    field(path, idx=8)
    refused("idx 9, found idx 8")
    field(path, FIELD | {"dog": 9})
    refused("ids 0 to 8 once each")
    field(path, FIELD | {"<pad>": 1, "<start>": 0})
    refused("ids 0–3 to be <pad> <start> <end> <unk>, found <start> <pad>")
    field(path, idx2word={str(id_): word.upper() for word, id_ in FIELD.items()})
    refused("idx2word .* and word2idx .* differ")
