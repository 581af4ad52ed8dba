"""Tokenizers: a caption → int32 `[L]` and its mask. numpy only, picklable, made from the training texts.

`tokenizer(config.text, vocabulary)` is what the pipeline calls; `Words` is the word vocabulary of the VSE++ family
(Faghri et al. 2018, "VSE++"): lower-cased words between a start and an end mark.
"""

import collections.abc
import dataclasses
import functools
import json
import pathlib
import re
import unicodedata

import numpy as np

from vlr_jax import bpe, wordpiece

PAD, START, END, UNKNOWN = range(4)
MARKS = ("<pad>", "<start>", "<end>", "<unk>")

# A possessive 's is a word of its own ("the man's hat" and the corpora's "the man 's hat" read alike); an apostrophe
# inside any other word stays ("don't", "o'clock"). `[^\W_]` is a letter or a digit of any script.
_WORD = re.compile(r"'s(?![^\W_])|[^\W_]+(?:'(?!s(?![^\W_]))[^\W_]+)*")


def split_words(text: str) -> list[str]:
    """The lower-cased words and numbers of a text, punctuation left out; empty if it has neither letter nor digit."""
    return _WORD.findall(unicodedata.normalize("NFC", text).lower().replace("\u2019", "'"))


@functools.cache
def _treebank():
    try:
        from nltk.tokenize import NLTKWordTokenizer
    except ImportError as error:
        raise ValueError("text.split='treebank' needs nltk: pip install 'vlr_jax[nltk]'") from error
    return NLTKWordTokenizer()


def split_treebank(text: str) -> list[str]:
    """The words of a lower-cased sentence as nltk's `word_tokenize` gives them: punctuation, 's and n't are words.

    That function cuts a text into sentences first, by a model that has to be downloaded; this one does not, so a full
    stop inside a text of several sentences stays at its word unless a space is before it, as in the released captions.
    """
    return _treebank().tokenize(text.lower())


OF_FILES = {"wordpiece": wordpiece.WordPiece, "bpe": bpe.Bpe}  # their pieces come from files, not from training texts
SPLITS = {"plain": split_words, "treebank": split_treebank}


def read_vocabulary(path) -> tuple[str, ...]:
    """The words of a vocabulary JSON of the field, without the four marks, in the order of their ids from 4.

    The form is `{"word2idx": {word: id}, "idx2word": {"id": word}, "idx": n}` with `<pad> <start> <end> <unk>` as 0–3
    (SCAN's `vocab/*_vocab.json` and its descendants').

    Raises:
        ValueError: no such file, or not of this form; says what was expected and what was found.
    """
    try:
        content = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
        ids, back, n = dict(content["word2idx"]), dict(content["idx2word"]), content["idx"]
        words = sorted(ids, key=ids.__getitem__)
    except (OSError, ValueError, KeyError, TypeError) as error:  # bytes that are no UTF-8, such as a pickle, too
        expected = 'expected JSON {"word2idx": …, "idx2word": …, "idx": n}; pickles are never read'
        raise ValueError(f"The vocabulary {path} can't be read: {error!r}; {expected}") from error
    if [ids[word] for word in words] != list(range(len(words))) or n != len(words):
        raise ValueError(
            f"{path}: expected the ids 0 to {len(words) - 1} once each and idx {len(words)}, found idx {n}"
        )
    if tuple(words[: len(MARKS)]) != MARKS:
        raise ValueError(f"{path}: expected the ids 0–3 to be {' '.join(MARKS)}, found {' '.join(words[: len(MARKS)])}")
    if {str(id_): word for word, id_ in ids.items()} != back:
        raise ValueError(f"{path}: idx2word ({len(back)} words) and word2idx ({len(ids)} words) differ")
    return tuple(words[len(MARKS) :])


@dataclasses.dataclass(frozen=True)
class Words:
    """A word vocabulary: ids 0–3 are `<pad> <start> <end> <unk>`, the words follow in the order of `words`.

    Attributes:
        words: the known words, most frequent first.
        length: L, the length of every encoded text, the two marks included.
        split: a key of `SPLITS`, how a text falls into words.
    """

    words: tuple[str, ...]
    length: int
    split: str = "plain"
    mask_word = None  # no word of its own stands for one that training hides

    def __post_init__(self):
        if not isinstance(self.length, int) or self.length < 3:
            raise ValueError(f"text.length must be a whole number ≥ 3 (<start>, a word, <end>), got {self.length!r}")
        if self.split not in SPLITS:
            raise ValueError(f"text.split must be one of {', '.join(SPLITS)}, got {self.split!r}")
        if self.split == "treebank":
            _treebank()  # now, not in the middle of the data
        ids = {word: id_ for id_, word in enumerate(self.words, start=len(MARKS))}
        if len(ids) != len(self.words):
            raise ValueError(f"{len(self.words) - len(ids)} words stand twice in the vocabulary")
        object.__setattr__(self, "_ids", ids)

    @classmethod
    def build(cls, counts: collections.abc.Mapping[str, int], *, length: int, min_count: int = 1) -> "Words":
        """The vocabulary of the words that occur at least `min_count` times, by falling count, then alphabetically.

        Args:
            counts: word → how often the training texts have it (`words.json` of a prepared dataset).
            length: L, both marks included.
            min_count: rarer words become `<unk>`.

        Raises:
            ValueError: no word is frequent enough, or `length` leaves no room for one.
        """
        kept = sorted((word for word, n in counts.items() if n >= min_count), key=lambda word: (-counts[word], word))
        if not kept:
            raise ValueError(f"None of {len(counts)} words occurs {min_count} times: lower text.min_count")
        return cls(tuple(kept), length)

    @property
    def size(self) -> int:
        """How many ids there are, the four marks included: the rows of an embedding table."""
        return len(MARKS) + len(self.words)

    def n_tokens(self, text: str) -> int:
        """The tokens of the whole text with both marks; more than `length` means that `encode` truncates it."""
        return len(SPLITS[self.split](text)) + 2

    def notes(self, text: str) -> str:
        """What `encode` will not tell apart in a text: unknown words, words that are cut. Empty if nothing.

        Raises:
            ValueError: no word of the text is known, so that searching for it would rank noise.
        """
        words = SPLITS[self.split](text)
        unknown = [word for word in words if word not in self._ids]
        if words and len(unknown) == len(words):
            raise ValueError(f"no word of {text!r} occurs in the training texts")
        notes = [f"unknown words: {', '.join(unknown)}"] if unknown else []
        if len(words) + 2 > self.length:
            notes.append(f"only the first {self.length - 2} words are read")
        return "; ".join(notes)

    def encode(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        """A text as ids int32 `[L]` and its mask bool `[L]`; a long text loses its last words and keeps `<end>`.

        Raises:
            ValueError: the text has no word.
        """
        words = SPLITS[self.split](text)
        if not words:
            raise ValueError(f"A text without any word cannot be encoded: {text!r}")
        words = words[: self.length - 2]
        n = len(words) + 2
        ids = np.full(self.length, PAD, np.int32)
        ids[:n] = [START, *(self._ids.get(word, UNKNOWN) for word in words), END]
        return ids, np.arange(self.length) < n

    def to_json(self) -> str:
        """The whole state as JSON; `from_json` gives an equal tokenizer."""
        state = {"name": "words", "length": self.length, "split": self.split, "words": self.words}
        return json.dumps(state, ensure_ascii=False)

    @classmethod
    def from_json(cls, state: str) -> "Words":
        """The tokenizer that `to_json` wrote.

        Raises:
            ValueError: the text is not the JSON of a word vocabulary.
        """
        try:
            values = json.loads(state)
            name, words, length = values["name"], tuple(values["words"]), values["length"]
            split = values.get("split", "plain")  # older states have none
        except (KeyError, TypeError, json.JSONDecodeError) as error:
            raise ValueError(f"Not a saved word vocabulary: {error!r}") from error
        if name != "words":
            raise ValueError(f"A saved tokenizer named {name!r} is not a word vocabulary")
        return cls(words, length, split)


@dataclasses.dataclass(frozen=True)
class States:
    """No tokenizer: the records hold the states of each text's tokens, as those of CLIP's text tower, precomputed.

    Attributes:
        length: L, the tokens that a text is padded to; longer ones are cut.
    """

    length: int
    size = 0
    mask_word = None

    def __post_init__(self):
        if isinstance(self.length, bool) or not isinstance(self.length, int) or self.length < 1:
            raise ValueError(f"text.length must be a whole number of at least 1, got {self.length!r}")

    def notes(self, text: str) -> str:
        """Nothing can be told of a text."""
        return ""

    def encode(self, text: str):
        """Raises ValueError: a text alone has no states."""
        raise ValueError(
            f"{text!r} can't be encoded: this model reads precomputed states of tokens (text.name='states'). "
            "Use the queries of a prepared folder that has them"
        )

    def to_json(self) -> str:
        """The whole state as JSON."""
        return json.dumps({"name": "states", "length": self.length})

    @classmethod
    def from_json(cls, state: str) -> "States":
        """What `to_json` wrote."""
        return cls(json.loads(state)["length"])


def saved(path) -> "Words | wordpiece.WordPiece | bpe.Bpe":
    """The tokenizer of a run, from its folder or its `tokenizer.json`.

    Raises:
        ValueError: there is none.
    """
    path = pathlib.Path(path)
    path = path / "tokenizer.json" if path.is_dir() else path
    try:
        return from_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"text.path: there is no saved tokenizer {path} (a run's tokenizer.json): {error}") from error


def tokenizer(
    config_text: collections.abc.Mapping, vocabulary: collections.abc.Mapping[str, int] | None
) -> Words | wordpiece.WordPiece | bpe.Bpe | States:
    """The tokenizer that a config asks for.

    Args:
        config_text: `config.text`: `dict(name="words", length=L, min_count=1)`, or `dict(name="words", length=L,
            vocabulary=FILE, split="treebank")` for the words and ids of a JSON of the field (`read_vocabulary`), whose
            texts were split so, or `dict(name="wordpiece", path=FOLDER, length=L)` for the word pieces in a folder of
            a BERT, or `dict(name="bpe", path=PATH, length=L)` for the byte pairs of a CLIP: its folder, or
            `bpe_simple_vocab_16e6.txt.gz`, or `dict(name="saved", path=RUN)` for the tokenizer of a run, so that its
            word vectors can be taken over, or `dict(name="states", length=L)` where records hold states of tokens.
        vocabulary: word → count over the training texts, or None where the data have no training split.

    Raises:
        ValueError: unknown name or option (the message lists what there is), or no counts to build from.
    """
    options = dict(config_text)
    name = options.pop("name", None)
    if name in ("saved", "states"):
        takes = {"saved": "path", "states": "length"}[name]
        if set(options) != {takes}:
            raise ValueError(f"text has {sorted(options)} beside name; {name} takes: {takes}, given")
        return saved(options["path"]) if name == "saved" else States(options["length"])
    if name in OF_FILES:
        if set(options) != {"path", "length"}:
            raise ValueError(f"text has {sorted(options)} beside name; {name} takes: path, length, both given")
        return OF_FILES[name].read(**options)
    if name != "words":
        raise ValueError(f"No tokenizer {name!r}; text.name can be: words, {', '.join(OF_FILES)}, saved, states")
    known = {"length", "vocabulary", "split"} if "vocabulary" in options else {"length", "min_count"}
    if set(options) - known or "length" not in options:
        takes = "length, min_count, or length, vocabulary, split"
        raise ValueError(f"text has {sorted(options)} beside name; words takes: {takes}; length must be given")
    if "vocabulary" in options:
        return Words(read_vocabulary(options["vocabulary"]), options["length"], options.get("split", "treebank"))
    if not vocabulary:
        raise ValueError("The word vocabulary is built from training texts, but these data have no split 'train'")
    return Words.build(vocabulary, **options)


def from_json(state: str) -> Words | wordpiece.WordPiece | bpe.Bpe | States:
    """The tokenizer that its `to_json` wrote, of whatever kind (its JSON names it)."""
    try:
        name = json.loads(state)["name"]
    except (KeyError, TypeError, json.JSONDecodeError):
        name = None  # the word vocabulary says what is wrong with it
    return (OF_FILES | {"states": States}).get(name, Words).from_json(state)
