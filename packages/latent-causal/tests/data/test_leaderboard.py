"""Base models are read from names first, and guessed from sizes last."""

import pytest

from latent.causal.data.leaderboard import BENCHMARKS, base_model, open_llm_leaderboard
from latent.core.errors import ConfigError, UnknownName


@pytest.mark.parametrize(
    ("name", "field", "architecture", "billions", "found"),
    [
        ("me/Llama-3.1-8B-chat", "other/qwen2.5-7b", "Qwen2ForCausalLM", 7.6, "llama-3.1-8b"),  # the name counts first
        ("me/tuned", "meta-llama/Meta-Llama-3-8B", "LlamaForCausalLM", 8.0, "llama-3-8b"),
        (
            "me/llama3-story",
            "Removed",
            "LlamaForCausalLM",
            8.03,
            "llama-3-8b",
        ),  # family by name, size by weights
        ("me/llama-3.2-tune-3b", "", "LlamaForCausalLM", 3.2, "llama-3.2-3b"),
        ("me/nameless", "", "LlamaForCausalLM", 8.03, "llama-3-8b"),  # cannot be told from 3.1
        ("me/nameless", "", "LlamaForCausalLM", 10.7, ""),
        ("me/homer-7b", "", "Qwen2ForCausalLM", 7.6, "qwen2-7b"),
        ("me/fourteen", "", "Qwen2ForCausalLM", 14.8, "qwen2.5-14b"),  # Qwen 2 has no such size
        ("me/gemma-2-story-9b", "", "Gemma2ForCausalLM", 10.2, ""),  # a merge of another size
        ("me/gemma2-9b-it", "", "Gemma2ForCausalLM", 10.2, "gemma-2-9b"),
        ("me/zephyr", "", "MistralForCausalLM", 7.24, "mistral-7b"),
        ("me/qwen2.5-0.5b-x", "", "Qwen2ForCausalLM", 0.5, "qwen2.5-0.5b"),
        ("me/unheard", "", "OtherForCausalLM", 7.0, ""),
    ],
)
def test_rule(name, field, architecture, billions, found):
    assert base_model(name, field, architecture, billions) == found


def test_steps_can_be_left_out_and_are_checked():
    entry = ("me/nameless", "", "LlamaForCausalLM", 8.03)
    assert base_model(*entry, rules=("name", "field")) == ""
    with pytest.raises(UnknownName, match="Unknown rule 'arch'"):
        base_model(*entry, rules=("arch",))


def test_table_groups_by_base_model_and_counts_models_once_if_asked(tmp_path):
    columns = ["fullname", "Base Model", "Architecture", "#Params (B)", *BENCHMARKS]
    entries = [("me/a-llama-3-8b", 1.0), ("me/a-llama-3-8b", 2.0), ("me/b-qwen2-7b", 3.0), ("me/c", 4.0)]
    rows = [f"{name},,,{0},{','.join([str(value)] * 6)}" for name, value in entries]
    path = tmp_path / "table.csv"
    path.write_text("\n".join([",".join(columns), *rows]))
    table = open_llm_leaderboard(path, minimum_rows=1)
    assert {name: len(scores) for name, scores in table.domains.items()} == {"llama-3-8b": 2, "qwen2-7b": 1}
    assert len(open_llm_leaderboard(path, minimum_rows=1, distinct=True).domains["llama-3-8b"]) == 1


def test_missing_data_say_where_they_belong(monkeypatch):
    monkeypatch.delenv("LATENT_DATA", raising=False)
    with pytest.raises(ConfigError, match="LATENT_DATA is not set"):
        open_llm_leaderboard()
