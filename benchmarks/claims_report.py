"""docs/claims.md from the rows: tables, checks with computed verdicts, plots. No sentence here knows a number."""

import pathlib
from typing import NamedTuple

import claims_numbers as numbers
import claims_plots as plots
import claims_reused
from claims_plan import MIDDLE

TAU = "tau"
COLUMNS = {  # of tables: heading → (a row's number, digits)
    "rsum": (lambda row: row["metrics"]["test/rsum"], 1),
    "steps to 95 %": (lambda row: steps95(row), 0),
    "NDCG@10, facts": (lambda row: both(row, "test", "NDCG@10"), 4),
    "tau, facts": (lambda row: both(row, "test", TAU), 4),
    "NDCG@10, pseudo": (lambda row: both(row, "test", "NDCG@10"), 4),
    "expert tau-c": (lambda row: row["metrics"].get("human/expert_tau_c"), 4),
    "crowd tau-b": (lambda row: row["metrics"].get("human/crowdflower_tau_b"), 4),
    "human NDCG": (lambda row: row["metrics"].get("human/expert_NDCG"), 4),
    "on the plateau, %": (lambda row: 100 * share(plateau(row)), 0),
    "gradient at visuals": (lambda row: early(row, "embedding_grad/visual"), 3),
    "gradient at texts": (lambda row: early(row, "embedding_grad/text"), 3),
    "of all parameters": (lambda row: early(row, "grad_norm"), 3),
}
SCENES = ["rsum", "steps to 95 %", "NDCG@10, facts", "tau, facts"]
PEOPLE = ["rsum", "steps to 95 %", "NDCG@10, pseudo", "expert tau-c", "crowd tau-b", "human NDCG"]
GRADIENTS = ["on the plateau, %", "gradient at visuals", "gradient at texts", "of all parameters", "rsum", "tau, facts"]


class Check(NamedTuple):
    """A comparison and its verdict; `counts` is False for one against pseudo grades, shown but no evidence."""

    text: str
    verdict: numbers.Verdict
    values: list[float]
    counts: bool = True


def both(row, evaluation: str, metric: str) -> float:
    """Mean of a metric over the two directions."""
    return sum(row["metrics"][f"{evaluation}/{d}_{metric}"] for d in ("v2t", "t2v")) / 2


def steps95(row) -> float:
    """Steps to 95 % of a run's own best rsum on its selection split."""
    return numbers.steps_to(row["dev"]["step"], row["dev"]["rsum"])


def plateau(row) -> list[bool]:
    """Of the logged steps, which are on the plateau."""
    return numbers.on_plateau(row["curves"]["loss"], row["curves"]["batch/spread"])


def share(flags: list[bool]) -> float:
    """How many of the flags are set, 0 to 1."""
    return sum(flags) / len(flags)


def early(row, name: str) -> float:
    """Median of a curve over the first fifth of a run."""
    values = row["curves"][name][: max(len(row["curves"][name]) // 5, 1)]
    return sorted(values)[len(values) // 2]


def table(rows: dict, named: dict[str, str], columns: list[str]) -> str:
    """One line for each configuration: mean ± std over seeds."""
    lines = [f"| | n | {' | '.join(columns)} |", "|---" * (len(columns) + 2) + "|"]
    for key, title in named.items():
        runs = rows.get(key)
        if not runs:
            continue
        cells = []
        for column in columns:
            number, digits = COLUMNS[column]
            values = [number(row) for row in runs.values()]
            if any(v is None for v in values):
                cells.append("–")
                continue
            mean, std = numbers.mean_std(values)
            cells.append(f"{mean:.{digits}f} ± {std:.{digits}f}")
        lines.append(f"| {title} | {len(runs)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def check(
    rows: dict, text: str, ours: str, theirs: str, column, *, sign=1, loss_only=False, counts=True
) -> list[Check]:
    """Is `ours` better than `theirs` by a column (or a function of a row)? None where rows are missing.

    `sign` −1: less is better. `loss_only`: only being worse is against it.
    """
    number = column if callable(column) else COLUMNS[column][0]
    sides = [{s: number(row) for s, row in rows.get(key, {}).items()} for key in (ours, theirs)]
    sides = [{s: sign * v for s, v in side.items() if v is not None} for side in sides]
    common = sorted(sides[0].keys() & sides[1].keys())
    if len(common) < 2:
        return []
    verdict = (numbers.no_worse if loss_only else numbers.better)(*sides)
    return [Check(text, verdict, [sides[0][s] - sides[1][s] for s in common], counts)]


def listed(checks: list[Check]) -> str:
    """The checks as a list, and the sentence over all that count."""
    lines = []
    for one in checks:
        tail = "" if one.counts else " (pseudo grades of captions: no evidence, not counted)"
        lines.append(f"* {one.text}: **{one.verdict.word}**{one.verdict.sentence()[len(one.verdict.word) :]}{tail}")
    words = [one.verdict.word for one in checks if one.counts]
    return "\n".join([f"**Verdict: {numbers.overall(words)}.**", *([""] if lines else []), *lines])


def titles(plan, *keys) -> dict[str, str]:
    """Row keys → titles, in the order of the keys."""
    known = {c.key: c.title for c in plan}
    return {key: known[key] for key in keys if key in known}


def vanishing(rows, plan, setting) -> tuple[str, list[Check]]:
    """Claim 1."""
    keys = [f"scenes/{loss}/{i}" for i in range(len(setting.rates)) for loss in ("hard", "selhn")]
    checks, last = [], len(setting.rates) - 1
    for i, lr in enumerate(setting.rates):
        hard, selhn, at = f"scenes/hard/{i}", f"scenes/selhn/{i}", f"at lr {lr:g}"
        checks += check(
            rows, f"{at} SelHN spends less of the training on the plateau", selhn, hard, "on the plateau, %", sign=-1
        )
        for side in ("visuals", "texts"):
            words = f"{at} SelHN's gradient at the {side} is larger in the first fifth"
            checks += check(rows, words, selhn, hard, f"gradient at {side}")
        checks += check(rows, f"{at} SelHN gets further", selhn, hard, "rsum") if i == last else []
        checks += check(rows, f"{at} SelHN loses no rsum", selhn, hard, "rsum", loss_only=True) if i != last else []
    collapsed = []
    for i, lr in enumerate(setting.rates):
        if runs := [plateau(row) for row in rows.get(f"scenes/hard/{i}", {}).values()]:
            stuck = sum(share(flags[-max(len(flags) // 10, 1) :]) > 0.5 for flags in runs)
            collapsed.append(f"lr {lr:g}: {stuck} of {len(runs)} seeds")
    text = table(rows, titles(plan, *keys), GRADIENTS)
    return text + f"\n\nTriplet-HN still on the plateau in the last tenth of training: {'; '.join(collapsed)}.", checks


def unified(rows, plan, setting, reused) -> tuple[str, list[Check]]:
    """Claim 2."""
    keys = [f"flickr/{loss}/{i}" for i in range(len(setting.sizes)) for loss in ("hard", "unified", "info_nce")]
    middle = f"flickr/unified/{MIDDLE}"
    checks = check(
        rows,
        "Unified needs fewer steps to 95 % than Triplet-HN",
        middle,
        f"flickr/hard/{MIDDLE}",
        "steps to 95 %",
        sign=-1,
    )
    for i, size in enumerate(setting.sizes):
        ours, theirs = f"flickr/unified/{i}", f"flickr/info_nce/{i}"
        checks += check(rows, f"with {size:,} images Unified has more rsum than VLC", ours, theirs, "rsum")
        checks += check(
            rows, f"with {size:,} images Unified agrees more with experts than VLC", ours, theirs, "expert tau-c"
        )
    text = table(rows, titles(plan, *keys), PEOPLE)
    return text + _same(reused, "unified", "triplet_hard", [("steps to 95 %", -1)], checks), checks


def plugged(rows, plan, setting, reused) -> tuple[str, list[Check]]:
    """Claim 3."""
    keys, checks = [], []
    for base, name in (("hard", "Triplet-HN"), ("unified", "Unified"), ("info_nce", "VLC")):
        alone, mixed = f"flickr/{base}/{MIDDLE}", f"flickr/{base}+list/{MIDDLE}"
        keys += [alone, mixed]
        for column, what in (
            ("expert tau-c", "agreement with experts"),
            ("crowd tau-b", "agreement with the crowd"),
            ("human NDCG", "NDCG by human grades"),
        ):
            checks += check(rows, f"{name}: + S-NDCG improves {what}", mixed, alone, column)
        checks += check(rows, f"{name}: + S-NDCG loses no rsum", mixed, alone, "rsum", loss_only=True)
        checks += check(rows, f"{name}: + S-NDCG improves NDCG@10", mixed, alone, "NDCG@10, pseudo", counts=False)
    text = table(rows, titles(plan, *keys), PEOPLE)
    measures = [("expert tau-c", 1), ("crowd tau-b", 1), ("human NDCG", 1)]
    return text + _same(reused, "smooth_ndcg + triplet_hard", "triplet_hard", measures, checks), checks


def bcls(rows, plan, setting, reused, timing) -> tuple[str, list[Check]]:
    """Claim 4."""
    ours, soft, hard = (f"scenes/{name}/0" for name in ("bcls", "soft", "hard"))
    checks = check(rows, "BCLS has a larger tau against the facts than Triplet-HN", ours, hard, "tau, facts")
    checks += check(rows, "BCLS has a larger tau against the facts than Triplet-SN alone", ours, soft, "tau, facts")
    checks += check(rows, "BCLS loses no rsum against Triplet-SN alone", ours, soft, "rsum", loss_only=True)
    checks += check(rows, "Triplet-SN needs fewer steps to 95 % than Triplet-HN", soft, hard, "steps to 95 %", sign=-1)
    text = table(rows, titles(plan, hard, soft, ours), SCENES)
    measures = [("expert tau-c", 1), ("crowd tau-b", 1)]
    text += _same(reused, "kendall_window + triplet_soft", "triplet_hard", measures, checks)
    return text + "\n\n" + cost(timing), checks


def cost(timing: list[dict]) -> str:
    """What the losses cost, and the verdict on SW-HS; there are no seeds in it, so it is no check."""
    names, lines = list(timing[0]["ms"]), []
    for name in names:
        cells = [f"{one['ms'][name]:.2f} ({one['ms'][name] / one['ms']['triplet_hard']:.1f} ×)" for one in timing]
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    ratios, dense = (
        [one["ms"][name] / one["ms"]["triplet_hard"] for one in timing] for name in ("kendall_window", "kendall")
    )
    word = numbers.HOLDS if max(ratios) < 10 else numbers.FAILS if min(ratios) >= 10 else "holds in part"
    sizes = " and ".join(f"B = {one['size']}" for one in timing)
    head = " | ".join(["| loss, ms (× Triplet-HN)", *(f"B = {one['size']}" for one in timing)]) + " |"
    return "\n".join(
        [
            "A loss and its gradient to the scores, both directions, on this machine:",
            "",
            head,
            "|---" * (len(timing) + 1) + "|",
            *lines,
            "",
            f"SW-HS at the triplet's order of cost (less than 10 times): **{word}**: "
            f"{' and '.join(f'{r:.1f}' for r in ratios)} times at {sizes}, dense Kendall "
            f"{' and '.join(f'{r:.1f}' for r in dense)} times.",
        ]
    )


def towers(reused) -> tuple[str, list[Check]]:
    """Claim 5, from finished runs alone."""
    pairs = [
        (a, b) for a in reused if a.startswith("RVSE++ · selhn") for b in reused if b.startswith("VSE++ · triplet_hard")
    ]
    if not pairs:
        return "Needs finished runs of both (`--rows`); there are none.", []
    checks, text = (
        [],
        table(reused, {name: f"{name}, Flickr8k" for pair in pairs for name in pair}, ["rsum", *PEOPLE[3:]]),
    )
    for ours, theirs in pairs:
        for column, what in (
            ("rsum", "rsum"),
            ("expert tau-c", "agreement with experts"),
            ("crowd tau-b", "agreement with the crowd"),
        ):
            checks += check(reused, f"{ours} has more {what} than {theirs}", ours, theirs, column)
        configs = [next(iter(reused[name].values()))["config"] for name in (ours, theirs)]
        other = ", ".join(claims_reused.differing(*configs)) or "nothing"
        text += f"\n\nBesides the losses, {ours} and {theirs} differ in: {other}."
    return text, checks


def _same(reused, ours: str, theirs: str, measures, checks) -> str:
    """Adds checks for finished runs of one model under both losses; the text that shows them."""
    text = ""
    for a, rows in reused.items():
        for b, others in reused.items():
            (model, _, loss), (other, _, base) = a.partition(" · "), b.partition(" · ")
            wanted = (loss.split(" (")[0], base.split(" (")[0]) == (ours, theirs) and model == other
            configs = [next(iter(one.values()))["config"] for one in (rows, others)]
            if wanted and not claims_reused.differing(*configs):
                for column, sign in measures:
                    words = f"README's rows, Flickr8k: {a} beside {b}, {column}"
                    checks += check(reused, words, a, b, column, sign=sign)
                shown = table(reused, {a: a, b: b}, ["rsum", *PEOPLE[3:]])
                text += f"\n\nREADME's rows of one config but for the loss:\n\n{shown}"
    return text


def write(rows: dict, reused: dict, timing: list, options, plan, machine: str) -> pathlib.Path:
    """Writes claims.md and its plots; returns the former's path."""
    import claims_text

    setting, folder = options.setting, options.output
    folder.mkdir(parents=True, exist_ok=True)
    parts = {
        "vanishing": vanishing(rows, plan, setting),
        "unified": unified(rows, plan, setting, reused),
        "plugged": plugged(rows, plan, setting, reused),
        "bcls": bcls(rows, plan, setting, reused, timing),
        "towers": towers(reused),
    }
    middle = setting.sizes[MIDDLE]
    plots.gradients(rows, setting.rates, folder / "claims_gradients.png")
    curves = [(f"Scenes, lr {setting.rates[0]:g}", [f"scenes/{loss}/0" for loss in ("hard", "selhn", "soft", "bcls")])]
    if options.flickr8k:
        keys = [f"flickr/{loss}/{MIDDLE}" for loss in ("hard", "unified", "info_nce")]
        curves.append((f"Flickr8k grid, {middle:,} images", keys))
    plots.convergence(rows, curves, folder / "claims_convergence.png")
    _differences(rows, setting, folder / "claims_differences.png")
    return claims_text.write(parts, rows, reused, options, plan, machine)


def _differences(rows, setting, path):
    lines = {}
    for column in ("expert tau-c", "crowd tau-b", "human NDCG", "rsum"):
        for base, name in (("hard", "Triplet-HN"), ("unified", "Unified"), ("info_nce", "VLC")):
            for one in check(
                rows, f"{name} + S-NDCG", f"flickr/{base}+list/{MIDDLE}", f"flickr/{base}/{MIDDLE}", column
            ):
                lines.setdefault(f"Flickr8k testA, {column}", []).append((one.text, one.values, one.verdict.noise))
        for i, size in enumerate(setting.sizes):
            for one in check(rows, f"Unified − VLC, {size:,}", f"flickr/unified/{i}", f"flickr/info_nce/{i}", column):
                lines.setdefault(f"Flickr8k testA, {column}", []).append((one.text, one.values, one.verdict.noise))
    if lines:
        seeds = min(len(values) for found in lines.values() for _, values, _ in found)
        plots.differences([(f"{title} (n = {seeds})", found) for title, found in lines.items()], path)
