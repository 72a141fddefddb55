import pytest
import torch

from latent.core.errors import ConfigError
from latent.rl.nn.pixels import PixelTrunk, random_shift


@pytest.fixture
def images():
    random = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (5, 3, 8, 10), generator=random, dtype=torch.uint8)


def test_no_shift_keeps_every_pixel(images):
    offsets = torch.full((5, 2), 2)
    assert torch.equal(random_shift(images, offsets, pad=2), images)


def test_each_image_is_the_crop_of_its_padded_self(images):
    offsets = torch.tensor([[0, 0], [4, 4], [1, 3], [2, 0], [4, 2]])
    padded = torch.nn.functional.pad(images.float(), (2, 2, 2, 2), mode="replicate").to(torch.uint8)
    shifted = random_shift(images, offsets, pad=2)
    assert shifted.dtype == torch.uint8
    for index, (row, column) in enumerate(offsets.tolist()):
        assert torch.equal(shifted[index], padded[index, :, row : row + 8, column : column + 10])


def test_frames_of_a_stack_move_together(images):
    stacked = images[:, :1].repeat(1, 3, 1, 1)
    shifted = random_shift(stacked, torch.tensor([[0, 4]]).repeat(5, 1), pad=2)
    assert torch.equal(shifted[:, 0], shifted[:, 2])
    assert not torch.equal(shifted, stacked)


def test_trunk_maps_any_image_size_to_bounded_features():
    for shape in ((9, 64, 64), (3, 84, 48)):
        features = PixelTrunk(shape, 16)(torch.zeros(2, *shape))
        assert features.shape == (2, 16)
        assert features.abs().max() <= 1.0


def test_trunk_refuses_images_that_vanish():
    with pytest.raises(ConfigError, match="14x64"):
        PixelTrunk((3, 14, 64), 16)
    PixelTrunk((3, 15, 15), 16)
