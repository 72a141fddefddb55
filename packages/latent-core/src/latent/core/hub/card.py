"""The model card: `README.md` of a saved model, from its method's spec, its config, its results and its run.

What is generated stands between two marks. When a model is published again, that part and the fields that latent knows
are written anew; everything else of the card stays as somebody wrote it.
"""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from latent.core.errors import FormatError
from latent.core.plugins.specs import MethodSpec
from latent.core.registry import Entry
from latent.core.report._text import markdown_table, settings

if TYPE_CHECKING:
    from latent.core.report.report import Report

__all__ = ["model_card", "published_card"]

_BEGIN = "<!-- latent: generated from here; write above or below, and it will stay -->"
_END = "<!-- latent: generated to here -->"
_FRONT = re.compile(r"\A---\r?\n(.*?)\r?\n?---\r?\n", re.DOTALL)
_GENERATED = re.compile(re.escape(_BEGIN) + ".*?" + re.escape(_END), re.DOTALL)
_TASKS = {"rl": "reinforcement-learning", "reason": "text-generation", "gen": "unconditional-image-generation"}


def model_card(
    entry: Entry,
    config: Mapping[str, Any],
    *,
    place: str = "PATH",
    results: Mapping[str, Any] | None = None,
    run: Mapping[str, Any] | None = None,
    report: "Report | None" = None,
) -> str:
    """Return the card of a model; parts about which nothing is known are left out.

    Args:
        entry: The method in the registry.
        config: The model's config as a mapping.
        place: Folder or repository from which readers load it.
        results: Content of `results.json`.
        run: Content of `run.json`.
        report: Report of the run.
    """
    spec: MethodSpec = entry.spec
    paper = f"Paper: {spec.title or spec.name} ([arXiv:{spec.paper}](https://arxiv.org/abs/{spec.paper})).\n"
    package = f"pip install {entry.plugin.distribution}"
    can = f"The model can: {', '.join(spec.capabilities)}.\n" if spec.capabilities else ""
    load = f'from latent.core import AutoLatent\n\nmodel = AutoLatent.from_pretrained("{place}")'
    body = [
        f"{spec.summary}\n",
        paper if spec.paper else "",
        can,
        f"## Load\n\n```console\n{package}\n```\n\n```python\n{load}\n```\n",
        _results(results),
        _claims(report),
        _run(run),
        f"## Settings\n\n{markdown_table(['setting', 'value'], settings(config).items())}\n" if config else "",
        f"## Cite\n\n```bibtex\n{spec.bibtex}\n```\n" if spec.title else "",
    ]
    front = f"---\nlibrary_name: latent\ntags: [{', '.join(_tags(spec))}]\n---\n"
    return f"{front}\n# {spec.name}\n\n{_BEGIN}\n\n" + "\n".join(part for part in body if part) + f"\n{_END}\n"


def published_card(
    fresh: str, existing: str, *, entry: Entry, name: str, licence: str = "", results: Mapping[str, Any] | None = None
) -> str:
    """Return the card to publish.

    Args:
        fresh: What `model_card` returns.
        existing: The card that is there; empty if there is none.
        entry: The method in the registry.
        name: Name of the model in the evaluation results, `owner/name`.
        licence: Licence of the weights; empty keeps what the card says.
        results: Content of `results.json`, which becomes evaluation results in the Hub's format.

    Raises:
        FormatError: The existing card's header cannot be read.
    """
    import yaml

    text = existing or fresh
    match = _FRONT.match(text)
    try:
        front = (yaml.safe_load(match[1]) if match else None) or {}
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise FormatError(
            f"The header of the README.md of {name} is not YAML: {str(error)[:200]}", hint="Mend it on the Hub first."
        ) from None
    if not isinstance(front, dict):
        raise FormatError(f"The header of the README.md of {name} is not a mapping.", hint="Mend it on the Hub first.")
    tags = front.get("tags")
    kept = tags if isinstance(tags, list) else [tags] if tags else []
    front |= {"library_name": "latent", "tags": [*kept, *(tag for tag in _tags(entry.spec) if tag not in kept)]}
    if licence:
        front["license"] = licence
    index = [*_of_others(front.get("model-index"), name), *_model_index(entry.spec, name, results)]
    front.pop("model-index", None)
    if index:
        front["model-index"] = index
    body = text[match.end() :] if match else f"\n{text}"
    generated = _GENERATED.search(fresh)
    if generated and _GENERATED.search(body):
        body = _GENERATED.sub(lambda _: generated[0], body, count=1)
    elif generated:
        body = f"{body.rstrip()}\n\n{generated[0]}\n"
    header = yaml.safe_dump(front, sort_keys=False, allow_unicode=True)
    return f"---\n{header}---\n{body}"


def _tags(spec: MethodSpec) -> list[str]:
    return ["latent", spec.family, spec.slug]


def _of_others(index: Any, name: str) -> list[Any]:
    """Evaluation results that somebody else wrote into the card."""
    entries = index if isinstance(index, list) else []
    return [entry for entry in entries if not isinstance(entry, dict) or entry.get("name") != name]


def _model_index(spec: MethodSpec, name: str, results: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    if not results or not results.get("measures"):
        return []
    from huggingface_hub import EvalResult
    from huggingface_hub.repocard_data import eval_results_to_model_index

    where = f"{spec.name}, preset {results['preset']}, arm {results['arm']}, seed {results['seed']}"
    rows = [
        EvalResult(
            task_type=_TASKS.get(spec.family, spec.family),
            dataset_type=spec.name,
            dataset_name=where,
            metric_type=measure,
            metric_value=value,
        )
        for measure, value in results["measures"].items()
    ]
    return eval_results_to_model_index(name, rows)


def _results(results: Mapping[str, Any] | None) -> str:
    if not results or not results.get("measures"):
        return ""
    which = f"Arm {results['arm']}, preset {results['preset']}, seed {results['seed']}."
    return f"## Results\n\n{which}\n\n{markdown_table(['measure', 'value'], results['measures'].items())}\n"


def _claims(report: "Report | None") -> str:
    if report is None or not report.verdicts:
        return ""
    rows = [[verdict.claim, verdict.status, verdict.statement] for verdict in report.verdicts]
    return f"## Claims\n\n{markdown_table(['claim', 'verdict', 'statement'], rows)}\n"


def _run(run: Mapping[str, Any] | None) -> str:
    if not run:
        return ""
    versions = ", ".join(f"{package} {version}" for package, version in run["versions"].items())
    return f"## Run\n\n```console\n{run['command']}\n```\n\nOn {run['hardware']}, with {versions}.\n"
