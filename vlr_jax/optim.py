"""`config.optim` → optax: clip, optimizer, decoupled decay, schedule, and ordered per-path rules.

optim = dict(name="adamw", lr=5e-4, decay=1e-2, clip=2.0,
             schedule=dict(name="cosine", warmup=200),
             average=0.998,  # evaluate a running mean of the parameters instead of the last ones
             rules=[("text/embed/.*", dict(lr=0.1)), ("visual/.*", dict(freeze=True))])
"""

import inspect

import jax
import jax.numpy as jnp
import optax

from vlr_jax import sharding
from vlr_jax.config import refuse_unknown

OPTIMIZERS = {
    "adam": optax.scale_by_adam,
    "adamw": optax.scale_by_adam,  # the same moments; `decay` makes the difference
    "sgd": lambda decay=0.0, nesterov=False: optax.trace(decay, nesterov) if decay else optax.identity(),
    "lion": optax.scale_by_lion,
}
SCHEDULES = ("constant", "cosine", "step")
KEYS = {"name", "lr", "decay", "clip", "schedule", "rules", "options", "average"}
RULE_KEYS = {"lr", "decay", "freeze"}


def make_schedule(config: dict, *, steps: int, steps_per_epoch: int) -> optax.Schedule:
    """Learning rate of a step.

    `constant`; `cosine` to zero at `steps` after a linear `warmup` (steps); `step`: times `factor` at each epoch of
    `at_epoch` (a number or a list), as the VSE++ lineage decays.
    """
    schedule = dict(config.get("schedule", {}))
    name, lr = schedule.pop("name", "constant"), config["lr"]
    if name not in SCHEDULES:
        raise ValueError(f"unknown schedule {name!r}; schedules: {', '.join(SCHEDULES)}")
    refuse_unknown(
        schedule, {"constant": (), "cosine": ("warmup",), "step": ("at_epoch", "factor")}[name], "optim.schedule"
    )
    if name == "cosine":
        warmup = schedule.get("warmup", 0)
        return optax.warmup_cosine_decay_schedule(0.0 if warmup else lr, lr, warmup, max(steps, warmup + 1))
    if name == "step":
        if "at_epoch" not in schedule:
            raise ValueError("optim.schedule 'step' lacks at_epoch, the epoch or epochs at which lr is cut")
        at = schedule["at_epoch"]
        epochs = at if isinstance(at, list | tuple) else [at]
        return optax.piecewise_constant_schedule(lr, {e * steps_per_epoch: schedule.get("factor", 0.1) for e in epochs})
    return optax.constant_schedule(lr)


def average(config: dict, averaged, params, step):
    """The running mean after update `step` (0-based): decay `config["average"]`, less of it in the first steps."""
    decay = jnp.minimum(config["average"], (1.0 + step) / (10.0 + step))
    return jax.tree.map(lambda mean, new: decay * mean + (1 - decay) * new, averaged, params)


def make(
    config: dict, params, *, steps: int, steps_per_epoch: int
) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """The optimizer for `params` (arrays or shapes), and its learning-rate schedule for the log.

    Gradients of frozen parameters are dropped before the norm is clipped. Decay is decoupled (AdamW) and, as in torch,
    applies to every parameter unless a rule says otherwise.

    Raises:
        ValueError: unknown name or key, or a parameter no rule matches.
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
        return optax.chain(
            OPTIMIZERS[name](**options),
            optax.add_decayed_weights(decay) if decay else optax.identity(),
            optax.scale_by_learning_rate(lambda step: schedule(step) * rule.get("lr", 1.0)),
        )

    groups = {str(i): group(rule) for i, (_, rule) in enumerate(rules)}
    frozen = jax.tree.map(lambda label: bool(rules[int(label)][1].get("freeze")), labels)
    transforms = [optax.masked(optax.set_to_zero(), frozen)]
    if config.get("clip"):
        transforms.append(optax.clip_by_global_norm(config["clip"]))
    return optax.chain(*transforms, optax.partition(groups, labels)), schedule
