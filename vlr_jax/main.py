"""The command: `python -m vlr_jax.main --config configs/quickstart.py [--mode …] [--config.steps=100 …]`.

    train     (default) train, or continue, the run in --workdir; then evaluate and write report.html
    eval      all evaluations of the run, on its best checkpoint
    index     encode a gallery into <workdir>/index
    search    rank the gallery for --query "…" or --queries FILE
    features  encode every visual of a prepared folder into --output FOLDER, one .npy each
    localize  when in videos is to be seen what --query "…" or --queries FILE say (docs/moments.md); with --corpus in
              which video, too; without a query the predictions for all texts of a split into --output FILE.jsonl

Every mode but train reads the run's own config from --workdir; --config then only names the default workdir. Where
--workdir holds no run and --config names weights for the whole model (`init`), the modes use the model as it is loaded:
zero-shot evaluation and search, without training.
"""

import json
import pathlib
import re
import sys

import jax
from absl import app, flags, logging
from ml_collections import config_flags

from vlr_jax import config as configs
from vlr_jax import files, finding, gallery, index, opened, prepare, sharding, submission, train
from vlr_jax.resolve import resolve

MODES = ("train", "eval", "index", "search", "features", "localize")
OF_DATA = ("index", "features", "localize")  # modes that go through a prepared folder
CONFIG = config_flags.DEFINE_config_file("config", None, "the run: a file of configs/", lock_config=True)
WORKDIR = flags.DEFINE_string("workdir", None, "folder of the run; default runs/<name of the config>")
MODE = flags.DEFINE_enum("mode", "train", MODES, "what to do")
DATA = flags.DEFINE_string("data", None, f"{', '.join(OF_DATA)}: another prepared folder than the run's own")
SPLIT = flags.DEFINE_string("split", None, f"{', '.join(OF_DATA)}: the split; default: see --mode")
QUERY = flags.DEFINE_multi_string("query", [], "search, localize: a text; may be given several times")
QUERIES = flags.DEFINE_string("queries", None, "search, localize: a file with one text a line")
TOP_K = flags.DEFINE_integer("top_k", 10, "search, localize: how many results", lower_bound=1)
VIDEO = flags.DEFINE_multi_string("video", [], "localize: a video by name; may be given several times; default: all")
CORPUS = flags.DEFINE_bool("corpus", False, "localize: rank the videos first, then look into the best")
STAGE1 = flags.DEFINE_string("stage1", None, "--corpus: folder of the run whose index ranks the videos; default: this")
TOP_N = flags.DEFINE_integer("top_n", 10, "--corpus: how many videos are looked into", lower_bound=1)
TEMPERATURE = flags.DEFINE_float("temperature", None, "--corpus: that of stage 1; default: as learned, or 0.07")
OUTPUT = flags.DEFINE_string("output", None, "eval, search, localize: also write the results here; features: folder")
TRACEBACK = flags.DEFINE_bool("traceback", False, "show where in the code an error arose")


def parse(arguments: list[str]) -> list[str]:
    """absl's parsing; a misspelt or missing config ends with a message that lists what exists."""
    try:
        rest = flags.FLAGS(arguments)
        if CONFIG.value is not None:
            CONFIG.value.keys()  # a file that can't be loaded is only noticed at its first use
        return rest
    except (
        AttributeError,
        KeyError,
        TypeError,
        OSError,
        flags.Error,
        config_flags.config_flags.UnparsedFlagError,
    ) as e:
        sys.exit(f"vlr_jax: {_explain(e, arguments)}")


def _explain(error: Exception, arguments: list[str]) -> str:
    named = [a.split("=", 1)[1] for a in arguments if a.startswith("--config=")]
    named += [b for a, b in zip(arguments, arguments[1:], strict=False) if a == "--config"]
    path = named[0].split(":")[0] if named else ""
    if not named:
        return f"{error}\n(keys of a config are set after --config FILE)"
    if not pathlib.Path(path).is_file():
        folder = pathlib.Path(path).parent
        there = sorted(str(p) for p in folder.glob("*.py")) if folder.is_dir() else []
        return f"no config {path!r}; {folder} has: {', '.join(there) or 'no configs'}"
    kept = [a for a in arguments if not a.startswith("--config.")]
    try:
        flags.FLAGS.unparse_flags()
        flags.FLAGS(kept, known_only=True)
        keys = ", ".join(sorted(CONFIG.value.keys()))
    except Exception:  # the file itself is broken: the first error says how
        keys = "unknown (it can't be loaded)"
    return f"{error}\nkeys of {path}: {keys}"


def default_workdir() -> str:
    """`runs/quickstart` for `configs/quickstart.py`, `runs/quickstart-smoke` for its `:smoke` variant.

    A path behind the colon becomes one name: `runs/clip_zeroshot_folder-weights_vit-b-32`.
    """
    if WORKDIR.value:
        return WORKDIR.value
    if CONFIG.value is None:
        raise ValueError("name the run by --config FILE or --workdir FOLDER")
    path, _, argument = config_flags.get_config_filename(flags.FLAGS["config"]).partition(":")
    argument = re.sub(r"[^\w.=-]+", "_", argument).strip("_.")  # it may be the path of some weights
    return str(pathlib.Path("runs") / (pathlib.Path(path).stem + (f"-{argument}" if argument else "")))


def prepare_if_absent(data: dict) -> None:
    """Builds the dataset of a config where it is not there yet and the config says from what (scenes need nothing).

    Raises:
        ValueError: what is there was prepared from something else than the config says.
    """
    root, name = pathlib.Path(data["root"]), data["name"]
    options = {key: value for key, value in (data.get("options") or {}).items() if value is not None}
    if name == "scenes" or (not root.exists() and data.get("source")):
        content = prepare.prepare(name, root, source=data.get("source"), options=options)
    else:
        content = prepare.read(root)
    there = getattr(resolve("data", name), "ADDED", {}) | content["options"]  # those at their defaults go unnamed
    different = [] if content["dataset"] == name else [f"dataset {content['dataset']}, here {name}"]
    here = prepare.by_name(options)
    different += [f"{k}={there.get(k)!r}, here {v!r}" for k, v in here.items() if there.get(k) != v]
    if different:
        raise ValueError(f"{root} was prepared with {'; '.join(different)}; choose another config.data.root")


def main(_) -> None:
    """Runs the mode. Errors of use end with one message and status 1; --traceback shows all of it."""
    logging.set_verbosity(logging.WARNING)  # orbax tells every step of every save
    try:
        workdir = default_workdir()
        if MODE.value != "train" and CONFIG.value is not None and not untrained(workdir):
            if given := config_flags.get_override_values(flags.FLAGS["config"]):
                raise ValueError(
                    f"--mode {MODE.value} uses the run's own config; it takes no --config.{list(given)[0]}"
                )
        if MODE.value not in OF_DATA and (DATA.value or SPLIT.value):
            raise ValueError(f"--data and --split are for --mode {', '.join(OF_DATA)}, not for {MODE.value}")
        own = [flag for flag in (VIDEO, CORPUS, STAGE1, TOP_N, TEMPERATURE) if flag.value != flag.default]
        if MODE.value != "localize" and own:
            raise ValueError(f"--{own[0].name} is for --mode localize, not for {MODE.value}")
        runs = (run_train, run_eval, run_index, run_search, run_features, run_localize)
        dict(zip(MODES, runs, strict=True))[MODE.value](workdir)
    except (ValueError, OSError, FloatingPointError) as error:
        if TRACEBACK.value:
            raise
        notes = "".join(f"\n({note})" for note in getattr(error, "__notes__", ()))
        sys.exit(f"vlr_jax: {type(error).__name__}: {error}{notes}")


def run_train(workdir: str) -> None:
    """Trains or continues; a finished run prints its table."""
    if CONFIG.value is None:
        raise ValueError("training needs --config FILE, for instance configs/quickstart.py")
    config = configs.complete(CONFIG.value)
    done = pathlib.Path(workdir) / "result.json"
    if done.exists() and (result := json.loads(done.read_text()))["steps"] == config["steps"]:
        configs.claim(workdir, config)
        print(f"{workdir} is finished; choose another --workdir to train anew")
    else:
        prepare_if_absent(config["data"])
        result = train.train(config, workdir)
    if result and jax.process_index() == 0:
        print(table(result))
        print(f"report: {pathlib.Path(workdir) / 'report.html'}")


def untrained(workdir: str) -> bool:
    """Whether the model is that of --config as its weights are loaded: there is no run, and they are named."""
    return not opened.exists(workdir) and CONFIG.value is not None and bool(CONFIG.value.get("init"))


def open_run(workdir: str, mesh, seen: dict | None = None) -> opened.Run:
    """The run in the workdir, or the untrained model; `seen` as `opened.untrained` takes it."""
    if not untrained(workdir):
        return opened.restore(workdir, mesh)
    config = configs.complete(CONFIG.value)
    print(f"{workdir} holds no run: nothing is trained, the model is as its weights are loaded", file=sys.stderr)
    if not (seen or DATA.value):
        prepare_if_absent(config["data"])
    data = None if seen else config["data"] if MODE.value == "eval" else asked(config)
    return opened.untrained(config, mesh, data=data, seen=seen)


def asked(config: dict) -> dict:
    """The data that are encoded or looked through: by default the split of the last evaluation; --data and --split."""
    data = dict(config["data"])
    if config["evals"]:
        data |= list(config["evals"].values())[-1].get("data", {})
    if DATA.value:
        there = list(prepare.read(DATA.value)["splits"])
        data |= {"root": DATA.value} | ({"split": there[0]} if len(there) == 1 else {})
    return data | ({"split": SPLIT.value} if SPLIT.value else {})


def run_eval(workdir: str) -> None:
    """The run's evaluations on its best checkpoint."""
    mesh = sharding.make_mesh({"data": -1})
    with jax.set_mesh(mesh):
        run = open_run(workdir, mesh)
        evaluators = train.make_evaluators(run.config, run.task, run.tokenizer, mesh, progress=True)
        evals = {name: evaluator.result(run.variables) for name, (evaluator, _, _) in evaluators.items()}
    result = {"step": run.step, "selected_on": run.selected_on, "evals": evals}
    print(f"{workdir}, " + (f"checkpoint of step {run.step}" if run.step else run.selected_on))
    print(table(result))
    write_output(result)


def run_index(workdir: str) -> None:
    """Encodes every visual of a prepared split once and keeps the embeddings in `<workdir>/index`."""
    mesh = sharding.make_mesh({"data": -1})
    with jax.set_mesh(mesh):
        run = open_run(workdir, mesh)
        print(gallery.build(run, asked(run.config), pathlib.Path(workdir) / "index", mesh))


def run_features(workdir: str) -> None:
    """Encodes the visuals of a prepared folder, of all its splits or of --split, into one file each."""
    if not OUTPUT.value:
        raise ValueError("--mode features needs --output FOLDER")
    mesh = sharding.make_mesh({"data": -1})
    with jax.set_mesh(mesh):
        run = open_run(workdir, mesh)
        gallery.features(run, asked(run.config), SPLIT.value, OUTPUT.value, mesh)


def texts() -> list[str]:
    """What --query and --queries say."""
    lines = pathlib.Path(QUERIES.value).read_text(encoding="utf-8").splitlines() if QUERIES.value else []
    return [*QUERY.value, *(line.strip() for line in lines if line.strip())]


def run_search(workdir: str) -> None:
    """Ranks the indexed gallery for every query."""
    if not (queries := texts()):
        raise ValueError('nothing to search for; give --query "…" or --queries FILE with one text a line')
    mesh, place = sharding.make_mesh({"data": -1}), pathlib.Path(workdir) / "index"
    with jax.set_mesh(mesh):
        run = open_run(workdir, mesh, index.load(place).meta.get("seen") if untrained(workdir) else None)
        found = gallery.search(run, place, queries, TOP_K.value, mesh)
    print(gallery.table(found))
    write_output(found)


def run_localize(workdir: str) -> None:
    """Finds texts in videos, or in a corpus; or writes the predictions for a split's own texts."""
    queries = texts()
    if not queries and (VIDEO.value or CORPUS.value or QUERIES.value or not OUTPUT.value):
        raise ValueError(
            'nothing to look for; give --query "…" or --queries FILE with one text a line. Without them, and without '
            "--video and --corpus, --output FILE.jsonl gets the predictions for all texts of the split"
        )
    if CORPUS.value and VIDEO.value:
        raise ValueError("--corpus looks in all videos of the split; it takes no --video")
    if given := [flag for flag in (STAGE1, TOP_N, TEMPERATURE) if not CORPUS.value and flag.value != flag.default]:
        raise ValueError(f"--{given[0].name} is for --mode localize --corpus")
    mesh = sharding.make_mesh({"data": -1})
    with jax.set_mesh(mesh):
        run = open_run(workdir, mesh)
        split = finding.open_split(run, asked(run.config))
        if not queries:
            made = submission.lines(run, split, mesh)
            submission.write(OUTPUT.value, made)
            print(f"predictions for {len(made):,} texts of split {split.name!r} written to {OUTPUT.value}")
            return
        if CORPUS.value:
            stage = finding.stage1(run, workdir, split, mesh, named=STAGE1.value, temperature=TEMPERATURE.value)
            counts = dict(top_n=TOP_N.value, top_k=TOP_K.value)
            found = finding.find_in_corpus(run, split, queries, stage, mesh, **counts)
        else:
            videos, scale = finding.videos(split, VIDEO.value), finding.scale(workdir, run.config)
            found = finding.find(run, split, queries, videos, mesh, scale=scale)
    print(finding.corpus_table(found) if CORPUS.value else finding.table(found, TOP_K.value))
    write_output(found)


def table(whole: dict) -> str:
    """The numbers of a run as text: one line per metric, for each evaluation, oracle and chance beside."""
    selected = whole.get("selected_on", "")
    lines = ["", selected] if selected.startswith("selected on test") else []
    for name, result in whole["evals"].items():
        numbers = result.get("brief") or result["metrics"]  # moments have some eighty; all are in result.json
        columns = [("model", numbers)]
        columns += [(key, result[key]) for key in ("oracle", "chance") if result.get(key)]
        head = f"{name}: {result['visuals']:,} visuals, {result['texts']:,} texts, protocol {result['protocol']}"
        head += f", {result['gallery']}" if result.get("gallery") else ""
        width = max([18, *map(len, numbers)])
        lines += ["", head, " " * width + "".join(f"{title:>10}" for title, _ in columns)]
        for metric in numbers:
            cells = [_cell(column.get(metric)) for _, column in columns]
            lines.append(f"{metric:{width}}" + "".join(cells))
    return "\n".join(lines)


def _cell(value: float | None) -> str:
    return " " * 10 if value is None else f"{value:10.3f}" if abs(value) < 1 else f"{value:10.1f}"


def write_output(content) -> None:
    """Results as JSON where --output asks for it."""
    if OUTPUT.value:
        files.write(OUTPUT.value, json.dumps(content, indent=1))


if __name__ == "__main__":
    app.run(main, flags_parser=parse)
