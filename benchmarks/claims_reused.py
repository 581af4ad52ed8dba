"""Finished runs of other commands, as rows of the claims: which method a run is, its seeds, what people say of it."""

import glob
import json
import pathlib
import sys

import claims_numbers as numbers
from claims_plan import JUDGMENTS

# What a comparison of losses leaves free.
FREE = ("seed", "losses", "relevance", "evals", *numbers.ELSEWHERE)
MODELS = {"residual": "RVSE++", "mlp": "VSE∞", "linear": "rvse, linear"}


def method(config: dict) -> str:
    """`VSE++ · triplet_hard`, from a config's model and losses."""
    model = config["model"]
    name = "VSE++" if model.get("name", "two_tower") == "two_tower" else model["name"]
    if name == "rvse":
        name = MODELS[model.get("visual", "residual")]
    terms = sorted({term.get("name", key) for key, term in config["losses"].items()})
    return f"{name} · {' + '.join(terms)}"


def differing(one: dict, other: dict) -> list[str]:
    """The keys in which two configs differ, losses and what belongs to them left out."""
    return sorted(
        key
        for key in one.keys() | other.keys()
        if key not in FREE and numbers.placeless(one).get(key) != numbers.placeless(other).get(key)
    )


def read(patterns: list[str], flickr8k: pathlib.Path | None, cache: pathlib.Path) -> dict[str, dict[int, dict]]:
    """Method → seed → row, of the finished runs on Flickr8k (those with an evaluation on testA) among the folders.

    Runs of one method with several configs are several methods, the later ones with the config's hash behind.
    """
    import claims_image_text as runs

    from vlr_jax import log

    found, first = {}, {}
    for folder in sorted({pathlib.Path(p) for pattern in patterns for p in glob.glob(pattern)}):
        if not ((folder / "result.json").exists() and (folder / "config.json").exists()):
            continue
        config, result = (json.loads((folder / name).read_text()) for name in ("config.json", "result.json"))
        test = [n for n, e in config["evals"].items() if e["name"] == "retrieval" and e["data"].get("split") == "testA"]
        dev = config["best"].partition("/")[0]
        if not test or not dev:
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
        found.setdefault(name, {})[config["seed"]] = row
    return found


def _judged(metrics: dict, folder: pathlib.Path, config: dict, flickr8k, cache: pathlib.Path) -> dict:
    """`human/…`, agreement with people: from the run's result, or measured on its best checkpoint and kept."""
    own = {f"human/{k.partition('/')[2]}": v for k, v in metrics.items() if "expert_" in k or "crowdflower_" in k}
    if own or flickr8k is None or not all((flickr8k / name).exists() for name in JUDGMENTS.values()):
        return own
    import jax

    from vlr_jax import files, pipeline, sharding, train
    from vlr_jax.evaluators import judgments

    mesh = sharding.make_mesh({"data": -1})
    with jax.set_mesh(mesh):
        try:
            run = train.restore_run(str(folder), mesh)
        except FileNotFoundError as error:
            print(f"{folder}: agreement with people is not known: {error}", file=sys.stderr)
            return {}
        kept = cache / "judged" / f"{run.digest[:16]}.json"
        if kept.exists():
            return json.loads(kept.read_text())
        split = pipeline.open_split(config["data"] | {"split": "testA"}, run.tokenizer)
        where = {kind: str(flickr8k / name) for kind, name in JUDGMENTS.items()}
        evaluator = judgments.Evaluator(run.task.predict(), split=split, mesh=mesh, **where)
        found = {f"human/{k}": v for k, v in evaluator.result(run.variables)["metrics"].items()}
    files.write(kept, json.dumps(found))
    return found
