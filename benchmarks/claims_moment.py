"""What CDNet's abstract claims about moments, checked by small runs: the third part of docs/claims.md, and its plot.

    python benchmarks/claims_moment.py --jobs 2 [--rows 'runs/*_slideshows-*'] [--closed_form FOLDER]
    python benchmarks/claims_moment.py --list                       only says what would run, how long
    python benchmarks/claims_moment.py --document [--rows …]        runs nothing, writes from the cache

Everything is trained once at the middle difficulty and tested at three levels of each: long videos that differ from
those of training in noise, in distracting background, or in how gradual boundaries are. `--rows`: folders of finished
runs on slideshows of real photographs, README's; they are read, not run again. `--closed_form`: a folder of JSON files,
each what `python benchmarks/slideshows.py closed_form …` printed; a file's name is its line in the table.

Rows are cached as those of claims_image_text.py are; an interrupted call goes on where it was. `--jobs 2` makes two
runs at once, each on one core. `--setting smoke` means nothing; `--full` is for a GPU: larger models, longer runs, five
seeds.
"""

import argparse
import pathlib

import claims_moment_plan as plans
import claims_runs as runs
import claims_together as together


def arguments():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--document", action="store_true", help="run nothing, write from the rows that are cached")
    parser.add_argument("--list", action="store_true", help="only list the runs and the estimated time")
    parser.add_argument("--setting", choices=plans.SETTINGS, default="quick")
    parser.add_argument("--full", action="store_true", help="the same as --setting full")
    parser.add_argument("--jobs", type=int, default=1, help="runs at once; above 1 each is on one core")
    parser.add_argument("--cache", type=pathlib.Path, default=pathlib.Path("runs/claims"), help="rows, one JSON each")
    parser.add_argument(
        "--data", type=pathlib.Path, default=pathlib.Path("data"), help="gets prepared folders claims-*"
    )
    parser.add_argument(
        "--output", type=pathlib.Path, default=pathlib.Path("docs"), help="gets its part of claims.md, claims_*.png"
    )
    parser.add_argument("--rows", nargs="*", default=[], help="patterns of folders of finished runs on slideshows")
    parser.add_argument("--closed_form", type=pathlib.Path, help="folder of JSON files of the closed form")
    parser.add_argument("--only", default="", help="only configurations whose key begins so, such as part/")
    options = parser.parse_args()
    options.setting = plans.SETTINGS["full" if options.full else options.setting]
    if options.jobs < 1:
        parser.error(f"--jobs is {options.jobs}; expected at least 1")
    return options


def main():
    """Lists, runs what is missing, writes."""
    options = arguments()
    runs.begin(options.list)
    plan = plans.plan(options.setting, options.data)
    todo = runs.told([c for c in plan if c.key.startswith(options.only)], options.setting.seeds, options.cache)
    if options.jobs > 1:
        print(f"{options.jobs} at once, each on one core: by the clock about 1/{options.jobs} of that", flush=True)
    if options.list:
        return
    together.missing([] if options.document else todo, options.cache, f"{plans.OWN}/MR-full-mAP", options.jobs)
    import claims_moment_report

    rows, failed = runs.cached(plan, options.setting.seeds, options.cache)
    print(f"written: {claims_moment_report.write(rows, failed, options, plan)}")


if __name__ == "__main__":
    main()
