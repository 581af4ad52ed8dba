"""docs/claims.md from the rows: the five claims as checks with computed verdicts. No sentence here knows a number."""

import pathlib

import claims_numbers as numbers
import claims_plots as plots
import claims_reused
from claims_checks import (
    CONVERGENCE,
    GRADIENTS,
    JUDGED,
    PEOPLE,
    README,
    SCENES,
    SHOWN,
    VETO,
    Check,
    Claim,
    cell,
    check,
    plateau,
    still_rising,
    table,
)
from claims_plan import ABLATED, BASES

NEAR = 2  # times the rsum of chance: a run that ends below has collapsed
BEHIND = 0.95  # of the best configuration's final rsum: a run that ends below was slowed
CHEAP = 2  # times the cost of a triplet loss: triplet-like
COSTLY = "kendall_window"
WORDS = {"expert tau-c": "agreement with experts", "crowd tau-b": "agreement with the crowd", "rsum": "rsum"}
WORDS |= {"human NDCG": "NDCG by human grades"}


def titles(plan, *keys) -> dict[str, str]:
    """Row keys → titles, in the order of the keys."""
    known = {c.key: c.title for c in plan}
    return {key: known[key] for key in keys if key in known}


def joined(*blocks: str) -> str:
    """Blocks of Markdown, those that are empty left out."""
    return "\n\n".join(block for block in blocks if block)


def vanishing(rows, plan, setting) -> Claim:
    """Claim 1."""
    keys = [f"scenes/{loss}/{i}" for i in range(len(setting.starts)) for loss in ("hard", "selhn")]
    gradients, stuck, further = "gradient norms at the start", "plateau", "final rsum"
    checks, last = [], len(setting.starts) - 1
    for i, start in enumerate(setting.starts):
        selhn, hard = f"scenes/selhn/{i}", f"scenes/hard/{i}"
        for side in ("visuals", "texts"):
            words = f"at {start} SelHN's gradient at the {side} is larger in the first fifth"
            checks += check(rows, gradients, words, selhn, hard, f"gradient at {side}")
        words = f"at {start} SelHN spends less of the training on the plateau"
        checks += check(rows, stuck, words, selhn, hard, "on the plateau, %")
        words, kind = ("gets further", "claim") if i == last else ("loses no rsum", VETO)
        checks += check(rows, further, f"at {start} SelHN {words}", selhn, hard, "rsum", kind=kind)
    named = titles(plan, *keys)
    text = joined(table(rows, named, GRADIENTS), collapses(rows, named, setting.scenes))
    return Claim(dict.fromkeys((gradients, stuck, further), ""), checks, text)


def chance(scenes: dict) -> float:
    """rsum of a random order of the scenes' selection split."""
    import numpy as np

    from vlr_jax import metrics

    visuals, texts = scenes["val"], scenes.get("captions", 5)
    v2t = metrics.chance(visuals * texts, np.full(visuals, texts))
    t2v = metrics.chance(visuals, np.ones(visuals * texts, int))
    return metrics.both_directions(v2t=v2t, t2v=t2v)["rsum"]


def collapses(rows, named: dict[str, str], scenes: dict) -> str:
    """What became of every run: on the plateau, its final rsum beside chance; collapsed, slowed, or neither."""
    level, kept = chance(scenes), {key: list(rows[key].values()) for key in named if key in rows}
    if not kept:
        return ""
    best = max(sum(row["dev"]["rsum"][-1] for row in runs) / len(runs) for runs in kept.values())
    lines = [
        "| | ever on the plateau | there at the last logged step | final rsum on val | chance | |",
        "|---" * 6 + "|",
    ]
    collapsed = []
    for key, runs in kept.items():
        flags, finals = [plateau(row) for row in runs], [row["dev"]["rsum"][-1] for row in runs]
        dead = [value <= NEAR * level for value in finals]
        slow = [any(f) or value < BEHIND * best for f, value in zip(flags, finals, strict=True)]
        counts = {"collapsed": sum(dead), "slowed": sum(s and not d for s, d in zip(slow, dead, strict=True))}
        collapsed += [named[key]] if any(dead) else []
        words = ", ".join(f"{word} in {n} of {len(runs)} seeds" for word, n in counts.items() if n) or "neither"
        seeds = f"{sum(map(any, flags))} of {len(runs)} | {sum(f[-1] for f in flags)} of {len(runs)}"
        lines.append(f"| {named[key]} | {seeds} | {cell(runs, 'final rsum on val')} | {level:.1f} | {words} |")
    rule = (
        f"*Collapsed*: the final rsum on val is at most {NEAR} times that of chance. *Slowed*: it is not, but the run "
        f"was on the plateau, or ends below {100 * BEHIND:g} % of the best line."
    )
    told = f"Collapsed: {', '.join(collapsed)}." if collapsed else "No run here collapsed for good."
    return joined("\n".join(lines), f"{rule} **{told}**")


def unified(rows, plan, setting) -> Claim:
    """Claim 2."""
    faster, little = "converges faster than Triplet-HN", "beats VLC on little data"
    keys = [f"flickr/{loss}/{i}" for i in range(len(setting.sizes)) for loss in BASES]
    words = f"with {setting.sizes[ABLATED]:,} images Unified needs fewer steps to 95 % than Triplet-HN"
    checks = check(rows, faster, words, f"flickr/unified/{ABLATED}", f"flickr/hard/{ABLATED}", CONVERGENCE)
    for i, size in enumerate(setting.sizes):
        for column in ("rsum", "expert tau-c"):
            words = f"with {size:,} images Unified has more {WORDS[column]} than VLC"
            checks += check(rows, little, words, f"flickr/unified/{i}", f"flickr/info_nce/{i}", column)
    named = titles(plan, *keys)
    return Claim({faster: "", little: ""}, checks, joined(table(rows, named, PEOPLE), still_rising(rows, named)))


def plugged(rows, plan, setting, reused) -> Claim:
    """Claim 3."""
    parts = {"human NDCG": "NDCG by human grades", "expert tau-c": "agreement with people"}
    parts["crowd tau-b"] = parts["expert tau-c"]
    keys, checks = [], []
    for base, (name, _) in BASES.items():
        alone, mixed = f"flickr/{base}/{ABLATED}", f"flickr/{base}+list/{ABLATED}"
        keys += [alone, mixed]
        for column, part in parts.items():
            words = f"{name}: + S-NDCG improves {WORDS[column]}"
            checks += check(rows, part, words, mixed, alone, column, group=base)
        checks += check(rows, "", f"{name}: + S-NDCG loses no rsum", mixed, alone, "rsum", kind=VETO, group=base)
        checks += check(rows, "", f"{name}: + S-NDCG improves NDCG@10", mixed, alone, "NDCG@10, pseudo", kind=SHOWN)
    named = titles(plan, *keys)
    more, found = same(reused, parts, "smooth_ndcg + unified", "unified")
    text = joined(table(rows, named, PEOPLE), still_rising(rows, named), more)
    return Claim(dict.fromkeys(parts.values(), ""), checks + found, text)


def bcls(rows, plan, setting, reused, timing) -> Claim:
    """Claim 4."""
    graded, people = "BCLS: tau against graded labels", "BCLS: agreement with people"
    faster, cheap = "Triplet-SN converges faster", "SW-HS at triplet-like cost"
    ours, soft, hard = (f"scenes/{name}/0" for name in ("bcls", "soft", "hard"))
    checks = check(rows, graded, "BCLS has a larger tau against the facts than Triplet-HN", ours, hard, "tau, facts")
    words = "BCLS has a larger tau against the facts than Triplet-SN alone"
    checks += check(rows, graded, words, ours, soft, "tau, facts")
    checks += check(rows, graded, "BCLS loses no rsum against Triplet-SN alone", ours, soft, "rsum", kind=VETO)
    checks += check(rows, faster, "Triplet-SN needs fewer steps to 95 % than Triplet-HN", soft, hard, CONVERGENCE)
    columns = dict.fromkeys(("expert tau-c", "crowd tau-b"), people)
    more, found = same(reused, columns, "kendall_window + triplet_soft", "triplet_soft")
    checks += found + costs(timing, cheap)
    absent = "BCLS is not checked against people: no row of README differs from it in the losses alone"
    named = titles(plan, hard, soft, ours)
    text = joined(table(rows, named, SCENES), still_rising(rows, named), more, prices(timing))
    return Claim({graded: "", people: absent, faster: "", cheap: "no timings"}, checks, text)


def costs(timing: list[dict], part: str) -> list[Check]:
    """SW-HS beside a triplet loss; a ratio has no seeds."""
    checks = []
    for one in timing:
        ratio = one["ms"][COSTLY] / one["ms"]["triplet_hard"]
        word = numbers.HOLDS if ratio <= CHEAP else numbers.FAILS
        words = f"at B = {one['size']} SW-HS costs at most {CHEAP} times what Triplet-HN does"
        checks.append(Check(part, words, word, f"{ratio:.1f} times"))
    return checks


def prices(timing: list[dict]) -> str:
    """What the losses cost."""
    if not timing:
        return ""
    head = " | ".join(["| loss, ms (× Triplet-HN)", *(f"B = {one['size']}" for one in timing)]) + " |"
    lines = [head, "|---" * (len(timing) + 1) + "|"]
    for name in timing[0]["ms"]:
        cells = [f"{one['ms'][name]:.2f} ({one['ms'][name] / one['ms']['triplet_hard']:.1f} ×)" for one in timing]
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    return joined("A loss and its gradient to the scores, both directions, on this machine:", "\n".join(lines))


def towers(reused) -> Claim:
    """Claim 5, from finished runs alone."""
    parts = {"rsum": "rsum", "expert tau-c": "agreement with people", "crowd tau-b": "agreement with people"}
    named = dict.fromkeys(parts.values(), "no finished runs of both (`--rows`)")
    pairs = [
        (a, b) for a in reused if a.startswith("RVSE++ · selhn") for b in reused if b.startswith("VSE++ · triplet_hard")
    ]
    checks, blocks = [], []
    for ours, theirs in pairs:
        for column, part in parts.items():
            checks += check(reused, part, f"{ours} has more {WORDS[column]} than {theirs}", ours, theirs, column)
        blocks.append(differences(reused, ours, theirs))
    shown = list(dict.fromkeys(name for pair in pairs for name in pair))
    shown += [name for name in reused if name.startswith("VSE∞ ") and shown]
    found = {name: claims_reused.title(name, reused[name]) for name in shown}
    if not shown:
        return Claim(named, [], "Needs finished runs of both (`--rows`); there are none.")
    return Claim(
        named,
        checks,
        joined(table(reused, found, README), still_rising(reused, {name: name for name in found}), *blocks),
    )


def differences(reused, ours: str, theirs: str) -> str:
    """Every key in which two methods' configs differ, and what that makes of their comparison."""
    configs = [next(iter(reused[name].values()))["config"] for name in (ours, theirs)]
    lines = [f"| key | {ours} | {theirs} |", "|---|---|---|"]
    lines += [f"| `{key}` | `{one}` | `{other}` |" for key, one, other in claims_reused.differing(*configs)]
    kinds = claims_reused.kinds(*configs)
    others = [kind for kind in kinds if kind not in ("model", "losses")]
    words = (
        f"Besides the model and the losses differ too: **{', '.join(others)}**. The difference is of all together."
        if others
        else "Nothing but the model and the losses differs."
    )
    alike = [kind for kind in ("features", "number of steps", "batch size") if kind not in kinds]
    words += f" Alike are: {', '.join(alike)}." if alike else ""
    return joined(f"{ours} beside {theirs}: {words}", "\n".join(lines))


def same(reused, parts: dict[str, str], ours: str, theirs: str) -> tuple[str, list[Check]]:
    """Finished runs of one config but for the loss: what to show of them, and checks by column → part of the claim."""
    blocks, checks = [], []
    config = {name: next(iter(found.values()))["config"] for name, found in reused.items()}
    kind = {name: (claims_reused.model(one), claims_reused.losses(one)) for name, one in config.items()}
    for a in reused:
        for b in reused:
            if kind[a] != (kind[b][0], ours) or kind[b][1] != theirs:
                continue
            if claims_reused.differing(config[a], config[b], claims_reused.FREE):
                continue
            words, group = f"README's rows: {a} has more {{}} than {b}", f"{a} {b}"
            for column, part in parts.items():
                checks += check(reused, part, words.format(WORDS[column]), a, b, column, group=group)
            checks += check(
                reused, "", f"README's rows: {a} loses no rsum to {b}", a, b, "rsum", kind=VETO, group=group
            )
            shown = {name: claims_reused.title(name, reused[name]) for name in (b, a)}
            blocks += ["README's rows of one config but for the loss:", table(reused, shown, ["rsum", *JUDGED])]
    return joined(*blocks), checks


def write(rows: dict, failed: list[dict], reused: dict, timing: list, options, plan, machine: str) -> pathlib.Path:
    """Writes claims.md and its plots; returns the former's path.

    Args:
        rows: key of a configuration → seed → row.
        failed: rows of runs that did not stay finite.
        reused: method → seed → row, of finished runs.
        timing: of the losses, one dict a batch size.
        options: the command line's.
    """
    import claims_text

    setting, folder = options.setting, options.output
    folder.mkdir(parents=True, exist_ok=True)
    claims = {
        "vanishing": vanishing(rows, plan, setting),
        "unified": unified(rows, plan, setting),
        "plugged": plugged(rows, plan, setting, reused),
        "bcls": bcls(rows, plan, setting, reused, timing),
        "towers": towers(reused),
    }
    plots.gradients(rows, setting.starts, folder / "claims_gradients.png")
    curves = [(f"Scenes, {setting.starts[0]}", [f"scenes/{loss}/0" for loss in ("hard", "selhn", "soft", "bcls")])]
    if options.flickr8k:
        middle = f"Flickr8k grid, {setting.sizes[ABLATED]:,} images"
        curves.append((middle, [f"flickr/{loss}/{ABLATED}" for loss in BASES]))
    plots.convergence(rows, curves, folder / "claims_convergence.png")
    plots.differences(_paired(rows, setting), folder / "claims_differences.png")
    return claims_text.write(claims, rows, failed, reused, options, plan, machine)


def _paired(rows, setting) -> list[tuple[str, str, list]]:
    """Panels of differences by seed: (title, unit, lines of (label, differences, noise))."""
    panels = []
    for column in ("expert tau-c", "crowd tau-b", "human NDCG", "rsum"):
        pairs = [(f"{name} + S-NDCG\n− {name}", f"flickr/{b}+list/{ABLATED}", f"flickr/{b}/{ABLATED}")
                 for b, (name, _) in BASES.items()]  # fmt: skip
        pairs += [(f"Unified − VLC,\n{size:,} images", f"flickr/unified/{i}", f"flickr/info_nce/{i}")
                  for i, size in enumerate(setting.sizes)]  # fmt: skip
        lines = [
            (one.text, one.values, one.noise) for label, a, b in pairs for one in check(rows, "", label, a, b, column)
        ]
        if lines:
            seeds = sorted({len(values) for _, values, _ in lines})
            panels.append((f"{column}, n = {', '.join(map(str, seeds))}", "rsum" if column == "rsum" else "", lines))
    return panels
