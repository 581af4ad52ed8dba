"""`config.optim` → optax: clip, optimizer, decoupled decay, schedule, and ordered per-path rules.

optim = dict(name="adamw", lr=5e-4, decay=1e-2, clip=2.0,
             schedule=dict(name="cosine", warmup=200),  # steps; below 1 a share of the run, 0.1
             average=0.998,  # evaluate a running mean of the parameters instead of the last ones
             rules=[("text/embed/.*", dict(lr=0.1)), ("visual/.*", dict(freeze=True)),
                    ("log_temperature", dict(clamp=[-4.6052, None]))])

The first rule that matches a parameter's whole path (`clip/visual/blocks/block_0/query/kernel`) is the only one for it.
"""

import inspect

import jax
import jax.numpy as jnp
import optax

from vlr_jax import sharding
from vlr_jax.config import refuse_unknown


def scale_by_bert_adam(
    b1: float = 0.9, b2: float = 0.98, eps: float = 1e-6, clip: float | None = 1.0
) -> optax.GradientTransformation:
    """BertAdam as CLIP4Clip and its descendants train with it: m / (√v + eps), moments not corrected for their start.

    The defaults are CLIP4Clip's. Its decay, added to the update outside of the moments, is `optim.decay`.

    Args:
        b1, b2: decay of the moments m and v. eps: outside of the root.
        clip: every parameter's own gradient is scaled to at most this norm, after the global clip; None = not.
    """

    def init(params):
        zeros = lambda: jax.tree.map(jnp.zeros_like, params)
        return optax.ScaleByAdamState(jnp.zeros((), jnp.int32), zeros(), zeros())

    def update(grads, state, params=None):
        if clip is not None:  # torch's clip_grad_norm_, one parameter at a time
            grads = jax.tree.map(lambda g: g * jnp.minimum(1.0, clip / (optax.tree.norm(g) + 1e-6)), grads)
        mu = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, state.mu, grads)
        nu = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * g * g, state.nu, grads)
        updates = jax.tree.map(lambda m, v: m / (jnp.sqrt(v) + eps), mu, nu)
        return updates, optax.ScaleByAdamState(optax.safe_increment(state.count), mu, nu)

    return optax.GradientTransformation(init, update)


OPTIMIZERS = {
    "adam": optax.scale_by_adam,
    "adamw": optax.scale_by_adam,  # the same moments; `decay` makes the difference
    "sgd": lambda decay=0.0, nesterov=False: optax.trace(decay, nesterov) if decay else optax.identity(),
    "lion": optax.scale_by_lion,
    "bertadam": scale_by_bert_adam,
}
SCHEDULES = {"constant": (), "cosine": ("warmup",), "step": ("at_epoch", "factor"), "warmup_cosine": ("warmup",)}
KEYS = {"name", "lr", "decay", "clip", "schedule", "rules", "options", "average"}
RULE_KEYS = {"lr", "decay", "freeze", "clamp"}


def make_schedule(config: dict, *, steps: int, steps_per_epoch: int) -> optax.Schedule:
    """Learning rate of a step.

    `constant`; `cosine` to zero at `steps` after a linear `warmup` (steps; between 0 and 1 a share of `steps`); `step`:
    times `factor` at each epoch of `at_epoch` (a number or a list), as the VSE++ lineage decays; `warmup_cosine`, that
    of BertAdam: x / w below x = w, the share `warmup` (0.1), then ½ (1 + cos πx), x = step / `steps`. It is 0 at the
    first step and falls a little at w, where the cosine is not at its start.

    Raises:
        ValueError: an unknown name or key, or a `warmup` that is no such number.
    """
    schedule = dict(config.get("schedule", {}))
    name, lr = schedule.pop("name", "constant"), config["lr"]
    if name not in SCHEDULES:
        raise ValueError(f"unknown schedule {name!r}; schedules: {', '.join(SCHEDULES)}")
    refuse_unknown(schedule, SCHEDULES[name], "optim.schedule")
    if name == "cosine":
        warmup = _warmup(schedule.get("warmup", 0), steps)
        return optax.warmup_cosine_decay_schedule(0.0 if warmup else lr, lr, warmup, max(steps, warmup + 1))
    if name == "warmup_cosine":
        share = schedule.get("warmup", 0.1)
        if not 0 < share < 1:
            raise ValueError(f"optim.schedule.warmup is {share!r}; warmup_cosine wants a share of the run, such as 0.1")

        def bert(step):
            x = step / steps
            return lr * jnp.where(x < share, x / share, 0.5 * (1 + jnp.cos(jnp.pi * x)))

        return bert
    if name == "step":
        if "at_epoch" not in schedule:
            raise ValueError("optim.schedule 'step' lacks at_epoch, the epoch or epochs at which lr is cut")
        at = schedule["at_epoch"]
        epochs = at if isinstance(at, list | tuple) else [at]
        return optax.piecewise_constant_schedule(lr, {e * steps_per_epoch: schedule.get("factor", 0.1) for e in epochs})
    return optax.constant_schedule(lr)


def _warmup(warmup: float, steps: int) -> int:
    """Steps of a warm-up that is given in steps, or below 1 as a share of the run."""
    if isinstance(warmup, bool) or not warmup >= 0 or (warmup >= 1 and warmup != int(warmup)):
        raise ValueError(f"optim.schedule.warmup is {warmup!r}; expected steps, or a share of the run such as 0.1")
    return int(warmup) if warmup >= 1 else round(warmup * steps)


def average(config: dict, averaged, params, step):
    """The running mean after update `step` (0-based): decay `config["average"]`, less of it in the first steps."""
    decay = jnp.minimum(config["average"], (1.0 + step) / (10.0 + step))
    return jax.tree.map(lambda mean, new: decay * mean + (1 - decay) * new, averaged, params)


def make(
    config: dict, params, *, steps: int, steps_per_epoch: int
) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """The optimizer for `params` (arrays or shapes), and its learning-rate schedule for the log.

    Gradients of frozen parameters are dropped before the norm is clipped. Decay is decoupled (AdamW) and, as in torch,
    applies to every parameter unless a rule says otherwise. `clamp=[low, high]` of a rule (either may be None) puts its
    parameters back to the nearest bound after every step.

    Raises:
        ValueError: unknown name or key, a parameter no rule matches, or bounds that are none.
    """
    refuse_unknown(config, KEYS, "optim")
    name = config.get("name", "adam")
    if name not in OPTIMIZERS:
        raise ValueError(f"unknown optimizer {name!r}; optimizers: {', '.join(sorted(OPTIMIZERS))}")
    if name == "adamw" and "decay" not in config:
        raise ValueError("optim.name='adamw' needs optim.decay (torch's default is 0.01)")
    rules = [(pattern, dict(rule)) for pattern, rule in config.get("rules", [])]
    for _, rule in rules:
        refuse_unknown(rule, RULE_KEYS, "optim.rules")
        _check_clamp(rule)
    rules.append((".*", {}))
    labels = sharding.match_rules([(p, str(i)) for i, (p, _) in enumerate(rules)], params, "optim")
    if "average" in config and not 0 < config["average"] < 1:
        raise ValueError(f"optim.average is {config['average']!r}; expected a decay between 0 and 1, such as 0.998")
    options = config.get("options", {})
    valid = [name for name in inspect.signature(OPTIMIZERS[name]).parameters]
    refuse_unknown(options, valid, f"optim.options ({name})")
    schedule = make_schedule(config, steps=steps, steps_per_epoch=steps_per_epoch)

    def group(rule):
        if rule.get("freeze"):
            return optax.set_to_zero()
        decay = rule.get("decay", config.get("decay", 0.0))
        parts = [
            OPTIMIZERS[name](**options),
            optax.add_decayed_weights(decay) if decay else optax.identity(),
            optax.scale_by_learning_rate(lambda step: schedule(step) * rule.get("lr", 1.0)),
        ]
        return optax.chain(*parts, *([_clamp(*rule["clamp"])] if "clamp" in rule else []))

    groups = {str(i): group(rule) for i, (_, rule) in enumerate(rules)}
    frozen = jax.tree.map(lambda label: bool(rules[int(label)][1].get("freeze")), labels)
    transforms = [optax.masked(optax.set_to_zero(), frozen)]
    if config.get("clip"):
        transforms.append(optax.clip_by_global_norm(config["clip"]))
    return optax.chain(*transforms, optax.partition(groups, labels)), schedule


def _check_clamp(rule: dict) -> None:
    """Refuses bounds that are not two, not in order, or of parameters that do not move."""
    if "clamp" not in rule:
        return
    bounds = rule["clamp"]
    numbers = [b for b in bounds if b is not None] if isinstance(bounds, list | tuple) else []
    if not numbers or len(bounds) != 2 or numbers != sorted(numbers) or rule.get("freeze"):
        raise ValueError(
            f"optim.rules has {rule}; expected clamp=[low, high], either of them None for no bound, on parameters that "
            "are not frozen"
        )


def _clamp(low: float | None, high: float | None) -> optax.GradientTransformation:
    """The last of a chain: shortens updates so that the parameters end within the bounds."""

    def update(updates, state, params):
        return jax.tree.map(lambda u, p: jnp.clip(p + u, low, high) - p, updates, params), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)
