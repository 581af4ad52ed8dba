"""Finished runs → a Markdown table, mean ± standard deviation over seeds.

    python benchmarks/table.py runs/*_flickr8k-* --split testA

Runs are one row if their configs differ in nothing but the seed. Every row names its split and how many seeds it has.
"""

import argparse
import json
import pathlib
import statistics

RECALLS = ("R@1", "R@5", "R@10")


def rows(folders: list[pathlib.Path], split: str) -> dict[str, list[dict]]:
    """Config without its seed (as JSON) → of each seed the folder's name and the metrics on `split`."""
    found = {}
    for folder in folders:
        config, result = (json.loads((folder / name).read_text()) for name in ("config.json", "result.json"))
        names = [n for n, e in config["evals"].items() if (config["data"] | e.get("data", {}))["split"] == split]
        evals = [result["evals"][name] for name in names if "rsum" in result["evals"][name]["metrics"]]
        if len(evals) != 1:
            raise SystemExit(f"{folder} has {len(evals)} retrieval evaluations on {split!r}; expected one")
        key = json.dumps(config | {"seed": None}, sort_keys=True)
        row = {"folder": folder.name, "seed": config["seed"], "metrics": evals[0]["metrics"]}
        found.setdefault(key, []).append(row | {"selected_on": result.get("selected_on", "")})
    return found


def spread(values: list[float]) -> str:
    """`mean ± standard deviation`; the value alone where there is one."""
    deviation = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{deviation}"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=pathlib.Path)
    parser.add_argument("--split", default="testA")
    options = parser.parse_args(arguments)
    unfinished = [folder.name for folder in options.runs if not (folder / "result.json").exists()]
    found = rows([folder for folder in options.runs if folder.name not in unfinished], options.split)
    print(f"| {options.split} | v2t R@1 / R@5 / R@10 | t2v R@1 / R@5 / R@10 | rsum | seeds |\n|---|---|---|---|---|")
    for runs in sorted(found.values(), key=lambda runs: runs[0]["folder"]):
        values = {name: [run["metrics"][name] for run in runs] for name in runs[0]["metrics"]}
        sides = [" / ".join(spread(values[f"{side}_{k}"]) for k in RECALLS) for side in ("v2t", "t2v")]
        seeds = ", ".join(str(seed) for seed in sorted(run["seed"] for run in runs))
        print(f"| {runs[0]['folder'].rpartition('-')[0]} | {' | '.join(sides)} | {spread(values['rsum'])} | {seeds} |")
    for note in sorted({run["selected_on"] for runs in found.values() for run in runs if run["selected_on"]}):
        print(f"\ncheckpoints: {note}")
    if unfinished:
        print(f"\nnot finished, left out: {', '.join(unfinished)}")


if __name__ == "__main__":
    main()
