"""Backbones pad on the left, write reproducibly and say how likely a text is; training is the one loop's."""

import contextlib
from dataclasses import replace

import pytest
import torch

from latent.core.activations import Add, Stream, edit
from latent.core.contract import Source
from latent.core.errors import ConfigError, FormatError, HubError
from latent.core.language import Backbone, load_backbone
from latent.core.language.training import (
    IGNORED,
    LanguageModelLearner,
    TokenWindows,
    byte_ids,
    byte_tokenizer,
    small_llama,
    spread_at,
    trained,
    word_tokenizer,
)
from latent.core.run.context import ArmContext


@pytest.fixture(scope="module")
def backbone():
    return Backbone(small_llama(0, vocabulary=259, width=32, layers=2).eval(), byte_tokenizer(), "tiny")


def test_an_untrained_backbone_is_the_same_network_with_other_weights(backbone):
    first, again, other = backbone.untrained(3), backbone.untrained(3), backbone.untrained(4)
    assert first.fingerprint == again.fingerprint != other.fingerprint
    assert first.fingerprint != backbone.fingerprint
    assert first.model.config.to_dict() == backbone.model.config.to_dict()
    assert not any(p.requires_grad for p in first.model.parameters())


def test_first_weights_are_smaller_in_wider_models():
    assert spread_at(64, 0.1) == 0.1
    assert spread_at(256, 0.1) == 0.05


def test_bytes_are_tokens_and_come_back():
    tokenizer = byte_tokenizer()
    for text in ("a b\n  c", "héé — ß", "#include <x>\t//"):
        ids = tokenizer(text)["input_ids"]
        assert len(ids) == len(text.encode())
        assert tokenizer.decode(ids) == text
    assert (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id) == (0, 1, 2)
    every = bytes(range(128)) + "áßé—ÿ".encode()
    assert byte_ids()[list(every)].tolist() == tokenizer(every.decode())["input_ids"]
    assert sorted(byte_ids().tolist()) == list(range(3, 259))
    words = word_tokenizer(["Q", "dog", "cat"])
    assert words("Q cat dog")["input_ids"] == [3, 5, 4]


def test_texts_are_padded_on_the_left_and_cut_behind(backbone):
    inputs = backbone.encode(["abc", "a"], longest=2)
    a, b = byte_tokenizer()("ab")["input_ids"]
    assert inputs["input_ids"].tolist() == [[a, b], [0, a]]
    assert inputs["attention_mask"].tolist() == [[1, 1], [0, 1]]
    assert [len(batch["input_ids"]) for batch in backbone.batches(["a"] * 5, 2)] == [2, 2, 1]
    with pytest.raises(ConfigError, match="no token"):
        backbone.encode(["a", ""])
    with pytest.raises(ConfigError, match="no text"):
        backbone.encode([])


@pytest.fixture(scope="module")
def learned():
    """A model with learned positions, whose weights are large enough to tell."""
    from transformers import GPT2Config, GPT2LMHeadModel

    ends = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    model = GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=64, vocab_size=259, **ends)).eval()
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=random))
    return Backbone(model, byte_tokenizer(), "learned positions")


def test_padding_does_not_move_learned_positions(learned):
    both, alone = learned.likelihood(["abcdef", "x y"]), learned.likelihood(["x y"])
    torch.testing.assert_close(both[1:], alone)
    stream = [torch.cat(list(Stream(learned.model, learned.batches(t), "layers.1.resid_post"))) for t in TEXTS]
    torch.testing.assert_close(stream[0][1:], stream[1])
    greedy = [learned.complete(texts, tokens=6, seed=0, temperature=0) for texts in TEXTS]
    assert greedy[0].continuations[1] == greedy[1].continuations[0]
    # What generate() saw, the likelihood sees: the likeliest tokens are likelier than any others.
    others = replace(greedy[0], ids=torch.cat([greedy[0].ids[:, :-1], (greedy[0].ids[:, -1:] + 1) % 259], 1))
    assert bool((learned.likelihood_of(greedy[0]) < learned.likelihood_of(others)).all())


TEXTS = (["abcdef", "x y"], ["x y"])


@pytest.mark.parametrize(
    "brought",
    [
        {"repetition_penalty": 1.5},
        {"num_beams": 3},
        {"min_p": 0.5},
        {"max_time": 0.0},
        {"return_dict_in_generate": True},
    ],
)
def test_settings_of_sampling_that_a_model_brings_do_not_count(learned, brought):
    from transformers import GenerationConfig

    plain = learned.complete(["ab", "x"], tokens=8, seed=0)
    own = learned.model.generation_config
    learned.model.generation_config = given = GenerationConfig(**own.to_diff_dict() | brought)
    try:
        assert torch.equal(learned.complete(["ab", "x"], tokens=8, seed=0).ids, plain.ids)
        assert learned.model.generation_config is given
    finally:
        learned.model.generation_config = own


def test_completions_are_those_of_the_seed_and_of_open_edits(backbone):
    before = torch.random.get_rng_state()
    first, again, other = (backbone.complete(["ab", "x"], tokens=9, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(first.ids, again.ids)
    assert first.continuations == again.continuations
    assert not torch.equal(first.ids, other.ids)
    assert first.texts[0].startswith("ab")
    assert first.texts[1] == "x" + first.continuations[1]
    with edit(backbone.model, {"layers.0.resid_post": Add(torch.full((32,), 5.0))}):
        assert not torch.equal(backbone.complete(["ab", "x"], tokens=9, seed=1).ids, first.ids)
    greedy = backbone.complete(["ab"], tokens=4, seed=1, temperature=0)
    assert torch.equal(greedy.ids, backbone.complete(["ab"], tokens=4, seed=2, temperature=0).ids)


def test_the_mask_ends_with_the_end_token(backbone):
    with edit(backbone.model, {"logits": Add(40.0 * torch.nn.functional.one_hot(torch.tensor(2), 259).float())}):
        done = backbone.complete(["ab"], tokens=5, seed=0)
    assert done.mask[0].tolist()[: done.prompt + 1] == [1, 1, 1]
    assert done.ids[0, done.prompt] == 2
    assert done.mask[0, done.prompt + 1 :].sum() == 0
    assert done.continuations == [""]


def test_the_likelihood_is_that_of_what_was_written(backbone):
    done = backbone.complete(["ab", "x"], tokens=6, seed=0)
    found = backbone.likelihood_of(done, size=1)
    for row in range(2):
        ids = done.ids[row][done.mask[row] == 1].unsqueeze(0)
        logits = backbone.model(ids).logits.log_softmax(-1)
        each = -logits[0, :-1].gather(1, ids[0, 1:, None])[:, 0]
        torch.testing.assert_close(
            found[row], each[-int(done.mask[row, done.prompt :].sum()) :].mean(), atol=1e-4, rtol=0
        )
    whole = backbone.likelihood(["abcd", "xy"])
    ids = torch.tensor(byte_tokenizer()(["xy"])["input_ids"])
    torch.testing.assert_close(
        whole[1], -backbone.model(ids).logits[0, 0].log_softmax(-1)[ids[0, 1]], atol=1e-4, rtol=0
    )


def test_saved_backbones_come_back(backbone, tmp_path):
    again = load_backbone(backbone.save(tmp_path / "model"))
    assert again.fingerprint == backbone.fingerprint
    assert (again.width, again.layers) == (32, 2)
    assert not any(parameter.requires_grad for parameter in again.model.parameters())
    assert again.complete(["ab"], tokens=5, seed=3).texts == backbone.complete(["ab"], tokens=5, seed=3).texts
    named = load_backbone("short", bundled={"short": tmp_path / "model"})
    assert named.fingerprint == backbone.fingerprint


def test_a_tokenizer_without_special_tokens_can_pad(backbone, tmp_path):
    from transformers import PreTrainedTokenizerFast

    bare = PreTrainedTokenizerFast(tokenizer_object=byte_tokenizer().backend_tokenizer)
    loaded = load_backbone(Backbone(backbone.model, bare, "bare").save(tmp_path))
    assert loaded.encode(["abc", "a"])["attention_mask"].tolist() == [[1, 1, 1], [0, 0, 1]]


def test_wrong_places_are_answered(backbone, tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="no folder"):
        load_backbone(tmp_path / "nothing")
    with pytest.raises(ConfigError, match="'short'"):
        load_backbone("./nothing", bundled={"short": tmp_path})
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(FormatError, match="no causal language model"):
        load_backbone(tmp_path)
    damaged = backbone.save(tmp_path / "damaged")
    (damaged / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(FormatError, match="no causal language model"):
        load_backbone(damaged)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(HubError, match="Cannot load 'nobody/nothing'"):
        load_backbone("nobody/nothing")


@contextlib.contextmanager
def arm(tmp_path, name):
    context = ArmContext(folder=tmp_path / name, shared=tmp_path / "shared", method="toy/regression", seed=0)
    try:
        yield context
    finally:
        context.close()


def test_training_learns_and_is_done_once_for_all(tmp_path, monkeypatch):
    monkeypatch.setenv("LATENT_CACHE", str(tmp_path / "cache"))
    text = torch.tensor([3, 4, 5, 6] * 100)

    def learn(name, **changed):
        given = {"length": 16, "rows": 8, "begin": 1, "tokens": text, "steps": 60, "words": "abcde"} | changed
        steps, words = given.pop("steps"), given.pop("words")
        with arm(tmp_path, name) as context:
            return trained(
                context,
                lambda: small_llama(0, vocabulary=8, width=16, layers=1),
                word_tokenizer(words),
                TokenWindows(**given),
                steps=steps,
                learning_rate=1e-2,
            )

    first = learn("one")
    rows = torch.tensor([[1, 3, 4, 5, 6, 3, 4]])
    assert first.model(rows).logits[0, 1:-1].argmax(-1).tolist() == [4, 5, 6, 3, 4]
    second = learn("two")
    assert all(torch.equal(a, b) for a, b in zip(first.model.parameters(), second.model.parameters(), strict=True))
    assert not (tmp_path / "two" / "checkpoints").exists()
    assert first.name == second.name
    again = load_backbone(first.name)  # by its name alone
    assert again.fingerprint == first.fingerprint
    assert again.encode(["a b", "c"])["input_ids"].tolist() == [[3, 4], [0, 5]]
    others = [learn("three", steps=61), learn("four", tokens=text.flip(0)), learn("five", rows=9)]
    assert len({first.name, *(other.name for other in others)}) == 4
    assert learn("six", words="dcbae").encode(["a b"])["input_ids"].tolist() == [[6, 5]]


def test_a_model_that_was_left_half_trained_is_not_taken_for_one(tmp_path, monkeypatch):
    monkeypatch.setenv("LATENT_CACHE", str(tmp_path / "cache"))
    source = TokenWindows(torch.tensor([3, 4] * 40), length=8, rows=2)

    def learn(name):
        with arm(tmp_path, name) as context:
            return trained(
                context, lambda: small_llama(0, vocabulary=5, width=8, layers=1), word_tokenizer("ab"), source, steps=2
            )

    monkeypatch.setattr(Backbone, "save", lambda self, folder: (folder.mkdir(parents=True), 1 / 0))
    with pytest.raises(ZeroDivisionError):
        learn("one")
    monkeypatch.undo()
    monkeypatch.setenv("LATENT_CACHE", str(tmp_path / "cache"))
    assert learn("two").fingerprint == learn("three").fingerprint


def test_a_source_without_settings_is_refused(tmp_path):
    class Anything(Source):
        def batch(self, step, *, seed, device):
            raise NotImplementedError

    with arm(tmp_path, "one") as context, pytest.raises(ConfigError, match="no dataclass"):
        trained(
            context, lambda: small_llama(0, vocabulary=5, width=8, layers=1), word_tokenizer("ab"), Anything(), steps=1
        )


def test_windows_are_functions_of_seed_and_step():
    source = TokenWindows(torch.arange(50), length=5, rows=3, begin=49)
    batch = source.batch(4, seed=1, device=torch.device("cpu"))["input_ids"]
    assert torch.equal(batch, source.batch(4, seed=1, device=torch.device("cpu"))["input_ids"])
    assert not torch.equal(batch, source.batch(5, seed=1, device=torch.device("cpu"))["input_ids"])
    assert batch[:, 0].tolist() == [49] * 3
    assert torch.equal(batch[:, 2:] - batch[:, 1:-1], torch.ones(3, 4).long())
    with pytest.raises(ConfigError, match="a window 50"):
        TokenWindows(torch.arange(50), length=50, rows=3)


def test_ignored_labels_carry_no_gradient():
    model = small_llama(0, vocabulary=8, width=16, layers=1)
    learner = LanguageModelLearner(model, steps=10, learning_rate=1e-3)
    ids = torch.tensor([[1, 3, 4, 5]])
    labels = ids.clone()
    labels[0, 2] = IGNORED
    masked = learner.step({"input_ids": ids, "labels": labels}, step=0)["loss"]
    fresh = small_llama(0, vocabulary=8, width=16, layers=1)
    each = -fresh(ids).logits.log_softmax(-1)[0, :-1].gather(1, ids[0, 1:, None])[:, 0]
    torch.testing.assert_close(masked, each[[0, 2]].mean().detach())
    state = learner.state_dict()
    learner.load_state_dict(state)
    assert set(learner.METRICS) == set(learner.step({"input_ids": ids}, step=1))
