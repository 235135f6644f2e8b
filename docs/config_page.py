"""Writes docs/config.md: every config key, from the comments beside the keys.

    python docs/config_page.py

Values are those of `configs/default.py`. A key's meaning is the comment on its line, or the lines
of comment above it. The sections of other methods come from `configs/baselines/`. The tests hold
that the page is what this program writes, and that no key is missing from it.
"""

import ast
import importlib
import io
import pathlib
import sys
import tokenize
from collections.abc import Iterator
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "config.md"
HEAD = """# Every config key

<!-- Made by `python docs/config_page.py` from the comments of configs/. Do not edit. -->

Each key can be set on the command line, as `--config.optim.lr=1e-4`. A tuple is written in quotes:
`--config.eval.sets="('test',)"`. A mistyped key is refused, and the near miss is named. Values
below are those of `configs/default.py` with the preset `paper`; an experiment changes some of them.

A stage is bound to the keys that made its weights. A change of such a key is refused for a trained
run. Keys of `eval`, `log`, `checkpoint`, `mesh` and of a method's `inference` may change.
[Training and runs](runs.md) says more.
"""

# Keys whose name says most of it, and that stand without a comment: by the end of the key.
PLAIN = {
    "data.modality": "the contrast, as the files' names end",
    "cohort.slices": "slices of each subject",
    "data.cohort": "subjects of the split",
    "channels": "channels of the first level",
    "channel_mult": "channels of each level over those of the first",
    "num_res_blocks": "residual blocks of a level",
    "latent_channels": "channels of the latent",
    "num_groups": "groups of the normalisation",
    "mid_attention": "attention in the middle level",
    "discriminator": "train with an adversary",
    "disc_channels": "channels of the adversary's first layer",
    "disc_layers": "strided layers of the adversary",
    "kl_weight": "weight of the KL term",
    "perceptual_weight": "weight of LPIPS",
    "disc_weight": "weight of the adversary",
    "disc_start": "step from which the adversary counts",
    "max_radius": "as `min_radius`",
    "max_objects": "a sample has 1 to so many",
    "kinds": "of drawn anomalies, each as likely",
    "probabilities": "of each of the entries above, in their order",
    "denoiser.depth": "dit: blocks; 0 as the size says",
    "denoiser.num_heads": "dit: heads; unet: heads; 0 as the size says",
    "denoiser.channel_mult": "unet; empty: as the size says",
    "denoiser.num_res_blocks": "unet; 0: as the size says",
    "denoiser.attention_rates": "unet: downsampling rates with attention; empty: as the size says",
    "denoiser.num_groups": "unet; 0: as the size says",
    "dropout": "share of activations set to 0 in training",
    "timesteps": "levels of noise",
    "lr": "peak learning rate",
    "warmup_epochs": "epochs of linear warm-up",
    "weight_decay": "decoupled weight decay",
    "beta1": "decay of the first moment",
    "beta2": "decay of the second moment",
    "eps": "added to the root of the second moment",
    "train.epochs": "passes over the training slices",
    "log.every_steps": "steps between lines of the metric log",
    "validate_every_steps": "steps between validations",
    "validate_batches": "batches of a validation; 0: all",
    "checkpoint.every_steps": "steps between checkpoints",
    "fsdp": "shards of parameters and batch",
    "tensor": "shards of the linear maps",
    "sampler_steps": "steps of sampling, each a row",
    "encode_batch_sizes": "batch sizes of encoding, each a row",
    "evaluate_repeats": "rounds of the evaluate suite",
    "growth_batch_sizes": "batch sizes of the growth suite",
    "max_channels": "most channels of a level",
    "predicts": "what the network predicts: eps | x0",
    "brain_min_fraction": "least share of brain under what is corrupted",
    "inference.start": "level that images are noised to",
    "mae_weight": "weight of the masked autoencoder's loss",
    "hidden_size": "numbers of a token",
    "depth": "blocks",
    "decoder_depth": "blocks of the decoder",
    "num_heads": "heads of the attention",
    "model_channels": "channels of the first level",
    "classifier.patch": "squares of so many pixels are folded into channels first",
}


class Module:
    """A config file: its functions by name, and the comments of its lines."""

    def __init__(self, name: str):
        """Reads the module `name`."""
        self.path = ROOT / f"{name.replace('.', '/')}.py"
        source = self.path.read_text()
        self.tree = ast.parse(source)
        self.functions = {n.name: n for n in self.tree.body if isinstance(n, ast.FunctionDef)}
        self.rows = source.split("\n")
        tokens = tokenize.generate_tokens(io.StringIO(source).readline)
        self.comments = {
            t.start[0]: t.string.lstrip("# ") for t in tokens if t.type == tokenize.COMMENT
        }

    def assigned(self, name: str) -> ast.expr:
        """What the module assigns to a name."""
        for statement in self.tree.body:
            if isinstance(statement, ast.Assign) and statement.targets[0].id == name:
                return statement.value
        raise ValueError(f"{self.path} has no {name}")

    def comment(self, node: ast.AST, value: ast.AST) -> str:
        """The comment on a key's line, or the lines above it that hold nothing else."""
        own = self.comments.get(node.lineno)
        if own is None and value.end_lineno == node.lineno:
            own = self.comments.get(value.end_lineno)
        if own is not None:
            return own
        above, line = [], node.lineno - 1
        while line in self.comments and self.rows[line - 1].lstrip().startswith("#"):
            above.insert(0, self.comments[line])
            line -= 1
        return " ".join(above)


def walk(module: Module, node: ast.AST, prefix: str) -> Iterator[tuple[str, str]]:
    """(key, comment) of a table: a `dict(...)`, `create(...)` or a function that returns one."""
    if isinstance(node, ast.BinOp):  # ae.SETTINGS | dict(...)
        yield from walk(module, node.left, prefix)
        yield from walk(module, node.right, prefix)
        return
    if isinstance(node, ast.Attribute):
        other = Module(f"configs.baselines.{node.value.id}")
        yield from walk(other, other.assigned(node.attr), prefix)
        return
    if not isinstance(node, ast.Call):
        return
    name = node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id
    if name not in ("dict", "create"):
        other = (
            module if isinstance(node.func, ast.Name) else Module("configs.parts.method_settings")
        )
        made = [n for n in ast.walk(other.functions[name]) if isinstance(n, ast.Return)]
        yield from walk(other, made[0].value, prefix)
        return
    for keyword in node.keywords:
        if keyword.arg is None:  # **function()
            yield from walk(module, keyword.value, prefix)
            continue
        key = f"{prefix}{keyword.arg}"
        yield key, module.comment(keyword, keyword.value)
        yield from walk(module, keyword.value, f"{key}.")


def default_keys() -> dict[str, str]:
    """{key: comment} of `configs/default.py`, sections included."""
    module, found = Module("configs.default"), {}
    for statement in module.functions["get_config"].body:
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Attribute):
            key = statement.targets[0].attr
            found[key] = module.comment(statement, statement.value)
            found.update(walk(module, statement.value, f"{key}."))
    return found


def method_keys(name: str) -> dict[str, str]:
    """{key: comment} of a method's own section."""
    module = Module(f"configs.baselines.{name}")
    return dict(walk(module, module.assigned("SETTINGS"), f"methods.{name}."))


def leaves(table: Any, prefix: str = "") -> dict[str, Any]:
    """{dotted key: value} of a nested table."""
    found = {}
    for key, value in table.items():
        if hasattr(value, "items"):
            found |= leaves(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def baselines() -> list[str]:
    """Names of the methods that bring a section of their own."""
    return sorted(p.stem for p in (ROOT / "configs/baselines").glob("[a-z]*.py"))


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def _meaning(key: str, meanings: dict[str, str]) -> str:
    """The comment; without one, the key that it is named after, or the plain words for it."""
    if meanings.get(key):
        return meanings[key]
    shared = key.removeprefix("autoencoder.")
    if shared != key and shared in meanings:
        return f"as `{shared}`"
    parts = key.split(".")
    ends = [".".join(parts[i:]) for i in range(len(parts))] + [".".join(parts[:-1])]
    return next((PLAIN[end] for end in ends if end in PLAIN), "")


def _table(values: dict[str, Any], meanings: dict[str, str]) -> list[str]:
    rows = ["| key | value | meaning |", "| --- | --- | --- |"]
    # In the order of the file, which has like beside like.
    for key in meanings:
        if key in values:
            row = (f"`{key}`", f"`{_cell(repr(values[key]))}`", _cell(_meaning(key, meanings)))
            rows.append(f"| {' | '.join(row)} |")
    return rows


def render() -> str:
    """The page."""
    config = importlib.import_module("configs.default").get_config()
    values, meanings = leaves(config), default_keys()
    groups: dict[str, dict[str, Any]] = {}
    for key in meanings:
        if key in values and key != "preset_values":  # made by the preset, nobody sets it
            groups.setdefault(key.split(".")[0] if "." in key else "", {})[key] = values[key]
    lines = [HEAD]
    for name, group in groups.items():
        lines += [f"## {name or 'The run'}", ""]
        if meanings.get(name):
            lines += [f"{meanings[name][0].upper()}{meanings[name][1:]}.".replace("..", "."), ""]
        lines += [*_table(group, meanings), ""]
    lines += [
        "## Sections of other methods",
        "",
        "Each comes with its config, and holds what the method alone knows.",
        "",
    ]
    for name in baselines():
        settings = importlib.import_module(f"configs.baselines.{name}").SETTINGS
        own = leaves(settings, f"methods.{name}.")
        if own:
            lines += [f"### {name}", "", *_table(own, method_keys(name)), ""]
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    PAGE.write_text(render())
    print(PAGE.relative_to(ROOT))
