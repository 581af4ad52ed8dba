"""Finished runs → a Markdown table, mean ± standard deviation over seeds; of retrieval and of moments one each.

    python benchmarks/table.py runs/*_flickr8k-* --split testA
    python benchmarks/table.py runs/*_slideshows-* --split dev

Runs are one row if their configs differ in nothing but the seed. Every row names its split and how many seeds it has.
"""

import argparse
import json
import pathlib
import statistics

# What a kind of evaluation is told by → its columns: (header, metrics, parted by " / ").
RETRIEVAL, MOMENTS = "rsum", "MR-full-R1@0.5"
RECALLS = ("R@1", "R@5", "R@10")
COLUMNS = {
    RETRIEVAL: [
        *((f"{side} {' / '.join(RECALLS)}", [f"{side}_{k}" for k in RECALLS]) for side in ("v2t", "t2v")),
        ("rsum", ["rsum"]),
    ],
    MOMENTS: [(name, [f"MR-full-{name}"]) for name in ("R1@0.5", "R1@0.7", "mAP@0.5", "mAP@0.75", "mAP")],
}


def rows(folders: list[pathlib.Path], split: str) -> dict[str, list[dict]]:
    """Config without its seed (as JSON) → of each seed the folder's name, and the kind and metrics on `split`."""
    found = {}
    for folder in folders:
        config, result = (json.loads((folder / name).read_text()) for name in ("config.json", "result.json"))
        names = [n for n, e in config["evals"].items() if (config["data"] | e.get("data", {}))["split"] == split]
        every = [result["evals"][name]["metrics"] for name in names]
        evals = [(kind, metrics) for metrics in every for kind in COLUMNS if kind in metrics]
        if len(evals) != 1:
            raise SystemExit(
                f"{folder} has {len(evals)} evaluations of retrieval or moments on {split!r}; expected one"
            )
        key = json.dumps(config | {"seed": None}, sort_keys=True)
        row = {"folder": folder.name, "seed": config["seed"], "kind": evals[0][0], "metrics": evals[0][1]}
        found.setdefault(key, []).append(row | {"selected_on": result.get("selected_on", "")})
    return found


def spread(values: list[float]) -> str:
    """`mean ± standard deviation`; the value alone where there is one."""
    deviation = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{deviation}"


def cells(kind: str, metrics: list[dict]) -> list[str]:
    """The columns of a kind, of one run's metrics or of several seeds'; "–" for what a protocol does not measure."""
    one = lambda name: spread([m[name] for m in metrics]) if all(name in m for m in metrics) else "–"
    return [" / ".join(map(one, names)) for _, names in COLUMNS[kind]]


def header(kind: str, *, first: str, last: str) -> str:
    """The two lines above the rows of a kind."""
    names = [first, *(name for name, _ in COLUMNS[kind]), last]
    return f"| {' | '.join(names)} |\n{'|---' * len(names)}|"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=pathlib.Path)
    parser.add_argument("--split", default="testA")
    options = parser.parse_args(arguments)
    unfinished = [folder.name for folder in options.runs if not (folder / "result.json").exists()]
    found = rows([folder for folder in options.runs if folder.name not in unfinished], options.split)
    ordered = sorted(found.values(), key=lambda runs: runs[0]["folder"])
    tables = []
    for kind in COLUMNS:
        lines = [
            f"| {runs[0]['folder'].rpartition('-')[0]} | {' | '.join(cells(kind, [run['metrics'] for run in runs]))} | "
            f"{', '.join(str(seed) for seed in sorted(run['seed'] for run in runs))} |"
            for runs in ordered
            if runs[0]["kind"] == kind
        ]
        tables += ["\n".join([header(kind, first=options.split, last="seeds"), *lines])] if lines else []
    print("\n\n".join(tables))
    for note in sorted({run["selected_on"] for runs in found.values() for run in runs if run["selected_on"]}):
        print(f"\ncheckpoints: {note}")
    if unfinished:
        print(f"\nnot finished, left out: {', '.join(unfinished)}")


if __name__ == "__main__":
    main()
