"""A model's predictions for all texts of a split as a file of the official form, as QVHighlights' server takes it.

Texts without windows, as of a test split whose labels are kept back, are in it like all others.
"""

import json
import pathlib

from vlr_jax import answers, files, finding, localize


def evaluation(config: dict) -> dict:
    """The options of the run's last evaluation of moments; {} if it has none."""
    own = [options for options in config["evals"].values() if options["name"] == "moment"]
    return own[-1] if own else {}


def processing(options: dict) -> answers.Processing:
    """What predictions go through by the options of an evaluation, as `answers.processing_of`."""
    return answers.processing_of(options.get("protocol", "qvhighlights"), options.get("processing"), options.get("nms"))


def ids(names: list[str]) -> list[int] | list[str]:
    """The ids of texts as the set's own files have them: numbers, if all are."""
    whole = all(name.isascii() and name.isdigit() and str(int(name)) == name for name in names)
    return [int(name) for name in names] if whole else names


def lines(run, split, mesh) -> list[dict]:
    """Predictions for all texts, in the order of the split.

    Args:
        run: `opened.Run`.
        split: from `finding.open_split`.
        mesh: devices.

    Raises:
        ValueError: the split has no texts, or a prediction is not finite.
    """
    options, pairs = evaluation(run.config), [(int(split.text_visual[t]), int(t)) for t in split.ids("texts")]
    how, qids = processing(options), ids(split.timeline.text_names)
    rows = options.get("batch_size", 32)  # as the evaluator has it, so that its numbers are those of the file
    found = localize.locate(
        run.task.predict()["moments"], run.variables, split, pairs, batch_size=rows, mesh=mesh, progress=True
    )
    made = {one.text: answers.line_of(finding.finite(one, split), split, how, qid=qids[one.text]) for one in found}
    return [made[t] for _, t in pairs]


def write(path, made: list[dict]) -> None:
    """JSON lines; the file is there whole or not at all."""
    files.write(pathlib.Path(path), "".join(json.dumps(one, allow_nan=False) + "\n" for one in made))
