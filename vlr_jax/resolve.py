"""File name → its thing: `resolve("models", "rvse")` is `vlr_jax.models.rvse.Model`. Nothing is registered."""

import importlib
import importlib.util
import pathlib

# The word that every file of a room exports. Losses are imported by people, so they keep their own names.
WORD = {
    "tasks": "Task",
    "losses": None,
    "models": "Model",
    "data": "Builder",
    "evaluators": "Evaluator",
    "pretrained": "load",
}


def choices(room: str) -> list[str]:
    """The names that a room offers: its files."""
    folder = pathlib.Path(__file__).parent / room
    return sorted(p.stem for p in folder.glob("*.py") if p.stem != "__init__")


def resolve(room: str, name: str):
    """The thing that `name` stands for in `room`.

    Args:
        room: a key of `WORD`.
        name: a file of the room, or `package.module:attribute` for code outside the library.

    Raises:
        ValueError: no such file or attribute; the message lists what the room has.
    """
    if ":" in name:
        module_name, word = name.split(":", 1)
        try:
            return getattr(importlib.import_module(module_name), word)
        except (ImportError, AttributeError) as error:
            raise ValueError(f"{name!r} was given for {room}, but could not be imported: {error}") from error
    if name not in choices(room):
        raise ValueError(f"No {room}/{name}.py; {room} has: {', '.join(choices(room)) or 'nothing yet'}")
    module = importlib.import_module(f"vlr_jax.{room}.{name}")
    return getattr(module, WORD[room] or name)
