"""Ways of asking: all attempts in one call, the same noise, shifts row by row, and choice apart from report."""

import pytest
import torch
from torch import nn

from latent.core.errors import ConfigError, ShapeError
from latent.core.run.seed import generator, isolated
from latent.gen.elicitation import (
    Attempt,
    Family,
    Shift,
    concept_direction,
    elicit,
    latent_shift,
    naive,
    over_prompt,
)
from latent.gen.methods.concept_space import ConceptConfig, ConceptGenerator


class Echo:
    """A generator whose picture is its noise plus the hidden activation of its prompt."""

    def __init__(self):
        self.denoiser = nn.Sequential(nn.Identity())
        self.calls = []

    def start(self, count, *, generator=None):
        return torch.randn(count, 2, generator=generator)

    def decode(self, noise, condition):
        self.calls.append(len(noise))
        return noise + self.denoiser(condition)


def unit(place):
    return torch.eye(2)[place]


def ask(model, families, shows=lambda pictures: pictures > 0, samples=4, **more):
    return elicit(model, families, shows, samples=samples, generator=generator(0, "ask"), **more)


def test_every_attempt_has_the_same_noise_and_its_own_prompt_and_shift():
    model, seen = Echo(), []

    def shows(pictures):
        seen.append(pictures)
        return pictures > 0

    move = Shift("0", 10 * unit(1))
    ask(model, [naive(unit(0)), latent_shift({"a": (unit(0), move)}, alphas=(0, 1, 2))], shows)
    assert model.calls == [16]  # all attempts in one call
    pictures = seen[0].unflatten(0, (4, 4))
    noise = model.start(4, generator=generator(0, "ask"))
    torch.testing.assert_close(pictures[0], noise + unit(0))
    torch.testing.assert_close(pictures[1], pictures[0], rtol=0, atol=0)  # alpha 0 leaves every bit
    torch.testing.assert_close(pictures[2], noise + unit(0) + 10 * unit(1))
    torch.testing.assert_close(pictures[3], noise + unit(0) + 20 * unit(1))
    model.denoiser(unit(0)[None])  # nothing is left behind
    torch.testing.assert_close(model.decode(noise, unit(0).expand(4, -1)), pictures[0])


def test_smaller_batches_give_the_same():
    families = [naive(unit(0)), latent_shift({"a": (unit(1), Shift("0", 3 * unit(0)))}, alphas=(1, 2))]
    whole, parts = Echo(), Echo()
    one, two = ask(whole, families), ask(parts, families, rows=5)
    assert parts.calls == [5, 5, 2]
    for name in one:
        assert one[name].rates == two[name].rates
        assert torch.equal(one[name].right, two[name].right)


def test_the_best_is_chosen_on_one_half_and_reported_on_the_other():
    calls = []

    def shows(pictures):
        # Attempt a is right in the first half alone, b in the second alone, c nowhere.
        calls.append(len(pictures))
        right = torch.zeros(3, 4, 2, dtype=torch.bool)
        right[0, :2] = right[1, 2:] = True
        return right.flatten(0, 1)

    family = over_prompt({"a": unit(0), "b": unit(0), "c": unit(0)})
    found = ask(Echo(), [family], shows)["overprompt"]
    assert found.best == "a"
    assert found.joint == 0
    assert found.concepts == [0, 0]
    assert bool(found.chosen_on.all())
    assert found.rates == {"a": 0.5, "b": 0.5, "c": 0.0}


def test_many_attempts_are_no_advantage():
    def luck(tries, seed):
        right = torch.rand(tries * 40, 1, generator=generator(seed, "luck")) < 0.5
        family = over_prompt({str(place): unit(0) for place in range(tries)})
        return ask(Echo(), [family], lambda _pictures: right, samples=40, rows=1200)["overprompt"].joint

    many = sum(luck(30, seed) for seed in range(30)) / 30
    assert many == pytest.approx(0.5, abs=0.05)  # the best of 30 on all pictures would be near .68


def test_joint_is_of_all_concepts_in_one_picture():
    right = torch.tensor([[1, 1], [1, 0], [0, 1], [1, 1]], dtype=torch.bool)
    found = ask(Echo(), [naive(unit(0))], lambda _pictures: right)["naive"]
    assert found.joint == 0.5
    assert found.concepts == [0.5, 1.0]


def test_a_direction_is_the_difference_of_means_at_a_site():
    with isolated(0, "model"):
        model = ConceptGenerator(ConceptConfig(size=8, widths=(16,), condition=3, hidden=8, steps=2)).eval()
    noisy = model.start(6, generator=generator(0, "noise"))
    times, told = torch.arange(6) * 100, torch.eye(3)

    def call(place):
        return lambda: model.denoiser(noisy, times, told[place].expand(6, -1))

    with torch.no_grad():
        found = concept_direction(model.denoiser, "embed", on=call(1), off=call(0))
        torch.testing.assert_close(found.vector, model.denoiser.embed(told[1]) - model.denoiser.embed(told[0]))
        middle = concept_direction(model.denoiser, "unet.mid_block", on=call(1), off=call(0), axis=1)
        assert middle.vector.shape == (16,)
        # Adding the whole direction of the embedding to the prompt without the concept is the prompt with it.
        same = []
        families = [naive(told[1]), latent_shift({"a": (told[0], found)}, alphas=(1.0,))]
        ask(model, families, lambda pictures: same.append(pictures) or pictures[:, 0, 0] > 0)
        torch.testing.assert_close(*same[0].unflatten(0, (2, 4)), atol=1e-5, rtol=1e-4)
        # The middle is moved too, and only in the rows that ask for it.
        kept = []
        families = [naive(told[0]), latent_shift({"a": (told[0], middle)}, alphas=(0.0, 1.0))]
        ask(model, families, lambda pictures: kept.append(pictures) or pictures[:, 0, 0] > 0)
        plain, zero, moved = kept[0].unflatten(0, (3, 4))
    torch.testing.assert_close(zero, plain, rtol=0, atol=0)
    assert not torch.allclose(moved, plain, atol=1e-4)


def test_shifts_at_several_sites_go_together():
    with isolated(0, "model"):
        model = ConceptGenerator(ConceptConfig(size=8, widths=(16,), condition=3, hidden=8, steps=2)).eval()
    prompt = torch.ones(3)
    shifts = [Shift("embed", torch.ones(64)), Shift("unet.mid_block", torch.ones(16), axis=1)]
    families = [Family(str(place), [Attempt("a", prompt, shift)]) for place, shift in enumerate(shifts)]
    kept = []
    ask(model, [naive(prompt), *families], lambda pictures: kept.append(pictures) or pictures[:, 0, 0] > 0)
    plain, first, second = kept[0].unflatten(0, (3, 4))
    alone = []
    ask(model, families[1:], lambda pictures: alone.append(pictures) or pictures[:, 0, 0] > 0)
    torch.testing.assert_close(second, alone[0], atol=1e-5, rtol=1e-4)
    for one, two in ((plain, first), (plain, second), (first, second)):
        assert not torch.allclose(one, two, atol=1e-4)


def test_rows_that_are_told_nothing_are_not_shifted():
    class Guided(Echo):
        def decode(self, noise, condition):
            told, untold = self.denoiser(torch.cat([condition, torch.zeros_like(condition)])).chunk(2)
            return noise + told + 100 * untold

    kept = []
    families = [naive(unit(0)), latent_shift({"a": (unit(0), Shift("0", 10 * unit(1)))}, alphas=(1,))]
    ask(Guided(), families, lambda pictures: kept.append(pictures) or pictures > 0)
    plain, moved = kept[0].unflatten(0, (2, 4))
    torch.testing.assert_close(moved, plain + 10 * unit(1))


def test_a_generator_may_say_how_many_pictures_go_together():
    stated, silent = Echo(), Echo()
    stated.rows = 3
    ask(stated, [naive(unit(0))])
    ask(silent, [over_prompt({str(place): unit(0) for place in range(100)})])
    assert stated.calls == [3, 1]
    assert silent.calls == [256, 144]


def test_what_cannot_be_asked_is_refused():
    with pytest.raises(ConfigError, match="no attempt"):
        Family("empty", [])
    for families, samples in (([naive(unit(0))], 3), ([naive(unit(0)), naive(unit(1))], 4), ([], 4)):
        with pytest.raises(ConfigError, match="families"):
            ask(Echo(), families, samples=samples)
    with pytest.raises(ShapeError, match="shapes"):
        ask(Echo(), [over_prompt({"a": unit(0), "b": torch.ones(3)})])
    both = [latent_shift({"a": (unit(0), Shift("0", unit(1), axis))}, alphas=(1,), name=str(axis)) for axis in (-1, 1)]
    with pytest.raises(ConfigError, match="axes -1 and 1"):
        ask(Echo(), both, rows=4)  # also where they are never in one call
