import os
import subprocess
import sys

import pytest
import torch

from latent.core.errors import ShapeError
from latent.core.typing import AXES, Float, Tensor, checked


@checked
def scale(x: Float[Tensor, "batch latent"], by: Float[Tensor, " batch"]) -> Float[Tensor, "batch latent"]:
    return x * by[:, None]


@checked
def wrong_result(x: Float[Tensor, "batch latent"]) -> Float[Tensor, " batch"]:
    return x


def test_fitting_shapes_pass():
    assert scale(torch.ones(3, 2), torch.arange(3.0)).tolist() == [[0, 0], [1, 1], [2, 2]]


@pytest.mark.parametrize(
    ("x", "by", "said"),
    [
        (torch.ones(3, 2), torch.ones(4), ["'by'", "by: given float32[4], expected [batch]", "batch=3"]),
        (torch.ones(3), torch.ones(3), ["'x'", "x: given float32[3], expected [batch latent]"]),
        (torch.ones(3, 2, dtype=torch.int64), torch.ones(3), ["'x'", "x: given int64[3, 2]"]),
    ],
)
def test_wrong_shapes_name_argument_and_axes(x, by, said):
    with pytest.raises(ShapeError) as caught:
        scale(x, by)
    assert all(part in caught.value.message for part in said)
    assert f"batch = {AXES['batch']}" in caught.value.hint


def test_wrong_results_are_caught():
    with pytest.raises(ShapeError, match="wrong_result: the returned value does not fit"):
        wrong_result(torch.ones(2, 2))


def test_tracing_vmap_and_export_pass():
    x, by = torch.ones(3, 2), torch.ones(3)
    compiled = torch.compile(scale, fullgraph=True, backend="eager")
    assert torch.equal(compiled(x, by), scale(x, by))
    many = torch.func.vmap(scale)(torch.ones(5, 3, 2), torch.ones(5, 3))
    assert many.shape == (5, 3, 2)

    class Module(torch.nn.Module):
        def forward(self, x, by):
            return scale(x, by)

    assert torch.equal(torch.export.export(Module(), (x, by)).module()(x, by), x)


def test_many_checked_functions_compile_apart():
    # One shared code object would hit the recompile limit at the ninth function.
    def make(factor):
        @checked
        def multiply(x: Float[Tensor, "batch latent"]) -> Float[Tensor, "batch latent"]:
            return x * factor

        return multiply

    for factor in range(12):
        assert torch.compile(make(factor), fullgraph=True, backend="eager")(torch.ones(1, 1)).item() == factor


def in_process(code, **environment):
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env={**os.environ, **environment}
    )


def test_checks_can_be_switched_off_and_a_wrong_mode_is_named():
    code = "from latent.core.typing import checked\ndef f(): pass\nprint(checked(f) is f)"
    assert in_process(code, LATENT_CHECKS="off").stdout == "True\n"
    assert in_process(code, LATENT_CHECKS="boundary").stdout == "False\n"
    assert "is not one of 'boundary', 'off', 'all'" in in_process(code, LATENT_CHECKS="maybe").stderr


def test_an_int_is_a_float():
    @checked
    def add(x: Float[Tensor, " batch"], *, shift: float) -> Float[Tensor, " batch"]:
        return x + shift

    assert add(torch.ones(1), shift=1).item() == 2
    with pytest.raises(ShapeError, match="'shift'"):
        add(torch.ones(1), shift="1")
