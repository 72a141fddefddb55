"""A new plugin from the template `templates/latent-plugin`, without copier.

Below `project/` of the template every `{{word}}` stands for an answer, in names and in files that end in `.jinja`, and
nothing else of Jinja is used: so copier and this module write the same files.
"""

import dataclasses
import keyword
import os
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from latent.core.config import setting
from latent.core.errors import ConfigError, LatentError
from latent.core.plugins.manager import FIRST_PARTY

__all__ = ["RESERVED_FAMILIES", "TEMPLATE", "Answers", "render", "write_plugin"]

#: The template's folder, which copier takes as it is.
TEMPLATE = Path(__file__).parents[1] / "templates" / "latent-plugin"
#: Families that a third party cannot take: those of our packages, present and to come, and that of our examples.
RESERVED_FAMILIES = frozenset({"latent", "toy"} | {name.removeprefix("latent-") for name in FIRST_PARTY})

_WORD = re.compile(r"\{\{(\w+)\}\}")
_WORDS = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_CLASS = re.compile(r"[A-Z][A-Za-z0-9]*")
# Names that the template's modules use themselves.
_TAKEN = frozenset(
    {"ARMS", "Any", "Arm", "ArmContext", "ArmResult", "AutoLatent", "Batch", "CLAIMS", "CPU", "Claim", "ClassVar",
     "Config", "ConfigError", "Control", "Decodes", "Directions", "Encodes", "EvaluationContext", "Exceeds", "False",
     "Float", "Learner", "Learns", "METHOD", "METRICS", "Mapping", "Model", "None", "PRESETS", "Report",
     "RunContext", "RunOptions", "Settings", "ShapeError", "Source", "Specimen", "Table", "Tensor", "True"}
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What the template asks. Empty answers are made from the name.

    Raises:
        ConfigError: A name that cannot be used, with one that could.
    """

    name: str = setting("", "Name of the distribution, such as acme-lens.")
    family: str = setting("", "First half of the method's id; the name, without a leading latent-, if empty.")
    slug: str = setting("linear-autoencoder", "Second half of the method's id.")
    class_name: str = setting("", "Name of the model's class; made from the slug if empty.")
    author: str = setting("", "Author.")

    def __post_init__(self) -> None:
        """Fill what is empty and refuse what would not work."""
        given = {
            "family": self.family or self.name.removeprefix("latent-"),
            "class_name": self.class_name or "".join(word.capitalize() for word in self.slug.split("-")),
            "author": self.author or f"The {self.name} authors",
        }
        for key, value in given.items():
            object.__setattr__(self, key, value)
        self._check_name()
        self._check_family()
        if not _WORDS.fullmatch(self.slug) or keyword.iskeyword(self.module):
            raise ConfigError(
                f"The slug {self.slug!r} is not lower-case words joined by '-', or is a word of Python.",
                hint="For example: --slug linear-autoencoder",
            )
        if not _CLASS.fullmatch(self.class_name) or self.class_name in _TAKEN:
            raise ConfigError(
                f"The class {self.class_name!r} is not words joined without a space, or the template uses that name.",
                hint="For example: --class-name SparseLens",
            )
        if not self.author.strip() or re.search(r'["\\{}\x00-\x1f]', self.author):
            raise ConfigError(
                f"The author {self.author!r} is empty or has a quote, a backslash, a brace or a line break.",
                hint='For example: --author "Ada Lovelace"',
            )

    @property
    def package(self) -> str:
        """The top-level package."""
        return self.name.replace("-", "_")

    @property
    def module(self) -> str:
        """The modules of the method and of its experiment."""
        return self.slug.replace("-", "_")

    def _check_name(self) -> None:
        if not _WORDS.fullmatch(self.name):
            raise ConfigError(
                f"The name {self.name!r} is not lower-case words joined by '-'.",
                hint="For example: latent new acme-lens",
            )
        if self.name in ("latent", *FIRST_PARTY):
            raise ConfigError(
                f"The name {self.name!r} belongs to latent itself; a plugin has a top-level package of its own.",
                hint="For example: latent new acme-lens",
            )
        if self.package in sys.stdlib_module_names or keyword.iskeyword(self.package):
            raise ConfigError(
                f"The package {self.package!r} would hide a module or a word of Python.",
                hint=f"For example: latent new acme-{self.name}",
            )

    def _check_family(self) -> None:
        if not _WORDS.fullmatch(self.family):
            raise ConfigError(
                f"The family {self.family!r} is not lower-case words joined by '-'.", hint="For example: --family acme"
            )
        if self.family in RESERVED_FAMILIES:
            raise ConfigError(
                f"The family {self.family!r} belongs to latent itself, as do {', '.join(sorted(RESERVED_FAMILIES))}.",
                hint="Give one of your own: --family acme",
            )


def render(answers: Answers) -> dict[str, bytes]:
    """Return the content of each file of a new plugin, by its path within the plugin's folder."""
    words = {field.name: getattr(answers, field.name) for field in dataclasses.fields(answers)}
    words |= {"package": answers.package, "module": answers.module}

    def fill(text: str) -> str:
        return _WORD.sub(lambda match: words[match[1]], text)  # one pass: an answer is never filled itself

    files = {}
    project = TEMPLATE / "project"
    for path in sorted(path for path in project.rglob("*") if path.is_file()):
        name, content = fill(path.relative_to(project).as_posix()), path.read_bytes()
        if name.endswith(".jinja"):
            name, content = name.removesuffix(".jinja"), fill(content.decode()).encode()
        files[name] = content
    return files


def write_plugin(answers: Answers, folder: Path) -> Path:
    """Write a new plugin to `folder`, which appears whole or not at all, and return it.

    Raises:
        ConfigError: The folder exists, or the one that it would be in does not.
        LatentError: The system refuses to write there.
    """
    if folder.exists() or folder.is_symlink():
        raise ConfigError(f"{folder} exists.", hint="Choose a new folder with --to, or remove that one.")
    if not folder.parent.is_dir():
        raise ConfigError(f"There is no folder {folder.parent}.", hint="Make it, or choose another with --to.")
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        for name, content in render(answers).items():
            path = temporary / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        temporary.rename(folder)
    except OSError as error:
        raise LatentError(
            f"Cannot write {folder}: {error.strerror or error}.", hint="Choose another folder with --to."
        ) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder
