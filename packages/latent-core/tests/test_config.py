import dataclasses
from typing import Literal

import pytest

from latent.core.config import from_mapping, overlay, parse_overrides, read_toml, setting, settings, to_mapping, to_toml
from latent.core.errors import ConfigError, UnknownKey


@dataclasses.dataclass(frozen=True, kw_only=True)
class Network:
    width: int = setting(128, "Hidden width.", paper="1024 (Table 3)")
    activation: Literal["relu", "tanh"] = setting("relu", "Nonlinearity.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
    network: Network = setting(Network(), "The network.")
    rate: float = setting(1e-3, "Learning rate.")
    goals: tuple[float, ...] = setting((0.1, 0.2), "Goals.")
    pair: tuple[int, str] = setting((1, "a"), "A pair.")
    limit: int | None = setting(None, "Limit, or none.")
    fast: bool = setting(False, "Whether to hurry.")  # noqa: FBT003
    names: tuple[str, ...] = setting((), "Names.")
    sizes: tuple[int, ...] = setting((), "Sizes.")

    def __post_init__(self):
        if self.rate <= 0:
            raise ConfigError("rate must be positive.")


def test_toml_round_trip(tmp_path):
    config = Experiment(network=Network(width=7, activation="tanh"), goals=(), limit=None, fast=True)
    path = tmp_path / "c.toml"
    path.write_text(to_toml(config))
    assert from_mapping(Experiment, read_toml(path)) == config
    assert "# Hidden width." in path.read_text()


def test_json_round_trip():
    config = Experiment(limit=3, pair=(2, "b"))
    assert from_mapping(Experiment, to_mapping(config)) == config


def test_later_layers_win_and_keep_the_rest():
    config = overlay(Experiment(rate=0.5), {"network": {"width": 1}}, {"network": {"width": 2}})
    assert config == Experiment(rate=0.5, network=Network(width=2))


def test_overrides_are_typed():
    words = ["network.width=64", "network.activation=tanh", "rate=1", "goals=[1, 2.5]", "fast=true", "--limit=none"]
    config = overlay(Experiment(limit=4), parse_overrides(words))
    assert config == Experiment(
        network=Network(width=64, activation="tanh"), rate=1.0, goals=(1.0, 2.5), fast=True, limit=None
    )
    assert isinstance(config.rate, float)


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("network.wdith=3", "Did you mean 'network.width'?"),
        ("rats=3", "Did you mean 'rate'?"),
        ("width=3", "Did you mean 'network.width'?|known: fast"),
    ],
)
def test_unknown_keys_suggest(word, expected):
    with pytest.raises(UnknownKey, match=expected):
        overlay(Experiment(), parse_overrides([word]))


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("network.width=2.5", "network.width must be int, given 2.5"),
        ("network.width=true", "must be int, given True"),
        ("network.width=wide", "must be int, given 'wide'"),
        ("network.activation=gelu", "must be 'relu' | 'tanh', given 'gelu'"),
        ("rate=fast", "rate must be float"),
        ("rate=-1", "rate must be positive"),
        ("goals=[1, 'a']", "goals[1] must be float, given 'a'"),
        ("pair=[1]", "pair must be [int, str], given [1]"),
        ("fast=1", "fast must be bool, given 1"),
        ("network=3", "network is a group of settings"),
        ("limit=x", "limit must be int | none, given 'x'"),
        ("goals=1", "For example goals=[0.1, 0.2]."),
        ("names=one,two", 'For example names=["one", "two"].'),
        ("sizes=3", "For example sizes=[1, 2]."),
    ],
)
def test_wrong_values_say_what_was_expected(word, expected):
    with pytest.raises(ConfigError) as caught:
        overlay(Experiment(), parse_overrides([word]))
    assert expected in str(caught.value)


def test_a_word_without_equals_is_refused():
    with pytest.raises(ConfigError, match="KEY=VALUE"):
        parse_overrides(["steps"])


def test_broken_and_missing_toml(tmp_path):
    path = tmp_path / "c.toml"
    with pytest.raises(ConfigError, match="no file"):
        read_toml(path)
    path.write_text("rate = fast")
    with pytest.raises(ConfigError, match="not valid TOML"):
        read_toml(path)


def test_settings_are_flat_and_documented():
    rows = {row.key: row for row in settings(Experiment())}
    assert rows["network.width"].paper == "1024 (Table 3)"
    assert rows["network.width"].kind == "int"
    assert rows["goals"].kind == "list of float"
