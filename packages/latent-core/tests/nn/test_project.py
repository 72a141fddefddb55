import torch

from latent.core.nn import project_to_sphere


def test_rows_get_length_sqrt_of_width_and_keep_their_direction():
    z = torch.tensor([[3.0, 0.0, 0.0, 0.0], [-1.0, 1.0, -1.0, 1.0], [0.0, 0.0, 1e-12, 0.0]])
    expected = torch.tensor([[2.0, 0.0, 0.0, 0.0], [-1.0, 1.0, -1.0, 1.0], [0.0, 0.0, 2.0, 0.0]])
    torch.testing.assert_close(project_to_sphere(z), expected)


def test_scale_does_not_matter_but_sign_does():
    z = torch.randn(5, 3, 7, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(project_to_sphere(4.0 * z), project_to_sphere(z))
    torch.testing.assert_close(project_to_sphere(-z), -project_to_sphere(z))


def test_zero_stays_zero_with_finite_gradient():
    z = torch.zeros(2, 4, requires_grad=True)
    projected = project_to_sphere(z)
    projected.sum().backward()
    assert torch.equal(projected, torch.zeros(2, 4))
    assert torch.equal(z.grad, torch.ones(2, 4))


def test_gradient_is_tangent_to_the_sphere():
    z = torch.tensor([[1.0, 2.0, 3.0]], requires_grad=True, dtype=torch.float64)
    (direction,) = torch.autograd.grad(project_to_sphere(z)[0, 0], z)
    assert (direction * z).sum().abs() < 1e-12
    assert direction.norm() > 0.1


def test_half_precision_is_promoted():
    z = 300.0 * torch.ones(1, 4, dtype=torch.float16)  # the square overflows float16
    assert torch.equal(project_to_sphere(z), torch.ones(1, 4))
