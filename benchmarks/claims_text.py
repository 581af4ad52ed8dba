"""The words of docs/claims.md around the tables; verdicts and numbers come from claims_report."""

import pathlib
import statistics
from importlib.metadata import version

import claims_numbers as numbers
import claims_report as report

from vlr_jax import files

FIGURES = {
    "vanishing": ("claims_gradients.png", "Loss, gradients at the encodings and rsum of Triplet-HN and SelHN"),
    "unified": ("claims_convergence.png", "rsum over steps on scenes and on Flickr8k"),
    "plugged": ("claims_differences.png", "Differences by seed on Flickr8k testA"),
}
CLAIMS = (  # (claim, function of claims_report, source)
    (
        "Triplet-HN suffers vanishing gradients at the start, SelHN does not",
        "vanishing",
        "SelHN, arXiv 2303.00181",
    ),
    (
        "Unified converges faster than Triplet-HN and beats VLC on little data",
        "unified",
        "Unified, arXiv 2209.13869",
    ),
    (
        "Adding S-NDCG to a pairwise loss improves NDCG and agreement with people, at no loss of rsum",
        "plugged",
        "Listwise ITR, arXiv 2305.16566",
    ),
    (
        "BCLS improves Kendall's tau; Triplet-SN converges faster than Triplet-HN; SW-HS costs as a triplet does",
        "bcls",
        "BCLS, arXiv 2210.11319",
    ),
    ("RVSE++ with SelHN beats VSE++ with Triplet-HN", "towers", "RVSE++, arXiv 2303.00181"),
)

REMARKS = {
    "vanishing": """\
Three learning rates at the usual initialisation, on the scenes. *On the plateau*: the loss within 2 % of its
margin and all similarities of the batch equal (standard deviation below 0.02), as `log.CollapseGuard` has it.
The gradients are those of the mean loss that reach the normalised encodings, and that of all parameters; median
over the first fifth of the steps. SelHN is run at the gentlest and the harshest rate (at all of them with
`--full`).""",
    "unified": """\
*Fine-tuning on little data* is here: two towers over frozen ImageNet features, of which only the heads and the
words are learned, from few images. Unified has its code's temperature 0.01 and margin 0.2, VLC 0.05. Steps to
95 % are of a run's own best rsum on dev, linear between evaluations.""",
    "plugged": """\
S-NDCG is trained on pseudo grades (tf-idf cosines of captions, fitted on the training texts); people judge.
Base and S-NDCG have half the weight each. NDCG@10 by pseudo grades is shown, and is no evidence.""",
    "bcls": """\
Trained on tf-idf cosines, judged by the exact share of true facts, on the scenes. The weight of SW-HS, 0.1, is
the largest of 1, 0.3, 0.1, 0.03 that kept rsum on the val split of the scenes within 1 % (seed 0); no source
gives one.""",
    "towers": """\
From the runs of README's table, each at the step that was best on dev.""",
}


def write(parts: dict, rows: dict, reused: dict, options, plan, machine: str) -> pathlib.Path:
    """Writes claims.md beside its plots; returns its path."""
    text = [head(rows, options, plan, machine), summary(parts)]
    for place, (title, name, source) in enumerate(CLAIMS, 1):
        body, checks = parts[name]
        if not options.flickr8k and name in ("unified", "plugged"):
            body = "Needs the photographs of Flickr8k (`--flickr8k FOLDER`), which were not given."
        text += [f"## {place}. {title}", f"Source: {source}.\n{REMARKS[name]}", report.listed(checks), body]
        figure, caption = FIGURES.get(name, ("", ""))
        if figure and (options.output / figure).exists():
            text.append(f"![{caption}]({figure})")
    if reused:
        names = {name: f"{name} ({_folders(found)})" for name, found in reused.items()}
        text += ["## Rows of README that were read", report.table(reused, names, ["rsum", *report.PEOPLE[3:]])]
    path = options.output / "claims.md"
    return files.write(path, "\n\n".join(text) + "\n")


def head(rows: dict, options, plan, machine: str) -> str:
    """What was run, on what, how to do it again, and how verdicts are made."""
    setting = options.setting
    runs = [row for found in rows.values() for row in found.values()]
    seconds = [row["seconds"] for row in runs]
    longest = max(seconds, default=0)
    spent = (
        f"{sum(seconds) / 60:.0f} min in all, median {statistics.median(seconds):.0f} s, longest {longest:.0f} s"
        if runs
        else "-"
    )
    devices = ", ".join(sorted({row["device"] for row in runs}))
    packages = ", ".join(f"{name} {version(name)}" for name in ("jax", "flax", "numpy"))
    return f"""# What the papers claim, run again

Written by `python benchmarks/claims_image_text.py --flickr8k FLICKR8K --rows 'runs/*'`, numbers and verdicts alike;
setting `{setting.name}`, {len(runs)} of {len(plan) * setting.seeds} runs ({spent}), {setting.seeds} seeds each,
batch {setting.batch}, Adam.

{data(options)}

Device: {devices or machine}; {packages}.

These are small models and short runs. A claim that holds here holds in this regime; one that does not may need the
papers' sizes (`--full` on a GPU). Numbers are mean ± standard deviation over n seeds of the checkpoint that was best on
the selection split. A comparison is paired by seed. It **holds** if the mean difference is larger than the pooled
standard deviation over seeds and all seeds agree, **does not hold** if that is so of the opposite, and is **within
noise** otherwise; "loses no …" holds unless a loss is clear."""


def data(options) -> str:
    """The data of this call, as a list."""
    scenes = options.setting.scenes
    counts = " / ".join(f"{scenes[split]:,}" for split in ("train", "val", "test"))
    text = f"""* **scenes**: the procedural world, {counts} scenes to train on / select on / test on, five captions
  each, graded by the exact share of a caption's facts that are true."""
    if not options.flickr8k:
        return text + "\n* **Flickr8k was not given**: claims that need photographs or people are not checked."
    sizes = ", ".join(f"{size:,}" for size in options.setting.sizes)
    return f"""{text}
* **Flickr8k grid**: 3 × 3 grid of MobileNetV2 features (PCA, 256); {sizes} of the 6,000 training images, selected on
  dev (1,000 images), tested on testA (500 images), with the judgments of experts and of the crowd.
* **README's rows**: Flickr8k whole, with the features that their configs name; not run again."""


def summary(parts: dict) -> str:
    """One line a claim."""
    lines = ["| claim | verdict |", "|---|---|"]
    for place, (title, name, _) in enumerate(CLAIMS, 1):
        words = [one.verdict.word for one in parts[name][1] if one.counts]
        lines.append(f"| {place}. {title} | {numbers.overall(words)} |")
    return "\n".join(lines)


def _folders(found: dict) -> str:
    return ", ".join(sorted(row["folder"] for row in found.values()))
