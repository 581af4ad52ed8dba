"""What was prepared, as lines for people."""

import json
import pathlib


def _of_moments(moments: dict) -> list[str]:
    """Clip length, features and what was wrong with the annotations."""
    length, texts = moments["clip_length"], moments["text_features"]
    clips = f"clips of {length:g} s" if length else "clips of duration / rows"
    names = ", ".join(f"{one['name']} ({one['dim']}, {one['normalise']})" for one in moments["backbones"])
    line = f"  moments: {clips}" + (f", {names}" if names else "")
    line += f"; texts as features of {texts['dim']}" if texts else ""
    line += f"; saliency of {moments['annotators']} annotators" if moments["annotators"] else ""
    return [line, *(f"  annotations: {n:,} × {reason}" for reason, n in moments["defects"].items())]


def summary(content: dict, root) -> str:
    """What was prepared, as lines for people."""
    visual, frames, facts = content["visual"], content["frames"], content["facts"]
    lines, missing = [f"{content['dataset']} {content['version']} → {root}"], content.get("missing") or {}
    for split, n in content["splits"].items():
        line = f"  {split}: {n['visuals']:,} visuals, {n['texts']:,} texts, up to {n['max_length']} elements each"
        names = missing.get(split, [])
        lines.append(line + (f"; MISSING: {len(names):,} visuals, such as {names[0]}" if names else ""))
    for split in missing.keys() - content["splits"].keys():
        lines.append(f"  {split}: MISSING, all of its {len(missing[split]):,} visuals")
    if visual:
        regions = f", of up to {content['regions']} regions in each frame" if content.get("regions") else ""
        lines.append(f"  features: [R, {visual['shape'][-1]}] {visual['dtype']}{regions}")
    if frames:
        size = " × ".join(map(str, frames["size"])) if frames["size"] else "different sizes"
        lines.append(f"  frames: up to {frames['count']} a visual, {size}")
    if recipe := content.get("recipe"):
        lines.append(f"  videos decoded with {', '.join(f'{key} {value}' for key, value in recipe.items())}")
    if facts:
        lines.append(f"  facts: {len(facts)}, such as {', '.join(facts[:3])}")
    if moments := content.get("moments"):
        lines += _of_moments(moments)
    if vectors := content.get("sentence"):
        origin = "".join(f", {key} {value}" for key, value in vectors["origin"].items())
        lines.append(f"  sentence vectors: {vectors['encoder']}, {vectors['dim']} numbers{origin}")
    words = pathlib.Path(root, "words.json")
    if words.exists():
        lines.append(f"  vocabulary: {len(json.loads(words.read_text(encoding='utf-8'))['counts']):,} words of train")
    lines.append(f"  thumbnails: {'yes' if content['has_thumbs'] else 'no'}")
    lines += [f"  note: {note}" for note in content["notes"]]
    if content["quarantined"]:
        lines.append(f"  QUARANTINED: {content['quarantined']} broken items, left out; all in {root}/quarantine.jsonl")
        with open(pathlib.Path(root, "quarantine.jsonl"), encoding="utf-8") as file:
            for problem, _ in zip(map(json.loads, file), range(5), strict=False):
                line = f"    line {problem['line']}: {problem['media'] or 'no media'}: {problem['reason']}"
                lines.append(line.replace("line None: ", "", 1))  # of media without a file of lines
    return "\n".join(lines)
