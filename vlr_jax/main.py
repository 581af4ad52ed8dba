"""The command: `python -m vlr_jax.main --config configs/quickstart.py [--mode …] [--config.steps=100 …]`.

    train     (default) train, or continue, the run in --workdir; then evaluate and write report.html
    eval      all evaluations of the run, on its best checkpoint
    index     encode a gallery into <workdir>/index
    search    rank the gallery for --query "…" or --queries FILE
    features  encode every visual of a prepared folder into --output FOLDER, one .npy each

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

from vlr_jax import batching, extract, files, index, opened, pipeline, prepare, sharding, tiles, train
from vlr_jax import config as configs
from vlr_jax.resolve import resolve

MODES = ("train", "eval", "index", "search", "features")
CONFIG = config_flags.DEFINE_config_file("config", None, "the run: a file of configs/", lock_config=True)
WORKDIR = flags.DEFINE_string("workdir", None, "folder of the run; default runs/<name of the config>")
MODE = flags.DEFINE_enum("mode", "train", MODES, "what to do")
DATA = flags.DEFINE_string("data", None, "index, features: another prepared folder than the run's own")
SPLIT = flags.DEFINE_string("split", None, "index, features: the split; default: see --mode")
QUERY = flags.DEFINE_multi_string("query", [], "search: a text; may be given several times")
QUERIES = flags.DEFINE_string("queries", None, "search: a file with one text a line")
TOP_K = flags.DEFINE_integer("top_k", 10, "search: how many results", lower_bound=1)
OUTPUT = flags.DEFINE_string("output", None, "eval, search: also write the results to this JSON file; features: folder")
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
        if MODE.value not in ("index", "features") and (DATA.value or SPLIT.value):
            raise ValueError(f"--data and --split are for --mode index and features, not for {MODE.value}")
        runs = {"train": run_train, "eval": run_eval, "index": run_index, "search": run_search}
        (runs | {"features": run_features})[MODE.value](workdir)
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
    data = None if seen else config["data"] if MODE.value == "eval" else gallery(config)
    return opened.untrained(config, mesh, data=data, seen=seen)


def gallery(config: dict) -> dict:
    """The data whose visuals are encoded: by default the split of the run's last evaluation; --data and --split."""
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
        data = gallery(run.config)
        split = pipeline.open_split(data, run.tokenizer, keys=())
        rows = sharding.rows(run.config["batch_size"], mesh)
        encoded = tiles.encode_split(
            run.task.predict(), run.variables, split, "visuals", rows, mesh=mesh, progress=True
        )
    meta = {
        "model": run.digest,
        "step": run.step,
        "data": data["root"],
        "split": data["split"],
        "ids": split.ids_hash,
        "seen": run.seen,
    }
    folder = index.build(pathlib.Path(workdir) / "index", encoded, split.names, meta)
    print(f"{split.n_visuals} visuals of {data['root']} ({data['split']}) indexed in {folder}")


def run_features(workdir: str) -> None:
    """Encodes the visuals of a prepared folder, of all its splits or of --split, into one file each."""
    if not OUTPUT.value:
        raise ValueError("--mode features needs --output FOLDER")
    mesh = sharding.make_mesh({"data": -1})
    with jax.set_mesh(mesh):
        run = open_run(workdir, mesh)
        data, encode = gallery(run.config), run.task.predict()["encode_visual"]
        rows = sharding.rows(run.config["batch_size"], mesh)
        for name in [SPLIT.value] if SPLIT.value else prepare.read(data["root"])["splits"]:
            split = pipeline.open_split(data | {"split": name}, run.tokenizer, keys=())
            folder = extract.claim(OUTPUT.value, extract.identity(run, split, data))
            new = extract.write(folder, encode, run.variables, split, rows, mesh=mesh)
            print(f"{name}: {split.n_visuals} visuals in {folder}, {new} of them encoded now")
    print(f"next: python -m vlr_jax.prepare --dataset NAME --source DIR --features {folder} --out ROOT")


def run_search(workdir: str) -> None:
    """Ranks the indexed gallery for every query."""
    queries = list(QUERY.value)
    if QUERIES.value:
        lines = pathlib.Path(QUERIES.value).read_text().splitlines()
        queries += [line.strip() for line in lines if line.strip()]
    if not queries:
        raise ValueError('nothing to search for; give --query "…" or --queries FILE with one text a line')
    mesh = sharding.make_mesh({"data": -1})
    with jax.set_mesh(mesh):
        place = pathlib.Path(workdir) / "index"
        run = open_run(workdir, mesh, index.load(place).meta.get("seen") if untrained(workdir) else None)
        for query in queries:
            if notes := run.tokenizer.notes(query):
                print(f"{query!r}: {notes}", file=sys.stderr)
        items = index.load(place, expect={"model": run.digest})
        predict = run.task.predict()
        batches = batching.text_batches(run.tokenizer, queries, sharding.rows(64, mesh))
        encoded = tiles.encode_all(predict["encode_text"], run.variables, batches, mesh=mesh)
        found = index.query(predict["similarity"], run.variables, items, encoded, TOP_K.value, mesh=mesh)
    for query, hits in zip(queries, found, strict=True):
        print(f"\n{query}")
        for place, (name, score) in enumerate(hits, 1):
            print(f"{place:4d}  {score:7.4f}  {name}")
    write_output(
        [
            {"query": query, "results": [{"name": name, "score": score} for name, score in hits]}
            for query, hits in zip(queries, found, strict=True)
        ]
    )


def table(whole: dict) -> str:
    """The numbers of a run as text: one line per metric, for each evaluation, oracle and chance beside."""
    selected = whole.get("selected_on", "")
    lines = ["", selected] if selected.startswith("selected on test") else []
    for name, result in whole["evals"].items():
        columns = [("model", result["metrics"])]
        columns += [(key, result[key]) for key in ("oracle", "chance") if result.get(key)]
        head = f"{name}: {result['visuals']:,} visuals, {result['texts']:,} texts, protocol {result['protocol']}"
        head += f", {result['gallery']}" if result.get("gallery") else ""
        lines += ["", head, " " * 18 + "".join(f"{title:>10}" for title, _ in columns)]
        for metric in result["metrics"]:
            cells = [_cell(column.get(metric)) for _, column in columns]
            lines.append(f"{metric:18}" + "".join(cells))
    return "\n".join(lines)


def _cell(value: float | None) -> str:
    return " " * 10 if value is None else f"{value:10.3f}" if abs(value) < 1 else f"{value:10.1f}"


def write_output(content) -> None:
    """Results as JSON where --output asks for it."""
    if OUTPUT.value:
        files.write(OUTPUT.value, json.dumps(content, indent=1))


if __name__ == "__main__":
    app.run(main, flags_parser=parse)
