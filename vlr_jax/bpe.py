"""CLIP's tokenizer: lower-cased byte-level BPE (`SimpleTokenizer` of openai/CLIP), through the `tokenizers` library.

The pieces come from the model folder's own files or from `bpe_simple_vocab_16e6.txt.gz`; nothing is downloaded. Its
state is JSON with everything in it, so that a run does not need the files again.
"""

import dataclasses
import functools
import gzip
import html
import json
import pathlib
import re
import zlib

import numpy as np

from vlr_jax.wordpiece import library, read_json, read_text

START, END, PAD = "<|startoftext|>", "<|endoftext|>", 0
LAST = "</w>"  # of a piece that ends a word
OFFICIAL = 49152 - 256 - 2  # merges that CLIP uses; its file has more than five times as many
EXPECTED = "tokenizer.json, or vocab.json and merges.txt, of a CLIP; or bpe_simple_vocab_16e6.txt.gz"
_SPLIT = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def _ftfy():
    try:
        import ftfy
    except ImportError as error:
        raise ValueError("text.name='bpe' needs ftfy, as CLIP's own tokenizer: pip install 'vlr_jax[clip]'") from error
    return ftfy


@functools.lru_cache(maxsize=4)
def _backend(state: str):
    tokenizers = library("bpe", "clip")
    try:
        values = json.loads(state)
        vocabulary = values["vocabulary"]
        merges = [tuple(merge) for merge in values["merges"]]
        model = tokenizers.models.BPE(vocabulary, merges, unk_token=END, end_of_word_suffix=LAST)
    except Exception as error:  # the library raises plain Exception
        raise ValueError(f"Not a saved byte-pair vocabulary: {error!r}") from error
    made = tokenizers.Tokenizer(model)
    split = tokenizers.pre_tokenizers.Split(tokenizers.Regex(_SPLIT), behavior="removed", invert=True)
    as_bytes = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([split, as_bytes])
    made.add_special_tokens([START, END])
    return made


@dataclasses.dataclass(frozen=True)
class Bpe:
    """A vocabulary of byte pairs; a text is `<|startoftext|> pieces <|endoftext|>`. The same methods as `text.Words`.

    Attributes:
        state: JSON `{"merges": [[left, right], …], "vocabulary": {piece: id}}`.
        length: L, the length of every encoded text, the two marks included; CLIP has positions for 77, the field of
            text-video retrieval reads 32 (captions) or 64 (paragraphs).
    """

    state: str
    length: int
    mask_word = None  # no piece stands for one that training hides

    def __post_init__(self):
        if not isinstance(self.length, int) or self.length < 3:
            raise ValueError(f"text.length must be a whole number ≥ 3 (start, a piece, end), got {self.length!r}")
        _ftfy()  # now, not in the middle of the data
        known = self._backend.get_vocab(with_added_tokens=False)
        wanted = [START, END, *_letters(), *(letter + LAST for letter in _letters())]
        if missing := [piece for piece in wanted if piece not in known]:
            raise ValueError(
                f"The byte pairs lack {len(missing)} of {len(wanted)} bytes and marks ({' '.join(missing[:5])} …); "
                f"expected {EXPECTED}"
            )

    @property
    def _backend(self):
        return _backend(self.state)

    @classmethod
    def read(cls, path, *, length: int) -> "Bpe":
        """The tokenizer of a folder (tokenizer.json, or else vocab.json and merges.txt) or of openai/CLIP's .txt.gz.

        Raises:
            FileNotFoundError: there is none of these.
            ValueError: what there is is broken, or not CLIP's kind; names the file.
        """
        folder = pathlib.Path(path)
        if folder.is_file():
            file, (vocabulary, merges) = folder, _of_gzip(folder)
        elif (file := folder / "tokenizer.json").is_file():
            vocabulary, merges = _of_library(file)
        elif (file := folder / "merges.txt").is_file() and (folder / "vocab.json").is_file():
            vocabulary, merges = read_json(folder / "vocab.json"), _pairs(file, read_text(file).split("\n"))
        else:
            raise FileNotFoundError(f"{path} has no byte pairs; expected {EXPECTED}")
        try:
            state = dict(merges=merges, vocabulary=vocabulary)
            return cls(json.dumps(state, ensure_ascii=False, sort_keys=True, separators=(",", ":")), length)
        except ValueError as error:
            error.add_note(f"in {file}")
            raise

    @property
    def size(self) -> int:
        """How many ids there are: the rows of an embedding table."""
        return self._backend.get_vocab_size(with_added_tokens=True)

    def n_tokens(self, text: str) -> int:
        """The pieces of the whole text with both marks; more than `length` means that `encode` truncates it."""
        return len(self._pieces(text)) + 2

    def notes(self, text: str) -> str:
        """What `encode` cuts from a text; empty if nothing. Every byte has an id, so no word is unknown."""
        return f"only the first {self.length - 2} byte pairs are read" if self.n_tokens(text) > self.length else ""

    def encode(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        """A text as ids int32 `[L]`, 0 behind its end, and its mask bool `[L]`; a long one loses its last pieces.

        Raises:
            ValueError: nothing of the text is left between the marks.
        """
        pieces = self._pieces(text)
        if not pieces:
            raise ValueError(f"A text without any word cannot be encoded: {text!r}")
        vocabulary = self._backend.token_to_id
        found = [vocabulary(START), *pieces[: self.length - 2], vocabulary(END)]
        ids = np.full(self.length, PAD, np.int32)
        ids[: len(found)] = found
        return ids, np.arange(self.length) < len(found)

    def _pieces(self, text: str) -> list[int]:
        return self._backend.encode(clean(text), add_special_tokens=False).ids

    def to_json(self) -> str:
        """The whole state as JSON; `from_json` gives an equal tokenizer."""
        content = {"name": "bpe", "length": self.length} | json.loads(self.state)
        return json.dumps(content, ensure_ascii=False, separators=(",", ":"))

    @classmethod
    def from_json(cls, state: str) -> "Bpe":
        """The tokenizer that `to_json` wrote.

        Raises:
            ValueError: the text is not the JSON of byte pairs.
        """
        try:
            values = json.loads(state)
            name, length = values["name"], values["length"]
            content = dict(merges=values["merges"], vocabulary=values["vocabulary"])
        except (KeyError, TypeError, json.JSONDecodeError) as error:
            raise ValueError(f"Not saved byte pairs: {error!r}") from error
        if name != "bpe":
            raise ValueError(f"A saved tokenizer named {name!r} is not of byte pairs")
        return cls(json.dumps(content, ensure_ascii=False, sort_keys=True, separators=(",", ":")), length)


def clean(text: str) -> str:
    """As openai/CLIP before its pieces: mojibake repaired, HTML unescaped twice, white space single, lower case."""
    text = html.unescape(html.unescape(_ftfy().fix_text(text))).strip()
    return re.sub(r"\s+", " ", text).strip().lower()


@functools.cache
def _letters() -> tuple[str, ...]:
    """The 256 characters that stand for bytes, in the order of CLIP's ids: printable ones first, as themselves."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    return (*map(chr, printable), *(chr(256 + i) for i in range(256 - len(printable))))


def _pairs(file: pathlib.Path, lines: list[str]) -> list[list[str]]:
    """The merges of a file's lines, one pair each, after a line that says the version."""
    merges = [line.split() for line in lines[1:] if line.strip()]
    if bad := [line for line in merges if len(line) != 2]:
        raise ValueError(f"{file} has {len(bad)} lines that are no pair, as {' '.join(bad[0])!r}; expected {EXPECTED}")
    return merges


def _of_gzip(file: pathlib.Path) -> tuple[dict, list]:
    """openai/CLIP's file: ids are bytes, bytes that end a word, merges in order, and the two marks."""
    try:
        text = gzip.decompress(file.read_bytes()).decode("utf-8")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise ValueError(f"{file} is no gzip of UTF-8 text: {error}; expected {EXPECTED}") from error
    merges = _pairs(file, text.split("\n")[: OFFICIAL + 1])
    pieces = [*_letters(), *(letter + LAST for letter in _letters()), *map("".join, merges), START, END]
    vocabulary = {piece: id_ for id_, piece in enumerate(pieces)}
    if len(vocabulary) != len(pieces):
        raise ValueError(f"{file} has {len(pieces) - len(vocabulary)} pieces twice; expected {EXPECTED}")
    return vocabulary, merges


def _of_library(file: pathlib.Path) -> tuple[dict, list]:
    """tokenizer.json of the `tokenizers` library: only its pieces; texts are cleaned and split as openai/CLIP does."""
    content = read_json(file)
    try:
        model = content["model"]
        kind, suffix = model["type"], model["end_of_word_suffix"]
        merges = [merge.split(" ") if isinstance(merge, str) else list(merge) for merge in model["merges"]]
        vocabulary = model["vocab"] | {added["content"]: added["id"] for added in content.get("added_tokens", [])}
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{file} is not of byte pairs: {error!r}; expected {EXPECTED}") from error
    if (kind, suffix) != ("BPE", LAST):
        raise ValueError(f"{file} is of {kind} with the suffix {suffix!r}; expected BPE with {LAST!r}: {EXPECTED}")
    return vocabulary, merges
