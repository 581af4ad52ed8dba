"""WordPiece, BERT's tokenizer, of the files in a Hugging Face folder; through the `tokenizers` library.

Its state is JSON with everything in it, so that a run does not need the folder again.
"""

import dataclasses
import functools
import json
import pathlib

import numpy as np

START, END, UNKNOWN, PAD, MASK = "[CLS]", "[SEP]", "[UNK]", "[PAD]", "[MASK]"
BACKEND = "vocab.txt or tokenizer.json of a BERT"


def library(name: str = "wordpiece", extra: str = "bert"):
    """The `tokenizers` library.

    Raises:
        ValueError: it is not installed; says which extra `text.name=name` needs.
    """
    try:
        import tokenizers
    except ImportError as error:
        raise ValueError(f"text.name={name!r} needs the tokenizers library: pip install 'vlr_jax[{extra}]'") from error
    return tokenizers


@functools.lru_cache(maxsize=4)
def _backend(state: str):
    return library().Tokenizer.from_str(state)


@dataclasses.dataclass(frozen=True)
class WordPiece:
    """A vocabulary of word pieces; a text is `[CLS] pieces [SEP]`. The same methods as `text.Words`.

    Attributes:
        state: the tokenizer as the `tokenizers` library writes it, JSON.
        length: L, the length of every encoded text, the two marks included.
    """

    state: str
    length: int

    def __post_init__(self):
        if not isinstance(self.length, int) or self.length < 3:
            raise ValueError(f"text.length must be a whole number ≥ 3 ([CLS], a piece, [SEP]), got {self.length!r}")
        try:
            backend = self._backend
        except ValueError:
            raise
        except Exception as error:  # the library raises plain Exception
            raise ValueError(f"Not a saved tokenizer: {error}") from error
        if missing := [mark for mark in (START, END, UNKNOWN, PAD, MASK) if backend.token_to_id(mark) is None]:
            raise ValueError(f"The word pieces lack {', '.join(missing)}; expected {BACKEND}")
        if (ends := backend.encode("").tokens) != [START, END]:
            raise ValueError(f"An empty text becomes {ends}, not {[START, END]}; expected {BACKEND}")

    @property
    def _backend(self):
        return _backend(self.state)

    @classmethod
    def read(cls, path, *, length: int) -> "WordPiece":
        """The tokenizer of a folder: its tokenizer.json, or else its vocab.txt (with tokenizer_config.json).

        Raises:
            FileNotFoundError: the folder has neither.
            ValueError: what it has is broken, or not a BERT's; names the file.
        """
        made, folder = library(), pathlib.Path(path)
        if (file := folder / "tokenizer.json").is_file():
            state = read_json(file) | {"truncation": None, "padding": None}
        elif (file := folder / "vocab.txt").is_file():
            config = folder / "tokenizer_config.json"
            state = json.loads(_of_pieces(made, file, read_json(config) if config.is_file() else {}))
        else:
            raise FileNotFoundError(f"{path} has no word pieces; expected tokenizer.json or vocab.txt")
        try:
            return cls(json.dumps(state, ensure_ascii=False, sort_keys=True), length)
        except ValueError as error:
            error.add_note(f"in {file}")
            raise

    @property
    def size(self) -> int:
        """How many ids there are: the rows of an embedding table."""
        return self._backend.get_vocab_size(with_added_tokens=True)

    @property
    def mask_word(self) -> int:
        """The id of [MASK], which stands for a word that training hides."""
        return self._backend.token_to_id(MASK)

    def n_tokens(self, text: str) -> int:
        """The pieces of the whole text with both marks; more than `length` means that `encode` truncates it."""
        return len(self._backend.encode(text).ids)

    def notes(self, text: str) -> str:
        """What `encode` will not tell apart in a text: unknown words, pieces that are cut. Empty if nothing.

        Raises:
            ValueError: no word of the text is known, so that searching for it would rank noise.
        """
        found = self._backend.encode(text)
        inner = list(zip(found.tokens, found.offsets, strict=True))[1:-1]
        unknown = [text[a:b] for token, (a, b) in inner if token == UNKNOWN]
        if inner and len(unknown) == len(inner):
            raise ValueError(f"no word of {text!r} is known to the word pieces")
        notes = [f"unknown words: {', '.join(unknown)}"] if unknown else []
        if len(found.ids) > self.length:
            notes.append(f"only the first {self.length - 2} word pieces are read")
        return "; ".join(notes)

    def encode(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        """A text as ids int32 `[L]` and its mask bool `[L]`; a long text loses its last pieces and keeps [SEP].

        Raises:
            ValueError: nothing of the text is left between the marks.
        """
        found = self._backend.encode(text).ids
        if len(found) == 2:
            raise ValueError(f"A text without any word cannot be encoded: {text!r}")
        if len(found) > self.length:
            found = [*found[: self.length - 1], found[-1]]
        ids = np.full(self.length, self._backend.token_to_id(PAD), np.int32)
        ids[: len(found)] = found
        return ids, np.arange(self.length) < len(found)

    def to_json(self) -> str:
        """The whole state as JSON; `from_json` gives an equal tokenizer."""
        content = {"name": "wordpiece", "length": self.length, "tokenizer": json.loads(self.state)}
        return json.dumps(content, ensure_ascii=False)

    @classmethod
    def from_json(cls, state: str) -> "WordPiece":
        """The tokenizer that `to_json` wrote.

        Raises:
            ValueError: the text is not the JSON of word pieces.
        """
        try:
            values = json.loads(state)
            name, content, length = values["name"], values["tokenizer"], values["length"]
        except (KeyError, TypeError, json.JSONDecodeError) as error:
            raise ValueError(f"Not saved word pieces: {error!r}") from error
        if name != "wordpiece":
            raise ValueError(f"A saved tokenizer named {name!r} is not of word pieces")
        return cls(json.dumps(content, ensure_ascii=False, sort_keys=True), length)


def read_text(file: pathlib.Path) -> str:
    """A file's text.

    Raises:
        ValueError: it is not UTF-8.
    """
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not UTF-8: {error}") from error


def read_json(file: pathlib.Path) -> dict:
    """A file's JSON object.

    Raises:
        ValueError: it is none, or not UTF-8.
    """
    try:
        content = json.loads(read_text(file))
    except json.JSONDecodeError as error:
        raise ValueError(f"{file} is no JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file} holds a JSON {type(content).__name__}; expected an object with the tokenizer's keys")
    return content


def _of_pieces(library, file: pathlib.Path, config: dict) -> str:
    """vocab.txt, one piece a line, its number the id, and tokenizer_config.json → the library's JSON."""
    pieces = read_text(file).split("\n")  # not splitlines: some pieces are themselves line separators of Unicode
    pieces = pieces[: -1 if pieces[-1] == "" else None]
    ids = {piece: id_ for id_, piece in enumerate(pieces)}
    if missing := [mark for mark in (START, END, UNKNOWN, PAD, MASK) if mark not in ids]:
        raise ValueError(f"{file} lacks {', '.join(missing)}; expected the word pieces of a BERT")
    if len(ids) != len(pieces):
        raise ValueError(f"{len(pieces) - len(ids)} word pieces stand twice in {file}")
    made = library.Tokenizer(library.models.WordPiece(ids, unk_token=UNKNOWN))
    made.normalizer = library.normalizers.BertNormalizer(
        lowercase=config.get("do_lower_case", True),
        strip_accents=config.get("strip_accents"),
        handle_chinese_chars=config.get("tokenize_chinese_chars", True),
    )
    made.pre_tokenizer = library.pre_tokenizers.BertPreTokenizer()
    made.post_processor = library.processors.BertProcessing((END, ids[END]), (START, ids[START]))
    made.add_special_tokens([PAD, UNKNOWN, START, END, MASK])
    return made.to_str()
