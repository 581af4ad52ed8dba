"""The words of docs/claims.md around the tables; verdicts and numbers come from claims_report and claims_checks."""

import pathlib
import statistics
from importlib.metadata import version

import claims_checks as checks
import claims_document
import claims_numbers as numbers
import claims_reused
from claims_plan import ABLATED, BASES

CLAIMS = (  # (claim, its name in claims_report, source)
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

PSEUDO = """\
The dimension and the weighting of the tf-idf vectors were chosen looking at the human grades of testA
([Sentence vectors](datasets.md#sentence-vectors)), so agreement with people is a little optimistic for what was
trained on them."""
REMARKS = {
    "vanishing": f"""\
On the scenes, from the usual start and from one with a hidden layer in the visual tower.
*On the plateau*: the loss within 2 % of its margin and all similarities
of the batch equal (standard deviation below 0.02) at {numbers.PATIENCE} logged points in a row, the rule of
`log.CollapseGuard`, here of the whole loss and for SelHN too. The gradients are norms, of the mean loss, at the
normalised encodings, and that of all parameters; median over the first fifth of the steps.""",
    "unified": """\
*Fine-tuning on little data* is here: two towers over frozen ImageNet features, of which only the heads and the
words are learned, from few images. Unified has its code's temperature 0.01 and margin 0.2, VLC 0.05. Steps to
95 % are of a run's own best rsum on dev, linear between evaluations.""",
    "plugged": f"""\
S-NDCG is trained on pseudo grades (tf-idf cosines of captions, fitted on the training texts); people judge.
Base and S-NDCG have half the weight each. {PSEUDO}""",
    "bcls": f"""\
Trained on tf-idf cosines, judged by the exact share of true facts, on the scenes. The weight of SW-HS, 0.1, is
the largest of 1, 0.3, 0.1, 0.03 that kept rsum on the val split of the scenes within 1 % (seed 0); no source
gives one. {PSEUDO}""",
    "towers": """\
From the runs of README's table, each at the step that was best on dev.""",
}


def write(claims: dict, rows: dict, failed: list, reused: dict, options, plan, machine: str) -> pathlib.Path:
    """Writes its part of claims.md beside its plots; returns its path."""
    text, drawn = [head(rows, options, plan, machine), nonfinite(failed), summary(claims)], figures(rows, options)
    for place, (title, name, source) in enumerate(CLAIMS, 1):
        body = claims[name].text
        if not options.flickr8k and name in ("unified", "plugged"):
            body = "Needs the photographs of Flickr8k (`--flickr8k FOLDER`), which were not given."
        text += [f"## {place}. {title}", f"Source: {source}.\n{REMARKS[name]}", checks.listed(claims[name]), body]
        if name in drawn:
            text.append("![{1}]({0})\n\n*{1}.*".format(*drawn[name]))
    if reused:
        named = {name: claims_reused.title(name, found) for name, found in reused.items()}
        text += ["## Rows of README that were read", checks.table(reused, named, checks.README)]
        text.append(checks.still_rising(reused, {name: name for name in reused}))
    return claims_document.put(options.output, "image-text", "\n\n".join(filter(None, text)))


def figures(rows: dict, options) -> dict[str, tuple[str, str]]:
    """Claim → (file, caption with data and seeds), of the plots that have something to show."""
    setting, scenes, flickr = options.setting, "scenes", f"Flickr8k grid, {options.setting.sizes[ABLATED]:,} images"
    drawn = {
        "vanishing": ("gradients", "scenes/", f"Loss, gradients and rsum on val, {scenes}"),
        "unified": ("convergence", "", f"rsum over steps: {scenes}, val; {flickr}, dev"),
        "plugged": ("differences", "flickr/", f"Differences by seed on testA (500 images); {flickr} and as named"),
    }
    if not options.flickr8k:
        drawn["unified"] = ("convergence", "", f"rsum over steps: {scenes}, val")
    found = {}
    for name, (file, prefix, words) in drawn.items():
        if seeds := sorted({len(runs) for key, runs in rows.items() if key.startswith(prefix)}):
            counts = ", ".join(map(str, seeds))
            found[name] = f"claims_{file}.png", f"{words}; n = {counts} seeds, setting `{setting.name}`"
    return found


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
    devices = ", ".join(
        sorted({row["device"].replace("cpu cpu", "cpu").replace(" 1 cores", " 1 core") for row in runs})
    )
    packages = ", ".join(f"{name} {version(name)}" for name in ("jax", "flax", "numpy"))
    return f"""# What the papers claim, run again

Written by `python benchmarks/claims_image_text.py --flickr8k FLICKR8K --rows 'runs/*_flickr8k-*'`, numbers and verdicts
alike; setting `{setting.name}`, {len(runs)} of {len(plan) * setting.seeds} runs ({spent}), {setting.seeds} seeds each,
batch {setting.batch}, Adam.

{data(options)}

{levels(rows, options)}

Device: {devices or machine}; {packages}.

These are small models and short runs. A claim that holds here holds in this regime; one that does not may need the
papers' sizes (`--full` on a GPU). Settings were chosen in drafts with the numbers on val and test in sight: the starts
at which Triplet-HN is slowed or collapses, the weight 0.1 of SW-HS, sizes and steps. Nothing here is a blind test.

Numbers are mean ± standard deviation over n seeds of the checkpoint that was best on the selection split. A comparison
is paired by seed. It **holds** if the mean difference is larger than the pooled standard deviation over seeds (the
noise) and all seeds agree, **does not hold** if that is so of the opposite, and is **within noise** otherwise. That
nothing is lost is a veto: it holds if the mean is above −{100 * numbers.ALLOWED:g} % of the base's value by more than
the noise. A veto only lowers what it is about: to *does not hold* where a loss of more than that is clear, to *holds in
part* where it cannot be told. A run that is best at its last evaluation still rises, so its steps to 95 % are a lower
bound (≥), and no evidence. A part of a claim **holds** if all its checks do, **holds in part** if some do, and **does
not hold** if none does and one says the opposite."""


def levels(rows: dict, options) -> str:
    """The levels of each difficulty that were run, by loss."""
    setting = options.setting
    lists = {
        name: [str(start) for i, start in enumerate(setting.starts) if f"scenes/{loss}/{i}" in rows]
        for loss, name in (("hard", "Triplet-HN"), ("selhn", "SelHN"), ("soft", "Triplet-SN"), ("bcls", "BCLS"))
    }
    starts = "; ".join(f"{name} {len(some)} ({', '.join(some)})" for name, some in lists.items())
    text = (
        "Levels of difficulty. The start on the scenes, learning rate and a hidden layer before the visual projection: "
    )
    text += f"{starts}."
    if not options.flickr8k:
        return text
    counts = {
        name: [f"{size:,}" for i, size in enumerate(setting.sizes) if f"flickr/{loss}/{i}" in rows]
        for loss, (name, _) in BASES.items()
    }
    sizes = "; ".join(f"{name} {len(some)} ({', '.join(some)})" for name, some in counts.items())
    return f"{text} Training images of Flickr8k: {sizes}; the ablations, + S-NDCG, at {setting.sizes[ABLATED]:,}."


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
* **README's rows**: Flickr8k whole, with the features that are named; not run again."""


def nonfinite(failed: list[dict]) -> str:
    """The runs that did not stay finite; empty where all did."""
    lines = [f"* {row['title']}, seed {row['seed']}: {row['failed']}" for row in failed]
    return "\n".join(["Runs that did not stay finite, left out of all tables:", "", *lines]) if lines else ""


def summary(claims: dict) -> str:
    """One line a claim, with a word for each of its parts."""
    lines = ["| claim | verdicts |", "|---|---|"]
    for place, (title, name, _) in enumerate(CLAIMS, 1):
        words = [f"{part}: **{word}**" for part, (word, _) in checks.verdicts(claims[name]).items()]
        lines.append(f"| {place}. {title} | {'; '.join(words)} |")
    return "\n".join(lines)
