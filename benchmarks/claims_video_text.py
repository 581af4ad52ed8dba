"""What the abstracts of the video papers claim, checked by small runs: the second part of docs/claims.md, and its plot.

    python benchmarks/claims_video_text.py [--exercise runs/exercise]    runs what is missing, then writes
    python benchmarks/claims_video_text.py --list                       only says what would run, how long
    python benchmarks/claims_video_text.py --document                   runs nothing, writes from the cache

Everything is trained once at the middle difficulty and tested at three: worlds that differ from it in clutter (ViSERN)
or in how much captions mention (ProTA). `--exercise`: the results of benchmarks/exercise.py, real clips, read if there.

Rows are cached as those of claims_image_text.py are; an interrupted call goes on where it was. `--setting smoke` is a
minute and means nothing; `--full` is for a GPU: larger models, longer runs, five seeds.
"""

import argparse
import pathlib

import claims_runs as runs
import claims_video_plan as plans


def arguments():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--document", action="store_true", help="run nothing, write from the rows that are cached")
    parser.add_argument("--list", action="store_true", help="only list the runs and the estimated time")
    parser.add_argument("--setting", choices=plans.SETTINGS, default="quick")
    parser.add_argument("--full", action="store_true", help="the same as --setting full")
    parser.add_argument("--cache", type=pathlib.Path, default=pathlib.Path("runs/claims"), help="rows, one JSON each")
    parser.add_argument(
        "--data", type=pathlib.Path, default=pathlib.Path("data"), help="gets prepared folders claims-*"
    )
    parser.add_argument(
        "--output", type=pathlib.Path, default=pathlib.Path("docs"), help="gets its part of claims.md, claims_*.png"
    )
    parser.add_argument("--exercise", type=pathlib.Path, default=pathlib.Path("runs/exercise"))
    parser.add_argument("--only", default="", help="only configurations whose key begins so, such as graph/")
    options = parser.parse_args()
    options.setting = plans.SETTINGS["full" if options.full else options.setting]
    return options


def main():
    """Lists, runs what is missing, writes."""
    options = arguments()
    runs.begin(options.list)
    plan = plans.plan(options.setting, options.data)
    todo = runs.told([c for c in plan if c.key.startswith(options.only)], options.setting.seeds, options.cache)
    if options.list:
        return
    runs.missing([] if options.document else todo, options.cache, "middle/rsum")
    import claims_video_report

    rows, failed = runs.cached(plan, options.setting.seeds, options.cache)
    print(f"written: {claims_video_report.write(rows, failed, options, plan)}")


if __name__ == "__main__":
    main()
