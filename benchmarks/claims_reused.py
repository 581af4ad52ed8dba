"""Finished runs of other commands, as rows of the claims: which method a run is, its seeds, what people say of it."""

import glob
import json
import pathlib
import sys

import claims_numbers as numbers
import claims_runs as runs
from claims_plan import JUDGMENTS

# What a comparison of losses leaves free: grades need sentence vectors, which another prepared folder has.
FREE = ("losses", "relevance", "evals", "data.options.sentence_encoder")
MODELS = {"residual": "RVSE++", "mlp": "VSE∞", "linear": "rvse, linear"}
KINDS = {  # beginnings of keys → what a difference in them is called
    "data.options.features": "features",
    "data": "data",
    "text": "words",
    "model": "model",
    "losses": "losses",
    "warm-up": "warm-up",
    "optim": "optimiser and its schedule",
    "steps": "number of steps",
    "batch_size": "batch size",
    "evals": "evaluations",
    "best": "selection",
}


def losses(config: dict) -> str:
    """`triplet_hard after triplet_sum`: the terms of a config, those that are switched off on the way behind."""
    terms, early = {term.get("name", key): term.get("weight", 1.0) for key, term in config["losses"].items()}, []
    if len(terms) > 1:
        early = sorted(name for name, weight in terms.items() if isinstance(weight, dict) and not weight["after"])
    late = " + ".join(sorted(terms.keys() - set(early)))
    return f"{late} after {' + '.join(early)}" if early else late


def model(config: dict) -> str:
    """`VSE++`, `RVSE++`, `VSE∞`, or the name of another model."""
    name = config["model"].get("name", "two_tower")
    if name == "rvse":
        return MODELS[config["model"].get("visual", "residual")]
    return "VSE++" if name == "two_tower" else name


def method(config: dict) -> str:
    """`VSE++ · triplet_hard after triplet_sum`, from a config's model and losses."""
    return f"{model(config)} · {losses(config)}"


def title(name: str, found: dict[int, dict]) -> str:
    """A method for a table: with its features and the folders of its runs."""
    rows = [found[seed] for seed in sorted(found)]
    features = rows[0]["config"]["data"].get("options", {}).get("features")
    return f"{name}, features={features} ({', '.join(row['folder'] for row in rows)})"


def leaves(value, key: str = "") -> dict:
    """A config as dotted key → value; a list is one value."""
    if not isinstance(value, dict) or not value:
        return {key: value}
    parts = (leaves(inner, f"{key}.{name}" if key else name) for name, inner in value.items())
    return {k: v for part in parts for k, v in part.items()}


def differing(one: dict, other: dict, free: tuple[str, ...] = ()) -> list[tuple[str, str, str]]:
    """(dotted key, value here, value there) where two configs differ; seeds, places and what is free left out."""
    sides = [leaves(numbers.placeless(config | {"seed": 0})) for config in (one, other)]
    keys = [key for key in {**sides[0], **sides[1]} if not any(f"{key}.".startswith(f"{begin}.") for begin in free)]
    values = [[json.dumps(side[key]) if key in side else "–" for side in sides] for key in keys]
    return sorted((key, *pair) for key, pair in zip(keys, values, strict=True) if pair[0] != pair[1])


def kinds(one: dict, other: dict) -> list[str]:
    """In what two configs differ, in words: `features`, `warm-up`, …"""
    found = {key for key, *_ in differing(one, other)}
    if (" after " in losses(one)) != (" after " in losses(other)):
        found.add("warm-up")
    named = [next((b for b in KINDS if f"{key}.".startswith(f"{b}.")), key) for key in sorted(found)]
    return list(dict.fromkeys(KINDS.get(begin, begin) for begin in sorted(named, key=[*KINDS, *named].index)))


def read(patterns: list[str], flickr8k: pathlib.Path | None, cache: pathlib.Path) -> dict[str, dict[int, dict]]:
    """Method → seed → row, of the finished runs on Flickr8k that were selected on dev and evaluated on testA.

    Runs of one method with several configs are several methods, the later ones with the config's hash behind. What is
    left out is named on stderr.

    Raises:
        ValueError: two folders hold a run of one config and one seed.
    """
    from vlr_jax import log

    found, first = {}, {}
    for folder in sorted({pathlib.Path(p) for pattern in patterns for p in glob.glob(pattern)}):
        if not ((folder / "result.json").exists() and (folder / "config.json").exists()):
            continue
        config, result = (json.loads((folder / name).read_text()) for name in ("config.json", "result.json"))
        splits = {name: (config["data"] | e.get("data", {})).get("split") for name, e in config["evals"].items()}
        test = [n for n, e in config["evals"].items() if e["name"] == "retrieval" and splits[n] == "testA"]
        dev = config["best"].partition("/")[0]
        if not test:
            continue
        if splits.get(dev) != "dev" or result.get("selected_on", "").startswith("selected on test"):
            print(f"{folder} is left out: selected on {splits.get(dev) or 'nothing'}, not on dev", file=sys.stderr)
            continue
        lines = [
            {key.replace(f"{dev}/rsum", "dev/rsum"): value for key, value in line.items()} for line in log.read(folder)
        ]
        row = runs.row_of(result, lines)
        row |= {"seed": config["seed"], "folder": folder.name, "config": config}
        row["metrics"] |= {f"test/{k}": v for k, v in result["evals"][test[0]]["metrics"].items()}
        row["metrics"] |= _judged(row["metrics"], folder, config, flickr8k, cache)
        name, mark = method(config), numbers.digest(config | {"seed": 0, "evals": {}})
        if first.setdefault(name, mark) != mark:
            name = f"{name} ({mark[:4]})"
        before = found.setdefault(name, {}).setdefault(config["seed"], row)
        if before is not row:
            raise ValueError(f"{before['folder']} and {folder.name} are both {name}, seed {config['seed']}; keep one")
    return found


def _judged(metrics: dict, folder: pathlib.Path, config: dict, flickr8k, cache: pathlib.Path) -> dict:
    """`human/…`, agreement with people: from the run's result, or measured on its best checkpoint and kept."""
    own = {f"human/{k.partition('/')[2]}": v for k, v in metrics.items() if "expert_" in k or "crowdflower_" in k}
    if own or flickr8k is None or not all((flickr8k / name).exists() for name in JUDGMENTS.values()):
        return own
    import jax

    from vlr_jax import files, opened, pipeline, sharding
    from vlr_jax.evaluators import judgments

    mesh = sharding.make_mesh({"data": -1})
    with jax.set_mesh(mesh):
        try:
            run = opened.restore(str(folder), mesh)
            kept = cache / "judged" / f"{run.digest[:16]}.json"
            if kept.exists():
                return json.loads(kept.read_text())
            split = pipeline.open_split(config["data"] | {"split": "testA"}, run.tokenizer)
        except (OSError, ValueError) as error:
            print(f"{folder}: agreement with people is not known: {error}", file=sys.stderr)
            return {}
        where = {kind: str(flickr8k / name) for kind, name in JUDGMENTS.items()}
        evaluator = judgments.Evaluator(run.task.predict(), split=split, mesh=mesh, **where)
        found = {f"human/{k}": v for k, v in evaluator.result(run.variables)["metrics"].items()}
    files.write(kept, json.dumps(found))
    return found
