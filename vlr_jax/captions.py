"""Captions as the field has them on disk: lines, ids beside them, Karpathy's JSON. Standard library only."""

import json
import pathlib

EACH = 5  # captions of an image


def lines(path: pathlib.Path) -> list[str]:
    """The lines of a text file, stripped.

    Raises:
        ValueError: absent, not UTF-8, or a line has neither letter nor digit; with the numbers of the lines.
    """
    if not path.is_file():
        raise ValueError(f"{path} does not exist")
    raw, found = path.read_bytes().removesuffix(b"\n"), []
    for number, line in enumerate(raw.split(b"\n"), start=1):  # captions may hold what splitlines takes for an end
        try:
            found.append(line.decode("utf-8-sig").strip())
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}, line {number}: not UTF-8: {error}") from error
    empty = [number for number, line in enumerate(found, start=1) if not any(map(str.isalnum, line))]
    if empty:
        places = ", ".join(map(str, empty[:5])) + (", …" if len(empty) > 5 else "")
        raise ValueError(f"{path}: {len(empty)} lines have neither a letter nor a digit: {places}")
    return found


def ids(path: pathlib.Path, visuals: int) -> list[str] | None:
    """One id a visual; None without a file. The file has one line a visual, or a caption.

    Raises:
        ValueError: another number of lines, no whole numbers, or the five of a visual differ.
    """
    if not path.is_file():
        return None
    found = lines(path)
    if len(found) not in (visuals, EACH * visuals):
        raise ValueError(
            f"{path}: {len(found)} ids for {visuals} images; expected {visuals} or {EACH * visuals} (one a caption)"
        )
    each = len(found) // visuals
    for number, line in enumerate(found):
        if not line.isdecimal():
            raise ValueError(f"{path}, line {number + 1}: expected a whole number, found {line[:40]!r}")
        if line != found[number - number % each]:
            raise ValueError(
                f"{path}, line {number + 1}: id {line}, but the first caption of that image has "
                f"{found[number - number % each]}"
            )
    return found[::each]


def mapping(folder: pathlib.Path) -> dict[str, str]:
    """id → file of the picture, from `id_mapping.json` in or above the folder; empty without one.

    Raises:
        ValueError: the file is not such a JSON object.
    """
    for path in (folder / "id_mapping.json", folder.parent / "id_mapping.json"):
        if path.is_file():
            try:
                found = json.loads(path.read_text(encoding="utf-8"))
            except json.JSONDecodeError as error:
                raise ValueError(f"{path} is no JSON: {error}") from error
            if not isinstance(found, dict) or not all(isinstance(file, str) for file in found.values()):
                raise ValueError(f'{path}: expected {{"id": "file", …}}')
            return found
    return {}


def images(path: pathlib.Path, splits: dict[str, str]) -> list[dict]:
    """The images of a Karpathy JSON, each with our `split`, its `file` and its `texts`, in the order of the file.

    Args:
        path: the JSON.
        splits: its names of splits → ours.

    Raises:
        ValueError: not such a file, or one without images; or a caption is empty.
    """
    try:
        # the tokens are most of the file, and not needed
        content = json.loads(path.read_bytes(), object_hook=lambda o: {k: v for k, v in o.items() if k != "tokens"})
        found = content["images"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no Karpathy JSON (an object with images): {error!r}") from error
    if not isinstance(found, list) or not found:
        raise ValueError(f"{path} is no Karpathy JSON: images: expected a list of images, found {str(found)[:40]}")
    for i, image in enumerate(found):
        try:
            if image["split"] not in splits:
                raise ValueError(f"split {image['split']!r}; expected one of {', '.join(splits)}")
            image["split"] = splits[image["split"]]
            image["file"] = "/".join(filter(None, (image.get("filepath"), image["filename"])))
            image["texts"] = [" ".join(sentence["raw"].split()) for sentence in image["sentences"]]
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"{path}: image {i}: expected split, filename and sentences[].raw; {error!r}") from error
        if not image["texts"] or not all(any(map(str.isalnum, text)) for text in image["texts"]):
            raise ValueError(f"{path}: image {i} ({image['filename']}): no captions, or one without letter or digit")
    return found
